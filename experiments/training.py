"""The loop that every experiment trains with: steps, a progress bar, evaluations, a checkpoint."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax
from rich import progress
from rich.console import Console

from experiments import checkpoint, schema
from experiments.record import Run
from experiments.task import Task
from jaxrnn import train

# Steps whose average loss the bar shows and `metrics.jsonl` holds: one batch alone is noise.
AVERAGED = 20


def make_optimizer(config: schema.Optimizer) -> optax.GradientTransformation:
    """Clipping by global norm, then Adam with a linear rise and a cosine fall of its rate."""
    steps = max(config.steps, 1)
    rise = min(round(config.warmup * steps), steps - 1)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if rise else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=rise,
        decay_steps=steps,
        end_value=config.learning_rate * config.final_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adam(rate, b2=config.second_moment),
    )


def fit(
    run: Run, console: Console, config: schema.Experiment, task: Task
) -> tuple[Any, dict[str, float]]:
    """Trains, and leaves metrics, curves and checkpoints in the run's folder.

    At every evaluation, the beginning's too, there is a checkpoint. Where the host's CPU is several
    devices, the batches are split over them; the parameters that are evaluated, saved and returned
    lie on the first one, for what reads them runs where they lie.

    However the loop ends, by its last step, by Ctrl-C (which waits for the step in hand) or by a
    loss that is no number, the parameters before that step are saved and the curves drawn. Only an
    error inside a step, which has taken the parameters by then, leaves the last evaluation's.

    Returns:
      The parameters, and the last evaluation.

    Raises:
      FloatingPointError: if the loss or the gradient is not finite. The parameters that are saved
        are those before that step.
      KeyboardInterrupt: after Ctrl-C.
    """
    optimizer, steps = make_optimizer(config.optimizer), config.optimizer.steps
    step = train.make_step(jax.value_and_grad(task.loss_fn, has_aux=True), optimizer)
    learner = train.init_learner(task.init(jax.random.key(config.seed)), optimizer)
    batches = task.batches(learner.params)
    due = {round(steps * i / config.evaluations) for i in range(config.evaluations + 1)}
    done, saved, results = 0, -1, {}
    average, state, training = math.nan, None, 0.0
    bar = _bar(console, task)

    def save() -> int:
        checkpoint.save(run.folder, done, _on_one_device(learner.params))
        return done

    try:
        with _interrupts() as interrupted, bar:
            shown = bar.add_task(
                "training", total=steps, loss=math.nan, rate=0.0, extra=""
            )
            while True:
                if done in due:
                    results = task.evaluate(_on_one_device(learner.params))
                    run.log(done, **results)
                    words = ", ".join(f"{k} {v:.4f}" for k, v in results.items())
                    bar.console.print(f"step {done}/{steps}: {words}")
                    saved = save()
                if done == steps:
                    break
                if interrupted():
                    raise KeyboardInterrupt
                began = run.seconds
                fresh, batch = next(batches)
                learner, state, metrics = step(
                    learner, state if fresh is None else fresh, batch
                )
                # Reading the loss waits for the step, so that no two are ever in flight.
                loss, norm = float(metrics.loss), float(metrics.grad_norm)
                training += run.seconds - began
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise FloatingPointError(
                        f"step {done + 1}: the loss is {loss}, the gradient's norm {norm}. The "
                        "parameters from before this step are saved. Lower "
                        "`optimizer.learning_rate` or `optimizer.clip`, or look at the data."
                    )
                done += 1
                first = math.isnan(average)
                average = (
                    loss if first else average + (loss - average) / min(done, AVERAGED)
                )
                rate = done * task.per_step / training
                averages = task.shown(average)
                if done % AVERAGED == 0 or done in due:
                    speed = {f"{task.unit}_per_second": round(rate, 1)}
                    run.log(done, loss=average, **averages, grad_norm=norm, **speed)
                extra = " ".join(f"{k} {v:.3f}" for k, v in averages.items())
                bar.update(shown, advance=1, loss=average, rate=rate, extra=extra)
    finally:
        if saved != done and not any(
            a.is_deleted() for a in jax.tree.leaves(learner.params)
        ):
            save()
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

    elsewhere = threading.current_thread() is not threading.main_thread()
    if elsewhere or before in (signal.SIG_IGN, None):
        # Only the main thread may set a handler, and gets Ctrl-C; who ignores it means to.
        yield lambda: False
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
