"""`flax.linen.RNN` on `unroll`, and `ScannedRNN` of recurrent policies.

from jaxrnn.modules.linen import RNN      # instead of: from flax.linen import RNN
rnn = RNN(linen.OptimizedLSTMCell(8))
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from flax.core.scope import in_filter
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped

from jaxrnn.modules.flax import (
    Carry,
    Options,
    Read,
    options_of,
    read_gru,
    read_lstm,
    read_simple,
    scan,
)

# It calls the layers that it is given, so it needs no other form here.
Bidirectional = linen.Bidirectional


class RNN(linen.RNN):
    """`flax.linen.RNN`, whose backward pass through time is that of `jaxrnn.unroll`.

    The cell is one of `linen.LSTMCell`, `OptimizedLSTMCell`, `GRUCell` and
    `SimpleCell`, or of a class that inherits `__call__` from one of them. It stays as
    it is, and so do its variables and their checkpoints. The attributes are those of
    `linen.RNN`; `unroll`, `variable_broadcast`, `variable_carry` and `split_rngs` have
    nothing to act on: steps are not unrolled, and these cells have parameters alone.

    Unlike Flax, outputs of steps at or after `seq_lengths` are zero, and a sequence of
    length 0 returns its initial carry. With a cell's `dtype`, products are computed in
    it; what follows them has the wider dtype of the carry.
    """

    def __call__(
        self,
        inputs: Shaped[Array, "..."],
        *,
        initial_carry: Carry | None = None,
        init_key: PRNGKeyArray | None = None,
        seq_lengths: Int[Array, "*B"] | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        reset: Bool[Array, "..."] | None = None,
    ) -> Any:
        """Runs the cell over the inputs.

        Args:
          inputs: `[*B, T, I]`, or `[T, *B, I]` if `time_major`.
          initial_carry: as in `linen.RNN`, and so are all that follow but `reset`: `(c,
            h)` for an LSTM, h for the other cells, each `[*B, H]`.
          init_key: for `carry_init`.
          seq_lengths: the steps of each sequence.
          return_carry: whether to return `(carry, outputs)`.
          time_major: whether time is the first axis.
          reverse: whether to run from each sequence's last step to its first.
          keep_order: whether outputs of a reverse run are in the order of the inputs.
          reset: `[*B, T]`, or `[T, *B]` if `time_major`: True where a step starts from
            the cell's `initialize_carry`, as at the start of an episode.

        Raises:
          TypeError: if the cell is of another kind.
          ValueError: if it has another activation, if `variable_axes` gives each step
            its own parameters, or if a shape does not fit.
        """
        if any(in_filter(name, "params") for name in self.variable_axes):
            raise ValueError(
                "All steps must share their parameters, but `variable_axes` is "
                f"{self.variable_axes}. Keep this layer in `linen.RNN`."
            )
        options = options_of(
            self,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
        )
        inputs = jnp.asarray(inputs)
        at = 0 if options.time_major else inputs.ndim - 2
        shape = (*inputs.shape[:at], *inputs.shape[at + 1 :])
        key = jax.random.key(0) if init_key is None else init_key
        start = self.cell.initialize_carry(key, shape)
        return scan(
            read_cell(self.cell, start, jnp.zeros(shape, inputs.dtype)),
            start if initial_carry is None else initial_carry,
            inputs,
            options,
            seq_lengths=seq_lengths,
            reset=reset,
            reset_carry=start,
        )


class ScannedRNN(linen.Module):
    """The recurrent core of PureJaxRL's and JaxMARL's policies, on `jaxrnn.unroll`.

    It takes the place of the class of this name that is `linen.scan` around a
    `linen.GRUCell` and zeroes the carry where an episode starts; the variables are the
    same. The carry that is passed belongs to an episode that may go on; a step with a
    reset starts from the cell's `initialize_carry`.
    """

    features: int | None = None
    """The units; None: as many as the inputs have features."""
    make_cell: Callable[..., linen.RNNCellBase] = partial(
        linen.GRUCell, name="GRUCell_1"
    )
    """`features -> cell`, a cell as for `RNN`. Its name is that of its variables: in
    the classes that this one replaces, GRUCell_0 only makes the zeros."""

    @linen.compact
    def __call__(
        self,
        carry: Carry,
        x: tuple[Shaped[Array, "T *B I"], Shaped[Array, "T *B"]],
    ) -> tuple[Carry, Float[Array, "T *B H"]]:
        """Returns the last carry, and the outputs.

        Args:
          carry: before the first step: h for a GRU, `(c, h)` for an LSTM, `[*B, H]`.
          x: the inputs, and the resets: true, or not zero, where an episode starts.
        """
        inputs, resets = x
        cell = self.make_cell(features=self.features or inputs.shape[-1])
        shape = inputs.shape[1:]
        start = cell.initialize_carry(jax.random.key(0), shape)
        return scan(
            read_cell(cell, start, jnp.zeros(shape, inputs.dtype)),
            carry,
            inputs,
            Options(time_major=True, return_carry=True, reverse=False, keep_order=True),
            reset=jnp.asarray(resets, bool),
            reset_carry=start,
        )

    @staticmethod
    def initialize_carry(batch_size: int, hidden_size: int) -> Float[Array, "B H"]:
        """Returns the zeros from which a GRU starts.

        With a cell of another kind, call its own `initialize_carry`.
        """
        cell = linen.GRUCell(features=hidden_size)
        return cell.initialize_carry(jax.random.key(0), (batch_size, hidden_size))


def read_cell(
    cell: linen.RNNCellBase, carry: Carry, inputs: Shaped[Array, "*B I"]
) -> Read:
    """Returns a bound cell of Linen in our terms; makes its variables if none exist.

    Args:
      cell: the cell, bound to the scope of its variables.
      carry: leaves `[*B, H]`, which gives the shapes of new variables.
      inputs: of one step, likewise.

    Raises:
      TypeError: if it is no LSTM, GRU or simple cell.
      ValueError: if it has another activation.
    """
    reads = [r for kind, r in READERS.items() if type(cell).__call__ is kind.__call__]
    if not reads:
        names = ", ".join(f"linen.{kind.__name__}" for kind in READERS)
        raise TypeError(
            f"`cell` must be one of {names}, but got {type(cell).__name__}. Keep this "
            "layer in `linen.RNN`, or write the cell with `jaxrnn.cell_from_step`."
        )
    if "params" not in cell.variables:
        cell(carry, inputs)  # Makes them, or raises Flax's own error.
    params = linen.meta.unbox(cell.variables["params"])
    return reads[0](cell, jax.tree.map(jnp.asarray, params))


def _read_lstm(cell: Any, params: Mapping[str, Any]) -> Read:
    hidden = ["hi", "hf", "hg", "ho"]
    return read_lstm(
        cell,
        _joined(params, ["ii", "if", "ig", "io"], "kernel"),
        _joined(params, hidden, "kernel"),
        _joined(params, hidden, "bias"),
    )


def _read_gru(cell: Any, params: Mapping[str, Any]) -> Read:
    inputs = ["ir", "iz", "in"]
    return read_gru(
        cell,
        _joined(params, inputs, "kernel"),
        _joined(params, ["hr", "hz", "hn"], "kernel"),
        _joined(params, inputs, "bias"),
        params["hn"]["bias"],
    )


def _read_simple(cell: Any, params: Mapping[str, Any]) -> Read:
    inputs, hidden = params["i"], params["h"]
    return read_simple(cell, inputs["kernel"], hidden["kernel"], inputs["bias"])


READERS: dict[type[linen.RNNCellBase], Any] = {
    linen.LSTMCell: _read_lstm,
    linen.OptimizedLSTMCell: _read_lstm,
    linen.GRUCell: _read_gru,
    linen.SimpleCell: _read_simple,
}


def _joined(params: Mapping[str, Any], layers: list[str], leaf: str) -> Array:
    """Returns a leaf of several dense layers side by side."""
    return jnp.concatenate([params[layer][leaf] for layer in layers], -1)
