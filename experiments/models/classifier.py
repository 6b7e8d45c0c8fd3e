"""Classification of sequences of different lengths, by their last states."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxrnn
from experiments.data.vowels import Sequences
from experiments.models.readout import ModelParams
from jaxrnn import layers

_cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def logits_of(
    cell: jaxrnn.Cell,
    params: ModelParams,
    xs: Array,
    lengths: Array,
    compute_dtype: str | None = None,
) -> Array:
    """Returns the logits `[B, classes]` of `xs [T, B, I]` with `lengths [B]`.

    A masked step copies the state, so the last state is that after each sequence's own
    last step.
    """
    mask = jaxrnn.lengths_to_mask(lengths, xs.shape[0])
    last, _ = jaxrnn.unroll(
        cell, params.cell, None, xs, mask=mask, compute_dtype=compute_dtype
    )
    return layers.dense(params.readout, last.h)


def make_loss(cell: jaxrnn.Cell, compute_dtype: str) -> Any:
    """Returns `(params, state, batch) -> (mean loss, state)`."""

    def loss_fn(params: ModelParams, state: Any, batch: Any) -> tuple[Array, Any]:
        logits = logits_of(cell, params, batch.xs, batch.lengths, compute_dtype)
        return jnp.mean(_cross_entropy(logits, batch.labels)), state

    return loss_fn


def make_accuracy(cell: jaxrnn.Cell, test: Sequences) -> Any:
    """Returns `params -> accuracy`: the share of the sequences classified correctly."""

    @jax.jit
    def accuracy(params: ModelParams) -> Array:
        xs, lengths = jnp.asarray(test.xs), jnp.asarray(test.lengths)
        logits = logits_of(cell, params, xs, lengths)
        return jnp.mean(jnp.argmax(logits, axis=-1) == test.labels)

    return accuracy


def probe(sequences: Sequences, params: ModelParams) -> tuple[Array, Any]:
    """Returns the sequences of the commonest length, and the loss at their ends."""
    length = np.bincount(sequences.lengths).argmax()
    chosen = sequences.lengths == length
    labels = sequences.labels[chosen]

    def loss(_: Any, hs: Array) -> Array:
        return jnp.sum(_cross_entropy(layers.dense(params.readout, hs[-1]), labels))

    return jnp.asarray(sequences.xs[:length, chosen]), loss
