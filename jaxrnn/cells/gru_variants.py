"""The gated recurrent unit with the reset gate before or after the product, any f, σ.

With u[t] = x[t] W_ih, gates in the order r z n, the activation f of the candidate
(tanh) and σ of the gates (the logistic function):

    r = σ(u_r + h[t-1] W_r + b_r),   z = σ(u_z + h[t-1] W_z + b_z)                 (1)
    before:  n = f(u_n + b_n + (r ⊙ h[t-1]) W_n)                                   (2)
    after:   n = f(u_n + b_n + r ⊙ (h[t-1] W_n + b_hn))                            (3)
    h[t] = (1 - z) ⊙ n + z ⊙ h[t-1]                                                (4)

(2) is the equation of Cho et al. (2014), EMNLP, pp. 1724-1734, where z and 1 - z stand
as in (4). Keras with `reset_after=False` computes it too, and so does Haiku,
with 1 - z for z. (3) is `jaxrnn.gru` with other activations. Before the product, r
decides which units the candidate sees, at the price of a second product, which waits
for the first one. Its adjoint has two products too. Let W_rz be the columns of r and z:

    δ_n = λ ⊙ (1 - z) ⊙ ḟ,           ρ = δ_n W_nᵀ          all that reaches r ⊙ h  (5)
    δ_r = ρ ⊙ h[t-1] ⊙ σ̇_r,          δ_z = λ ⊙ (h[t-1] - n) ⊙ σ̇_z                 (6)
    Jᵀλ = λ ⊙ z + ρ ⊙ r + (δ_r, δ_z) W_rzᵀ                                         (7)
    dW_ih = Σ x[t]ᵀ δ,  dW_rz = Σ h[t-1]ᵀ (δ_r, δ_z),  dW_n = Σ (r ⊙ h[t-1])ᵀ δ_n,
    db = Σ δ,  dx[t] = δ W_ihᵀ                                                     (8)

The adjoint of (3) is that of `gru.py`, with ḟ for 1 - n² and σ̇ for the slope of the
gates.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.activations import ACTIVATIONS, check_name
from jaxrnn.cells.base import Cell, Shape
from jaxrnn.cells.gru import GRUDrive, GRULin, GRUParams, GRURes, GRUState, gru
from jaxrnn.cells.weights import (
    Gates,
    check_shapes,
    columns_of,
    drive,
    drive_vjp,
    input_weights,
    recurrent_weights,
)
from jaxrnn.ops.products import lead_sum, matmul, outer_sum


class ResetBeforeGRUParams(NamedTuple):
    """`w_ih [I, 3H]`, `w_rz [H, 2H]`, `w_n [H, H]`, `b [3H]`; gates r z n.

    The recurrent weights are two matrices, because they are multiplied one after the
    other.
    """

    w_ih: Array
    w_rz: Array
    w_n: Array
    b: Array

    gates = Gates("rzn", keep="z")


class ResetBeforeGRULin(NamedTuple):
    """The coefficients of (5) to (8), `[..., H]`: ∂h/∂(argument of n), of r, z; r, z.

    `to_r` is h[t-1] ⊙ σ̇_r, `to_z` is (h[t-1] - n) ⊙ σ̇_z.
    """

    to_n: Array
    to_r: Array
    to_z: Array
    r: Array
    z: Array


def make_gru(
    *,
    reset_after: bool = True,
    activation: str = "tanh",
    gate_activation: str = "logistic",
) -> Cell:
    """Returns a GRU with the reset gate before or after the product.

    The same arguments give the same `Cell` object, so `jit` does not trace twice.
    Without arguments it is `jaxrnn.gru`.

    Args:
      reset_after: whether r multiplies the product h W_n, as PyTorch and cuDNN compute
        it, (3), or h itself, as Cho et al. (2014), (2).
      activation: f, of the candidate: a name in `jaxrnn.cells.activations`, as for
        `jaxrnn.make_elman`.
      gate_activation: σ, of the gates: likewise.

    Returns:
      A `Cell` with `GRUState`, and with `GRUParams` or `ResetBeforeGRUParams`.

    Raises:
      TypeError: if `reset_after` is not a bool.
      ValueError: if there is no such activation.
    """
    arguments.flag("reset_after", reset_after)
    check_name("activation", activation)
    check_name("gate_activation", gate_activation)
    return _make_gru(reset_after, activation, gate_activation)


@cache
def _make_gru(reset_after: bool, activation: str, gate_activation: str) -> Cell:
    if reset_after and (activation, gate_activation) == ("tanh", "logistic"):
        return gru
    functions = _Functions(activation, gate_activation)
    if reset_after:
        return gru._replace(
            step=_StepAfter(functions), linearize=_LinearizeAfter(functions)
        )
    step, linearize = _Step(functions), _Linearize(functions)
    return Cell(_init, _initial_state, _drive, step, linearize, _state_vjp, _param_vjp)


# Values, not closures: equal if their activations are, so that a cell can be pickled.
class _Functions(NamedTuple):
    activation: str
    gate_activation: str

    def gates(self, z: Array) -> Array:
        return ACTIVATIONS[self.gate_activation].value(z)

    def gate_slopes(self, gates: Array) -> Array:
        return ACTIVATIONS[self.gate_activation].slope(gates)

    def candidate(self, z: Array) -> Array:
        return ACTIVATIONS[self.activation].value(z)

    def candidate_slope(self, n: Array) -> Array:
        return ACTIVATIONS[self.activation].slope(n)


# (3): the parts of `gru.py` that depend on the activations.
class _StepAfter(NamedTuple):
    functions: _Functions

    def __call__(self, params: GRUParams, state: GRUState, u: GRUDrive):
        size = state.h.shape[-1]
        q = matmul(state.h, params.w_hh)
        rz = self.functions.gates(q[..., : 2 * size] + u.rz + params.b[: 2 * size])
        r, z = jnp.split(rz, 2, axis=-1)
        inner = q[..., 2 * size :] + params.b_hn
        n = self.functions.candidate(u.n + params.b[2 * size :] + r * inner)
        return GRUState(n + z * (state.h - n)), GRURes(rz, n, inner)


class _LinearizeAfter(NamedTuple):
    functions: _Functions

    def __call__(
        self, params: GRUParams, state_prev: GRUState, state: GRUState, res: GRURes
    ):
        r, z = jnp.split(res.rz, 2, axis=-1)
        slope_r, slope_z = jnp.split(self.functions.gate_slopes(res.rz), 2, axis=-1)
        nu = (1 - z) * self.functions.candidate_slope(res.n)
        gates = [nu * res.inner * slope_r, (state_prev.h - res.n) * slope_z, nu * r]
        return GRULin(jnp.concatenate(gates, axis=-1), z, nu)


# (2): the whole cell.
def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> ResetBeforeGRUParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    gates, (key_ih, key_hh) = ResetBeforeGRUParams.gates, jax.random.split(key)
    w_hh = recurrent_weights(key_hh, hidden_size, gates, dtype)
    return ResetBeforeGRUParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, gates, dtype),
        w_rz=w_hh[:, : 2 * hidden_size],
        w_n=w_hh[:, 2 * hidden_size :],
        b=jnp.zeros(3 * hidden_size, dtype),
    )


def _initial_state(params: ResetBeforeGRUParams, batch_shape: Shape) -> GRUState:
    batch_shape = arguments.batch_shape("batch_shape", batch_shape)
    inputs, columns = columns_of(params)
    size = columns // 3
    shapes = {
        "w_ih": (inputs, 3 * size),
        "w_rz": (size, 2 * size),
        "w_n": (size, size),
        "b": (3 * size,),
    }
    check_shapes(params, shapes)
    return GRUState(jnp.zeros((*batch_shape, size), params.w_n.dtype))


def _drive(
    params: ResetBeforeGRUParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    return drive(xs, params.w_ih, params.b.dtype)


class _Step(NamedTuple):
    functions: _Functions

    def __call__(
        self, params: ResetBeforeGRUParams, state: GRUState, u: Float[Array, "*B G"]
    ):
        size = state.h.shape[-1]
        u = u + params.b
        rz = self.functions.gates(matmul(state.h, params.w_rz) + u[..., : 2 * size])
        r, z = jnp.split(rz, 2, axis=-1)  # (1)
        inner = matmul(r * state.h, params.w_n)
        n = self.functions.candidate(inner + u[..., 2 * size :])  # (2)
        gates = jnp.concatenate([rz, n], axis=-1)
        return GRUState(n + z * (state.h - n)), gates  # (4)


class _Linearize(NamedTuple):
    functions: _Functions

    def __call__(
        self,
        params: ResetBeforeGRUParams,
        state_prev: GRUState,
        state: GRUState,
        gates: Float[Array, "*N G"],
    ):
        r, z, n = jnp.split(gates, 3, axis=-1)
        slope_r, slope_z, _ = jnp.split(self.functions.gate_slopes(gates), 3, axis=-1)
        return ResetBeforeGRULin(
            to_n=(1 - z) * self.functions.candidate_slope(n),
            to_r=state_prev.h * slope_r,
            to_z=(state_prev.h - n) * slope_z,
            r=r,
            z=z,
        )


def _deltas(
    params_t: ResetBeforeGRUParams, lin: ResetBeforeGRULin, adjoint: GRUState
) -> tuple[Array, Array, Array]:
    """Returns (δ_r, δ_z) `[..., 2H]`, δ_n and ρ `[..., H]`."""
    delta_n = adjoint.h * lin.to_n
    rho = matmul(delta_n, params_t.w_n)  # (5)
    delta_rz = jnp.concatenate([rho * lin.to_r, adjoint.h * lin.to_z], axis=-1)  # (6)
    return delta_rz, delta_n, rho


def _state_vjp(
    params_t: ResetBeforeGRUParams, lin: ResetBeforeGRULin, adjoint: GRUState
) -> GRUState:
    delta_rz, _, rho = _deltas(params_t, lin, adjoint)
    back = adjoint.h * lin.z + rho * lin.r + matmul(delta_rz, params_t.w_rz)
    return GRUState(back)  # (7)


def _param_vjp(
    params_t: ResetBeforeGRUParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: GRUState,
    lin: ResetBeforeGRULin,
    adjoints: GRUState,
) -> tuple[ResetBeforeGRUParams, Float[Array, "*N I"] | None]:
    delta_rz, delta_n, _ = _deltas(params_t, lin, adjoints)
    delta = jnp.concatenate([delta_rz, delta_n], axis=-1)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    dparams = ResetBeforeGRUParams(
        w_ih=dw_ih,
        w_rz=outer_sum(states_prev.h, delta_rz, params_t.w_rz.dtype),
        w_n=outer_sum(lin.r * states_prev.h, delta_n, params_t.w_n.dtype),
        b=lead_sum(delta),
    )
    return dparams, dxs  # (8)


register_namedtuple_serialization(
    ResetBeforeGRUParams, serialized_name="jaxrnn.ResetBeforeGRUParams"
)
