"""The independently recurrent network (Li et al., 2018, CVPR, pp. 5457-5466).

Each unit sees only itself at the step before: w_hh is a vector. With u[t] = x[t] W_ih:

    h[t] = f(u[t] + w_hh ⊙ h[t-1] + b)                                             (1)

The Jacobian is diagonal, so with δ[t] = ḟ ⊙ λ[t] there is no product in the loop:

    J[t]ᵀ λ[t] = δ[t] ⊙ w_hh                                                       (2)
    dW_ih = Σ x[t]ᵀ δ[t],  dw_hh = Σ h[t-1] ⊙ δ[t],  db = Σ δ[t],
    dx[t] = δ[t] W_ihᵀ                                                             (3)

Over i steps unit j multiplies its error by w_j to the power of i, times the slopes.
With relu, weights in [0, 1] keep it from exploding, and weights near 1 remember for
long. Units mix in the layers above.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.activations import ACTIVATIONS, check_name
from jaxrnn.cells.base import Cell, Shape
from jaxrnn.cells.weights import (
    Gates,
    check_shapes,
    columns_of,
    drive,
    drive_vjp,
    input_weights,
)
from jaxrnn.ops.products import accumulation_dtype, lead_sum


class IndRNNParams(NamedTuple):
    """`w_ih [I, H]`, `w_hh [H]`, `b [H]`, of one floating dtype."""

    w_ih: Array
    w_hh: Array
    b: Array

    gates = Gates("h")


class IndRNNState(NamedTuple):
    """`h [*B, H]`."""

    h: Array


def make_indrnn(activation: str = "relu") -> Cell:
    """Returns an IndRNN with the given activation, (1) to (3).

    The same argument gives the same `Cell` object, so `jit` does not trace twice.

    Args:
      activation: f, a name in `jaxrnn.cells.activations`, as for `jaxrnn.make_elman`.

    Returns:
      A `Cell` with `IndRNNParams` and `IndRNNState`.

    Raises:
      ValueError: if there is no such activation.
    """
    return _make_indrnn(check_name("activation", activation))


@cache
def _make_indrnn(activation: str) -> Cell:
    step, linearize = _Step(activation), _Linearize(activation)
    return Cell(_init, _initial_state, _drive, step, linearize, _state_vjp, _param_vjp)


# Values, not closures: equal if their activations are, so that a cell can be pickled.
class _Step(NamedTuple):
    activation: str

    def __call__(
        self, params: IndRNNParams, state: IndRNNState, u: Float[Array, "*B H"]
    ):
        z = state.h * params.w_hh + u + params.b
        return IndRNNState(ACTIVATIONS[self.activation].value(z)), ()  # (1)


class _Linearize(NamedTuple):
    activation: str

    def __call__(
        self, params: IndRNNParams, state_prev: IndRNNState, state: IndRNNState, _: Any
    ):
        return ACTIVATIONS[self.activation].slope(state.h)


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> IndRNNParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    key_ih, key_hh = jax.random.split(key)
    # Evenly between 0 and 1: time constants of all lengths, as in the paper.
    w_hh = jax.random.uniform(key_hh, (hidden_size,), accumulation_dtype(dtype))
    return IndRNNParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, IndRNNParams.gates, dtype),
        w_hh=w_hh.astype(dtype),
        b=jnp.zeros(hidden_size, dtype),
    )


def _initial_state(params: IndRNNParams, batch_shape: Shape) -> IndRNNState:
    batch_shape = arguments.batch_shape("batch_shape", batch_shape)
    inputs, size = columns_of(params)
    check_shapes(params, {"w_ih": (inputs, size), "w_hh": (size,), "b": (size,)})
    return IndRNNState(jnp.zeros((*batch_shape, size), params.b.dtype))


def _drive(
    params: IndRNNParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N H"]:
    return drive(xs, params.w_ih, params.b.dtype)


def _state_vjp(
    params_t: IndRNNParams, slope: Float[Array, "*B H"], adjoint: IndRNNState
) -> IndRNNState:
    return IndRNNState(slope * adjoint.h * params_t.w_hh)  # (2)


def _param_vjp(
    params_t: IndRNNParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: IndRNNState,
    slope: Float[Array, "*N H"],
    adjoints: IndRNNState,
) -> tuple[IndRNNParams, Float[Array, "*N I"] | None]:
    delta = slope * adjoints.h
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    dw_hh = lead_sum(states_prev.h * delta)
    return IndRNNParams(dw_ih, dw_hh, lead_sum(delta)), dxs  # (3)


indrnn = make_indrnn()
"""The independently recurrent cell with relu: `IndRNNParams` (`w_hh [H]`)."""

register_namedtuple_serialization(IndRNNParams, serialized_name="jaxrnn.IndRNNParams")
register_namedtuple_serialization(IndRNNState, serialized_name="jaxrnn.IndRNNState")
