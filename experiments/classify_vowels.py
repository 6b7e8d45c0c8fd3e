"""Classifies variable-length series, many-to-one: the state after a series' last step says all."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.console import Console

import jaxrnn
from experiments import data, schema, training
from experiments.cells import cell_of
from experiments.record import Run
from jaxrnn import layers


class ClassifierParams(NamedTuple):
    """The cell's parameters, and the readout from H to the classes."""

    cell: Any
    readout: layers.DenseParams


def logits_of(
    cell: jaxrnn.Cell,
    params: ClassifierParams,
    xs: Array,
    lengths: Array,
    compute_dtype: str | None = None,
) -> Array:
    """`xs [T, B, I]` and `lengths [B]` to logits `[B, classes]`.

    A masked step copies the state, so the last state is that after each series' own last step.
    """
    mask = jaxrnn.lengths_to_mask(lengths, xs.shape[0])
    last, _ = jaxrnn.unroll(cell, params.cell, None, xs, mask=mask, compute_dtype=compute_dtype)
    return layers.dense(params.readout, last.h)


def train(config: schema.Classify, run: Run, console: Console) -> dict[str, float]:
    """Runs the whole experiment; returns the accuracy on the test set."""
    console.print("Reading the series (the first time, they are fetched).")
    vowels = data.load_vowels(config.data.path)
    console.print(vowels.source, markup=False)
    mean, deviation = _moments(vowels.train)
    train_set, test_set = (
        s._replace(xs=(s.xs - mean) / deviation) for s in (vowels.train, vowels.test)
    )
    cell = cell_of(config.model)
    keys = jax.random.split(jax.random.key(config.seed))
    params = ClassifierParams(
        cell.init(keys[0], train_set.xs.shape[-1], config.model.hidden_size),
        layers.init_dense(keys[1], config.model.hidden_size, len(vowels.classes)),
    )

    def loss_fn(params: ClassifierParams, state: Any, batch: Any) -> tuple[Array, Any]:
        logits = logits_of(cell, params, batch.xs, batch.lengths, config.model.compute_dtype)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return jnp.mean(cross_entropy(logits, batch.labels)), state

    @jax.jit
    def correct(params: ClassifierParams) -> Array:
        logits = logits_of(cell, params, jnp.asarray(test_set.xs), jnp.asarray(test_set.lengths))
        return jnp.mean(jnp.argmax(logits, axis=-1) == test_set.labels)

    _, results = training.fit(
        run,
        console,
        config.optimizer,
        config.evaluations,
        params,
        training.Task(
            loss_fn=loss_fn,
            batches=_batches(
                train_set, config.optimizer.batch_size, config.input_noise, config.seed
            ),
            evaluate=lambda params: {"test_accuracy": float(correct(params))},
            per_step=config.optimizer.batch_size,
            unit="sequences",
            shown=lambda loss: {},
        ),
    )
    return results


def _moments(sequences: data.Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation `[I]` over all steps that are there."""
    there = np.arange(len(sequences.xs))[:, None] < sequences.lengths
    steps = sequences.xs[there]
    deviation = steps.std(0)
    return steps.mean(0), np.where(deviation > 0, deviation, 1)  # a constant channel says nothing


def _batches(
    sequences: data.Sequences, batch_size: int, noise: float, seed: int
) -> Iterator[tuple[Any, data.Sequences]]:
    """Endless batches, every sequence once per epoch; an epoch's last one runs into the next."""
    random = np.random.default_rng(seed)
    waiting = np.zeros(0, int)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, random.permutation(len(sequences.labels))])
        now, waiting = waiting[:batch_size], waiting[batch_size:]
        xs = sequences.xs[:, now]
        xs = xs + noise * random.standard_normal(xs.shape, np.float32)
        yield None, data.Sequences(xs, sequences.lengths[now], sequences.labels[now])
