"""Training as a value: how far it has come, and one more step."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from experiments.config.schema import Experiment
from experiments.tasks.base import Task
from experiments.training.optimizer import make_optimizer
from jaxrnn import devices, train

# Steps over which the loss is averaged for the bar and the metrics: one batch is noisy.
AVERAGED = 20


class Progress(NamedTuple):
    """All that the next step depends on, beside the config and the data."""

    step: int
    """Steps that have been done, and so the number of the next batch."""
    learner: train.Learner
    state: Any
    """The state that the next batch continues from. None before the first one."""
    average: float
    """The running average of the loss. NaN before the first step."""
    seconds: float
    """Seconds spent in steps."""


class Measured(NamedTuple):
    """One step, as it was measured."""

    loss: float
    grad_norm: float

    @property
    def finite(self) -> bool:
        """Whether the step changed anything: one that is not finite does not."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def start(config: Experiment, task: Task) -> Progress:
    """Returns the progress before the first step."""
    params = task.init(jax.random.key(config.seed))
    learner = train.init_learner(params, make_optimizer(config.optimizer))
    return Progress(0, learner, None, math.nan, 0.0)


def make_advance(
    config: Experiment, task: Task
) -> Callable[[Progress], tuple[Progress, Measured]]:
    """Returns the function that takes one step of training.

    A step takes the buffers of the progress that it is given. One whose loss or
    gradient is not finite leaves the parameters unchanged and does not count. While a
    step runs, a thread makes the next batch and puts it on the devices.
    """
    value_and_grad = jax.value_and_grad(task.loss_fn, has_aux=True)
    step = train.make_step(value_and_grad, make_optimizer(config.optimizer))
    worker = ThreadPoolExecutor(1, "batches")
    ahead: dict[int, Future[tuple[Any, Any]]] = {}

    def placed(number: int, over: Sequence[Any]) -> tuple[Any, Any]:
        fresh, batch = task.batch(number)
        return fresh, devices.split((None, None, batch), over)[2]

    def advance(progress: Progress) -> tuple[Progress, Measured]:
        began = time.monotonic()
        number, over = progress.step, devices.default_devices(progress.learner.params)
        made = ahead.pop(number, None)
        fresh, batch = made.result() if made else placed(number, over)
        ahead[number + 1] = worker.submit(placed, number + 1, over)
        state = progress.state if fresh is None else fresh
        learner, state, metrics = step(progress.learner, state, batch)
        # Reading the loss waits for the step, so that no two are ever in flight.
        measured = Measured(float(metrics.loss), float(metrics.grad_norm))
        done = progress.step + measured.finite
        average = _averaged(progress.average, measured.loss, done)
        seconds = progress.seconds + time.monotonic() - began
        return Progress(done, learner, state, average, seconds), measured

    return advance


def _averaged(average: float, loss: float, steps: int) -> float:
    if math.isnan(average):
        return loss
    return average + (loss - average) / min(steps, AVERAGED)
