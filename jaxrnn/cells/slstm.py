"""The sLSTM: an LSTM with exponential gating (Beck et al., 2024, arXiv:2405.04517).

It has one head, and the logistic function for the forget gate, where the paper also has
exp. With u[t] = x[t] W_ih, gates in the order i f z o, and y = u[t] + h[t-1] W_hh + b:

    i = exp(y_i),  f = σ(y_f),  z = tanh(y_z),  o = σ(y_o)                         (1)
    c[t] = f ⊙ c[t-1] + i ⊙ z,   n[t] = f ⊙ n[t-1] + i,   h[t] = o ⊙ c[t] / n[t]   (2)

i may be huge, but h is a weighted mean of all z, times o. So c and n are kept divided
by e^m, which leaves h unchanged, and no exponential is above 1:

    a = log f + m[t-1],             m[t] = max(a, y_i),
    F = exp(a - m[t]),              I = exp(y_i - m[t])                            (3)
    c[t] = F ⊙ c[t-1] + I ⊙ z,   n[t] = F ⊙ n[t-1] + I                             (4)

Where nothing is stored yet, n[t-1] = 0, a is -∞, as in the authors' code: the first
content alone sets the scale, so n[t] = 1 even if i is too small for a float.

The adjoint has a part for each field of the state. With p = 1 where a > y_i, else 0:

    κ_c = λ_c + λ_h ⊙ o / n[t],   κ_n = λ_n - λ_h ⊙ h[t] / n[t]                    (5)
    α = F ⊙ (κ_c ⊙ c[t-1] + κ_n ⊙ n[t-1]),   β = I ⊙ (κ_c ⊙ z + κ_n)               (6)
    ρ = λ_m - α - β,   α' = α + p ⊙ ρ,   β' = β + (1 - p) ⊙ ρ                      (7)
    δ = (β',  α' ⊙ (1 - f),  κ_c ⊙ I ⊙ (1 - z²),  λ_h ⊙ (c[t] / n[t]) ⊙ o(1-o))    (8)
    Jᵀλ = (δ W_hhᵀ,  κ_c ⊙ F,  κ_n ⊙ F,  α')                                       (9)
    dW_ih = Σ x[t]ᵀ δ,   dW_hh = Σ h[t-1]ᵀ δ,   db = Σ δ,   dx[t] = δ W_ihᵀ        (10)

For a loss of the outputs alone ρ is 0 in exact arithmetic, as h does not depend on m.
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


class SLSTMParams(NamedTuple):
    """`w_ih [I, 4H]`, `w_hh [H, 4H]`, `b [4H]`, gates i f z o, one floating dtype."""

    w_ih: Array
    w_hh: Array
    b: Array

    gates = Gates("ifzo", keep="f", admit="i", meet="w_hh")


class SLSTMState(NamedTuple):
    """`h`, the output, `c`, the memory, `n`, its weights, `m`, the scale: `[*B, H]`."""

    h: Array
    c: Array
    n: Array
    m: Array


class SLSTMLin(NamedTuple):
    """The coefficients of (5) to (9), `[..., H]`.

    They are o / n and h / n; F ⊙ c[t-1], F ⊙ n[t-1], I ⊙ z; the factors of α', κ_c and
    λ_h in (8); F, I and p.
    """

    o_by_n: Array
    h_by_n: Array
    kept_c: Array
    kept_n: Array
    new_c: Array
    to_f: Array
    to_z: Array
    to_o: Array
    keep: Array
    admit: Array
    p: Array


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> SLSTMParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    key_ih, key_hh = jax.random.split(key)
    # Forget bias 1, as in `lstm.py`.
    bias = np.repeat([0.0, 1.0, 0.0, 0.0], hidden_size)
    return SLSTMParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, SLSTMParams.gates, dtype),
        w_hh=recurrent_weights(key_hh, hidden_size, SLSTMParams.gates, dtype),
        b=jnp.asarray(bias, dtype),
    )


def _initial_state(params: SLSTMParams, batch_shape: Shape) -> SLSTMState:
    shape = state_shape(params, batch_shape)
    # Separate arrays: a state can be donated, and a buffer only once.
    return SLSTMState(*(jnp.zeros(shape, params.w_hh.dtype) for _ in range(4)))


def _drive(
    params: SLSTMParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    return drive(xs, params.w_ih, params.b.dtype)


def _step(
    params: SLSTMParams, state: SLSTMState, u: Float[Array, "*B G"]
) -> tuple[SLSTMState, Float[Array, "*B G"]]:
    y = matmul(state.h, params.w_hh) + u + params.b
    y_i, y_f, y_z, y_o = jnp.split(y, 4, axis=-1)
    keep, admit, m, _ = _scaled(y_i, y_f, state)
    c = keep * state.c + admit * jnp.tanh(y_z)
    n = keep * state.n + admit  # (4)
    return SLSTMState(jax.nn.sigmoid(y_o) * c / n, c, n, m), y  # (2)


def _scaled(
    y_i: Float[Array, "*N H"], y_f: Float[Array, "*N H"], state: SLSTMState
) -> tuple[Array, Array, Array, Array]:
    """Returns F, I, m[t], and whether a > y_i, `[..., H]`, (3)."""
    a = jnp.where(state.n == 0, -jnp.inf, jax.nn.log_sigmoid(y_f) + state.m)
    m = jnp.maximum(a, y_i)
    return jnp.exp(a - m), jnp.exp(y_i - m), m, a > y_i


def _linearize(
    params: SLSTMParams,
    state_prev: SLSTMState,
    state: SLSTMState,
    y: Float[Array, "*N G"],
) -> SLSTMLin:
    y_i, y_f, y_z, y_o = jnp.split(y, 4, axis=-1)
    keep, admit, _, from_memory = _scaled(y_i, y_f, state_prev)
    z, o = jnp.tanh(y_z), jax.nn.sigmoid(y_o)
    kept_c, kept_n, new_c = keep * state_prev.c, keep * state_prev.n, admit * z
    # Not `state.n`: a masked step may copy the initial state, where n is 0.
    n = kept_n + admit
    mean = (kept_c + new_c) / n
    return SLSTMLin(
        o_by_n=o / n,
        h_by_n=o * mean / n,
        kept_c=kept_c,
        kept_n=kept_n,
        new_c=new_c,
        to_f=jax.nn.sigmoid(-y_f),
        to_z=admit * (1 - z**2),
        to_o=mean * o * (1 - o),
        keep=keep,
        admit=admit,
        p=from_memory.astype(y.dtype),
    )


def _deltas(lin: SLSTMLin, adjoint: SLSTMState) -> tuple[Array, Array, Array, Array]:
    """Returns δ `[..., 4H]`, κ_c, κ_n and α', `[..., H]`."""
    kappa_c = adjoint.c + adjoint.h * lin.o_by_n
    kappa_n = adjoint.n - adjoint.h * lin.h_by_n  # (5)
    alpha = kappa_c * lin.kept_c + kappa_n * lin.kept_n
    beta = kappa_c * lin.new_c + kappa_n * lin.admit  # (6)
    rho = adjoint.m - alpha - beta
    alpha, beta = alpha + lin.p * rho, beta + (1 - lin.p) * rho  # (7)
    gates = [beta, alpha * lin.to_f, kappa_c * lin.to_z, adjoint.h * lin.to_o]
    return jnp.concatenate(gates, axis=-1), kappa_c, kappa_n, alpha  # (8)


def _state_vjp(params_t: SLSTMParams, lin: SLSTMLin, adjoint: SLSTMState) -> SLSTMState:
    delta, kappa_c, kappa_n, alpha = _deltas(lin, adjoint)
    h = matmul(delta, params_t.w_hh)
    return SLSTMState(h, kappa_c * lin.keep, kappa_n * lin.keep, alpha)  # (9)


def _param_vjp(
    params_t: SLSTMParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: SLSTMState,
    lin: SLSTMLin,
    adjoints: SLSTMState,
) -> tuple[SLSTMParams, Float[Array, "*N I"] | None]:
    delta, *_ = _deltas(lin, adjoints)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    dparams = SLSTMParams(
        w_ih=dw_ih,
        w_hh=outer_sum(states_prev.h, delta, params_t.w_hh.dtype),
        b=lead_sum(delta),
    )
    return dparams, dxs  # (10)


slstm = Cell(_init, _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp)
"""The LSTM with exponential gating, gates i f z o: `SLSTMParams` (`w_hh [H, 4H]`)."""

register_namedtuple_serialization(SLSTMParams, serialized_name="jaxrnn.SLSTMParams")
register_namedtuple_serialization(SLSTMState, serialized_name="jaxrnn.SLSTMState")
