"""Synthetic gradients, DNI (Jaderberg et al., 2017, ICML, arXiv:1608.05343).

No influence is carried. Instead the part of the adjoint that comes from the future is
predicted from the state, by a *synthesizer* that learns meanwhile:

    λ̂(s) = s A + b,    dR̂/dθ ≈ Σ M[t]ᵀ (g[t] + λ̂(s[t]))                           (1)

By the recursion of the adjoint, λ̂(s[t-1]) should be J[t]ᵀ (g[t] + λ̂(s[t])). With the
difference e[t] as the error, as in temporal-difference learning,

    e[t] = λ̂(s[t-1]) - J[t]ᵀ (g[t] + λ̂(s[t])),    dA = Σ s[t-1]ᵀ e[t],  db = Σ e[t] (2)

O(|θ|) per step and O(D²) memory. The prediction is biased until it has been learned,
and then as good as a linear function of the state can be. It does not learn where an
episode ends: at a reset, s[t-1] in (2) is the reset state, not the last state.

The synthesizer's weights are parameters of the cell (`synthesizing`), so an optimizer
moves them with the rest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, PRNGKeyArray

from jaxrnn.arguments import describe
from jaxrnn.cells.base import FUNCTIONS, Cell, Lin, Params, Residuals, Shape, State
from jaxrnn.methods import methods_of
from jaxrnn.online.base import (
    Estimator,
    for_sequences,
    input_size,
    step,
    vector,
    wide,
)
from jaxrnn.ops.ids import are_ids, one_hot
from jaxrnn.ops.products import accumulation_dtype
from jaxrnn.ops.selection import keep


class SynthesizerParams(NamedTuple):
    """The parameters of a cell, and those of λ̂, (1): `a [D, D]` and `b [D]`."""

    cell: Params
    a: Array
    b: Array

    @property
    def w_ih(self) -> Array:
        """The cell's input weights, `[I, G]`, whose rows ids select."""
        return self.cell.w_ih


def synthesizing(cell: Cell) -> Cell:
    """Returns the same cell with a synthesizer among its parameters, for `dni`.

    Its parameters are `SynthesizerParams`, with A and b zero at first; its states are
    those of the cell. The forward pass does not read A and b, so their gradient by
    backpropagation is zero.

    Raises:
      TypeError: if `cell` is no Cell.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            "`cell` must be a jaxrnn.Cell, such as jaxrnn.lstm, but got "
            f"{describe(cell)}."
        )
    return Cell._make((*methods_of(_Synthesizing(cell), FUNCTIONS), None))


class _Synthesizing(NamedTuple):
    cell: Cell

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ) -> SynthesizerParams:
        params = self.cell.init(key, input_size, hidden_size, dtype)
        size = vector(self.cell.initial_state(params, ())).size
        return SynthesizerParams(
            params, jnp.zeros((size, size), dtype), jnp.zeros(size, dtype)
        )

    def initial_state(self, params: SynthesizerParams, batch_shape: Shape) -> State:
        return self.cell.initial_state(params.cell, batch_shape)

    def drive(self, params: SynthesizerParams, xs: Array) -> Any:
        return self.cell.drive(params.cell, xs)

    def step(
        self, params: SynthesizerParams, state: State, u: Any
    ) -> tuple[State, Residuals]:
        return self.cell.step(params.cell, state, u)

    def linearize(
        self, params: SynthesizerParams, state_prev: State, state: State, res: Residuals
    ) -> Lin:
        return self.cell.linearize(params.cell, state_prev, state, res)

    def state_vjp(self, params_t: SynthesizerParams, lin: Lin, adjoint: State) -> State:
        return self.cell.state_vjp(params_t.cell, lin, adjoint)

    def param_vjp(
        self,
        params_t: SynthesizerParams,
        xs: Array,
        states_prev: State,
        lin: Lin,
        adjoints: State,
    ) -> tuple[SynthesizerParams, Any]:
        dparams, dxs = self.cell.param_vjp(
            params_t.cell, xs, states_prev, lin, adjoints
        )
        zeros = jax.tree.map(
            lambda p: jnp.zeros(p.shape, accumulation_dtype(p.dtype)),
            (params_t.a, params_t.b),
        )
        return SynthesizerParams(dparams, *zeros), dxs


class Synthesis(NamedTuple):
    """The present step of one sequence."""

    cell: Cell
    x: Float[Array, " I"]
    """The input; for an id, the vector that it stands for."""
    before: State
    """s[t-1], leaves `[H]`."""
    after: State
    """s[t]."""
    is_taken: Bool[Array, ""]
    """False before the first step, where there is nothing to predict."""


def dni() -> Estimator:
    """Returns synthetic gradients, (1) and (2), for a cell with a synthesizer.

    The trace is the present step: the input `[*B, I]`, and the states before and after
    it, `[*B, H]`. `init` raises `TypeError` if the cell has no synthesizer.

    Source: Jaderberg et al. (2017), "Decoupled neural interfaces using synthetic
    gradients", ICML; (2) as in Marschall, Cho & Savin (2020), JMLR 21.
    """
    return for_sequences(_init, _update, _gradient)


def _init(cell: Cell, params: Params, state: State) -> Synthesis:
    if not isinstance(params, SynthesizerParams):
        raise TypeError(
            "`cell` must have a synthesizer for dni, but its parameters are "
            f"{type(params).__name__}. Make one: jaxrnn.online.synthesizing(cell)."
        )
    x = jnp.zeros(input_size(cell, params), params.b.dtype)
    return Synthesis(cell, x, state, state, jnp.array(False))


def _update(
    params: SynthesizerParams, state: State, x: Array, trace: Synthesis, key: Any
) -> tuple[State, Synthesis]:
    after, _ = trace.cell.step(params, state, trace.cell.drive(params, x))
    if are_ids(x):
        x = one_hot(x, trace.x.size, trace.x.dtype)
    return after, Synthesis(trace.cell, x, state, after, jnp.array(True))


def _gradient(
    params: SynthesizerParams, trace: Synthesis, g: State
) -> SynthesizerParams:
    _, local = step(trace.cell, params, trace.before, trace.x)
    a, b = wide((params.a, params.b))
    before, after = vector(trace.before), vector(trace.after)
    adjoint = keep(trace.is_taken, vector(g) + after @ a + b)
    error = keep(trace.is_taken, before @ a + b - local.back(adjoint))  # (2)
    dcell = local.pull(adjoint).cell  # (1)
    return SynthesizerParams(dcell, jnp.outer(before, error), error)


register_namedtuple_serialization(
    SynthesizerParams, serialized_name="jaxrnn.SynthesizerParams"
)
