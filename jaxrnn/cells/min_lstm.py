"""The minimal LSTM (Feng et al., 2024, "Were RNNs all we needed?", arXiv:2410.01201).

Its gates and its candidate do not depend on the state, and the gates are divided by
their sum (section 3.2.3), so the recursion is linear, and its output does not grow with
time. With u[t] = x[t] W_ih and gates in the order f i n:

    f = σ(u_f + b_f),   i = σ(u_i + b_i),   n = u_n + b_n                          (1)
    p = f / (f + i),    h[t] = p ⊙ h[t-1] + (1 - p) ⊙ n                            (2)

p = σ(log f - log i), which is exact where both gates round to zero. There is no product
in the loop, forward or back. With the slope κ = λ ⊙ (h[t-1] - n) ⊙ p(1-p):

    δ = (κ ⊙ (1 - f),  -κ ⊙ (1 - i),  λ ⊙ (1 - p))                                 (3)
    Jᵀλ = λ ⊙ p                                                                    (4)
    dW_ih = Σ x[t]ᵀ δ,  db = Σ δ,  dx[t] = δ W_ihᵀ                                 (5)

With `parallel=True` the steps of a chunk run as an associative scan (`parallel.py`).
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
from jaxrnn.cells.base import Cell, Linear, Shape
from jaxrnn.cells.weights import (
    Gates,
    check_shapes,
    columns_of,
    drive,
    drive_vjp,
    input_weights,
)
from jaxrnn.ops.products import lead_sum


class MinLSTMParams(NamedTuple):
    """`w_ih [I, 3H]`, `b [3H]`, gates f i n, of one floating dtype."""

    w_ih: Array
    b: Array

    gates = Gates("fin", keep="f", admit="i")


class MinLSTMState(NamedTuple):
    """`h [*B, H]`."""

    h: Array


class MinLSTMLin(NamedTuple):
    """The coefficients of (3) and (4): `gates [..., 3H]` and `kept [..., H]`."""

    gates: Array
    kept: Array


def make_min_lstm(parallel: bool = False) -> Cell:
    """Returns a minLSTM, whose steps run one after the other or as an associative scan.

    The same argument gives the same `Cell` object, so `jit` does not trace twice.

    Args:
      parallel: whether the K steps of a chunk (`chunk` of `jaxrnn.unroll`) run as an
        associative scan, in about 2 log₂ K rounds, forward and back.

    Returns:
      A `Cell` with `MinLSTMParams` and `MinLSTMState`.

    Raises:
      TypeError: if `parallel` is not a bool.
    """
    return _make_min_lstm(arguments.flag("parallel", parallel))


@cache
def _make_min_lstm(parallel: bool) -> Cell:
    functions = _init, _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp
    linear = Linear(_coefficients, _numbers, MinLSTMState) if parallel else None
    return Cell(*functions, linear)


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> MinLSTMParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    return MinLSTMParams(
        w_ih=input_weights(key, input_size, hidden_size, MinLSTMParams.gates, dtype),
        b=jnp.zeros(3 * hidden_size, dtype),
    )


def _initial_state(params: MinLSTMParams, batch_shape: Shape) -> MinLSTMState:
    batch_shape = arguments.batch_shape("batch_shape", batch_shape)
    inputs, columns = columns_of(params)
    size = columns // 3
    check_shapes(params, {"w_ih": (inputs, 3 * size), "b": (3 * size,)})
    return MinLSTMState(jnp.zeros((*batch_shape, size), params.b.dtype))


def _drive(
    params: MinLSTMParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    return drive(xs, params.w_ih, params.b.dtype)


def _kept(z: Float[Array, "*N G"]) -> tuple[Array, Array, Array, Array]:
    """Returns p, 1 - f, 1 - i and n, `[..., H]`, of pre-activations f i n, (1)."""
    z_f, z_i, n = jnp.split(z, 3, axis=-1)
    p = jax.nn.sigmoid(jax.nn.log_sigmoid(z_f) - jax.nn.log_sigmoid(z_i))
    return p, jax.nn.sigmoid(-z_f), jax.nn.sigmoid(-z_i), n


def _step(
    params: MinLSTMParams, state: MinLSTMState, u: Float[Array, "*B G"]
) -> tuple[MinLSTMState, Float[Array, "*B G"]]:
    z = u + params.b
    p, _, _, n = _kept(z)
    return MinLSTMState(n + p * (state.h - n)), z  # (2)


def _linearize(
    params: MinLSTMParams,
    state_prev: MinLSTMState,
    state: MinLSTMState,
    z: Float[Array, "*N G"],
) -> MinLSTMLin:
    p, without_f, without_i, n = _kept(z)
    slope = (state_prev.h - n) * p * (1 - p)
    gates = [slope * without_f, -slope * without_i, 1 - p]
    return MinLSTMLin(jnp.concatenate(gates, axis=-1), p)


def _state_vjp(
    params_t: MinLSTMParams, lin: MinLSTMLin, adjoint: MinLSTMState
) -> MinLSTMState:
    return MinLSTMState(adjoint.h * lin.kept)  # (4)


def _param_vjp(
    params_t: MinLSTMParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: MinLSTMState,
    lin: MinLSTMLin,
    adjoints: MinLSTMState,
) -> tuple[MinLSTMParams, Float[Array, "*N I"] | None]:
    delta = lin.gates * jnp.concatenate([adjoints.h] * 3, axis=-1)  # (3)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    return MinLSTMParams(dw_ih, lead_sum(delta)), dxs  # (5)


def _coefficients(
    params: MinLSTMParams, us: Float[Array, "*N G"]
) -> tuple[Float[Array, "*N H"], Float[Array, "*N H"]]:
    p, _, _, n = _kept(us + params.b)
    return p, (1 - p) * n  # (2)


def _numbers(state: MinLSTMState) -> Float[Array, "*N H"]:
    return state.h


min_lstm = make_min_lstm()
"""The minimal LSTM, gates f i n: `MinLSTMParams` (`w_ih [I, 3H]`), `MinLSTMState`."""

register_namedtuple_serialization(MinLSTMParams, serialized_name="jaxrnn.MinLSTMParams")
register_namedtuple_serialization(MinLSTMState, serialized_name="jaxrnn.MinLSTMState")
