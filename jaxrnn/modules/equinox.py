"""A layer around Equinox's `LSTMCell` and `GRUCell`, run by `unroll`.

It takes the place of `jax.lax.scan`, and of `jax.vmap`, around a cell:

    rnn = RNN(eqx.nn.LSTMCell(3, 8, key=key))
    (h, c), hs = rnn(xs)
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from jaxrnn.cells.base import Cell, Params
from jaxrnn.cells.gru import GRUParams, GRUState, gru
from jaxrnn.cells.lstm import LSTMParams, LSTMState, lstm
from jaxrnn.modules.conventions import run

# A pair (h, c) for an LSTM, h for a GRU.
Hidden = Any


class RNN(eqx.Module):
    """A cell over a sequence, whose gradient is that of `jaxrnn.unroll`.

    Its leaves are those of the cell, an `eqx.nn.LSTMCell` or `eqx.nn.GRUCell`, in the
    same order. So a file of `eqx.tree_serialise_leaves` can be read by a model with the
    cell in this place as well as by one with this layer. A model may also keep its
    cell, and call `RNN(self.cell)(xs)` where it had the scan.
    """

    cell: eqx.nn.LSTMCell | eqx.nn.GRUCell

    def __call__(
        self,
        xs: Shaped[Array, "T *B I"],
        hidden: Hidden | None = None,
        *,
        mask: Bool[Array, "T *B"] | None = None,
        reset: Bool[Array, "T *B"] | None = None,
        reverse: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Hidden, Float[Array, "T *B H"]]:
        """Returns the last hidden state, and the outputs.

        Args:
          xs: one sequence, `[T, I]`, as is usual in Equinox under `jax.vmap`; or a
            batch, `[T, *B, I]`: under `vmap` the backward pass makes a gradient of the
            weights for each sequence before it adds them up.
          hidden: the initial state, `(h, c)` for an LSTM, h for a GRU, each `[*B, H]`;
            None: zeros.
          mask: as in `jaxrnn.unroll`: a masked step copies the state and outputs zero.
          reset: True where a step starts from zeros, as at the start of an episode.
          reverse: whether to run from the last step to the first; outputs keep their
            place.
          key: ignored, as in Equinox's cells.

        Raises:
          TypeError: if the cell is of another kind.
          ValueError: if a shape does not fit.
        """
        ours, params = read_cell(self.cell)
        xs = jnp.asarray(xs)
        state = ours.initial_state(params, xs.shape[1:-1])
        if hidden is not None:
            is_lstm = isinstance(state, LSTMState)
            state = LSTMState(*hidden) if is_lstm else GRUState(hidden)
        last, hs = run(ours, params, state, xs, mask=mask, reset=reset, reverse=reverse)
        return (tuple(last) if isinstance(last, LSTMState) else last.h), hs


def read_cell(cell: eqx.Module) -> tuple[Cell, Params]:
    """Returns the cell of ours that computes the same, and its parameters.

    Those are functions of the cell's own, so that gradients reach them.

    Raises:
      TypeError: if it is no `LSTMCell` or `GRUCell`.
    """
    if isinstance(cell, eqx.nn.LSTMCell) and _inherits(cell, eqx.nn.LSTMCell):
        weights = cell.weight_ih.T, cell.weight_hh.T
        return lstm, LSTMParams(*weights, _or_zeros(cell.bias, weights[0][0]))
    if isinstance(cell, eqx.nn.GRUCell) and _inherits(cell, eqx.nn.GRUCell):
        w_ih, w_hh = cell.weight_ih.T, cell.weight_hh.T
        biases = _or_zeros(cell.bias, w_ih[0]), _or_zeros(cell.bias_n, w_hh[:, 0])
        return gru, GRUParams(w_ih, w_hh, *biases)
    raise TypeError(
        "`cell` must be an eqx.nn.LSTMCell or eqx.nn.GRUCell, but got "
        f"{type(cell).__name__}. Write a cell of your own with "
        "`jaxrnn.cell_from_step`, and call `jaxrnn.unroll`."
    )


def _inherits(cell: eqx.Module, kind: Any) -> bool:
    return type(cell).__call__ is kind.__call__


def _or_zeros(bias: Array | None, like: Array) -> Array:
    """Returns zeros where there is no bias: constants, which nothing trains."""
    return jnp.zeros_like(like) if bias is None else bias
