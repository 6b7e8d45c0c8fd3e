"""The gated recurrent unit (Cho et al., 2014), with the reset gate *after* the product.

With u[t] = x[t] W_ih, q = h[t-1] W_hh, and gates in the order r z n:

    r = σ(u_r + q_r + b_r),   z = σ(u_z + q_z + b_z)                               (1)
    n = tanh(u_n + b_n + r ⊙ (q_n + b_hn))                                         (2)
    h[t] = (1 - z) ⊙ n + z ⊙ h[t-1]                                                (3)

These are PyTorch's and cuDNN's equations. r stands outside the product, as in the first
version of the paper (arXiv:1406.1078v1; the third has W_n (r ⊙ h)), so that one product
serves all three gates. Every term of the adjoint is proportional to λ:

    ν = (1 - z) ⊙ (1 - n²)                          ∂h/∂(argument of n)            (4)
    δ_q = λ ⊙ (ν (q_n + b_hn) r(1-r),  (h[t-1] - n) z(1-z),  ν r)                  (5)
    Jᵀλ = λ ⊙ z + δ_q W_hhᵀ                                                        (6)
    δ_u = δ_q, but λ ⊙ ν for the gate n                                            (7)
    dW_ih = Σ x[t]ᵀ δ_u,  dW_hh = Σ h[t-1]ᵀ δ_q,  db = Σ δ_u,  db_hn = Σ δ_q,n,
    dx[t] = δ_u W_ihᵀ                                                              (8)

The remedy against the vanishing gradient is the term λ ⊙ z of (6).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import Cell, Shape
from jaxrnn.cells.weights import (
    Gates,
    drive,
    drive_vjp,
    input_weights,
    recurrent_weights,
    state_shape,
)
from jaxrnn.ops.products import lead_sum, matmul, outer_sum


class GRUParams(NamedTuple):
    """`w_ih [I, 3H]`, `w_hh [H, 3H]`, `b [3H]`, gates r z n, and `b_hn [H]`."""

    w_ih: Array
    w_hh: Array
    b: Array
    b_hn: Array

    gates = Gates("rzn", keep="z", meet="w_hh")


class GRUState(NamedTuple):
    """`h [*B, H]`."""

    h: Array


class GRUDrive(NamedTuple):
    """The drives `rz [..., 2H]` and `n [..., H]`, like the values that a step keeps."""

    rz: Array
    n: Array


class GRURes(NamedTuple):
    """The values that a step keeps: `rz [..., 2H]`, `n`, and `inner = q_n + b_hn`.

    `n` and `inner`, the factor of r, are `[..., H]`.
    """

    rz: Array
    n: Array
    inner: Array


class GRULin(NamedTuple):
    """The coefficients of (5) to (7): `gates [..., 3H]`, `z` and `nu [..., H]`."""

    gates: Array
    z: Array
    nu: Array


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> GRUParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    key_ih, key_hh = jax.random.split(key)
    return GRUParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, GRUParams.gates, dtype),
        w_hh=recurrent_weights(key_hh, hidden_size, GRUParams.gates, dtype),
        b=jnp.zeros(3 * hidden_size, dtype),
        b_hn=jnp.zeros(hidden_size, dtype),
    )


def _initial_state(params: GRUParams, batch_shape: Shape) -> GRUState:
    shape = state_shape(params, batch_shape)
    if np.shape(params.b_hn) != shape[-1:]:
        raise ValueError(
            f"`b_hn` must have shape (H,) = {shape[-1:]}, but got "
            f"{np.shape(params.b_hn)}."
        )
    return GRUState(jnp.zeros(shape, params.w_hh.dtype))


def _drive(
    params: GRUParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> GRUDrive:
    parts = jnp.split(params.w_ih, (2 * params.b_hn.size,), axis=-1)
    return GRUDrive(*(drive(xs, w, params.b.dtype) for w in parts))


def _step(params: GRUParams, state: GRUState, u: GRUDrive) -> tuple[GRUState, GRURes]:
    q = matmul(state.h, params.w_hh)
    (q_rz, q_n), (b_rz, b_n) = (
        jnp.split(a, (2 * state.h.shape[-1],), axis=-1) for a in (q, params.b)
    )
    # σ(x) = ½ tanh(½ x) + ½, as one contiguous activation over both gates.
    rz = 0.5 * jnp.tanh(0.5 * (u.rz + q_rz + b_rz)) + 0.5  # (1)
    r, z = jnp.split(rz, 2, axis=-1)
    inner = q_n + params.b_hn
    n = jnp.tanh(u.n + b_n + r * inner)  # (2)
    return GRUState(n + z * (state.h - n)), GRURes(rz, n, inner)  # (3)


def _linearize(
    params: GRUParams, state_prev: GRUState, state: GRUState, res: GRURes
) -> GRULin:
    r, z = jnp.split(res.rz, 2, axis=-1)
    nu = (1 - z) * (1 - res.n**2)  # (4)
    gates = [nu * res.inner * r * (1 - r), (state_prev.h - res.n) * z * (1 - z), nu * r]
    return GRULin(jnp.concatenate(gates, axis=-1), z, nu)


def _delta_q(lin: GRULin, adjoint: GRUState) -> Array:
    return lin.gates * jnp.concatenate([adjoint.h] * 3, axis=-1)  # (5)


def _state_vjp(params_t: GRUParams, lin: GRULin, adjoint: GRUState) -> GRUState:
    delta_q = _delta_q(lin, adjoint)
    return GRUState(adjoint.h * lin.z + matmul(delta_q, params_t.w_hh))  # (6)


def _param_vjp(
    params_t: GRUParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: GRUState,
    lin: GRULin,
    adjoints: GRUState,
) -> tuple[GRUParams, Float[Array, "*N I"] | None]:
    size = adjoints.h.shape[-1]
    delta_q = _delta_q(lin, adjoints)
    delta_u = jnp.concatenate(
        [delta_q[..., : 2 * size], lin.nu * adjoints.h], axis=-1
    )  # (7)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta_u)
    dparams = GRUParams(
        w_ih=dw_ih,
        w_hh=outer_sum(states_prev.h, delta_q, params_t.w_hh.dtype),
        b=lead_sum(delta_u),
        b_hn=lead_sum(delta_q[..., 2 * size :]),
    )
    return dparams, dxs  # (8)


gru = Cell(_init, _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp)
"""The gated recurrent unit, gates r z n: `GRUParams` (`w_hh [H, 3H]`), `GRUState`."""

register_namedtuple_serialization(GRUParams, serialized_name="jaxrnn.GRUParams")
register_namedtuple_serialization(GRUState, serialized_name="jaxrnn.GRUState")
