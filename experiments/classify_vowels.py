"""Classifies variable-length series, many-to-one: the state after a series' last step says all."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.console import Console

import jaxrnn
from experiments import data, models, schema
from experiments.task import Probe, Task
from jaxrnn import layers

_cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def logits_of(
    cell: jaxrnn.Cell,
    params: models.ModelParams,
    xs: Array,
    lengths: Array,
    compute_dtype: str | None = None,
) -> Array:
    """`xs [T, B, I]` and `lengths [B]` to logits `[B, classes]`.

    A masked step copies the state, so the last state is that after each series' own last step.
    """
    mask = jaxrnn.lengths_to_mask(lengths, xs.shape[0])
    last, _ = jaxrnn.unroll(
        cell, params.cell, None, xs, mask=mask, compute_dtype=compute_dtype
    )
    return layers.dense(params.readout, last.h)


def make(config: schema.Classify, console: Console) -> Task:
    """The task of a config; the result is the accuracy on the test set."""
    console.print("Reading the series (the first time, they are fetched).")
    vowels = data.load_vowels(config.data.path)
    console.print(vowels.source, markup=False)
    mean, deviation = _moments(vowels.train)
    train_set, test_set = (
        s._replace(xs=(s.xs - mean) / deviation) for s in (vowels.train, vowels.test)
    )
    cell, batch_size = models.cell_of(config.model), config.optimizer.batch_size

    def loss_fn(
        params: models.ModelParams, state: Any, batch: Any
    ) -> tuple[Array, Any]:
        logits = logits_of(
            cell, params, batch.xs, batch.lengths, config.model.compute_dtype
        )
        return jnp.mean(_cross_entropy(logits, batch.labels)), state

    @jax.jit
    def correct(params: models.ModelParams) -> Array:
        logits = logits_of(
            cell, params, jnp.asarray(test_set.xs), jnp.asarray(test_set.lengths)
        )
        return jnp.mean(jnp.argmax(logits, axis=-1) == test_set.labels)

    return Task(
        cell=cell,
        init=partial(
            models.init,
            model=config.model,
            input_size=train_set.xs.shape[-1],
            outputs=len(vowels.classes),
        ),
        loss_fn=loss_fn,
        batches=lambda params: _batches(
            train_set, batch_size, config.input_noise, config.seed
        ),
        evaluate=lambda params: {"test_accuracy": float(correct(params))},
        probe=partial(_probe, test_set),
        per_step=batch_size,
        unit="sequences",
    )


def _probe(sequences: data.Sequences, params: models.ModelParams) -> Probe:
    """The series of the length that most of them have; the loss after each one's last step."""
    length = np.bincount(sequences.lengths).argmax()
    chosen = sequences.lengths == length
    labels = sequences.labels[chosen]

    def loss(_: Any, hs: Array) -> Array:
        return jnp.sum(_cross_entropy(layers.dense(params.readout, hs[-1]), labels))

    return Probe(jnp.asarray(sequences.xs[:length, chosen]), loss)


def _moments(sequences: data.Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation `[I]` over all steps that are there."""
    there = np.arange(len(sequences.xs))[:, None] < sequences.lengths
    steps = sequences.xs[there]
    deviation = steps.std(0)
    return steps.mean(0), np.where(
        deviation > 0, deviation, 1
    )  # a constant channel says nothing


def _batches(
    sequences: data.Sequences, batch_size: int, noise: float, seed: int
) -> Iterator[tuple[Any, data.Sequences]]:
    """Endless batches, every sequence once per epoch; an epoch's last one runs into the next."""
    random = np.random.default_rng(seed)
    waiting = np.zeros(0, int)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate(
                [waiting, random.permutation(len(sequences.labels))]
            )
        now, waiting = waiting[:batch_size], waiting[batch_size:]
        xs = sequences.xs[:, now]
        xs = xs + noise * random.standard_normal(xs.shape, np.float32)
        yield None, data.Sequences(xs, sequences.lengths[now], sequences.labels[now])
