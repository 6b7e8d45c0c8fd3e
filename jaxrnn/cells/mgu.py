"""The minimal gated unit (Zhou et al., 2016, Int. J. Automation and Computing 13(3)).

It is a GRU with one gate f in both places (pp. 226-234). With u[t] = x[t] W_ih:

    f = σ(u_f + h[t-1] W_f + b_f)                                                  (1)
    n = tanh(u_n + (f ⊙ h[t-1]) W_n + b_n)                                         (2)
    h[t] = (1 - f) ⊙ h[t-1] + f ⊙ n                                                (3)

The second product waits for the first one, forward and in the adjoint:

    δ_n = λ ⊙ f ⊙ (1 - n²),          ρ = δ_n W_nᵀ          all that reaches f ⊙ h  (4)
    δ_f = (λ ⊙ (n - h[t-1]) + ρ ⊙ h[t-1]) ⊙ f(1-f)                                 (5)
    Jᵀλ = λ ⊙ (1 - f) + ρ ⊙ f + δ_f W_fᵀ                                           (6)
    dW_ih = Σ x[t]ᵀ δ,  dW_f = Σ h[t-1]ᵀ δ_f,  dW_n = Σ (f ⊙ h[t-1])ᵀ δ_n,
    db = Σ δ,  dx[t] = δ W_ihᵀ                                                     (7)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import Cell, Shape
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


class MGUParams(NamedTuple):
    """`w_ih [I, 2H]`, `w_f [H, H]`, `w_n [H, H]`, `b [2H]`; gates f n.

    The recurrent weights are two matrices, because they are multiplied one after the
    other.
    """

    w_ih: Array
    w_f: Array
    w_n: Array
    b: Array

    gates = Gates("fn", admit="f")


class MGUState(NamedTuple):
    """`h [*B, H]`."""

    h: Array


class MGULin(NamedTuple):
    """The coefficients of (4) to (7), `[..., H]`.

    `to_n` is f ⊙ (1 - n²), and `direct` and `through` are the factors of λ and of ρ in
    (5).
    """

    to_n: Array
    direct: Array
    through: Array
    f: Array


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> MGUParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    key_ih, key_hh = jax.random.split(key)
    w_hh = recurrent_weights(key_hh, hidden_size, MGUParams.gates, dtype)
    return MGUParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, MGUParams.gates, dtype),
        w_f=w_hh[:, :hidden_size],
        w_n=w_hh[:, hidden_size:],
        b=jnp.zeros(2 * hidden_size, dtype),
    )


def _initial_state(params: MGUParams, batch_shape: Shape) -> MGUState:
    batch_shape = arguments.batch_shape("batch_shape", batch_shape)
    inputs, columns = columns_of(params)
    size = columns // 2
    shapes = {
        "w_ih": (inputs, 2 * size),
        "w_f": (size, size),
        "w_n": (size, size),
        "b": (2 * size,),
    }
    check_shapes(params, shapes)
    return MGUState(jnp.zeros((*batch_shape, size), params.w_n.dtype))


def _drive(
    params: MGUParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    return drive(xs, params.w_ih, params.b.dtype)


def _step(
    params: MGUParams, state: MGUState, u: Float[Array, "*B G"]
) -> tuple[MGUState, Float[Array, "*B G"]]:
    u_f, u_n = jnp.split(u + params.b, 2, axis=-1)
    f = jax.nn.sigmoid(u_f + matmul(state.h, params.w_f))  # (1)
    n = jnp.tanh(u_n + matmul(f * state.h, params.w_n))  # (2)
    return MGUState(state.h + f * (n - state.h)), jnp.concatenate([f, n], -1)  # (3)


def _linearize(
    params: MGUParams,
    state_prev: MGUState,
    state: MGUState,
    gates: Float[Array, "*N G"],
) -> MGULin:
    f, n = jnp.split(gates, 2, axis=-1)
    slope = f * (1 - f)
    return MGULin(
        to_n=f * (1 - n**2),
        direct=(n - state_prev.h) * slope,
        through=state_prev.h * slope,
        f=f,
    )


def _deltas(
    params_t: MGUParams, lin: MGULin, adjoint: MGUState
) -> tuple[Array, Array, Array]:
    """Returns δ_f, δ_n and ρ, `[..., H]`."""
    delta_n = adjoint.h * lin.to_n
    rho = matmul(delta_n, params_t.w_n)  # (4)
    return adjoint.h * lin.direct + rho * lin.through, delta_n, rho  # (5)


def _state_vjp(params_t: MGUParams, lin: MGULin, adjoint: MGUState) -> MGUState:
    delta_f, _, rho = _deltas(params_t, lin, adjoint)
    kept = adjoint.h * (1 - lin.f) + rho * lin.f
    return MGUState(kept + matmul(delta_f, params_t.w_f))  # (6)


def _param_vjp(
    params_t: MGUParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: MGUState,
    lin: MGULin,
    adjoints: MGUState,
) -> tuple[MGUParams, Float[Array, "*N I"] | None]:
    delta_f, delta_n, _ = _deltas(params_t, lin, adjoints)
    delta = jnp.concatenate([delta_f, delta_n], axis=-1)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    dparams = MGUParams(
        w_ih=dw_ih,
        w_f=outer_sum(states_prev.h, delta_f, params_t.w_f.dtype),
        w_n=outer_sum(lin.f * states_prev.h, delta_n, params_t.w_n.dtype),
        b=lead_sum(delta),
    )
    return dparams, dxs  # (7)


mgu = Cell(_init, _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp)
"""The minimal gated unit, gates f n: `MGUParams` (`w_f [H, H]`), `MGUState`."""

register_namedtuple_serialization(MGUParams, serialized_name="jaxrnn.MGUParams")
register_namedtuple_serialization(MGUState, serialized_name="jaxrnn.MGUState")
