"""The loop that every experiment trains with: steps, a progress bar, evaluations, a checkpoint."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import optax
from rich import progress
from rich.console import Console

from experiments import checkpoint, schema
from experiments.record import Run
from jaxrnn import train

# Steps whose average loss the bar shows and `metrics.jsonl` holds: one batch alone is noise.
AVERAGED = 20


class Task(NamedTuple):
    """What an experiment gives the loop."""

    loss_fn: Any
    """`(params, state, batch) -> (loss, state)`, the loss in nats per label."""
    batches: Iterator[tuple[Any, Any]]
    """Endless `(state, batch)`; a state of None goes on from the state after the last step."""
    evaluate: Callable[[Any], dict[str, float]]
    """`params` to metrics on held-out data."""
    per_step: int
    """How many units a step takes in."""
    unit: str
    """What is counted: "characters", "sequences"."""
    shown: Callable[[float], dict[str, float]]
    """The loss to the metrics of training, such as bits per character."""


def make_optimizer(config: schema.Optimizer) -> optax.GradientTransformation:
    """Clipping by global norm, then Adam with a linear rise and a cosine fall of its rate."""
    rise = min(round(config.warmup * config.steps), config.steps - 1)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if rise else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=rise,
        decay_steps=config.steps,
        end_value=config.learning_rate * config.final_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adam(rate, b2=config.second_moment)
    )


def fit(
    run: Run, console: Console, config: schema.Optimizer, evaluations: int, params: Any, task: Task
) -> tuple[Any, dict[str, float]]:
    """Trains, and leaves metrics, curves and a checkpoint in the run's folder.

    Where the host's CPU is several devices, the batches are split over them; the parameters that
    are evaluated, saved and returned lie on the first one, for what reads them runs where they lie.

    However the loop ends, by its last step, by Ctrl-C (which waits for the step in hand) or by an
    error, the last good parameters are saved and the curves drawn.

    Returns:
      The parameters, and the last evaluation.

    Raises:
      FloatingPointError: if the loss or the gradient is not finite. The parameters that are saved
        are those before that step.
      KeyboardInterrupt: after Ctrl-C.
    """
    optimizer = make_optimizer(config)
    step = train.make_step(jax.value_and_grad(task.loss_fn, has_aux=True), optimizer)
    learner = train.init_learner(params, optimizer)
    due = {round(config.steps * (i + 1) / evaluations) for i in range(evaluations)}
    results: dict[str, float] = {}
    average, state, training = math.nan, None, 0.0
    bar = _bar(console, task)
    try:
        with _interrupts() as interrupted, bar:
            shown = bar.add_task("training", total=config.steps, loss=math.nan, rate=0.0, extra="")
            for number in range(1, config.steps + 1):
                began = run.seconds
                fresh, batch = next(task.batches)
                learner, state, metrics = step(learner, state if fresh is None else fresh, batch)
                # Reading the loss waits for the step, so that no two are ever in flight.
                loss, norm = float(metrics.loss), float(metrics.grad_norm)
                training += run.seconds - began
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise FloatingPointError(
                        f"step {number}: the loss is {loss}, the gradient's norm {norm}. The "
                        "parameters from before this step are saved. Lower "
                        "`optimizer.learning_rate` or `optimizer.clip`, or look at the data."
                    )
                first = math.isnan(average)
                average = loss if first else average + (loss - average) / min(number, AVERAGED)
                rate = number * task.per_step / training
                averages = task.shown(average)
                if number % AVERAGED == 0 or number in due:
                    speed = {f"{task.unit}_per_second": round(rate, 1)}
                    run.log(number, loss=average, **averages, grad_norm=norm, **speed)
                extra = " ".join(f"{k} {v:.3f}" for k, v in averages.items())
                bar.update(shown, advance=1, loss=average, rate=rate, extra=extra)
                if number in due:
                    results = task.evaluate(_on_one_device(learner.params))
                    run.log(number, **results)
                    words = ", ".join(f"{k} {v:.4f}" for k, v in results.items())
                    bar.console.print(f"step {number}/{config.steps}: {words}")
                if interrupted():
                    raise KeyboardInterrupt
    finally:
        checkpoint.save(run.folder, _on_one_device(learner.params))
        if names := [*task.shown(1.0), *results]:
            run.plot(", ".join(names), *names)
    return _on_one_device(learner.params), results


def _on_one_device(params: Any) -> Any:
    return jax.device_put(params, jax.devices()[0])


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C as a question that the loop asks between steps; a second one acts at once.

    Python raises KeyboardInterrupt wherever it stands: between a step's call, which takes the
    learner's buffers, and the assignment of its result, where all would be lost, or inside a
    callback, which swallows it.
    """
    asked = []
    before = signal.getsignal(signal.SIGINT)

    def remember(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, before)
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may set a handler, and none else gets Ctrl-C
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(console: Console, task: Task) -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=20),
        progress.MofNCompleteColumn(),
        progress.TextColumn("loss {task.fields[loss]:.3f} {task.fields[extra]}"),
        progress.TextColumn("{task.fields[rate]:,.0f} " + f"{task.unit}/s"),
        progress.TimeRemainingColumn(),
        console=console,
    )
