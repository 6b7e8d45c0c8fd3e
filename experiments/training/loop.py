"""The loop around the steps: a progress bar, evaluations, checkpoints, curves."""

from collections.abc import Callable
from typing import Any

import jax
import msgspec
from rich import progress as bars
from rich.console import Console

from experiments.analysis.figures import plot_metrics
from experiments.config.schema import Experiment
from experiments.runs import checkpoint
from experiments.runs.folder import Run
from experiments.tasks.base import Task
from experiments.training.interrupts import interrupts
from experiments.training.progress import (
    AVERAGED,
    Measured,
    Progress,
    make_advance,
    start,
)


def train(
    config: Experiment, task: Task, run: Run, console: Console
) -> tuple[Any, dict[str, float]]:
    """Trains, and leaves metrics, curves and checkpoints in the run's folder.

    A checkpoint is saved at every evaluation, including the one before the first step.
    Where the host's CPU is several devices, batches are split over them. Parameters are
    moved to the first device before they are evaluated, saved or returned, because any
    program that reads them would otherwise run on all devices.

    However the loop ends, by its last step, by Ctrl-C (which waits for the current
    step) or by a loss that is not finite, the parameters before that step are saved and
    the curves drawn. Only an error inside a step, which has taken the parameters by
    then, leaves the checkpoint of the last evaluation as the last one.

    Returns:
      The parameters, and the last evaluation.

    Raises:
      FloatingPointError: if the loss or the gradient is not finite. The parameters
        saved are those before that step.
      KeyboardInterrupt: after Ctrl-C.
    """
    steps, progress = config.optimizer.steps, start(config, task)
    advance = make_advance(config, task)
    due, saved, results = evaluations_due(config), -1, {}
    bar = _bar(console, task)

    def save() -> int:
        params, builtins = _on_one_device(progress), msgspec.to_builtins(config)
        checkpoint.save(run.folder, progress.step, params, builtins)
        return progress.step

    try:
        with interrupts() as interrupted, bar:
            shown = bar.add_task(
                "training", total=steps, loss=progress.average, rate=0.0, extra=""
            )
            while True:
                # Evaluate and save.
                if due(progress.step):
                    results = task.evaluate(_on_one_device(progress))
                    run.log(progress.step, **results)
                    words = ", ".join(f"{k} {v:.4f}" for k, v in results.items())
                    bar.console.print(f"step {progress.step}/{steps}: {words}")
                    saved = save()
                if progress.step == steps:
                    break
                if interrupted():
                    raise KeyboardInterrupt
                # Take a step, which counts unless it is not finite.
                progress, measured = advance(progress)
                _check_finite(progress, measured)
                # Show it, and log it now and then.
                rate = progress.step * task.per_step / progress.seconds
                averages = task.train_metrics(progress.average)
                if progress.step % AVERAGED == 0 or due(progress.step):
                    metrics = {"loss": progress.average, **averages}
                    metrics["grad_norm"] = measured.grad_norm
                    metrics[f"{task.unit}_per_second"] = round(rate, 1)
                    run.log(progress.step, **metrics)
                extra = " ".join(f"{k} {v:.3f}" for k, v in averages.items())
                loss = progress.average
                bar.update(shown, advance=1, loss=loss, rate=rate, extra=extra)
    finally:
        leaves = jax.tree.leaves(progress.learner.params)
        if saved != progress.step and not any(a.is_deleted() for a in leaves):
            save()
        if names := [*task.train_metrics(1.0), *results]:
            lines, file = run.metrics(), run.folder / "curves.png"
            plot_metrics(lines, names, file, run.folder.name)
    return _on_one_device(progress), results


def evaluations_due(config: Experiment) -> Callable[[int], bool]:
    """Returns whether there is an evaluation after this number of steps."""
    steps = config.optimizer.steps
    count = min(config.evaluations, max(steps, 1))
    due = {round(steps * i / count) for i in range(count + 1)}
    return due.__contains__


def _check_finite(progress: Progress, measured: Measured) -> None:
    if not measured.finite:
        raise FloatingPointError(
            f"step {progress.step + 1}: the loss is {measured.loss}, the gradient's "
            f"norm {measured.grad_norm}. The parameters from before this step are "
            "saved. Lower `optimizer.learning_rate` or `optimizer.clip`, or check "
            "the data."
        )


def _on_one_device(progress: Progress) -> Any:
    return jax.device_put(progress.learner.params, jax.devices()[0])


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
