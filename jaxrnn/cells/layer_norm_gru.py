"""The layer-normalized GRU (Ba, Kiros & Hinton, 2016, arXiv:1607.06450).

N normalizes two vectors by themselves, the columns of r and z together and those of n
(`ops/normalization.py`). With the drive u[t] = a_ih ⊙ N(x[t] W_ih), gates in the order
r z n, and the reset gate after the product, as in the paper and in `gru.py`:

    q = N(h[t-1] W_hh),   p = a_hh ⊙ q                                             (1)
    r = σ(u_r + p_r + b_r),   z = σ(u_z + p_z + b_z)                               (2)
    n = tanh(u_n + b_n + r ⊙ (p_n + b_hn))                                         (3)
    h[t] = (1 - z) ⊙ n + z ⊙ h[t-1]                                                (4)

The paper's z is 1 - z here. The adjoint is that of `gru.py`, with N in between:

    ν = (1 - z) ⊙ (1 - n²)                                                         (5)
    δ_p = λ ⊙ (ν (p_n + b_hn) r(1-r),  (h[t-1] - n) z(1-z),  ν r)                  (6)
    δ_q = Nᵀ(a_hh ⊙ δ_p),   Jᵀλ = λ ⊙ z + δ_q W_hhᵀ                                (7)
    δ_u = δ_p, but λ ⊙ ν for the gate n,   δ_x = Nᵀ(a_ih ⊙ δ_u)                    (8)
    dW_ih = Σ x[t]ᵀ δ_x,  dx[t] = δ_x W_ihᵀ,  dW_hh = Σ h[t-1]ᵀ δ_q,  db = Σ δ_u,
    db_hn = Σ δ_p,n,  da_hh = Σ δ_p ⊙ q,  da_ih = Σ δ_u ⊙ N(x[t] W_ih)             (9)
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
    drive,
    drive_vjp,
    input_weights,
    recurrent_weights,
    state_shape,
)
from jaxrnn.ops.normalization import normalize, normalize_vjp
from jaxrnn.ops.products import lead_sum, matmul, outer_sum


class LayerNormGRUParams(NamedTuple):
    """`w_ih [I, 3H]`, `w_hh [H, 3H]`, `b [3H]`, gates r z n, `b_hn [H]`, and gains.

    `gain_ih [3H]` and `gain_hh [3H]` are a_ih and a_hh.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    b_hn: Array
    gain_ih: Array
    gain_hh: Array

    gates = Gates("rzn", keep="z")


class LayerNormGRUState(NamedTuple):
    """`h [*B, H]`."""

    h: Array


class LayerNormGRURes(NamedTuple):
    """The values that a step keeps: `gates` and `q`, `[..., 3H]`, `scales [..., 2]`."""

    gates: Array
    q: Array
    scales: Array


class LayerNormGRULin(NamedTuple):
    """The coefficients of (6) to (9).

    `gates` and `q` are `[..., 3H]`, `z` and `nu` `[..., H]`, and N's scales `[..., 2]`.
    """

    gates: Array
    z: Array
    nu: Array
    q: Array
    scales: Array


def _groups(columns: int) -> tuple[int, int]:
    """Returns how many columns N normalizes together: r and z, n."""
    return 2 * columns // 3, columns // 3


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> LayerNormGRUParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    gates, (key_ih, key_hh) = LayerNormGRUParams.gates, jax.random.split(key)
    return LayerNormGRUParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, gates, dtype),
        w_hh=recurrent_weights(key_hh, hidden_size, gates, dtype),
        b=jnp.zeros(3 * hidden_size, dtype),
        b_hn=jnp.zeros(hidden_size, dtype),
        gain_ih=jnp.ones(3 * hidden_size, dtype),
        gain_hh=jnp.ones(3 * hidden_size, dtype),
    )


def _initial_state(params: LayerNormGRUParams, batch_shape: Shape) -> LayerNormGRUState:
    shape = state_shape(params, batch_shape)
    size = shape[-1]
    gains = {"gain_ih": (3 * size,), "gain_hh": (3 * size,)}
    check_shapes(params, gains | {"b_hn": (size,)})
    return LayerNormGRUState(jnp.zeros(shape, params.w_hh.dtype))


