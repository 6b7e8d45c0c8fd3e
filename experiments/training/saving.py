"""Checkpoints of training: what a run needs to go on to the bit."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
import msgspec

from experiments.config.schema import Experiment
from experiments.runs import checkpoint
from experiments.runs.checkpoint import CheckpointError
from experiments.runs.folder import Run, differences, hash_alone
from experiments.tasks.base import Task
from experiments.training import processes
from experiments.training.progress import Progress, start
from jaxrnn import train

# Saves that may fail one after the other. A full disk is often emptied by somebody;
# after hours of them the training would be lost anyway.
TRIES = 3
# Keys that may change before a run goes on: they change no step that is finite.
FREE = ("on_nonfinite", "nonfinite_limit", "save_minutes", "data.path")
FREE_WORDS = tuple(f"`{key}` " for key in FREE)
# Steps between questions to the first process whether to save: an answer takes about as
# long as the step of a small network.
ASKED = 20


class Saver:
    """Saves the progress of one run. A save that fails is reported, and tried again."""

    def __init__(
        self, run: Run, config: Experiment, task: Task, report: Callable[[str], None]
    ) -> None:
        self._run, self._config, self._task = run, config, task
        self._report = report
        self._failures, self._last = 0, time.monotonic()
        self.saved = -1
        """The step of the last checkpoint that was written."""

    def is_due(self, step: int) -> bool:
        """Returns whether the last try was `save_minutes` ago.

        Clocks differ: of several processes the first decides, every few steps.
        """
        if jax.process_count() > 1 and step % ASKED:
            return False
        seconds = 60 * self._config.save_minutes
        return processes.from_first(lambda: time.monotonic() - self._last > seconds)

    def save(self, progress: Progress, lines: Sequence[str]) -> None:
        """Writes a checkpoint, unless there is one of this step.

        Of several processes the first one writes it, with the state of all of them, and
        the others wait.

        Args:
          progress: of which the buffers are alive.
          lines: those of `metrics.jsonl`, up to this step and without its evaluation,
            which a run that goes on makes again.

        Raises:
          OSError: if this was the last try.
        """
        if self.saved == progress.step:
            return
        self._last = time.monotonic()
        about = {
            "step": progress.step,
            "batch": progress.batch,
            "left_out": progress.left_out,
            # JSON has no NaN.
            "average": None if math.isnan(progress.average) else progress.average,
            "lines": list(lines),
            "config": msgspec.to_builtins(self._config),
            "data": hash_alone(self._task.data),
        }
        trees = processes.whole(_trees(progress))
        try:
            processes.from_first(
                lambda: checkpoint.save(self._run.folder, progress.step, trees, about)
            )
        except (OSError, CheckpointError) as error:
            self._failures += 1
            reason = getattr(error, "strerror", None) or error
            words = f"step {progress.step} could not be saved: {reason}"
            if self._failures == TRIES:
                raise OSError(f"{words}. It was try {TRIES} of {TRIES}.") from error
            self._report(f"error: {words}. The run goes on, and tries again.")
            return
        self._failures, self.saved = 0, progress.step
        kept = evaluations(self._config)
        processes.from_first(lambda: checkpoint.thin(self._run.folder, kept))

    def rescue(self, progress: Progress, lines: Sequence[str]) -> None:
        """Saves after an error, if that can be done.

        A step that failed has taken the buffers. Of several processes the others may
        not have failed, and do not save now.
        """
        is_lost = any(a.is_deleted() for a in jax.tree.leaves(progress.learner))
        if is_lost or jax.process_count() > 1:
            return
        with contextlib.suppress(OSError):
            self.save(progress, lines)


def evaluations(config: Experiment) -> set[int]:
    """Returns the steps after which there is an evaluation."""
    steps = config.optimizer.steps
    count = min(config.evaluations, max(steps, 1))
    return {round(steps * i / count) for i in range(count + 1)}


def changes(then: dict[str, Any], config: Experiment) -> list[str]:
    """Returns, in words, each key that changed and may not before a run goes on."""
    found = differences(then, msgspec.to_builtins(config))
    return [words for words in found if not words.startswith(FREE_WORDS)]


def restore(
    run: Run, config: Experiment, task: Task, among: Container[int] = range(sys.maxsize)
) -> Progress:
    """Returns the progress of the newest checkpoint that is whole, and rewinds metrics.

    A note names those that are damaged. `among` limits the steps.

    Raises:
      CheckpointError: if none is whole, or it is of another config or of other data.
    """
    first = start(config, task)

    def read(step: int) -> Progress | None:
        if step not in among:
            return None
        about = checkpoint.read_about(run.folder, step)
        _check_same(run, about, config, task)
        trees = {
            name: checkpoint.restore(run.folder, name, like, step)
            for name, like in _likes(task, first, step).items()
        }
        run.rewind(about["lines"])
        average = math.nan if about["average"] is None else about["average"]
        counts = {name: about[name] for name in ("step", "batch", "left_out")}
        learner = train.Learner(trees["params"], trees["opt_state"])
        state = trees.get("state")
        return Progress(**counts, learner=learner, state=state, average=average)

    found = checkpoint.each_whole(run.folder, read, newest_first=True)
    return next(progress for progress in found if progress is not None)


def _trees(progress: Progress) -> dict[str, Any]:
    """Returns the trees of a checkpoint, by name. A state of None is not saved."""
    return {**progress.learner._asdict(), "state": progress.state}


def _likes(task: Task, first: Progress, step: int) -> dict[str, Any]:
    """Returns trees of shapes, as `_trees` after this step."""
    fresh, batch = task.batch(0)
    params = first.learner.params
    (_, state), _ = jax.eval_shape(task.value_and_grad, params, fresh, batch)
    trees = _trees(first._replace(state=state if step else None))
    return {name: tree for name, tree in trees.items() if tree is not None}


def _check_same(
    run: Run, about: dict[str, Any], config: Experiment, task: Task
) -> None:
    """Raises if the run was begun with another config, or on other data."""
    kinds = {
        "the config": changes(about["config"], config),
        "the data": differences(hash_alone(about["data"]), hash_alone(task.data)),
    }
    for kind, changed in kinds.items():
        if changed:
            raise CheckpointError(
                f"{run.folder} cannot go on, because {kind} changed: "
                f"{', '.join(changed)}. Restore it, or begin anew: --resume never."
            )
