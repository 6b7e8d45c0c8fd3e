"""Runs an experiment from its config, or goes on with one that was stopped.

    python -m experiments.run configs/shakespeare/shakespeare_lstm.toml --quick
    python -m experiments.run configs/shakespeare/shakespeare_lstm.toml \\
        --set optimizer.steps=100 --resume auto
    python -m experiments.run list
    python -m experiments.run check configs/*/*.toml

`list` names the configs, and `check` looks for faults of configs without compiling
anything. Faults of a config are found before the run's folder is made, and nearly all
of them before JAX is imported.

Exit codes: 0; 1 if the run failed; 2 if it cannot begin as asked; 3 if a step was not
finite; 75 if a signal stopped it. A run that was stopped goes on with `--resume auto`.
"""

import contextlib
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import commands, reading, screen
from experiments.config.load import ConfigError, load_config
from experiments.config.schema import Experiment
from experiments.runs import folder
from experiments.runs.folder import Outcome, Run
from experiments.tasks import Config

if TYPE_CHECKING:
    from rich.console import Console

# What `--quick` sets, before everything that `--set` does: enough to see that it all
# runs.
QUICK = "optimizer.steps=20", "evaluations=1"
CONFIGS = Path("configs")
NEVER = "never"


def run(
    config: Experiment,
    root: Path,
    name: str,
    console: "Console",
    resume: Path | None = None,
) -> Outcome:
    """Trains, in a new folder under `root`, or goes on in the folder `resume`.

    Raises:
      ConfigError: if the config does not fit the library or the machine, no folder can
        be made, another process works in it, or the run in `resume` cannot go on.
      Stopped: after a signal. What there is by then is in the folder.
    """
    from experiments.runs.checkpoint import CheckpointError
    from experiments.training import memory, progress, saving

    memory.check_fits(config)
    try:
        task = config.make(lambda sentence: console.print(sentence, markup=False))
    except commands.EXPECTED as error:
        return Outcome(None, {}, commands.describe(error), commands.FAILED)
    made = Run.create(root, name, config) if resume is None else Run(resume, config)
    try:
        if resume is None:
            first = progress.start(config, task)
            for file, value in task.artifacts.items():
                made.write_json(file, value)
        else:
            first = saving.restore(made, config, task)
        return _train(made, config, task, console, first)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    finally:
        made.close()


def _train(
    run: Run, config: Experiment, task: Any, console: "Console", first: Any
) -> Outcome:
    """Trains from a progress on; leaves results, or the reason of a failure."""
    from experiments.training import loop

    try:
        changed = run.write_provenance(task.data, _machine())
        if changed:
            words = f"note: {changed}. The results may differ in their last bits."
            console.print(words, markup=False, highlight=False)
        run.clear_failure()
        trained = loop.train(config, task, run, console, first)
        results = run.write_results(trained.results)
    except commands.Stopped as stopped:
        with contextlib.suppress(OSError):
            run.write_failure(str(stopped))
        raise
    except loop.NotFiniteError as error:
        run.write_failure(str(error))
        return Outcome(run.folder, {}, str(error), commands.NOT_FINITE)
    except commands.EXPECTED as error:
        reason = commands.describe(error)
        with contextlib.suppress(OSError):  # the disk may be full
            run.write_failure(reason)
        return Outcome(run.folder, {}, reason, commands.FAILED)
    if trained.signal:
        words = (
            f"{trained.signal} came when the training had ended: no figures, no text."
        )
        screen.tell("note", words)
        return Outcome(run.folder, results)
    with warned("the figures and texts of this run"):
        _show(run, task, trained, console)
    return Outcome(run.folder, results)


def _show(run: Run, task: Any, trained: Any, console: "Console") -> None:
    """Draws the curves, and writes what the trained network can do."""
    from experiments.analysis.figures import plot_metrics

    names = [*task.train_metrics(1.0), *trained.results]
    plot_metrics(run.metrics(), names, run.folder / "curves.png", run.folder.name)
    for file, text in task.finish(trained.params).items():
        run.write(file, text)
        console.rule(file)
        console.print(text, markup=False, highlight=False)
        console.rule()
    if trained.times:
        each, outside = trained.times.values()
        console.print(
            f"{each:.2f} ms a step, of which {outside:.2f} ms were outside the "
            "compiled program",
            highlight=False,
        )


