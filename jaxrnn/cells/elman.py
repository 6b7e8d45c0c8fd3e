"""The basic recurrent network (Elman, 1990, Cognitive Science 14).

    z[t] = u[t] + h[t-1] W_hh + b,    u[t] = x[t] W_ih
    h[t] = f(z[t])                                                                 (1)

Its Jacobian is J[t] = W_hhᵀ scaled by ḟ(z[t]), so with δ[t] = ḟ(z[t]) ⊙ λ[t] the
adjoint is

    J[t]ᵀ λ[t] = δ[t] W_hhᵀ                                                        (2)
    dW_ih = Σ x[t]ᵀ δ[t],  dW_hh = Σ h[t-1]ᵀ δ[t],  db = Σ δ[t],  dx[t] = δ[t] W_ihᵀ (3)

For the activations known by name, ḟ is a function of h itself (tanh: 1 - h²), so only
the states are kept. The gradient i steps back is a product of i factors ḟ and
Wₘ: with the logistic function (ḟ ≤ ¼) it vanishes fast, with tanh (ḟ ≤ 1) more slowly,
and with relu or the identity Wₘ decides whether it vanishes, survives or explodes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.activations import ACTIVATIONS
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

Elementwise = Callable[[Array], Array]


class ElmanParams(NamedTuple):
    """`w_ih [I, H]`, `w_hh [H, H]`, `b [H]`, of one floating dtype.

    A transposed `w_hh` has the same shape, so it cannot be detected: the matrices of
    PyTorch must be transposed.
    """

    w_ih: Array
    w_hh: Array
    b: Array

    gates = Gates("h", meet="w_hh")


class ElmanState(NamedTuple):
    """`h [*B, H]`."""

    h: Array


def make_elman(activation: str | tuple[Elementwise, Elementwise] = "tanh") -> Cell:
    """Returns an Elman cell with the given activation, (1) to (3).

    The same argument gives the same `Cell` object, so `jit` does not trace twice; a
    pair of functions must therefore be defined once, not as new lambdas at each call.
    At the top level of a module they can be pickled with the cell.

    Args:
      activation: "tanh", "logistic", "relu", "identity", "softsign", "hard_logistic",
        "hard_tanh", or a pair `(f, df)` of elementwise functions of the pre-activation
        z: the activation and its derivative.

    Returns:
      A `Cell` with `ElmanParams` and `ElmanState`.

    Raises:
      ValueError: if the name is unknown, or the argument is neither a name nor a pair
        of functions.
    """
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be one of {', '.join(ACTIVATIONS)}, or a pair "
                f"(f, df) of functions of the pre-activation, but got {activation!r}."
            )
    elif not (
        isinstance(activation, tuple)
        and len(activation) == 2
        and all(map(callable, activation))
    ):
        raise ValueError(
            "`activation` must be a name or a pair (f, df) of functions of the "
            f"pre-activation, but got {activation!r}. Give the derivative too: the "
            "backward pass calls it."
        )
    return _make_elman(activation)


@cache
def _make_elman(activation: Any) -> Cell:
    step, linearize = _Step(activation), _Linearize(activation)
    return Cell(_init, _initial_state, _drive, step, linearize, _state_vjp, _param_vjp)


# Values, not closures: equal if their activations are, so that a cell can be pickled.
class _Step(NamedTuple):
    activation: Any

    def __call__(self, params: ElmanParams, state: ElmanState, u: Float[Array, "*B H"]):
        z = matmul(state.h, params.w_hh) + u + params.b
        if isinstance(self.activation, str):
            return ElmanState(ACTIVATIONS[self.activation].value(z)), ()  # (1)
        return ElmanState(self.activation[0](z)), z


class _Linearize(NamedTuple):
    activation: Any

    def __call__(
        self, params: ElmanParams, state_prev: ElmanState, state: ElmanState, res: Any
    ):
        if isinstance(self.activation, str):
            return ACTIVATIONS[self.activation].slope(state.h)  # ḟ(z[t])
        return self.activation[1](res)


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> ElmanParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    key_ih, key_hh = jax.random.split(key)
    return ElmanParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, ElmanParams.gates, dtype),
        w_hh=recurrent_weights(key_hh, hidden_size, ElmanParams.gates, dtype),
        b=jnp.zeros(hidden_size, dtype),
    )


def _initial_state(params: ElmanParams, batch_shape: Shape) -> ElmanState:
    return ElmanState(jnp.zeros(state_shape(params, batch_shape), params.w_hh.dtype))


def _drive(
    params: ElmanParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N H"]:
    return drive(xs, params.w_ih, params.b.dtype)


def _state_vjp(
    params_t: ElmanParams, lin: Float[Array, "*B H"], adjoint: ElmanState
) -> ElmanState:
    return ElmanState(matmul(lin * adjoint.h, params_t.w_hh))  # (2)


def _param_vjp(
    params_t: ElmanParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: ElmanState,
    lin: Float[Array, "*N H"],
    adjoints: ElmanState,
) -> tuple[ElmanParams, Float[Array, "*N I"] | None]:
    delta = lin * adjoints.h
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    dparams = ElmanParams(
        w_ih=dw_ih,
        w_hh=outer_sum(states_prev.h, delta, params_t.w_hh.dtype),
        b=lead_sum(delta),
    )
    return dparams, dxs  # (3)


elman = make_elman("tanh")
"""The basic recurrent cell with tanh: `ElmanParams` (`w_hh [H, H]`), `ElmanState`."""

register_namedtuple_serialization(ElmanParams, serialized_name="jaxrnn.ElmanParams")
register_namedtuple_serialization(ElmanState, serialized_name="jaxrnn.ElmanState")
