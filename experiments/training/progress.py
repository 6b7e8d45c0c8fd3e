"""Training as a value: how far it has come, and one more step."""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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


class Trainer:
    """Takes steps. While one runs, a thread makes the next batch and places it."""

    def __init__(self, config: Experiment, task: Task, first: Progress) -> None:
        self._task = task
        self._value_and_grad = task.value_and_grad
        optimizer = make_optimizer(config.optimizer)
        self._over = processes.over(first.learner.params)
        self._step = train.make_step(self._value_and_grad, optimizer, self._over)
        self._worker = ThreadPoolExecutor(1, "batches")
        self._ahead: dict[int, Future[tuple[Any, Any]]] = {}
        self.seconds = 0.0
        """Seconds spent inside the compiled step, up to its loss."""

    def close(self) -> None:
        """Ends the thread, after the batch that it is making."""
        self._worker.shutdown(cancel_futures=True)

    def advance(self, progress: Progress) -> tuple[Progress, Measured]:
        """Takes one step of training, which takes the progress's buffers.

        One whose loss, gradient or update is not finite leaves all unchanged, and does
        not count.
        """
        number = progress.batch
        made = self._ahead.pop(number, None)
        fresh, batch = made.result() if made else self._placed(number)
        self._ahead = {number + 1: self._worker.submit(self._placed, number + 1)}
        state = progress.state if fresh is None else fresh
        began = time.monotonic()
        learner, state, metrics = self._step(progress.learner, state, batch)
        # Reading the loss waits for the step, so that no two are ever in flight.
        measured = Measured(*map(float, metrics))
        self.seconds += time.monotonic() - began
        return progress._replace(
            step=progress.step + measured.finite,
            batch=number + measured.finite,
            learner=learner,
            state=state,
            average=_averaged(progress, measured),
        ), measured

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


def _averaged(progress: Progress, measured: Measured) -> float:
    average = progress.average
    if not measured.finite:
        return average
    if math.isnan(average):
        return measured.loss
    return average + (measured.loss - average) / min(progress.step + 1, AVERAGED)
