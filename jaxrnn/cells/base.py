"""The contract of a cell: seven pure functions, and for some a linear form.

A cell moves a state s through time. Write u[t] for the *drive* (the part that depends
on the input alone), θ for the parameters, R̂ for the loss, λ[t] = dR̂/ds[t] for the
*adjoint*, and

    J[t] = ∂s[t]/∂s[t-1]            M[t] = ∂s[t]/∂θ  at fixed s[t-1]

Forward, one step at a time:

    u[t] = drive(θ, x[t])                                                         (1)
    s[t], res[t] = step(θ, s[t-1], u[t])                                          (2)

Once all the states are known, so are J and M. `linearize` computes their coefficients
for all t at once, and only the recursion itself runs backwards, step by step:

    lin[t] = linearize(θ, s[t-1], s[t], res[t])                                   (3)
    J[t]ᵀ λ[t] = state_vjp(θᵀ, lin[t], λ[t])                                      (4)
    Σ M[t]ᵀ λ[t], dx = param_vjp(θᵀ, x, s[t-1], lin, λ)                           (5)

θᵀ stands for the parameters with every matrix transposed. Cells receive plain arrays. A
cell that multiplies with `ops.products.matmul` gets mixed precision right.

Axes: T time, *B any number of batch axes, I input, H hidden, G = gates × H. Vectors are
rows, so products read `x @ w_ih` and `h @ w_hh`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray, PyTree

# Integers, or the symbolic dimensions of `jax.export`.
Shape: TypeAlias = Sequence[Any]

Params: TypeAlias = PyTree
"""A NamedTuple of arrays of one floating dtype, such as `LSTMParams`."""
State: TypeAlias = PyTree
"""A NamedTuple of arrays `[*B, H]`; its first field is the output `h`."""
Adjoint: TypeAlias = PyTree
"""λ = dR̂/ds, a tree like the state."""
Drives: TypeAlias = PyTree
"""u, any tree of arrays, `[*N, G]`."""
Residuals: TypeAlias = PyTree
"""The values that a step keeps for `linearize`, any tree of arrays `[*N, ...]`."""
Lin: TypeAlias = PyTree
"""The coefficients of J and M, any tree of arrays `[*N, ...]`."""


class Init(Protocol):
    """`(key, input_size, hidden_size, dtype=float32) -> params`."""

    def __call__(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ) -> Params: ...


class InitialState(Protocol):
    """`(params, batch_shape) -> state`, leaves `[*B, H]`."""

    def __call__(self, params: Params, batch_shape: Shape, /) -> State: ...


class Drive(Protocol):
    """`(params, xs [*N, I] or ids [*N]) -> us [*N, G]`, (1)."""

    def __call__(self, params: Params, xs: Array, /) -> Drives: ...


class Step(Protocol):
    """`(params, state, u) -> (state, res)`, (2)."""

    def __call__(
        self, params: Params, state: State, u: Drives, /
    ) -> tuple[State, Residuals]: ...


class Linearize(Protocol):
    """`(params, state_prev, state, res) -> lin`, (3)."""

    def __call__(
        self, params: Params, state_prev: State, state: State, res: Residuals, /
    ) -> Lin: ...


class StateVjp(Protocol):
    """`(params_t, lin, adjoint) -> adjoint_prev`, (4)."""

    def __call__(self, params_t: Params, lin: Lin, adjoint: Adjoint, /) -> Adjoint: ...


class ParamVjp(Protocol):
    """`(params_t, xs, states_prev, lin, adjoints) -> (dparams, dxs)`, (5)."""

    def __call__(
        self,
        params_t: Params,
        xs: Array,
        states_prev: State,
        lin: Lin,
        adjoints: Adjoint,
        /,
    ) -> tuple[Params, Any]: ...


class Linear(NamedTuple):
    """A recursion that is linear in the state, and separate for each unit.

    The state is n numbers, real or complex, and s[t] = a[t] s[t-1] + v[t], number by
    number. The steps of a chunk then run as an associative scan (`parallel.py`).

    Attributes:
      coefficients: `(params, us) -> (a, v)`, `[*N, n]`. Any leading axes.
      numbers: `state -> s`, `[*N, n]`.
      state: `s -> state`, its inverse.
    """

    coefficients: Callable[[Params, Drives], tuple[Array, Array]]
    numbers: Callable[[State], Array]
    state: Callable[[Array], State]


@jax.tree_util.register_static
class Cell(NamedTuple):
    """A recurrent cell: a hashable value without arrays, static under `jit` and `vmap`.

    It is a tree without leaves, so `jit(unroll)(cell, ...)` needs no `static_argnums`.

    States are NamedTuples whose first field is the output `h`; parameters are
    NamedTuples of arrays of one floating dtype; `us`, `res` and `lin` are any pytrees
    of arrays. A function marked *any leading axes* is called on one step `[*B, ...]` as
    well as on a whole stretch of time `[K, *B, ...]` at once, and must do the same on
    both.

    Attributes:
      init: `(key, input_size, hidden_size, dtype=float32) -> params`.
      initial_state: `(params, batch_shape) -> state`: zeros of the parameters' dtype.
        Raises `ValueError` if the shapes in `params` do not fit one another.
      drive: `(params, xs) -> us`, `[..., I]` to `[..., G]`, (1). Any leading axes.
        Raises `ValueError` if the last axis of `xs` is not the input size. If
        parameters have a `w_ih`, integers `[...]` are ids of one-hot vectors:
        `weights.drive` takes both.
      step: `(params, state, u) -> (state, res)`, (2). Any leading axes: the engine
        calls it again on stored states to recompute `res`.
      linearize: `(params, state_prev, state, res) -> lin`, (3): every coefficient of J
        and M that does not depend on λ. Any leading axes.
      state_vjp: `(params_t, lin, adjoint) -> adjoint_prev`, (4): linear in λ, and the
        only call inside the reverse loop, so one matrix product and a few elementwise
        operations.
      param_vjp: `(params_t, xs, states_prev, lin, adjoints) -> (dparams, dxs)`, (5):
        one product over all leading axes per matrix. `dparams` has the type of the
        parameters, in float32 or wider: the engine adds the chunks up and casts the
        sum. Ids have no `dxs`: None, as `weights.drive_vjp` returns it.
      linear: the same recursion in the form of `Linear`, to be run as an associative
        scan; None: `step` and `state_vjp` run one step after the other.
    """

    init: Init
    initial_state: InitialState
    drive: Drive
    step: Step
    linearize: Linearize
    state_vjp: StateVjp
    param_vjp: ParamVjp
    linear: Linear | None = None


FUNCTIONS = tuple(name for name in Cell._fields if name != "linear")
"""The names of the seven functions, which every cell has."""
