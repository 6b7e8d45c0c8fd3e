"""`keras.layers.LSTM`, `GRU` and `SimpleRNN` on `unroll`; Keras on its JAX backend.

from jaxrnn.modules.keras import LSTM      # instead of: from keras.layers import LSTM
"""
# Where Keras is not installed, pyright takes this file for it.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax import Array
from jaxtyping import Bool, Float

from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.cells.elman import ElmanParams, ElmanState, make_elman
from jaxrnn.cells.gru import GRUParams, GRUState
from jaxrnn.cells.gru_variants import ResetBeforeGRUParams, make_gru
from jaxrnn.cells.lstm import LSTMState
from jaxrnn.interop.layouts import from_library
from jaxrnn.modules.conventions import NAMES, lstm_of, run

if keras.config.backend() != "jax":
    raise ImportError(
        f"Keras must run on JAX, but its backend is {keras.config.backend()!r}. Set "
        "the environment variable KERAS_BACKEND=jax before keras is imported."
    )

# Keras' functions for these activations; those of JAX are taken as well.
ACTIVATIONS: dict[Callable[..., Any], str] = NAMES | {
    keras.activations.tanh: "tanh",
    keras.activations.sigmoid: "logistic",
    keras.activations.relu: "relu",
    keras.activations.linear: "identity",
    keras.activations.softsign: "softsign",
    keras.activations.hard_sigmoid: "hard_logistic",
    keras.activations.hard_tanh: "hard_tanh",
}


class _Unrolled:
    """The part that the three layers share: their loop over time."""

    cell: Any
    go_backwards: bool
    return_sequences: bool
    zero_output_for_mask: bool

    # Keras' `Bidirectional` has a loop of its own for layers that may use cuDNN.
    @property
    def use_cudnn(self) -> bool:
        """Always False."""
        return False

    @use_cudnn.setter
    def use_cudnn(self, value: Any) -> None:
        if value is True:
            raise ValueError(
                "`use_cudnn` must be 'auto' or False: this layer runs on "
                "`jaxrnn.unroll`. Use the layer of `keras.layers` for cuDNN."
            )

    def inner_loop(
        self,
        sequences: Float[Array, "B T I"],
        initial_state: Any,
        mask: Any,
        training: bool = False,
    ) -> tuple[Float[Array, "B H"], Float[Array, "B T H"], list[Any]]:
        """Returns the last output, all outputs and the last states, as in Keras."""
        reason = _needs_keras(self.cell, training)
        if reason:
            warnings.warn(
                f"Keras' own loop runs {type(self).__name__}, because of {reason}.",
                stacklevel=2,
            )
            loop: Any = super()
            return loop.inner_loop(sequences, initial_state, mask, training=training)
        if training and self.cell.dropout:  # the same units at every step
            kept = self.cell.get_dropout_mask(sequences[:, 0, :])
            sequences = sequences * kept[:, None]
        xs = jnp.moveaxis(sequences, 1, 0)
        mask = None if mask is None else _time_first(mask)
        if self.go_backwards:  # outputs come in the order of the run
            xs, mask = jax.tree.map(lambda a: jnp.flip(a, 0), (xs, mask))
        cell, params, state = self._read(keras.tree.flatten(initial_state))
        last, hs = run(cell, params, state, xs, mask=mask)
        output = hs[-1] if self.zero_output_for_mask else last.h
        if mask is not None and self.return_sequences and not self.zero_output_for_mask:
            hs = _repeat_last(hs, mask, state.h)
        return output, jnp.moveaxis(hs, 0, 1), list(last)

    def _read(self, states: list[Any]) -> tuple[Cell, Params, State]:
        """Returns the cell of ours that computes the same, its parameters and state.

        The parameters are functions of Keras' own, so that gradients reach those.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="jaxrnn")
class LSTM(_Unrolled, keras.layers.LSTM):
    """`keras.layers.LSTM`, whose gradient through time is that of `jaxrnn.unroll`.

    Arguments, weights, masks, states and results are those of Keras. `unroll` and
    `implementation` change nothing here. Keras' own loop runs where this one has no
    equal, and a warning says so: for `recurrent_dropout`, or `dropout` with
    `implementation=1`, in training; and for activations other than tanh, sigmoid, relu,
    linear, softsign, hard_sigmoid and hard_tanh.
    """

    def _read(self, states: list[Any]) -> tuple[Cell, Params, State]:
        cell = self.cell
        w_ih, w_hh = cell.kernel.value, cell.recurrent_kernel.value
        b = cell.bias.value if cell.use_bias else jnp.zeros_like(w_ih[0])
        activation = ACTIVATIONS[cell.activation]
        gate_activation = ACTIVATIONS[cell.recurrent_activation]
        ours, params = lstm_of(activation, gate_activation, w_ih, w_hh, b)
        return ours, params, LSTMState(*states)


@keras.saving.register_keras_serializable(package="jaxrnn")
class GRU(_Unrolled, keras.layers.GRU):
    """`keras.layers.GRU`, whose gradient through time is that of `jaxrnn.unroll`.

    All that is said of `LSTM` here holds for it too, with `reset_after` True or False.
    """

    def _read(self, states: list[Any]) -> tuple[Cell, Params, State]:
        cell, order = self.cell, GRUParams.gates.order
        ours = make_gru(
            reset_after=cell.reset_after,
            activation=ACTIVATIONS[cell.activation],
            gate_activation=ACTIVATIONS[cell.recurrent_activation],
        )
        w_ih, w_hh = (
            from_library(w.value, order, "keras")
            for w in (cell.kernel, cell.recurrent_kernel)
        )
        b = jnp.zeros((2, *w_ih.shape[1:]), w_ih.dtype)
        if cell.use_bias:
            b = from_library(cell.bias.value, order, "keras")
        rz = 2 * cell.units
        if cell.reset_after:  # rows of b: of the input's product, of the state's
            joined = b[0].at[:rz].add(b[1, :rz])
            params = GRUParams(w_ih, w_hh, joined, b[1, rz:])
        else:
            b = b if b.ndim == 1 else b[0]
            params = ResetBeforeGRUParams(w_ih, w_hh[:, :rz], w_hh[:, rz:], b)
        return ours, params, GRUState(*states)


@keras.saving.register_keras_serializable(package="jaxrnn")
class SimpleRNN(_Unrolled, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN`, whose gradient is that of `jaxrnn.unroll`.

    All that is said of `LSTM` here holds for it too.
    """

    def _read(self, states: list[Any]) -> tuple[Cell, Params, State]:
        cell = self.cell
        w_ih, w_hh = cell.kernel.value, cell.recurrent_kernel.value
        b = cell.bias.value if cell.use_bias else jnp.zeros_like(w_ih[0])
        ours = make_elman(ACTIVATIONS[cell.activation])
        return ours, ElmanParams(w_ih, w_hh, b), ElmanState(*states)


