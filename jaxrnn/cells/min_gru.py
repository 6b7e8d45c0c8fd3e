"""The minimal GRU (Feng et al., 2024, "Were RNNs all we needed?", arXiv:2410.01201).

Its gate and its candidate do not depend on the state (section 3.1), so the recursion
is linear. With u[t] = x[t] W_ih and gates in the order z n:

    z = σ(u_z + b_z),   n = u_n + b_n                                              (1)
    h[t] = (1 - z) ⊙ h[t-1] + z ⊙ n                                                (2)

There is no product in the loop, forward or back:

    δ = (λ ⊙ (n - h[t-1]) ⊙ z(1-z),  λ ⊙ z)                                        (3)
    Jᵀλ = λ ⊙ (1 - z)                                                              (4)
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


class MinGRUParams(NamedTuple):
    """`w_ih [I, 2H]`, `b [2H]`, gates z n, of one floating dtype."""

    w_ih: Array
    b: Array

    gates = Gates("zn", admit="z")


class MinGRUState(NamedTuple):
    """`h [*B, H]`."""

    h: Array


class MinGRULin(NamedTuple):
    """The coefficients of (3) and (4): `gates [..., 2H]` and `kept [..., H]`."""

    gates: Array
    kept: Array


def make_min_gru(parallel: bool = False) -> Cell:
    """Returns a minGRU, whose steps run one after the other or as an associative scan.

    The same argument gives the same `Cell` object, so `jit` does not trace twice.

    Args:
      parallel: whether the K steps of a chunk (`chunk` of `jaxrnn.unroll`) run as an
        associative scan, in about 2 log₂ K rounds, forward and back.

    Returns:
      A `Cell` with `MinGRUParams` and `MinGRUState`.

    Raises:
      TypeError: if `parallel` is not a bool.
    """
    return _make_min_gru(arguments.flag("parallel", parallel))


@cache
def _make_min_gru(parallel: bool) -> Cell:
    functions = _init, _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp
    linear = Linear(_coefficients, _numbers, MinGRUState) if parallel else None
    return Cell(*functions, linear)


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> MinGRUParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    return MinGRUParams(
        w_ih=input_weights(key, input_size, hidden_size, MinGRUParams.gates, dtype),
        b=jnp.zeros(2 * hidden_size, dtype),
    )


def _initial_state(params: MinGRUParams, batch_shape: Shape) -> MinGRUState:
    batch_shape = arguments.batch_shape("batch_shape", batch_shape)
    inputs, columns = columns_of(params)
    size = columns // 2
    check_shapes(params, {"w_ih": (inputs, 2 * size), "b": (2 * size,)})
    return MinGRUState(jnp.zeros((*batch_shape, size), params.b.dtype))


def _drive(
    params: MinGRUParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    return drive(xs, params.w_ih, params.b.dtype)


def _gates(params: MinGRUParams, u: Float[Array, "*N G"]) -> tuple[Array, Array]:
    """Returns z and n, `[..., H]`, (1)."""
    z, n = jnp.split(u + params.b, 2, axis=-1)
    return jax.nn.sigmoid(z), n


def _step(
    params: MinGRUParams, state: MinGRUState, u: Float[Array, "*B G"]
) -> tuple[MinGRUState, Float[Array, "*B G"]]:
    z, n = _gates(params, u)
    return MinGRUState(state.h + z * (n - state.h)), jnp.concatenate([z, n], -1)  # (2)


def _linearize(
    params: MinGRUParams,
    state_prev: MinGRUState,
    state: MinGRUState,
    gates: Float[Array, "*N G"],
) -> MinGRULin:
    z, n = jnp.split(gates, 2, axis=-1)
    to_z = (n - state_prev.h) * z * (1 - z)
    return MinGRULin(jnp.concatenate([to_z, z], axis=-1), 1 - z)


def _state_vjp(
    params_t: MinGRUParams, lin: MinGRULin, adjoint: MinGRUState
) -> MinGRUState:
    return MinGRUState(adjoint.h * lin.kept)  # (4)


def _param_vjp(
    params_t: MinGRUParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: MinGRUState,
    lin: MinGRULin,
    adjoints: MinGRUState,
) -> tuple[MinGRUParams, Float[Array, "*N I"] | None]:
    delta = lin.gates * jnp.concatenate([adjoints.h] * 2, axis=-1)  # (3)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    return MinGRUParams(dw_ih, lead_sum(delta)), dxs  # (5)


def _coefficients(
    params: MinGRUParams, us: Float[Array, "*N G"]
) -> tuple[Float[Array, "*N H"], Float[Array, "*N H"]]:
    z, n = _gates(params, us)
    return 1 - z, z * n  # (2)


def _numbers(state: MinGRUState) -> Float[Array, "*N H"]:
    return state.h


min_gru = make_min_gru()
"""The minimal GRU, gates z n: `MinGRUParams` (`w_ih [I, 2H]`), `MinGRUState`."""

register_namedtuple_serialization(MinGRUParams, serialized_name="jaxrnn.MinGRUParams")
register_namedtuple_serialization(MinGRUState, serialized_name="jaxrnn.MinGRUState")