@contextlib.contextmanager
def warned(what: str) -> Iterator[None]:
    """Turns an error into a warning: the results are written, and count."""
    try:
        yield
    except Exception as error:
        screen.tell("warning", f"{what}: {commands.describe(error).splitlines()[0]}")


def _machine() -> dict[str, Any]:
    """Returns what decides the last bits of results, beside versions and data."""
    import jax

    from jaxrnn import devices

    kinds = sorted({device.device_kind for device in jax.devices()})
    return {
        "platform": platform.machine(),
        "cores": devices.cores(),
        "devices": jax.device_count(),
        "kind": ", ".join(kinds),
    }


def make_console() -> "Console":
    """Makes a device of every core, before JAX is used, and returns the screen."""
    from experiments.screen import make_screen
    from jaxrnn import devices

    devices.one_per_core()
    return make_screen()


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if [*argv[:1]] == ["list"]:
        return commands.carry_out(_list)
    if [*argv[:1]] == ["check"]:
        return commands.carry_out(lambda: _check(argv[1:]))
    parser = commands.make_parser("run", __doc__)
    parser.add_argument("config", help="a TOML file, see configs/; or `list`, `check`")
    commands.add_settings(parser)
    commands.add_root(parser, "where the run's folder is made")
    help = (
        "`auto` goes on with the newest run of this config's name that has not ended, "
        "if there is one; a folder goes on with that run (default: never)"
    )
    parser.add_argument("--resume", metavar="auto|never|RUN", default=NEVER, help=help)
    arguments = parser.parse_args(argv)

    def body() -> int:
        overrides = [*(QUICK if arguments.quick else ()), *arguments.set]
        config = load_config(Config, arguments.config, overrides)
        name = Path(arguments.config).stem
        resume = _asked(arguments.resume, arguments.runs, name)
        console = make_console()
        outcome = run(config, arguments.runs, name, console, resume)
        if outcome.error:
            screen.tell("error", outcome.error)
            return outcome.code
        *numbers, (_, seconds) = outcome.results.items()
        words = (f"{k} {'null' if v is None else f'{v:.4f}'}" for k, v in numbers)
        console.print(f"{', '.join(words)}, after {seconds:.0f} s", markup=False)
        console.print(
            f"All files are in {outcome.folder}", markup=False, highlight=False
        )
        return 0

    return commands.carry_out(body, commands.FAILED)


def _asked(resume: str, root: Path, name: str) -> Path | None:
    """Returns the folder of the run to go on with, or None for a new run.

    Raises:
      ConfigError: if the run that is named is none, or has ended.
    """
    if resume == NEVER:
        return None
    if resume == "auto":
        return folder.unfinished(root, name)
    asked = Path(resume)
    if not (asked / folder.CONFIG).exists():
        raise ConfigError(f"`--resume` must be the folder of a run, but got {asked}.")
    if (asked / folder.RESULTS).exists():
        raise ConfigError(f"the run {asked} has ended. Begin another: --resume never.")
    return asked


def _list() -> int:
    """Prints the configs, each with the first sentence of its head."""
    for path in sorted(CONFIGS.rglob("*.toml")):
        try:
            text = reading.read_bytes(path).decode(errors="replace")
        except OSError as error:
            raise ConfigError(f"cannot read the config {path}: {error}") from None
        head = text.partition("\n#\n")[0].replace("#", "")
        screen.say(f"{path}\n    {' '.join(head.split())}")
    return 0


def _check(argv: Sequence[str]) -> int:
    """Reads configs, and estimates their memory."""
    from experiments.training import memory

    parser = commands.make_parser("run check", "Looks for faults of configs.")
    parser.add_argument("configs", nargs="+", help="TOML files, see configs/")
    commands.add_settings(parser)
    arguments = parser.parse_args(argv)
    overrides = [*(QUICK if arguments.quick else ()), *arguments.set]
    for path in arguments.configs:
        config = load_config(Config, path, overrides)
        memory.check_fits(config)
        needs = sum(memory.needed_bytes(config).values())
        size = f"{needs / 2**20:.0f} MiB"
        screen.say(f"{path}: good. It needs at least {size} of memory.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
