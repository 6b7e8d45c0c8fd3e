"""Training as a value: how far it has come, and one more step."""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config.schema import Experiment
from experiments.tasks.base import Task
from experiments.training import processes
from experiments.training.optimizer import make_optimizer
from jaxrnn import devices, train

# Steps over which the loss is averaged for the bar and the metrics: one batch is noisy.
AVERAGED = 20


class Progress(NamedTuple):
    """All that the next step depends on, beside the config and the data."""

    step: int
    """Steps that have been done."""
    batch: int
    """The number of the next batch."""
    left_out: int
    """Batches that were left out, because their steps were not finite."""
    learner: train.Learner
    state: Any
    """The state that the next batch continues from. None before the first one."""
    average: float
    """The running average of the loss. NaN before the first step."""


class Measured(NamedTuple):
    """One step, as it was measured."""

    loss: float
    grad_norm: float
    update_norm: float

    @property
    def finite(self) -> bool:
        """Whether the step changed anything: one that is not finite does not."""
        return all(map(math.isfinite, self))


def start(config: Experiment, task: Task) -> Progress:
    """Returns the progress before the first step."""
    params = task.init(jax.random.key(config.seed))
    learner = train.init_learner(params, make_optimizer(config.optimizer))
    return Progress(0, 0, 0, learner, None, math.nan)


class Flight(NamedTuple):
    """A step that the devices may still be computing."""

    learner: train.Learner
    state: Any
    metrics: train.Metrics


class Trainer:
    """Takes steps. While one runs, a thread makes the next batch and places it.

    On GPU and TPU the next step begins before the metrics of this one are read, so that
    the devices never wait for the host. It changes nothing if this one was not finite.
    On CPU reading costs nothing: the step's devices are the host's.
    """

    def __init__(
        self,
        config: Experiment,
        task: Task,
        first: Progress,
        overlaps: bool | None = None,
    ) -> None:
        """Compiles nothing yet. `overlaps` overrules what the devices decide."""
        self._task = task
        self._value_and_grad = task.value_and_grad
        on_cpu = jax.default_backend() == "cpu"
        self._overlaps = not on_cpu if overlaps is None else overlaps
        optimizer = make_optimizer(config.optimizer)
        self._over = processes.over(first.learner.params)
        following = _following(self._value_and_grad)
        value_and_grad = following if self._overlaps else self._value_and_grad
        self._step = train.make_step(value_and_grad, optimizer, self._over)
        self._flight: Flight | None = None
        self._worker = ThreadPoolExecutor(1, "batches")
        self._ahead: dict[int, Future[tuple[Any, Any]]] = {}
        self.seconds = 0.0
        """Seconds spent inside the compiled step, up to its loss."""

    def close(self) -> None:
        """Ends the thread, after the batch that it is making."""
        self._worker.shutdown(cancel_futures=True)

    @property
    def is_ahead(self) -> bool:
        """Whether the next step has begun, and has taken the progress's buffers."""
        return self._flight is not None

    def advance(
        self, progress: Progress, ahead: bool = False
    ) -> tuple[Progress, Measured]:
        """Takes one step of training, which takes the progress's buffers.

        One whose loss, gradient or update is not finite leaves all unchanged, and does
        not count. With `ahead` the next step may begin too. The progress that is
        returned then has no parameters (`is_ahead`), and is good for the next call.
        """
        number, began = progress.batch, time.monotonic()
        # The step, unless it began in the call before; and the next one.
        flight = self._flight or self._begin(number, progress.learner, progress.state)
        following = None
        if ahead and self._overlaps and self._ahead[number + 1].exception() is None:
            following = self._begin(number + 1, *flight)
        # Reading the metrics waits for the step.
        measured = Measured(*map(float, flight.metrics))
        self.seconds += time.monotonic() - began
        self._flight = following if measured.finite else None
        learner = flight.learner
        if following and not measured.finite:
            learner = following.learner  # unchanged by either step
        return progress._replace(
            step=progress.step + measured.finite,
            batch=number + measured.finite,
            learner=learner,
            state=flight.state,
            average=_averaged(progress, measured),
        ), measured

    def _begin(
        self,
        number: int,
        learner: train.Learner,
        state: Any,
        before: train.Metrics | None = None,
    ) -> Flight:
        """Begins the step with batch `number`, after one with the metrics `before`."""
        made = self._ahead.pop(number, None)
        fresh, batch = made.result() if made else self._placed(number)
        self._ahead = {number + 1: self._worker.submit(self._placed, number + 1)}
        if self._overlaps:
            batch = batch, FINITE if before is None else before
        return Flight(*self._step(learner, state if fresh is None else fresh, batch))

    def not_finite(self, progress: Progress) -> list[str]:
        """Returns what is not finite in the next step: the loss, or leaves by name."""
        fresh, batch = self._placed(progress.batch)
        state = progress.state if fresh is None else fresh
        (loss, _), grads = jax.jit(self._value_and_grad)(
            progress.learner.params, state, batch
        )
        leaves = {"the loss": loss} | {
            f"the gradient of `params{jax.tree_util.keystr(path)}`": leaf
            for path, leaf in jax.tree.leaves_with_path(grads)
        }
        return [name for name, a in leaves.items() if not bool(jnp.isfinite(a).all())]

    def _placed(self, number: int) -> tuple[Any, Any]:
        fresh, batch = self._task.batch(number)
        return fresh, devices.split((None, None, batch), self._over)[2]


ZERO: Any = np.float32(0)
FINITE = train.Metrics(ZERO, ZERO, ZERO)
"""In place of the metrics of a step, where there was none before."""


def _following(value_and_grad: Any) -> Any:
    """Returns the function for `(batch, metrics)` of the step before.

    The loss is NaN if that was not finite, so that the step changes nothing.
    """

    def following(params: Any, state: Any, given: Any) -> Any:
        batch, before = given
        (loss, state), grads = value_and_grad(params, state, batch)
        finite = jnp.isfinite(jnp.stack(before)).all()
        return (jnp.where(finite, loss, jnp.nan), state), grads

    return following


def _averaged(progress: Progress, measured: Measured) -> float:
    average = progress.average
    if not measured.finite:
        return average
    if math.isnan(average):
        return measured.loss
    return average + (measured.loss - average) / min(progress.step + 1, AVERAGED)
