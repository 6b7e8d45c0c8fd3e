"""Layer-normalized long short-term memory (Ba, Kiros & Hinton, 2016, arXiv:1607.06450).

N normalizes a vector to mean 0 and variance 1 (`ops/normalization.py`). These are eq.
20 to 22 of the paper, whose biases before the gates are a single one here. With the
drive u[t] = a_ih ⊙ N(x[t] W_ih) and gates in the order i f g o:

    q = N(h[t-1] W_hh),  z = u[t] + a_hh ⊙ q + b                                   (1)
    i = σ(z_i),  f = σ(z_f),  g = tanh(z_g),  o = σ(z_o)                           (2)
    c[t] = f ⊙ c[t-1] + i ⊙ g                                                      (3)
    m = N(c[t]),  t = tanh(a_c ⊙ m + b_c),  h[t] = o ⊙ t                           (4)

Each N runs over all columns of its vector: 4H in (1), H in (4). c itself is not
normalized, so it keeps the remedy of the LSTM. The adjoint (λ_h, λ_c) moves back by

    π = λ_h ⊙ o ⊙ (1 - t²),   κ = λ_c + Nᵀ(a_c ⊙ π)    all that reaches c[t]       (5)
    δ = (κ ⊙ g ⊙ i(1-i),  κ ⊙ c[t-1] ⊙ f(1-f),  κ ⊙ i ⊙ (1-g²),  λ_h ⊙ t ⊙ o(1-o)) (6)
    δ_q = Nᵀ(a_hh ⊙ δ),       Jᵀλ = (δ_q W_hhᵀ,  κ ⊙ f)                            (7)
    δ_x = Nᵀ(a_ih ⊙ δ),  dW_ih = Σ x[t]ᵀ δ_x,  dx[t] = δ_x W_ihᵀ,
    dW_hh = Σ h[t-1]ᵀ δ_q,  da_hh = Σ δ ⊙ q,  da_ih = Σ δ ⊙ N(x[t] W_ih),
    db = Σ δ,  da_c = Σ π ⊙ m,  db_c = Σ π                                         (8)
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
    check_shapes,
    drive,
    drive_vjp,
    input_weights,
    recurrent_weights,
    state_shape,
)
from jaxrnn.ops.normalization import normalize, normalize_vjp
from jaxrnn.ops.products import lead_sum, matmul, outer_sum


class LayerNormLSTMParams(NamedTuple):
    """`w_ih [I, 4H]`, `w_hh [H, 4H]`, `b [4H]`, gates i f g o, gains and a bias.

    `gain_ih [4H]`, `gain_hh [4H]` and `gain_c [H]` are a_ih, a_hh and a_c; `b_c [H]`.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    gain_ih: Array
    gain_hh: Array
    gain_c: Array
    b_c: Array

    gates = Gates("ifgo", keep="f", admit="i")


class LayerNormLSTMState(NamedTuple):
    """`h [*B, H]`, the output, and `c [*B, H]`, the memory."""

    h: Array
    c: Array


class LayerNormLSTMRes(NamedTuple):
    """The values that a step keeps: `gates`, `q` `[..., 4H]`, `q_scale [..., 1]`."""

    gates: Array
    q: Array
    q_scale: Array


class LayerNormLSTMLin(NamedTuple):
    """The coefficients of (5) to (8).

    `gates [..., 4H]` are those of (6), `h_to_c [..., H]` is o ⊙ (1 - t²); `f`, `m` are
    `[..., H]`, `q [..., 4H]`, and the scales of N `[..., 1]`.
    """

    gates: Array
    h_to_c: Array
    f: Array
    q: Array
    q_scale: Array
    m: Array
    m_scale: Array


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> LayerNormLSTMParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    gates, (key_ih, key_hh) = LayerNormLSTMParams.gates, jax.random.split(key)
    # Forget bias 1, as in `lstm.py`.
    bias = np.repeat([0.0, 1.0, 0.0, 0.0], hidden_size)
    return LayerNormLSTMParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, gates, dtype),
        w_hh=recurrent_weights(key_hh, hidden_size, gates, dtype),
        b=jnp.asarray(bias, dtype),
        gain_ih=jnp.ones(4 * hidden_size, dtype),
        gain_hh=jnp.ones(4 * hidden_size, dtype),
        gain_c=jnp.ones(hidden_size, dtype),
        b_c=jnp.zeros(hidden_size, dtype),
    )


def _initial_state(
    params: LayerNormLSTMParams, batch_shape: Shape
) -> LayerNormLSTMState:
    shape = state_shape(params, batch_shape)
    size = shape[-1]
    gains = {"gain_ih": (4 * size,), "gain_hh": (4 * size,), "gain_c": (size,)}
    check_shapes(params, gains | {"b_c": (size,)})
    return LayerNormLSTMState(*(jnp.zeros(shape, params.w_hh.dtype) for _ in range(2)))


