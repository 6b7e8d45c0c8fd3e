"""Training and testing on labelled sequences, whatever they are about."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxrnn
from experiments.models.readout import ModelParams, make_initial_state
from experiments.tasks.base import Probe, Task
from experiments.tasks.sequences import (
    PROBING,
    TEST_SEQUENCES,
    TESTING,
    Scored,
    Steps,
    numbered,
)
from jaxrnn import flow, layers, losses

# Sequences of one length for the microscope, and how many are drawn to find them.
PROBED, DRAWN = 32, 1000


class Stream(NamedTuple):
    """Sequences without an end, whose state is carried from window to window."""

    window: Callable[[int], Steps]
    """The window of this number."""
    steps: int
    """Steps of a window."""
    test: Steps


def _squared_error(outputs: Array, labels: Array) -> Array:
    return jnp.square(outputs[..., 0] - labels)


LOSSES = {
    "squared_error": _squared_error,
    "cross_entropy": optax.softmax_cross_entropy_with_integer_labels,
}


def make_task(
    config: Scored,
    draw: Callable[[np.random.Generator, int], Steps],
    loss: Literal["squared_error", "cross_entropy"],
    metrics: tuple[str, ...],
    *,
    uncounted: int | None = None,
    vanishing: float = 0.0,
    stream: Stream | None = None,
) -> Task:
    """Returns the task of learning the labels of sequences.

    Args:
      config: its config.
      draw: draws B new sequences.
      loss: the loss of a label.
      metrics: names out of `measure`, of the results.
      uncounted: a label that the accuracy leaves out.
      vanishing: weight of the regularizer Ω against vanishing gradients.
      stream: what to train and test on, instead of new sequences.
    """
    network, sizes = config.network({}), config.sizes()
    size, model = config.optimizer.batch_size, config.model
    loss_fn = make_loss(network.cell, LOSSES[loss], model.compute_dtype, vanishing)

    # New sequences for every batch, so nothing can be learned by heart, or windows of
    # streams, whose state starts once.
    initial_state = make_initial_state(model, size)

    def batch(number: int) -> tuple[Any, Steps]:
        if stream is None:
            return None, draw(numbered(config.seed, number), size)
        return initial_state() if number == 0 else None, stream.window(number)

    def loss_and_state(params: ModelParams, state: Any, steps: Steps) -> Any:
        value, last = loss_fn(params, state, steps)
        return value, None if stream is None else last

    # What is tested and probed has random numbers of its own.
    test = (
        stream.test
        if stream
        else draw(numbered(config.seed, 0, TESTING), TEST_SEQUENCES)
    )
    measured = partial(measure, network.cell, LOSSES[loss], uncounted=uncounted)
    compiled = jax.jit(measured)

    def evaluate(params: ModelParams) -> dict[str, float]:
        found = compiled(params, test)
        return {name: float(found[name]) for name in metrics}

    probed = _of_one_length(draw(numbered(config.seed, 0, PROBING), DRAWN))
    return Task(
        cell=network.cell,
        init=network.init,
        loss_fn=loss_and_state,
        batch=batch,
        evaluate=evaluate,
        probe=partial(_probe, LOSSES[loss], probed),
        per_step=size * (stream.steps if stream else sizes.steps),
        unit="steps",
    )


def make_loss(
    cell: jaxrnn.Cell, loss: Any, compute_dtype: str, vanishing: float = 0.0
) -> Any:
    """Returns `(params, state, steps) -> (mean loss of the labels, last state)`."""

    def loss_fn(params: ModelParams, state: Any, steps: Steps) -> tuple[Array, Any]:
        xs = jnp.asarray(steps.xs)
        last, hs = jaxrnn.unroll(
            cell, params.cell, state, xs, compute_dtype=compute_dtype
        )
        value = _reduced(losses.masked_mean, loss, params, hs, steps)
        if vanishing:
            summed = partial(_reduced, losses.masked_sum, loss, params)
            value += vanishing * flow.vanishing_regularizer(
                lambda _, hs: summed(hs, steps), cell, params.cell, state, xs
            )
        return value, last

    return loss_fn


def measure(
    cell: jaxrnn.Cell,
    loss: Any,
    params: ModelParams,
    test: Steps,
    uncounted: int | None = None,
) -> dict[str, Array]:
    """Returns all metrics: the loss under two names, and the share of right answers."""
    _, hs = jaxrnn.unroll(cell, params.cell, None, jnp.asarray(test.xs))
    outputs, labels = layers.dense(params.readout, hs), jnp.asarray(test.labels)
    return score(loss, outputs, labels, jnp.asarray(test.mask), uncounted)


def score(
    loss: Any, outputs: Array, labels: Array, mask: Array, uncounted: int | None = None
) -> dict[str, Array]:
    """Returns all metrics of outputs `[T, B, O]` for labels and mask `[T, B]`."""
    value = losses.masked_mean(loss, outputs, labels, mask)
    counted = mask if uncounted is None else mask & (labels != uncounted)
    right = jnp.argmax(outputs, axis=-1) == labels
    accuracy = jnp.sum(right & counted) / jnp.sum(counted)
    return {"test_error": value, "test_loss": value, "accuracy": accuracy}


def _reduced(
    reduction: Any, loss: Any, params: ModelParams, hs: Array, steps: Steps
) -> Array:
    outputs = layers.dense(params.readout, hs)
    return reduction(loss, outputs, jnp.asarray(steps.labels), jnp.asarray(steps.mask))


def _probe(loss: Any, probed: Steps, params: ModelParams) -> Probe:
    last = Steps(*(a[-1:] for a in probed))
    return Probe(
        jnp.asarray(probed.xs),
        lambda _, hs: _reduced(losses.masked_sum, loss, params, hs[-1:], last),
    )


def _of_one_length(steps: Steps) -> Steps:
    """Returns the sequences of the commonest length, cut at their last label."""
    ends = len(steps.mask) - 1 - np.argmax(steps.mask[::-1], axis=0)
    end = np.bincount(ends).argmax()
    chosen = np.flatnonzero(ends == end)[:PROBED]
    return Steps(*(a[: end + 1, chosen] for a in steps))
