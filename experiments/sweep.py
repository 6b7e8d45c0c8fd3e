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
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments import commands
from experiments.analysis import grid, tables
from experiments.run import QUICK, make_console, run
from experiments.runs.folder import new_folder
from experiments.tasks import Config


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
    arguments = parser.parse_args(argv)

    def body() -> int:
        axes = [grid.parse_axis(text) for text in arguments.over]
        grid.check_distinct(arguments.configs, axes)
        overrides = [*(QUICK if arguments.quick else ()), *arguments.set]
        trials = list(grid.trials(Config, arguments.configs, axes, overrides))
        console = make_console()
        check(trials)
        paths = [os.path.abspath(path) for path in arguments.configs]
        name = f"{Path(os.path.commonpath(paths)).stem}-sweep"
        folder = new_folder(arguments.runs, f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
        keys = [axis.keys[0] for axis in axes if axis.keys != (grid.SEED,)]
        sweep = grid.Sweep([grid.CONFIG] * (len(paths) > 1) + keys, [])
        try:
            for number, trial in enumerate(trials):
                root = folder / str(number)
                outcome = run(trial.config, root, trial.name, console)
                if outcome.error:
                    print(f"error: {outcome.error}", file=sys.stderr)
                where = outcome.folder.relative_to(folder) if outcome.folder else ""
                sweep.points.append(
                    grid.Point(trial.place, outcome.results, str(where))
                )
                sweep.save(folder)
        except KeyboardInterrupt:
            print("Interrupted. The tables are of the runs that ended.")
        for result, values in sweep.results().items():
            print(f"\n{result}\n\n{tables.by_place(sweep.keys, values, result)}")
            grid.plot(sweep.keys, values, folder / f"{result}.png")
        print(f"\nAll files are in {folder}")
        whole = len(sweep.points) == len(trials)
        return 0 if whole and all(p.results for p in sweep.points) else commands.FAILED

    return commands.carry_out(body)


def check(trials: Sequence[grid.Trial]) -> None:
    """Raises, before the first trial runs, if a cell is unknown or memory is short."""
    from experiments.training import memory

    for trial in trials:
        memory.check_fits(trial.config)


if __name__ == "__main__":
    sys.exit(main())
