"""The leaky network: a continuous-time network in steps of Euler's method.

A unit of the continuous-time network follows τ dh/dt = -h + f(h W_hh + u + b), where τ
is its time constant (Funahashi & Nakamura, 1993, Neural Networks 6(6), pp. 801-806;
leaky units in discrete time: Jaeger et al., 2007, Neural Networks 20(3), pp. 335-352).
With τ counted in steps, u[t] = x[t] W_ih and the rate α = 1/τ of each unit:

    r = f(u[t] + h[t-1] W_hh + b)                                                  (1)
    h[t] = (1 - α) ⊙ h[t-1] + α ⊙ r                                                (2)

α is σ(a) with trained parameters a, or fixed. With δ = λ ⊙ α ⊙ ḟ the adjoint is

    Jᵀλ = λ ⊙ (1 - α) + δ W_hhᵀ                                                    (3)
    dW_ih = Σ x[t]ᵀ δ,  dW_hh = Σ h[t-1]ᵀ δ,  db = Σ δ,  dx[t] = δ W_ihᵀ,
    da = Σ λ ⊙ (r - h[t-1]) ⊙ α(1-α)                                               (4)

The first term of (3) carries an error over about τ steps, whatever the weights are.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
    drive,
    drive_vjp,
    input_weights,
    recurrent_weights,
    state_shape,
)
from jaxrnn.ops.products import lead_sum, matmul, outer_sum


class LeakyParams(NamedTuple):
    """`w_ih [I, H]`, `w_hh [H, H]`, `b [H]`, and `a [H]`, where α = σ(a) is trained.

    The time constant is 1/α = 1 + exp(-a) steps: set it by a = -log(τ - 1). `a` is None
    where the time constants are fixed.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    a: Array | None

    gates = Gates("h", meet="w_hh")


class LeakyState(NamedTuple):
    """`h [*B, H]`."""

    h: Array


class LeakyLin(NamedTuple):
    """The coefficients of (3) and (4): `to_z`, α ⊙ ḟ, and `to_a`, `[..., H]`."""

    to_z: Array
    to_a: Any


def make_leaky(
    activation: str = "tanh",
    time_constant: float | int | tuple[float | int, ...] | None = None,
) -> Cell:
    """Returns a leaky cell, its time constants trained or fixed, (1) to (4).

    Equal arguments give the same `Cell` object, so `jit` does not trace twice.

    Args:
      activation: f, a name in `jaxrnn.cells.activations`, as for `jaxrnn.make_elman`.
      time_constant: τ in steps, at least 1: one number, or a tuple of a number for each
        unit. None: each unit's is trained, and is 2 at first.

    Returns:
      A `Cell` with `LeakyParams` and `LeakyState`.

    Raises:
      TypeError: if `time_constant` is not a number or a tuple of numbers.
      ValueError: if a time constant is below 1, or there is no such activation.
    """
    check_name("activation", activation)
    if time_constant is not None and not isinstance(time_constant, tuple):
        time_constant = (time_constant,)
    if time_constant is not None:
        time_constant = tuple(map(_at_least_one, time_constant))
    return _make_leaky(activation, time_constant)


def _at_least_one(got: Any) -> float:
    rule = "`time_constant` must be a number of steps, at least 1, or a tuple of them"
    if isinstance(got, bool) or not isinstance(got, int | float | np.number):
        raise TypeError(f"{rule}, but got {arguments.describe(got)}.")
    if not 1 <= got < float("inf"):
        raise ValueError(f"{rule}, but got {got!r}.")
    return float(got)


@cache
def _make_leaky(activation: str, fixed: tuple[float, ...] | None) -> Cell:
    kind = _Kind(activation, fixed)
    return Cell(
        _Init(kind),
        _InitialState(kind),
        _drive,
        _Step(kind),
        _Linearize(kind),
        _StateVjp(kind),
        _param_vjp,
    )


# Values, not closures: equal if their kinds are, so that a cell can be pickled.
class _Kind(NamedTuple):
    activation: str
    fixed: tuple[float, ...] | None

    def rate(self, params: LeakyParams) -> Array:
        """Returns α, `[H]` or `[1]`."""
        if params.a is not None:
            return jax.nn.sigmoid(params.a)
        return jnp.asarray(1 / np.asarray(self.fixed), params.b.dtype)


class _Init(NamedTuple):
    kind: _Kind

    def __call__(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ):
        arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
        gates, (key_ih, key_hh) = LeakyParams.gates, jax.random.split(key)
        return LeakyParams(
            w_ih=input_weights(key_ih, input_size, hidden_size, gates, dtype),
            w_hh=recurrent_weights(key_hh, hidden_size, gates, dtype),
            b=jnp.zeros(hidden_size, dtype),
            a=jnp.zeros(hidden_size, dtype) if self.kind.fixed is None else None,
        )


class _InitialState(NamedTuple):
    kind: _Kind

    def __call__(self, params: LeakyParams, batch_shape: Shape):
        shape, fixed = state_shape(params, batch_shape), self.kind.fixed
        if fixed is None:
            check_shapes(params, {"a": (shape[-1],)})
        elif len(fixed) not in (1, shape[-1]):
            raise ValueError(
                f"`time_constant` has {len(fixed)} numbers, but there are {shape[-1]} "
                "units. Give `make_leaky` one number, or one for each unit."
            )
        return LeakyState(jnp.zeros(shape, params.w_hh.dtype))


def _drive(
    params: LeakyParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N H"]:
    return drive(xs, params.w_ih, params.b.dtype)


class _Step(NamedTuple):
    kind: _Kind

    def __call__(self, params: LeakyParams, state: LeakyState, u: Float[Array, "*B H"]):
        z = matmul(state.h, params.w_hh) + u + params.b
        r = ACTIVATIONS[self.kind.activation].value(z)  # (1)
        return LeakyState(state.h + self.kind.rate(params) * (r - state.h)), r  # (2)


class _Linearize(NamedTuple):
    kind: _Kind

    def __call__(
        self,
        params: LeakyParams,
        state_prev: LeakyState,
        state: LeakyState,
        r: Float[Array, "*N H"],
    ):
        rate, trained = self.kind.rate(params), params.a is not None
        return LeakyLin(
            to_z=rate * ACTIVATIONS[self.kind.activation].slope(r),
            to_a=rate * (1 - rate) * (r - state_prev.h) if trained else None,
        )


class _StateVjp(NamedTuple):
    kind: _Kind

    def __call__(self, params_t: LeakyParams, lin: LeakyLin, adjoint: LeakyState):
        kept = adjoint.h * (1 - self.kind.rate(params_t))
        back = matmul(lin.to_z * adjoint.h, params_t.w_hh)
        return LeakyState(kept + back)  # (3)


def _param_vjp(
    params_t: LeakyParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: LeakyState,
    lin: LeakyLin,
    adjoints: LeakyState,
) -> tuple[LeakyParams, Float[Array, "*N I"] | None]:
    delta = lin.to_z * adjoints.h
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    dparams = LeakyParams(
        w_ih=dw_ih,
        w_hh=outer_sum(states_prev.h, delta, params_t.w_hh.dtype),
        b=lead_sum(delta),
        a=None if params_t.a is None else lead_sum(lin.to_a * adjoints.h),
    )
    return dparams, dxs  # (4)


leaky = make_leaky()
"""The leaky cell with tanh and trained time constants: `LeakyParams`, `a [H]`."""

register_namedtuple_serialization(LeakyParams, serialized_name="jaxrnn.LeakyParams")
register_namedtuple_serialization(LeakyState, serialized_name="jaxrnn.LeakyState")
