"""`flax.nnx.RNN` on `unroll`: the same cells, parameters, arguments and results.

from jaxrnn.modules.nnx import RNN      # instead of: from flax.nnx import RNN
rnn = RNN(nnx.OptimizedLSTMCell(3, 8, rngs=rngs))
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from jax import Array
from jaxtyping import Bool, Int, Shaped

from jaxrnn.modules.flax import (
    Carry,
    Read,
    options_of,
    read_gru,
    read_lstm,
    read_simple,
    scan,
)

# It calls the layers that it is given, so it needs no other form here.
Bidirectional = nnx.Bidirectional


class RNN(nnx.RNN):
    """`flax.nnx.RNN`, whose backward pass through time is that of `jaxrnn.unroll`.

    The cell is one of `nnx.LSTMCell`, `OptimizedLSTMCell`, `GRUCell` and `SimpleCell`,
    or of a class that inherits `__call__` from one of them. It stays as it is, and so
    do the tree of parameters and its checkpoints. The constructor's arguments are those
    of `nnx.RNN`; `unroll`, `broadcast_rngs` and `state_axes` have nothing to act on:
    steps are not unrolled, and these cells have no state or random numbers of their
    own.

    Unlike Flax, outputs of steps at or after `seq_lengths` are zero, and a sequence of
    length 0 returns its initial carry. With a cell's `dtype`, products are computed in
    it; what follows them has the wider dtype of the carry.
    """

    def __call__(
        self,
        inputs: Shaped[Array, "..."],
        *,
        initial_carry: Carry | None = None,
        seq_lengths: Int[Array, "*B"] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        reset: Bool[Array, "..."] | None = None,
    ) -> Any:
        """Runs the cell over the inputs.

        Args:
          inputs: `[*B, T, I]`, or `[T, *B, I]` if `time_major`.
          initial_carry: as in `nnx.RNN`, and so are all that follow but `reset`: `(c,
            h)` for an LSTM, h for the other cells, each `[*B, H]`.
          seq_lengths: the steps of each sequence.
          return_carry: whether to return `(carry, outputs)`.
          time_major: whether time is the first axis.
          reverse: whether to run from each sequence's last step to its first.
          keep_order: whether outputs of a reverse run are in the order of the inputs.
          rngs: for `carry_init`.
          reset: `[*B, T]`, or `[T, *B]` if `time_major`: True where a step starts from
            the cell's `initialize_carry`, as at the start of an episode.

        Raises:
          TypeError: if the cell is of another kind.
          ValueError: if it has another activation, if `state_axes` gives each step its
            own parameters, or if a shape does not fit.
        """
        if any(isinstance(axis, int) for axis in self.state_axes.values()):
            raise ValueError(
                "All steps must share their parameters, but `state_axes` is "
                f"{self.state_axes}. Keep this layer in `nnx.RNN`."
            )
        options = options_of(
            self,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
        )
        read = read_cell(self.cell)
        inputs = jnp.asarray(inputs)
        rngs = self.rngs if rngs is None else rngs
        if isinstance(rngs, nnx.Rngs):
            rngs = rngs.carry.fork()
        start = initial_carry
        if start is None or reset is not None:
            at = 0 if options.time_major else inputs.ndim - 2
            shape = (*inputs.shape[:at], *inputs.shape[at + 1 :])
            start = self.cell.initialize_carry(shape, rngs)
        return scan(
            read,
            start if initial_carry is None else initial_carry,
            inputs,
            options,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_carry=start,
        )


def read_cell(cell: nnx.RNNCellBase) -> Read:
    """Returns a cell of NNX in our terms.

    Raises:
      TypeError: if it is no LSTM, GRU or simple cell of plain linear layers.
      ValueError: if it has another activation.
    """
    promotion = getattr(cell, "promote_dtype", dtypes.promote_dtype)
    if promotion is not dtypes.promote_dtype:
        raise ValueError(
            f"`promote_dtype` must be Flax's own, but got {promotion!r}. Give `dtype` "
            "and `param_dtype`, or keep this layer in `nnx.RNN`."
        )
    reads = [r for kind, r in READERS.items() if type(cell).__call__ is kind.__call__]
    if not reads:
        names = ", ".join(f"nnx.{kind.__name__}" for kind in READERS)
        raise TypeError(
            f"`cell` must be one of {names}, but got {type(cell).__name__}. Keep this "
            "layer in `nnx.RNN`, or write the cell with `jaxrnn.cell_from_step`."
        )
    return reads[0](cell)


def _read_lstm(cell: nnx.LSTMCell) -> Read:
    inputs = [cell.ii, cell.if_, cell.ig, cell.io]
    hidden = [cell.hi, cell.hf, cell.hg, cell.ho]
    return read_lstm(
        cell,
        jnp.concatenate([_kernel(dense) for dense in inputs], -1),
        jnp.concatenate([_kernel(dense) for dense in hidden], -1),
        jnp.concatenate([_bias(dense) for dense in hidden]),
    )


def _read_optimized_lstm(cell: nnx.OptimizedLSTMCell) -> Read:
    weights = _kernel(cell.dense_i), _kernel(cell.dense_h)
    return read_lstm(cell, *weights, _bias(cell.dense_h))


def _read_gru(cell: nnx.GRUCell) -> Read:
    w_ih, w_hh, b = _kernel(cell.dense_i), _kernel(cell.dense_h), _bias(cell.dense_i)
    # NNX's GRU has no hidden bias of n: a constant, which nothing trains.
    return read_gru(cell, w_ih, w_hh, b, jnp.zeros(w_hh.shape[:1], b.dtype))


def _read_simple(cell: nnx.SimpleCell) -> Read:
    w_ih, w_hh = _kernel(cell.dense_i), _kernel(cell.dense_h)
    return read_simple(cell, w_ih, w_hh, _bias(cell.dense_i))


READERS: dict[type[nnx.RNNCellBase], Any] = {
    nnx.LSTMCell: _read_lstm,
    nnx.OptimizedLSTMCell: _read_optimized_lstm,
    nnx.GRUCell: _read_gru,
    nnx.SimpleCell: _read_simple,
}


def _kernel(dense: nnx.Linear) -> Array:
    if type(dense) is not nnx.Linear:
        raise TypeError(
            f"The layers inside `cell` must be nnx.Linear, but got "
            f"{type(dense).__name__}, which may compute something else. Keep this "
            "layer in `nnx.RNN`."
        )
    return dense.kernel[...]


def _bias(dense: nnx.Linear) -> Array:
    assert dense.bias is not None  # these cells make it
    return dense.bias[...]
