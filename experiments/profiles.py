"""How errors fade in all runs of a sweep, before training and after it, side by side.

    python -m experiments.profiles SWEEP_DIR

A panel for each place on the sweep's first axis, a line for each on the second, dotted
before training: the share of the error that is left at every lag, in the geometric mean
over seeds. They are written to `profiles.png` and `profiles.csv` in the sweep's folder.
The tables give the factor by which the error changes per step in the long run, and the
lag at which 1 % of it is left.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import commands, screen
from experiments.analysis.tables import by_place


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = commands.make_parser("profiles", __doc__)
    parser.add_argument("sweep", type=Path, help="the folder of a sweep")
    arguments = parser.parse_args(argv)

    def body() -> int:
        from experiments.analysis import fading

        folder = arguments.sweep
        keys, runs = fading.measure(folder)
        fading.plot(keys, runs, folder / "profiles.png")
        fading.write(keys, runs, folder / "profiles.csv")
        for name, values in fading.by_result(runs).items():
            screen.say(f"\n{name}\n\n{by_place(keys, values, name)}")
        screen.say(f"\nThe files are {folder}/profiles.png and {folder}/profiles.csv")
        return 0

    return commands.carry_out(body)


if __name__ == "__main__":
    sys.exit(main())
