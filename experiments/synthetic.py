"""The made-up sequences of `problems` as tasks: a cell, a readout at every step, a loss."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.console import Console

import jaxrnn
from experiments import models, problems, schema
from experiments.problems import Steps
from experiments.task import Probe, Task
from jaxrnn import flow, layers, losses

TEST_SEQUENCES = 1000
# The microscope looks at so many, of one length, out of so many that are drawn.
PROBED, DRAWN = 32, 1000
# A stream is evaluated on so many sequences of so many episodes; the first may be cut short.
STREAMS, EPISODES = 64, 9


class Problem(NamedTuple):
    """What there is to learn."""

    draw: Callable[[np.random.Generator, int], Steps]
    """B new sequences."""
    outputs: int
    loss: Callable[[Array, Array], Array]
    """Outputs `[*N, O]` and labels `[*N]` to losses `[*N]`."""
    measure: Callable[[Array, Array, Array], dict[str, Array]]
    """Outputs `[T, B, O]`, labels and mask `[T, B]` to metrics."""


def _squared(outputs: Array, labels: Array) -> Array:
    return jnp.square(outputs[..., 0] - labels)


def _accuracy(outputs: Array, labels: Array, mask: Array) -> Array:
    right = jnp.argmax(outputs, axis=-1) == labels
    return jnp.sum(right & mask) / jnp.sum(mask)


def _error(outputs: Array, labels: Array, mask: Array) -> dict[str, Array]:
    return {"test_error": losses.masked_mean(_squared, outputs, labels, mask)}


def _share_right(outputs: Array, labels: Array, mask: Array) -> dict[str, Array]:
    return {"accuracy": _accuracy(outputs, labels, mask)}


def _copied(outputs: Array, labels: Array, mask: Array) -> dict[str, Array]:
    """The loss of all steps; the accuracy of the symbols alone."""
    loss = losses.masked_mean(_cross_entropy, outputs, labels, mask)
    return {
        "test_loss": loss,
        "accuracy": _accuracy(outputs, labels, labels != problems.BLANK),
    }


_cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def problem_of(config: schema.Experiment) -> Problem:
    """The problem that a config names."""
    match config:
        case schema.Adding(length=length):
            return Problem(partial(problems.adding, length=length), 1, _squared, _error)
        case schema.Copying(delay=delay):
            draw = partial(problems.copying, delay=delay)
            return Problem(draw, problems.BLANK + 1, _cross_entropy, _copied)
        case schema.TemporalOrder():
            return Problem(problems.temporal_order, 4, _cross_entropy, _share_right)
        case schema.Recall(lag=lag, symbols=symbols):
            draw = partial(problems.recall, lag=lag, symbols=symbols)
            return Problem(draw, symbols, _cross_entropy, _share_right)
        case _:
            raise TypeError(f"no problem is named by a {type(config).__name__}.")


def make(config: schema.Experiment, console: Console) -> Task:
    """The task of a config. What it is tested on, and probed with, has seeds of its own."""
    problem, cell = problem_of(config), models.cell_of(config.model)
    dtype, batch_size = config.model.compute_dtype, config.optimizer.batch_size
    recall = config if isinstance(config, schema.Recall) else None
    window, vanishing = (recall.window, recall.vanishing) if recall else (None, 0.0)
    seeds = np.random.SeedSequence(config.seed).spawn(3)
    training, testing, probing = (np.random.default_rng(seed) for seed in seeds)

    def loss_of(
        params: models.ModelParams, hs: Array, batch: Steps, reduction: Any
    ) -> Array:
        outputs = layers.dense(params.readout, hs)
        return reduction(
            problem.loss, outputs, jnp.asarray(batch.labels), jnp.asarray(batch.mask)
        )

    def loss_fn(
        params: models.ModelParams, state: Any, batch: Steps
    ) -> tuple[Array, Any]:
        xs = jnp.asarray(batch.xs)
        last, hs = jaxrnn.unroll(cell, params.cell, state, xs, compute_dtype=dtype)
        loss = loss_of(params, hs, batch, losses.masked_mean)
        if vanishing:
            loss += vanishing * flow.vanishing_regularizer(
                lambda _, hs: loss_of(params, hs, batch, losses.masked_sum),
                cell,
                params.cell,
                state,
                xs,
            )
        return loss, last if window else None

    @jax.jit
    def measure(params: models.ModelParams, test: Steps) -> dict[str, Array]:
        _, hs = jaxrnn.unroll(cell, params.cell, None, jnp.asarray(test.xs))
        outputs = layers.dense(params.readout, hs)
        return problem.measure(
            outputs, jnp.asarray(test.labels), jnp.asarray(test.mask)
        )

    if recall and window:
        cut = partial(problems.recall_stream, lag=recall.lag, symbols=recall.symbols)
        test = next(cut(testing, STREAMS, window=EPISODES * (recall.lag + 1)))
        stream = cut(training, batch_size, window=window)
        batches = partial(_windows, cell, stream, batch_size)
    else:
        test = problem.draw(testing, TEST_SEQUENCES)
        batches = partial(_fresh, problem.draw, training, batch_size)
    probed = _of_one_length(problem.draw(probing, DRAWN))

    def probe(params: models.ModelParams) -> Probe:
        last = Steps(*(a[-1:] for a in probed))
        return Probe(
            jnp.asarray(probed.xs),
            lambda _, hs: loss_of(params, hs[-1:], last, losses.masked_sum),
        )

    init = partial(
        models.init,
        model=config.model,
        input_size=test.xs.shape[-1],
        outputs=problem.outputs,
    )
    return Task(
        cell=cell,
        init=init,
        loss_fn=loss_fn,
        batches=batches,
        evaluate=lambda params: {k: float(v) for k, v in measure(params, test).items()},
        probe=probe,
        per_step=batch_size * (window or len(test.xs)),
        unit="steps",
    )


def _fresh(
    draw: Callable[..., Steps], random: np.random.Generator, batch_size: int, _: Any
) -> Iterator[tuple[None, Steps]]:
    """New sequences for every batch: nothing can be learnt by heart."""
    while True:
        yield None, draw(random, batch_size)


def _windows(
    cell: jaxrnn.Cell,
    stream: Iterator[Steps],
    batch_size: int,
    params: models.ModelParams,
) -> Iterator[tuple[Any, Steps]]:
    """The state starts from zeros once, and goes on from window to window."""
    state = cell.initial_state(params.cell, (batch_size,))
    for steps in stream:
        yield state, steps
        state = None


def _of_one_length(steps: Steps) -> Steps:
    """Some of the sequences that end at the step where most of them do: at their last label."""
    ends = len(steps.mask) - 1 - np.argmax(steps.mask[::-1], axis=0)
    end = np.bincount(ends).argmax()
    chosen = np.flatnonzero(ends == end)[:PROBED]
    return Steps(*(a[: end + 1, chosen] for a in steps))
