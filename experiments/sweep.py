"""Runs configs over a grid of settings, one after the other. Prints tables of results.

    python -m experiments.sweep configs/truncation/recall_stream_lstm.toml \\
        --over lag="6 12" --over window="8 16"
    python -m experiments.sweep configs/recall/*.toml \\
        --over lag="10 20 40" --over seed="0 1 2"
    python -m experiments.sweep configs/truncation/windows_lstm.toml \\
        --over window,optimizer.batch_size="5,320 25,64 100,16" --over seed="0 1 2"

Settings of one `--over` move together, those of several make a product. Several configs
are the first axis. A table gives the mean over seeds and, after ±, their standard
deviation. With two settings beside the seed, the second makes the columns.

The sweep's folder holds the runs, `sweep.json` with the place of each in the grid, and
RESULT.png for every result that can be drawn against numbers.

With `--resume auto`, the newest sweep over these configs goes on, unless all of its
runs have ended: those that have are not run again, and one that was stopped goes on
where it was.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from experiments import commands
from experiments.analysis import grid, tables
from experiments.config.load import ConfigError, load_config
from experiments.run import NEVER, QUICK, make_console, run
from experiments.runs import folder as runs
from experiments.runs.folder import Outcome
from experiments.tasks import Config

if TYPE_CHECKING:
    from rich.console import Console

AUTO = "auto"
# Runs whose changes an error names.
SHOWN = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 1 if a run failed or was interrupted; 2 if none began."""
    parser = commands.make_parser("sweep", __doc__)
    parser.add_argument("configs", nargs="+", help="TOML files, see configs/")
    help = "keys of the config, and all their values; may be repeated"
    parser.add_argument(
        "--over", metavar="KEYS=VALUES", action="append", default=[], help=help
    )
    commands.add_settings(parser)
    commands.add_root(parser, "where the sweep's folder is made")
    help = (
        "`auto` goes on with the newest sweep over these configs that has not ended, "
        "if there is one; a folder goes on with that sweep (default: never)"
    )
    parser.add_argument(
        "--resume", metavar="auto|never|SWEEP", default=NEVER, help=help
    )
    arguments = parser.parse_args(argv)

    def body() -> int:
        # Read all configs, and find or make the folder.
        axes = [grid.parse_axis(text) for text in arguments.over]
        grid.check_distinct(arguments.configs, axes)
        overrides = [*(QUICK if arguments.quick else ()), *arguments.set]
        trials = list(grid.trials(Config, arguments.configs, axes, overrides))
        console = make_console()
        check(trials)
        paths = [os.path.abspath(path) for path in arguments.configs]
        name = f"{Path(os.path.commonpath(paths)).stem}-sweep"
        date = time.strftime("%Y%m%d-%H%M%S")
        going_on = _asked(arguments.resume, arguments.runs, name, trials)
        folder = going_on or runs.new_folder(arguments.runs, f"{name}-{date}")
        # Run the trials. The index is there from the start, for a sweep that goes on.
        keys = [axis.keys[0] for axis in axes if axis.keys != (grid.SEED,)]
        keys = [grid.CONFIG] * (len(paths) > 1) + keys
        sweep = grid.Sweep(keys, [], len(trials))
        if going_on is None:
            sweep.save(folder)
        try:
            for number, trial in enumerate(trials):
                outcome = _outcome(trial, folder / str(number), console)
                if outcome.error:
                    print(f"error: {outcome.error}", file=sys.stderr)
                where = outcome.folder.relative_to(folder) if outcome.folder else ""
                sweep.points.append(
                    grid.Point(trial.place, outcome.results, str(where))
                )
                sweep.save(folder)
        except KeyboardInterrupt:
            print("Interrupted. The tables are of the runs that ended.")
        # Print and draw the results.
        for result, values in sweep.results().items():
            print(f"\n{result}\n\n{tables.by_place(sweep.keys, values, result)}")
            grid.plot(sweep.keys, values, folder / f"{result}.png")
        print(f"\nAll files are in {folder}")
        return 0 if sweep.has_ended else commands.FAILED

    return commands.carry_out(body)


def _asked(
    resume: str, root: Path, name: str, trials: Sequence[grid.Trial]
) -> Path | None:
    """Returns the folder of the sweep to go on with, or None for a new one.

    Raises:
      ConfigError: if what is named is no sweep, or it is a sweep of other runs.
    """
    if resume == NEVER:
        return None
    folder = runs.newest(root, name, grid.INDEX) if resume == AUTO else Path(resume)
    if folder is None:
        return None
    begun = grid.load_sweep(folder)
    if resume == AUTO and begun.has_ended:
        return None
    changed = _changes(folder, trials)
    if begun.planned != len(trials):
        changed = [f"it has {begun.planned} runs, not {len(trials)}", *changed]
    if changed:
        raise ConfigError(
            f"the sweep {folder} cannot go on: {'; '.join(changed)}. Ask for the same "
            "runs, or begin anew: --resume never."
        )
    return folder


def _changes(folder: Path, trials: Sequence[grid.Trial]) -> list[str]:
    """Returns, in words, how trials differ from the runs in a sweep's folder."""
    from experiments.training.saving import changes

    found = []
    for number, trial in enumerate(trials):
        for file in (folder / str(number)).glob(f"*/{runs.CONFIG}"):
            then = msgspec.to_builtins(load_config(Config, file))
            changed = changes(then, trial.config)
            found += [f"run {number}: {', '.join(changed)}"] if changed else []
    return found[:SHOWN]


def _outcome(trial: grid.Trial, root: Path, console: "Console") -> Outcome:
    """Runs a trial in a new folder under `root`, unless it has ended.

    One that has a checkpoint there goes on from it.
    """
    there = runs.newest(root, trial.name)
    results = {} if there is None else runs.results(there)
    if results:
        return Outcome(there, results)
    begun = runs.unfinished(root, trial.name)
    return run(trial.config, root, trial.name, console, begun)


def check(trials: Sequence[grid.Trial]) -> None:
    """Raises, before the first trial runs, if a cell is unknown or memory is short."""
    from experiments.training import memory

    for trial in trials:
        memory.check_fits(trial.config)


if __name__ == "__main__":
    sys.exit(main())
