"""Classification of sequences of different lengths, by their last states."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import PRNGKeyArray

import jaxrnn
from experiments.data.sequences import Sequences
from experiments.models.readout import ModelParams, key_of, read_out
from jaxrnn import layers

# Sequences that the microscope looks at.
PROBED = 64

_cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def logits_of(
    body: layers.Layer,
    params: ModelParams,
    xs: Array,
    lengths: Array,
    key: PRNGKeyArray | None = None,
    dropout: float = 0.0,
) -> Array:
    """Returns the logits `[B, classes]` of `xs [T, B, I]` with `lengths [B]`.

    A masked step copies the state, so the last state is that after each sequence's own
    last step, and that of the backward direction is the one after its first. The body
    drops none of it: its own dropout is of outputs. With a key, a share `dropout` of it
    is dropped here.
    """
    of_body, of_last = (None, None) if key is None else jax.random.split(key)
    mask = jaxrnn.lengths_to_mask(lengths, xs.shape[0])
    last, _ = body.unroll(params.cell, None, xs, mask=mask, key=of_body)
    _, read = layers.dropout(dropout).step((), None, _last_h(last), key=of_last)
    return read_out(params.readout, read)


def _last_h(state: Any) -> Array:
    """Returns h of the last recurrent layer, of both directions if there are two."""
    if hasattr(state, "h"):
        return state.h
    if isinstance(state, layers.BothWays):
        return jnp.concatenate([_last_h(s) for s in state], axis=-1)
    # A stack's; the state of dropout is no tuple.
    return _last_h([s for s in state if isinstance(s, tuple)][-1])


def make_loss(body: layers.Layer, dropout: float = 0.0) -> Any:
    """Returns `(params, state, batch) -> (mean loss, state)`.

    A batch is `Sequences`, or a pair of these and the number of the training step,
    which turns dropout on: between layers, and, by `dropout`, before the readout.
    """

    def loss_fn(params: ModelParams, state: Any, batch: Any) -> tuple[Array, Any]:
        batch, number = batch if isinstance(batch[0], Sequences) else (batch, None)
        key = None if number is None else key_of(number)
        logits = logits_of(body, params, batch.xs, batch.lengths, key, dropout)
        return jnp.mean(_cross_entropy(logits, batch.labels)), state

    return loss_fn


def make_accuracy(body: layers.Layer, test: Sequences) -> Any:
    """Returns `params -> accuracy`: the share of the sequences classified correctly."""

    @jax.jit
    def accuracy(params: ModelParams) -> Array:
        xs, lengths = jnp.asarray(test.xs), jnp.asarray(test.lengths)
        logits = logits_of(body, params, xs, lengths)
        return jnp.mean(jnp.argmax(logits, axis=-1) == test.labels)

    return accuracy


def probe(sequences: Sequences, params: ModelParams) -> tuple[Array, Any]:
    """Returns the sequences of the commonest length, and the loss at their ends."""
    length = np.bincount(sequences.lengths).argmax()
    (chosen,) = np.nonzero(sequences.lengths == length)
    # Evenly spread, as a set may be in the order of its classes.
    chosen = chosen[:: -(-len(chosen) // PROBED)]
    labels = sequences.labels[chosen]

    def loss(_: Any, hs: Array) -> Array:
        return jnp.sum(_cross_entropy(read_out(params.readout, hs[-1]), labels))

    return jnp.asarray(sequences.xs[:length, chosen]), loss
