"""Delayed recall: what was the symbol, `lag` steps ago? Can it be learnt through this window?

An episode is a symbol, `lag` - 1 steps of other symbols that do not matter, and a question. The
inputs `[2 S + 1]` are one-hot: the symbol to keep, the one to ignore, and whether this is the
question. Episodes follow one another without end, the sequences of a batch each at a place of its
own, so windows cut them anywhere.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float32, Int32
from rich.console import Console

import jaxrnn
from experiments import schema, training
from experiments.cells import cell_of
from experiments.record import Run
from jaxrnn import layers, losses

# Evaluated on so many sequences of so many episodes, the first of which may be cut short.
TEST_SEQUENCES, TEST_EPISODES = 64, 9


class RecallParams(NamedTuple):
    """The cell's parameters, and the readout from H to the symbols."""

    cell: Any
    readout: layers.DenseParams


class Steps(NamedTuple):
    """Some steps of B streams."""

    xs: Float32[np.ndarray, "T B 2*S+1"]
    labels: Int32[np.ndarray, "T B"]
    """The symbol to recall."""
    mask: Bool[np.ndarray, "T B"]
    """True at the questions, but for those whose symbol came before the stream began."""


def stream(
    random: np.random.Generator, batch_size: int, window: int, lag: int, symbols: int
) -> Iterator[Steps]:
    """Endless windows of endless streams of episodes."""
    place = random.integers(lag + 1, size=batch_size)
    kept = np.full(batch_size, -1)
    columns = np.arange(batch_size)
    while True:
        xs = np.zeros((window, batch_size, 2 * symbols + 1), np.float32)
        labels, mask = (
            np.zeros((window, batch_size), np.int32),
            np.zeros((window, batch_size), bool),
        )
        for t in range(window):
            drawn = random.integers(symbols, size=batch_size)
            first, question = place == 0, place == lag
            kept = np.where(first, drawn, kept)
            xs[t, columns, np.where(first, drawn, symbols + drawn)] = ~question
            xs[t, :, -1] = question
            labels[t], mask[t] = np.maximum(kept, 0), question & (kept >= 0)
            place = (place + 1) % (lag + 1)
        yield Steps(xs, labels, mask)


def train(config: schema.Recall, run: Run, console: Console) -> dict[str, float]:
    """Runs the whole experiment; returns the accuracy on new episodes, in the mean over them."""
    cell, symbols = cell_of(config.model), config.symbols
    keys = jax.random.split(jax.random.key(config.seed))
    params = RecallParams(
        cell.init(keys[0], 2 * symbols + 1, config.model.hidden_size),
        layers.init_dense(keys[1], config.model.hidden_size, symbols),
    )

    def logits_of(params: RecallParams, state: Any, xs: Array, **options: Any) -> tuple[Any, Array]:
        state, hs = jaxrnn.unroll(cell, params.cell, state, xs, **options)
        return state, layers.dense(params.readout, hs)

    def loss_fn(params: RecallParams, state: Any, batch: Any) -> tuple[Array, Any]:
        dtype = config.model.compute_dtype
        state, logits = logits_of(params, state, batch.xs, compute_dtype=dtype)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return losses.masked_mean(cross_entropy, logits, batch.labels, batch.mask), state

    random = np.random.default_rng(config.seed)
    size = TEST_EPISODES * (config.lag + 1)
    test = next(stream(random, TEST_SEQUENCES, size, config.lag, symbols))

    @jax.jit
    def accuracy(params: RecallParams) -> Array:
        _, logits = logits_of(params, None, jnp.asarray(test.xs))
        right = (jnp.argmax(logits, axis=-1) == test.labels) & test.mask
        return jnp.sum(right) / jnp.sum(test.mask)

    _, results = training.fit(
        run,
        console,
        config.optimizer,
        config.evaluations,
        params,
        training.Task(
            loss_fn=loss_fn,
            batches=_batches(config, cell, params, random),
            evaluate=lambda params: {"accuracy": float(accuracy(params))},
            per_step=config.optimizer.batch_size * config.window,
            unit="steps",
            shown=lambda loss: {},
        ),
    )
    return results


def _batches(
    config: schema.Recall, cell: jaxrnn.Cell, params: RecallParams, random: np.random.Generator
) -> Iterator[tuple[Any, Steps]]:
    """The state starts from zeros once, and goes on from window to window."""
    batch_size = config.optimizer.batch_size
    state = cell.initial_state(params.cell, (batch_size,))
    for steps in stream(random, batch_size, config.window, config.lag, config.symbols):
        yield state, steps
        state = None
