"""What NNX's and Linen's layers share: how `RNN` is called, and what its carry is."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Shaped

from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.cells.elman import ElmanParams, ElmanState, make_elman
from jaxrnn.cells.gru import GRUParams, GRUState
from jaxrnn.cells.gru_variants import make_gru
from jaxrnn.cells.lstm import LSTMState
from jaxrnn.masks import lengths_to_mask
from jaxrnn.modules.conventions import activation_name, lstm_of, run

# A pair (c, h) for an LSTM, the reverse of our state; h for all others.
Carry = Any


class Read(NamedTuple):
    """A cell of Flax in our terms."""

    cell: Cell
    params: Params
    """Functions of Flax's own parameters, so that gradients reach those."""
    dtype: DTypeLike | None
    """In which Flax multiplies; None: promoted from inputs and parameters."""


class Options(NamedTuple):
    """The arguments of `RNN` that a call may override."""

    time_major: bool
    return_carry: bool
    reverse: bool
    keep_order: bool


def options_of(module: Any, **given: bool | None) -> Options:
    """Returns the options of a call: those of the module where None is given."""
    return Options(
        **{
            name: getattr(module, name) if value is None else value
            for name, value in given.items()
        }
    )


def read_lstm(
    cell: Any,
    w_ih: Float[Array, "I G"],
    w_hh: Float[Array, "H G"],
    b: Float[Array, "G"],
) -> Read:
    """Returns an LSTM of Flax, with its weights side by side, gates i f g o."""
    activation = activation_name("activation_fn", cell.activation_fn)
    gate_activation = activation_name("gate_fn", cell.gate_fn)
    return Read(*lstm_of(activation, gate_activation, w_ih, w_hh, b), cell.dtype)


def read_gru(
    cell: Any,
    w_ih: Float[Array, "I G"],
    w_hh: Float[Array, "H G"],
    b: Float[Array, "G"],
    b_hn: Float[Array, "H"],
) -> Read:
    """Returns a GRU of Flax, with its weights side by side, gates r z n."""
    ours = make_gru(
        activation=activation_name("activation_fn", cell.activation_fn),
        gate_activation=activation_name("gate_fn", cell.gate_fn),
    )
    return Read(ours, GRUParams(w_ih, w_hh, b, b_hn), cell.dtype)


def read_simple(
    cell: Any,
    w_ih: Float[Array, "I H"],
    w_hh: Float[Array, "H H"],
    b: Float[Array, "H"],
) -> Read:
    """Returns a simple cell of Flax: with `residual`, h W_hh + h is h (W_hh + 1)."""
    ours = make_elman(activation_name("activation_fn", cell.activation_fn))
    if cell.residual:
        w_hh = w_hh + jnp.eye(w_hh.shape[0], dtype=w_hh.dtype)
    return Read(ours, ElmanParams(w_ih, w_hh, b), cell.dtype)


def state_of(read: Read, carry: Carry) -> State:
    """Returns the state, leaves `[*B, H]`, for a carry of Flax."""
    if isinstance(read.params, GRUParams):
        return GRUState(carry)
    if isinstance(read.params, ElmanParams):
        return ElmanState(carry)
    c, h = carry
    return LSTMState(h, c)


def carry_of(state: State) -> Carry:
    """Returns the carry of Flax, leaves `[*B, H]`, for a state."""
    return (state.c, state.h) if isinstance(state, LSTMState) else state.h


def scan(
    read: Read,
    carry: Carry,
    inputs: Shaped[Array, "..."],
    options: Options,
    *,
    seq_lengths: Int[Array, "*B"] | None = None,
    reset: Bool[Array, "..."] | None = None,
    reset_carry: Carry | None = None,
) -> Any:
    """Does what `RNN` does once parameters and carry are there.

    Args:
      read: the cell.
      carry: the initial carry, leaves `[*B, H]`.
      inputs: `[*B, T, I]`, or `[T, *B, I]` if `time_major`.
      options: of this call.
      seq_lengths: the steps of each sequence; None: all are whole.
      reset: `[*B, T]`, or `[T, *B]` if `time_major`: True where a step starts from
        `reset_carry`.
      reset_carry: leaves `[*B, H]`.

    Returns:
      The outputs, with time where the inputs have it, in the order of the run unless
      `keep_order`; the carry before them if `return_carry`.
    """
    time = 0 if options.time_major else inputs.ndim - 2
    xs = jnp.moveaxis(inputs, time, 0)
    mask = None if seq_lengths is None else lengths_to_mask(seq_lengths, xs.shape[0])
    last, hs = run(
        read.cell,
        read.params,
        state_of(read, carry),
        xs,
        dtype=read.dtype,
        mask=mask,
        reset=None if reset is None else jnp.moveaxis(reset, time, 0),
        reset_state=None if reset is None else state_of(read, reset_carry),
        reverse=options.reverse,
    )
    if options.reverse and not options.keep_order:
        hs = _in_order_of_run(hs, mask)
    outputs = jnp.moveaxis(hs, 0, time)
    return (carry_of(last), outputs) if options.return_carry else outputs


def _in_order_of_run(
    hs: Float[Array, "T *B H"], mask: Bool[Array, "T *B"] | None
) -> Float[Array, "T *B H"]:
    """Returns the outputs of a reverse run with each sequence's last step first."""
    if mask is None:
        return jnp.flip(hs, 0)
    size = hs.shape[0]
    steps = jnp.arange(size).reshape(-1, *[1] * (mask.ndim - 1))
    # Padding stays behind: its steps, below 0 here, wrap around to each other.
    steps = (mask.sum(0) - 1 - steps) % size
    return jnp.take_along_axis(hs, steps[..., None], axis=0)
