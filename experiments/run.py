"""Runs an experiment from its config, or goes on with one that was stopped.

    python -m experiments.run configs/shakespeare/shakespeare_lstm.toml --quick
    python -m experiments.run configs/shakespeare/shakespeare_lstm.toml \\
        --set optimizer.steps=100 --resume auto
    python -m experiments.run list
    python -m experiments.run check configs/*/*.toml
    python -m experiments.run CONFIG --coordinator HOST:PORT --process 0 --processes 2

`list` names the configs, and `check` looks for faults of configs without compiling
anything. Faults of a config are found before the run's folder is made, and nearly all
of them before JAX is imported. `--coordinator` trains with several processes, on one
host or many: start the command in each, with a `--process` of its own, or with
`--coordinator auto` under Slurm, Open MPI, Kubernetes or on TPUs.

Exit codes: 0; 1 if the run failed; 2 if it cannot begin as asked; 3 if a step was not
finite; 75 if a signal stopped it. A run that was stopped goes on with `--resume auto`.
"""

import argparse
import contextlib
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from experiments import commands, reading, screen
from experiments.config.load import ConfigError, load_config
from experiments.config.schema import Experiment
from experiments.runs import folder, tensorboard
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
    board: bool = False,
) -> Outcome:
    """Trains, in a new folder under `root`, or goes on in the folder `resume`.

    With `board`, the metrics are written as TensorBoard reads them too. Processes that
    train together call it with the same arguments.

    Raises:
      ConfigError: if the config does not fit the library or the machine, no folder can
        be made, another process works in it, the run in `resume` cannot go on, or
        processes that train together differ.
      Stopped: after a signal. What there is by then is in the folder.
    """
    from experiments.runs.checkpoint import CheckpointError
    from experiments.training import processes

    _check_fits(config)
    try:
        task = processes.everywhere(
            lambda: config.make(lambda words: console.print(words, markup=False)),
            lambda task: {"data.sha256": task.data.get("sha256")},
        )
    except ConfigError:
        raise
    except commands.EXPECTED as error:
        return Outcome(None, {}, commands.describe(error), commands.FAILED)

    def take() -> Run:
        made = Run.create(root, name, config) if resume is None else Run(resume, config)
        made.board = tensorboard.Board(made.folder) if board else None
        return made

    made = processes.take(take, config)
    try:
        first = processes.from_first(lambda: _begin(made, config, task, resume))
        return _train(made, config, task, console, first)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    finally:
        made.close()


def _check_fits(config: Experiment) -> None:
    """Raises if the config does not fit every machine, or is not that of all."""
    from experiments.training import memory, processes

    def check() -> None:
        memory.check_fits(config)
        processes.check_batch(config.optimizer.batch_size)

    def about(_: None) -> dict[str, Any]:
        settings = msgspec.to_builtins(config)
        # Each host may have the data elsewhere: their hash is compared.
        settings.get("data", {}).pop("path", None)
        return settings | {"version": folder.versions()}

    processes.everywhere(check, about)


def _begin(run: Run, config: Experiment, task: Any, resume: Path | None) -> Any:
    """Returns the progress from which to train."""
    from experiments.training import progress, saving

    if resume is not None:
        return saving.restore(run, config, task)
    for file, value in task.artifacts.items():
        run.write_json(file, value)
    return progress.start(config, task)


def _train(
    run: Run, config: Experiment, task: Any, console: "Console", first: Any
) -> Outcome:
    """Trains from a progress on; leaves results, or the reason of a failure."""
    from experiments.training import loop
    from experiments.training.processes import from_first

    try:
        changed = from_first(lambda: run.write_provenance(task.data, _machine()))
        if changed:
            words = f"note: {changed}. The results may differ in their last bits."
            console.print(words, markup=False, highlight=False)
        run.clear_failure()
        trained = loop.train(config, task, run, console, first)
        results = from_first(lambda: run.write_results(trained.results))
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
        from_first(lambda: _show(run, task, trained, console))
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
        "processes": jax.process_count(),
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
    help = "write the metrics as TensorBoard reads them too, below the run's folder"
    parser.add_argument("--tensorboard", action="store_true", help=help)
    _add_processes(parser)
    arguments = parser.parse_args(argv)

    def body() -> int:
        overrides = [*(QUICK if arguments.quick else ()), *arguments.set]
        config = load_config(Config, arguments.config, overrides)
        if arguments.tensorboard:
            tensorboard.check_installed()
        name = Path(arguments.config).stem
        if _given(arguments):
            resume, console = _join(arguments, name)
        else:
            resume = _asked(arguments.resume, arguments.runs, name)
            console = make_console()
        board = arguments.tensorboard
        outcome = run(config, arguments.runs, name, console, resume, board)
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

    if _given(arguments):
        from experiments.training import processes

        return processes.ended(lambda: commands.carry_out(body, commands.FAILED))
    return commands.carry_out(body, commands.FAILED)


def _add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds what connects several processes."""
    group = parser.add_argument_group("several processes")
    help = (
        "where process 0 listens for the others; `auto` takes this and the following "
        "from Slurm, Open MPI, Kubernetes or TPUs"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT|auto", help=help)
    help = "the number of this process, from 0"
    group.add_argument("--process", metavar="ID", type=int, help=help)
    group.add_argument("--processes", metavar="N", type=int, help="how many there are")


def _given(arguments: argparse.Namespace) -> bool:
    """Returns whether several processes are asked for."""
    options = arguments.coordinator, arguments.process, arguments.processes
    return any(option is not None for option in options)


def _join(arguments: argparse.Namespace, name: str) -> tuple[Path | None, "Console"]:
    """Connects the processes. Returns the run to go on with, and the screen."""
    from experiments.training import processes

    console = make_console()
    processes.join(arguments.coordinator, arguments.process, arguments.processes)
    # The first one speaks for all.
    console.quiet = not processes.is_first()
    asked = arguments.resume, arguments.runs, name
    return processes.from_first(lambda: _asked(*asked)), console


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