def _drive(
    params: LayerNormGRUParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    y = drive(xs, params.w_ih, params.b.dtype)
    return params.gain_ih * normalize(y, _groups(y.shape[-1]))[0]


def _step(
    params: LayerNormGRUParams, state: LayerNormGRUState, u: Float[Array, "*B G"]
) -> tuple[LayerNormGRUState, LayerNormGRURes]:
    size = state.h.shape[-1]
    q, scales = normalize(matmul(state.h, params.w_hh), _groups(3 * size))
    p, z = params.gain_hh * q, u + params.b  # (1)
    rz = jax.nn.sigmoid(z[..., : 2 * size] + p[..., : 2 * size])  # (2)
    r, z_gate = jnp.split(rz, 2, axis=-1)
    n = jnp.tanh(z[..., 2 * size :] + r * (p[..., 2 * size :] + params.b_hn))  # (3)
    h = n + z_gate * (state.h - n)  # (4)
    gates = jnp.concatenate([rz, n], axis=-1)
    return LayerNormGRUState(h), LayerNormGRURes(gates, q, scales)


def _linearize(
    params: LayerNormGRUParams,
    state_prev: LayerNormGRUState,
    state: LayerNormGRUState,
    res: LayerNormGRURes,
) -> LayerNormGRULin:
    r, z, n = jnp.split(res.gates, 3, axis=-1)
    size = n.shape[-1]
    inner = (params.gain_hh * res.q)[..., 2 * size :] + params.b_hn
    nu = (1 - z) * (1 - n**2)  # (5)
    gates = [nu * inner * r * (1 - r), (state_prev.h - n) * z * (1 - z), nu * r]
    return LayerNormGRULin(jnp.concatenate(gates, -1), z, nu, res.q, res.scales)


def _deltas(
    params_t: LayerNormGRUParams, lin: LayerNormGRULin, adjoint: LayerNormGRUState
) -> tuple[Array, Array]:
    """Returns δ_p and δ_q, `[..., 3H]`."""
    delta_p = lin.gates * jnp.concatenate([adjoint.h] * 3, axis=-1)  # (6)
    gained = params_t.gain_hh * delta_p
    return delta_p, normalize_vjp(
        lin.q, lin.scales, gained, _groups(gained.shape[-1])
    )  # (7)


def _state_vjp(
    params_t: LayerNormGRUParams, lin: LayerNormGRULin, adjoint: LayerNormGRUState
) -> LayerNormGRUState:
    _, delta_q = _deltas(params_t, lin, adjoint)
    return LayerNormGRUState(adjoint.h * lin.z + matmul(delta_q, params_t.w_hh))  # (7)


def _param_vjp(
    params_t: LayerNormGRUParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: LayerNormGRUState,
    lin: LayerNormGRULin,
    adjoints: LayerNormGRUState,
) -> tuple[LayerNormGRUParams, Float[Array, "*N I"] | None]:
    delta_p, delta_q = _deltas(params_t, lin, adjoints)
    size = adjoints.h.shape[-1]
    delta_u = jnp.concatenate([delta_p[..., : 2 * size], lin.nu * adjoints.h], axis=-1)
    # The normalized inputs are computed again: one product, instead of the memory.
    groups = _groups(3 * size)
    normal, scales = normalize(drive(xs, params_t.w_ih.T, delta_u.dtype), groups)
    delta_x = normalize_vjp(normal, scales, params_t.gain_ih * delta_u, groups)  # (8)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta_x)
    dparams = LayerNormGRUParams(
        w_ih=dw_ih,
        w_hh=outer_sum(states_prev.h, delta_q, params_t.w_hh.dtype),
        b=lead_sum(delta_u),
        b_hn=lead_sum(delta_p[..., 2 * size :]),
        gain_ih=lead_sum(delta_u * normal),
        gain_hh=lead_sum(delta_p * lin.q),
    )
    return dparams, dxs  # (9)


layer_norm_gru = Cell(
    _init, _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp
)
"""The layer-normalized GRU, gates r z n: `LayerNormGRUParams` (`w_hh [H, 3H]`)."""

register_namedtuple_serialization(
    LayerNormGRUParams, serialized_name="jaxrnn.LayerNormGRUParams"
)
register_namedtuple_serialization(
    LayerNormGRUState, serialized_name="jaxrnn.LayerNormGRUState"
)