def _drive(
    params: LayerNormLSTMParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    y = drive(xs, params.w_ih, params.b.dtype)
    return params.gain_ih * normalize(y, (y.shape[-1],))[0]


def _step(
    params: LayerNormLSTMParams, state: LayerNormLSTMState, u: Float[Array, "*B G"]
) -> tuple[LayerNormLSTMState, LayerNormLSTMRes]:
    product = matmul(state.h, params.w_hh)
    q, q_scale = normalize(product, (product.shape[-1],))
    z_i, z_f, z_g, z_o = jnp.split(u + params.gain_hh * q + params.b, 4, axis=-1)  # (1)
    i, f, o = (jax.nn.sigmoid(z) for z in (z_i, z_f, z_o))
    g = jnp.tanh(z_g)  # (2)
    c = f * state.c + i * g  # (3)
    h = o * _out(params, normalize(c, (c.shape[-1],))[0])  # (4)
    gates = jnp.concatenate([i, f, g, o], axis=-1)
    return LayerNormLSTMState(h, c), LayerNormLSTMRes(gates, q, q_scale)


def _out(params: LayerNormLSTMParams, m: Array) -> Array:
    """Returns t of (4), `[..., H]`."""
    return jnp.tanh(params.gain_c * m + params.b_c)


def _linearize(
    params: LayerNormLSTMParams,
    state_prev: LayerNormLSTMState,
    state: LayerNormLSTMState,
    res: LayerNormLSTMRes,
) -> LayerNormLSTMLin:
    i, f, g, o = jnp.split(res.gates, 4, axis=-1)
    m, m_scale = normalize(state.c, (state.c.shape[-1],))
    t = _out(params, m)
    on_gates = [g * i * (1 - i), state_prev.c * f * (1 - f), i * (1 - g**2)]
    return LayerNormLSTMLin(
        gates=jnp.concatenate([*on_gates, t * o * (1 - o)], axis=-1),
        h_to_c=o * (1 - t**2),
        f=f,
        q=res.q,
        q_scale=res.q_scale,
        m=m,
        m_scale=m_scale,
    )


def _deltas(
    params_t: LayerNormLSTMParams, lin: LayerNormLSTMLin, adjoint: LayerNormLSTMState
) -> tuple[Array, Array, Array, Array]:
    """Returns δ and δ_q, `[..., 4H]`, κ and π, `[..., H]`."""
    pi, size = adjoint.h * lin.h_to_c, adjoint.h.shape[-1]
    through = normalize_vjp(lin.m, lin.m_scale, params_t.gain_c * pi, (size,))
    kappa = adjoint.c + through  # (5)
    delta = lin.gates * jnp.concatenate(
        [kappa, kappa, kappa, adjoint.h], axis=-1
    )  # (6)
    delta_q = normalize_vjp(lin.q, lin.q_scale, params_t.gain_hh * delta, (4 * size,))
    return delta, delta_q, kappa, pi


def _state_vjp(
    params_t: LayerNormLSTMParams, lin: LayerNormLSTMLin, adjoint: LayerNormLSTMState
) -> LayerNormLSTMState:
    _, delta_q, kappa, _ = _deltas(params_t, lin, adjoint)
    return LayerNormLSTMState(matmul(delta_q, params_t.w_hh), kappa * lin.f)  # (7)


def _param_vjp(
    params_t: LayerNormLSTMParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: LayerNormLSTMState,
    lin: LayerNormLSTMLin,
    adjoints: LayerNormLSTMState,
) -> tuple[LayerNormLSTMParams, Float[Array, "*N I"] | None]:
    delta, delta_q, _, pi = _deltas(params_t, lin, adjoints)
    # The normalized inputs are computed again: one product, instead of the memory.
    columns = (delta.shape[-1],)
    normal, scale = normalize(drive(xs, params_t.w_ih.T, delta.dtype), columns)
    delta_x = normalize_vjp(normal, scale, params_t.gain_ih * delta, columns)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta_x)
    dparams = LayerNormLSTMParams(
        w_ih=dw_ih,
        w_hh=outer_sum(states_prev.h, delta_q, params_t.w_hh.dtype),
        b=lead_sum(delta),
        gain_ih=lead_sum(delta * normal),
        gain_hh=lead_sum(delta * lin.q),
        gain_c=lead_sum(pi * lin.m),
        b_c=lead_sum(pi),
    )
    return dparams, dxs  # (8)


layer_norm_lstm = Cell(
    _init, _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp
)
"""The layer-normalized LSTM, gates i f g o: `LayerNormLSTMParams` (`w_hh [H, 4H]`)."""

register_namedtuple_serialization(
    LayerNormLSTMParams, serialized_name="jaxrnn.LayerNormLSTMParams"
)
register_namedtuple_serialization(
    LayerNormLSTMState, serialized_name="jaxrnn.LayerNormLSTMState"
)
