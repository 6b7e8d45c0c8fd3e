"""The loop around the steps: evaluations, checkpoints, metrics, a progress bar."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rich import progress as bars
from rich.console import Console

from experiments.commands import Stopped
from experiments.config.schema import Experiment
from experiments.runs.folder import Run
from experiments.tasks.base import Task
from experiments.training.processes import from_first, here, interrupts
from experiments.training.progress import (
    AVERAGED,
    Measured,
    Progress,
    Trainer,
)
from experiments.training.saving import Saver, evaluations, restore


class NotFiniteError(ArithmeticError):
    """A loss, gradient or update is not finite. The state before it is saved."""


class Trained(NamedTuple):
    """What training leaves."""

    params: Any
    results: dict[str, float]
    """The last evaluation."""
    times: dict[str, float]
    """Milliseconds per step, of this process: all, and outside the compiled program.
    Empty without steps."""
    signal: str = ""
    """The name of a signal that came too late to stop the training."""


def train(
    config: Experiment, task: Task, run: Run, console: Console, first: Progress
) -> Trained:
    """Trains, and leaves metrics and checkpoints in the run's folder.

    A checkpoint is saved at every evaluation, including the one before the first step,
    every `save_minutes`, and when a signal asks the run to end. A run that goes on from
    one (`saving.restore`) computes what it would have computed without a stop, to the
    bit, on as many cores and devices of the same kind with the same versions.

    Batches are split over several devices, where it pays, and over all devices of
    several processes. Parameters are moved to the first device before they are
    evaluated or returned, because any program that reads them would otherwise run on
    all devices. Each of several processes evaluates them, and one writes the results.

    Raises:
      NotFiniteError: if a step is not finite, and `on_nonfinite` does not go on. The
        progress before it is saved.
      Stopped: after a signal. The progress is saved.
      OSError: if several saves failed, one after the other.
    """
    say = _say(console)
    trainer, saver = Trainer(config, task, first), Saver(run, config, task, say)
    due, steps, results = evaluations(config), config.optimizer.steps, {}
    progress, spent, lines, evaluated, late = first, 0.0, len(run.lines), -1, ""
    stop, pause = "", False
    bar = _bar(console, task)
    try:
        with interrupts() as interrupted, bar:
            shown = bar.add_task("training", total=steps, loss=0.0, rate=0.0, extra="")
            while True:
                # Save, and then evaluate: a run that goes on evaluates once more.
                if progress.step in due and progress.step != evaluated:
                    saver.save(progress, run.lines[:lines])
                    results = task.evaluate(here(progress.learner.params))
                    run.log(progress.step, **results)
                    words = ", ".join(f"{k} {v:.4f}" for k, v in results.items())
                    say(f"step {progress.step}/{steps}: {words}")
                    evaluated = progress.step
                if progress.step == steps:
                    late = interrupted()
                    break
                stop = stop or interrupted()
                pause = pause or saver.is_due(progress.step)
                if stop and not trainer.is_ahead:
                    saver.save(progress, run.lines[:lines])
                    raise Stopped(
                        f"stopped by {stop} after step {progress.step} of {steps}. "
                        f"The checkpoint of step {saver.saved} is in {run.folder}. Go "
                        "on from it with --resume auto."
                    )
                if pause and not trainer.is_ahead:
                    saver.save(progress, run.lines[:lines])
                    pause = False
                # Take a step, which counts unless it is not finite. The next one may
                # begin if nothing comes between them.
                began = time.monotonic()
                ahead = not (stop or pause or progress.step + 1 in due)
                progress, measured = trainer.advance(progress, ahead)
                if not measured.finite:
                    what = ", ".join(trainer.not_finite(progress)) or "the update"
                    words = f"step {progress.step + 1}: {what} is not finite"
                    progress = _left_out(config, task, run, saver, progress, words)
                    say(f"{words}. Batch {progress.batch - 1} is left out.")
                    lines = len(run.lines)
                    # A rollback takes the evaluation out of the metrics.
                    evaluated = -1 if config.on_nonfinite == "rollback" else evaluated
                    continue
                # Show it, and log it now and then.
                averages = task.train_metrics(progress.average)
                rate = (progress.step - first.step) * task.per_step / (spent or 1.0)
                if progress.step % AVERAGED == 0 or progress.step in due:
                    _log(run, task, progress, measured, averages, rate)
                lines = len(run.lines)
                extra = " ".join(f"{k} {v:.3f}" for k, v in averages.items())
                loss = progress.average
                bar.update(
                    shown, completed=progress.step, loss=loss, rate=rate, extra=extra
                )
                spent += time.monotonic() - began
    except (Stopped, NotFiniteError):
        raise
    except Exception:
        # A batch that cannot be made, say.
        saver.rescue(progress, run.lines[:lines])
        raise
    finally:
        trainer.close()
    taken = progress.step - first.step
    milliseconds = {
        "milliseconds_per_step": 1e3 * spent / max(taken, 1),
        "outside_the_program": 1e3 * (spent - trainer.seconds) / max(taken, 1),
    }
    params, times = here(progress.learner.params), milliseconds if taken else {}
    return Trained(params, results, times, late)


def _left_out(
    config: Experiment,
    task: Task,
    run: Run,
    saver: Saver,
    progress: Progress,
    words: str,
) -> Progress:
    """Returns the progress without a batch whose step was not finite.

    Raises:
      NotFiniteError: if that is not allowed, or too many were left out. The progress is
        saved.
    """
    limit = 0 if config.on_nonfinite == "stop" else config.nonfinite_limit
    if progress.left_out == limit:
        saver.save(progress, run.lines)
        left = f" {limit} were left out before." if limit else ""
        raise NotFiniteError(
            f"{words}, with batch {progress.batch}.{left} The state before it is "
            "saved. Lower `optimizer.learning_rate` or `optimizer.clip`, or check the "
            "data."
        )
    after = {"batch": progress.batch + 1, "left_out": progress.left_out + 1}
    if config.on_nonfinite == "rollback":
        # Evaluations are at the same steps however often the run is stopped. The state
        # goes with the batches, whose place is not moved back.
        at = evaluations(config)
        back = from_first(lambda: restore(run, config, task, at))
        progress = back._replace(state=progress.state)
    run.log(progress.step, left_out=float(after["left_out"]))
    return progress._replace(**after)


def _log(
    run: Run,
    task: Task,
    progress: Progress,
    measured: Measured,
    averages: dict[str, float],
    rate: float,
) -> None:
    norm = measured.grad_norm
    run.log(progress.step, loss=progress.average, **averages, grad_norm=norm)
    run.log_times(progress.step, **{f"{task.unit}_per_second": round(rate, 1)})


def _say(console: Console) -> Callable[[str], None]:
    return lambda words: console.print(words, markup=False, highlight=False)


def _bar(console: Console, task: Task) -> bars.Progress:
    return bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=20),
        bars.MofNCompleteColumn(),
        bars.TextColumn("loss {task.fields[loss]:.3f} {task.fields[extra]}"),
        bars.TextColumn("{task.fields[rate]:,.0f} " + f"{task.unit}/s"),
        bars.TimeRemainingColumn(),
        console=console,
    )
