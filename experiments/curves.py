"""How a result changes along training in all runs of a sweep, in one figure.

    python -m experiments.curves SWEEP_DIR [--result test_loss]

A color for each place on the sweep's first axis, a panel for each on the second, a line
for each run. Dotted lines are losses that the task knows exactly. They are written to
`curves.png` and `curves.csv` in the sweep's folder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import commands


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = commands.make_parser("curves", __doc__)
    parser.add_argument("sweep", type=Path, help="the folder of a sweep")
    help = "a result of its runs (default: test_loss)"
    parser.add_argument("--result", default="test_loss", help=help)
    arguments = parser.parse_args(argv)

    def body() -> int:
        from experiments.analysis import curves

        folder, result = arguments.sweep, arguments.result
        found = curves.read(folder, result)
        curves.plot(found, result, folder / "curves.png")
        curves.write(found, result, folder / "curves.csv")
        for name, level in found.levels.items():
            print(f"{name}: {level:.4f}")
        print(f"The files are {folder}/curves.png and {folder}/curves.csv")
        return 0

    return commands.carry_out(body)


if __name__ == "__main__":
    sys.exit(main())