def _needs_keras(cell: Any, training: bool) -> str:
    """Returns why Keras' own loop must run this cell; "" if it need not."""
    functions = cell.activation, getattr(cell, "recurrent_activation", jnp.tanh)
    unknown = [f for f in functions if f not in ACTIVATIONS]
    if unknown:
        return f"the activation {unknown[0]!r}"
    if training and cell.recurrent_dropout:
        return "`recurrent_dropout`"
    if training and cell.dropout and getattr(cell, "implementation", 2) == 1:
        return "`dropout` with `implementation=1`"
    return "`dropout=1`" if training and cell.dropout == 1 else ""


def _time_first(mask: Any) -> Bool[Array, "T B"]:
    """Returns a mask of Keras, `[B, T]` or `[B, T, 1]`, alone or in a list."""
    mask = jnp.asarray(keras.tree.flatten(mask)[0], bool)
    return jnp.moveaxis(mask.any(-1) if mask.ndim == 3 else mask, 1, 0)


def _repeat_last(
    hs: Float[Array, "T B H"], mask: Bool[Array, "T B"], start: Float[Array, "B H"]
) -> Float[Array, "T B H"]:
    """Returns the outputs with the last one before it in place of each masked one."""
    steps = jnp.where(mask, jnp.arange(hs.shape[0])[:, None], -1)
    latest = jax.lax.cummax(steps)[..., None]
    repeated = jnp.take_along_axis(hs, jnp.maximum(latest, 0), axis=0)
    return jnp.where(latest < 0, start.astype(hs.dtype), repeated)
