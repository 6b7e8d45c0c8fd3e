"""Training and testing on labelled sequences, whatever they are about."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.models import online
from experiments.models.readout import (
    ModelParams,
    key_of,
    make_body,
    make_initial_state,
    read_out,
)
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


Loss = Literal[
    "squared_error",
    "squared_errors",
    "bit_cross_entropy",
    "keys_cross_entropy",
    "cross_entropy",
]
"""Keys of `LOSSES`."""


class Stream(NamedTuple):
    """Sequences without an end, whose state is carried from window to window."""

    window: Callable[[int], Steps]
    """The window of this number."""
    steps: int
    """Steps of a window."""
    test: Steps


class HeldOut(NamedTuple):
    """What real data are tested with, instead of new sequences."""

    evaluate: Callable[[Any], dict[str, float]]
    """`params` to metrics."""
    probed: Steps
    """Sequences of one length, for the microscope."""


def _squared_error(outputs: Array, labels: Array) -> Array:
    return jnp.square(outputs[..., 0] - labels)


def _bit_cross_entropy(outputs: Array, labels: Array) -> Array:
    """Returns that of one bit, whose label may be its probability."""
    return optax.sigmoid_binary_cross_entropy(outputs[..., 0], labels)


def _keys_cross_entropy(outputs: Array, labels: Array) -> Array:
    """Returns that of all keys together, each of which sounds or does not."""
    return optax.sigmoid_binary_cross_entropy(outputs, labels).sum(-1)


LOSSES = {
    "squared_error": _squared_error,
    "squared_errors": optax.squared_error,  # of several outputs
    "bit_cross_entropy": _bit_cross_entropy,
    "keys_cross_entropy": _keys_cross_entropy,
    "cross_entropy": optax.softmax_cross_entropy_with_integer_labels,
}


def make_task(
    config: Scored,
    draw: Callable[[np.random.Generator, int], Steps],
    loss: Loss,
    metrics: tuple[str, ...] = (),
    *,
    uncounted: int | None = None,
    vanishing: float = 0.0,
    stream: Stream | None = None,
    rule: str = "bptt",
    held_out: HeldOut | None = None,
) -> Task:
    """Returns the task of learning the labels of sequences.

    Args:
      config: its config.
      draw: draws B new sequences, to train on.
      loss: the loss of a label.
      metrics: names out of `measure`, of the results.
      uncounted: a label that the accuracy leaves out.
      vanishing: weight of the regularizer Ω against vanishing gradients.
      stream: what to train and test on, instead of new sequences.
      rule: "bptt", or a key of `models.online.RULES`, by which a stream is learned
        forwards.
      held_out: what to test with, instead of new sequences.
    """
    network, sizes = config.network({}), config.sizes()
    size, model = config.optimizer.batch_size, config.model
    body = make_body(model, compute_dtype=model.compute_dtype)
    loss_fn = make_loss(body, LOSSES[loss], network.cell, vanishing)

    # New sequences for every batch, so nothing can be learned by heart, or windows of
    # streams, whose state starts once.
    initial_state, forwards = make_initial_state(model, size), None
    if rule != "bptt":
        online.check_takes(rule, network.cell)
        initial_state = online.make_start(rule, network, size)
        forwards = online.make_value_and_grad(rule, network.cell, LOSSES[loss])
    draws = bool(model.dropout or forwards)  # by the number of the batch

    def batch(number: int) -> tuple[Any, Any]:
        if stream is None:
            state, steps = None, draw(numbered(config.seed, number), size)
        else:
            state = initial_state() if number == 0 else None
            steps = stream.window(number)
        return state, (steps, np.uint32(number)) if draws else steps

    def loss_and_state(params: ModelParams, state: Any, batch: Any) -> Any:
        steps, number = batch if model.dropout else (batch, None)
        value, last = loss_fn(params, state, steps, number)
        return value, None if stream is None else last

    if held_out is None:
        # What is tested and probed has random numbers of its own.
        random = numbered(config.seed, 0, TESTING)
        test = stream.test if stream else draw(random, TEST_SEQUENCES)
        probed = _of_one_length(draw(numbered(config.seed, 0, PROBING), DRAWN))
        measured = partial(measure, network.body, LOSSES[loss], uncounted=uncounted)
        held_out = HeldOut(_evaluator(measured, test, metrics), probed)
    return Task(
        cell=network.cell,
        init=network.init,
        loss_fn=None if forwards else loss_and_state,
        batch=batch,
        evaluate=held_out.evaluate,
        probe=partial(_probe, LOSSES[loss], held_out.probed),
        per_step=size * (stream.steps if stream else sizes.steps),
        unit="steps",
        online=forwards,
    )


def _evaluator(
    measured: Any, test: Steps, metrics: tuple[str, ...]
) -> Callable[[ModelParams], dict[str, float]]:
    """Returns `params` to the metrics of these names."""
    compiled = jax.jit(measured)

    def evaluate(params: ModelParams) -> dict[str, float]:
        found = compiled(params, test)
        return {name: float(found[name]) for name in metrics}

    return evaluate


def make_loss(
    body: layers.Layer, loss: Any, cell: Any = None, vanishing: float = 0.0
) -> Any:
    """Returns `(params, state, steps, number) -> (mean loss of labels, last state)`.

    The number of the training step turns dropout on; None: off. The `cell` is needed
    for Ω alone, whose weight is `vanishing`.
    """

    def loss_fn(
        params: ModelParams, state: Any, steps: Steps, number: Any = None
    ) -> tuple[Array, Any]:
        xs, key = jnp.asarray(steps.xs), None if number is None else key_of(number)
        last, hs = body.unroll(params.cell, state, xs, key=key)
        value = _reduced(losses.masked_mean, loss, params, hs, steps)
        if vanishing:
            summed = partial(_reduced, losses.masked_sum, loss, params)
            value += vanishing * flow.vanishing_regularizer(
                lambda _, hs: summed(hs, steps), cell, params.cell, state, xs
            )
        return value, last

    return loss_fn


def measure(
    body: layers.Layer,
    loss: Any,
    params: ModelParams,
    test: Steps,
    uncounted: int | None = None,
) -> dict[str, Array]:
    """Returns all metrics: the loss under two names, and the share of right answers."""
    _, hs = body.unroll(params.cell, None, jnp.asarray(test.xs))
    outputs, labels = read_out(params.readout, hs), jnp.asarray(test.labels)
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
    outputs = read_out(params.readout, hs)
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
