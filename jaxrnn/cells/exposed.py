"""A cell that outputs its whole state, such as the c[t] of an LSTM beside h[t].

The state's arrays lie side by side in one, which is the output:

    h̄[t] = [s₁[t], s₂[t], …],      λ̄[t] = [λ₁[t], λ₂[t], …]                         (1)

so the recursion and its adjoint are the cell's own, cut apart and joined.
"""

from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from jaxrnn.cells.base import (
    FUNCTIONS,
    Cell,
    Drives,
    Lin,
    Params,
    Residuals,
    Shape,
    State,
)
from jaxrnn.methods import methods_of
from jaxrnn.ops import products


class ExposedState(NamedTuple):
    """`h [*B, ΣH]`: all arrays of the cell's state, side by side."""

    h: Array


def exposed(cell: Cell) -> Cell:
    """Returns the same cell with an `ExposedState`, so that it outputs all of it."""
    return Cell._make((*methods_of(_Exposed(cell), FUNCTIONS), None))


def pack(state: State) -> ExposedState:
    """Returns the arrays `[*B, H]` of a cell's state side by side, `[*B, ΣH]`, (1)."""
    return ExposedState(jnp.concatenate(jax.tree.leaves(state), axis=-1))


def unpack(h: Float[Array, "*N S"], like: State) -> Any:
    """Returns the cell's state, leaves `[*N, H]`, cut apart as the leaves of `like`."""
    leaves, tree = jax.tree.flatten(like)
    edges = list(accumulate(leaf.shape[-1] for leaf in leaves))
    return jax.tree.unflatten(tree, jnp.split(h, edges[:-1], axis=-1))


class _Exposed(NamedTuple):
    cell: Cell

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ) -> Params:
        return self.cell.init(key, input_size, hidden_size, dtype)

    def initial_state(self, params: Params, batch_shape: Shape) -> ExposedState:
        return pack(self.cell.initial_state(params, batch_shape))

    def drive(self, params: Params, xs: Array) -> Drives:
        return self.cell.drive(params, xs)

    def step(
        self, params: Params, state: ExposedState, u: Drives
    ) -> tuple[ExposedState, Residuals]:
        state, res = self.cell.step(params, self._own(params, state), u)
        return pack(state), res

    def linearize(
        self,
        params: Params,
        state_prev: ExposedState,
        state: ExposedState,
        res: Residuals,
    ) -> Lin:
        before, after = (self._own(params, s) for s in (state_prev, state))
        return self.cell.linearize(params, before, after, res)

    def state_vjp(
        self, params_t: Params, lin: Lin, adjoint: ExposedState
    ) -> ExposedState:
        own = self._own(products.transposed(params_t), adjoint)
        return pack(self.cell.state_vjp(params_t, lin, own))

    def param_vjp(
        self,
        params_t: Params,
        xs: Array,
        states_prev: ExposedState,
        lin: Lin,
        adjoints: ExposedState,
    ) -> tuple[Params, Any]:
        params = products.transposed(params_t)
        before, own = (self._own(params, s) for s in (states_prev, adjoints))
        return self.cell.param_vjp(params_t, xs, before, lin, own)

    def _own(self, params: Params, state: ExposedState) -> Any:
        """Returns the cell's own state. Only shapes of the parameters are read."""
        like = jax.eval_shape(lambda p: self.cell.initial_state(p, ()), params)
        return unpack(state.h, like)


register_namedtuple_serialization(
    ExposedState, serialized_name="jaxrnn.cells.ExposedState"
)
