"""Exact gradients of long sequences: time and memory of every way to write them.

    python -m benchmarks.long                          an LSTM, T = 10³ and 10⁴
    python -m benchmarks.long --lengths 1000,1000000   ten minutes
    python -m benchmarks.long --contestants jaxrnn-checkpointed,windows

All contestants compute the sum of squares of the outputs of one sequence (B = 1) and
its gradient by the parameters: every step has a loss, and no output need be kept.
Contestants that need more memory than `--limit` are compiled, so that their memory is
known, but not run.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks import command, peers, run
from benchmarks.problem import CELLS, Shape, make


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if a contestant failed."""
    parser, everyone = command.Parser("long", __doc__), [*peers.LONG]
    add, size = parser.add_argument, command.at_least(1)
    add("--cell", choices=[*CELLS], default="lstm")
    add("--lengths", type=command.sizes, default=[1000, 10_000], help="T: 1000,10000")
    add("--inputs", type=size, default=64, help="I: 64")
    add("--hidden", type=size, default=64, help="H: 64")
    add("--contestants", type=command.names(everyone), default=everyone)
    add("--rounds", type=command.at_least(2), default=5, help="5")
    add("--limit", type=command.at_least(0, float), default=4.0, help="GiB: 4")
    add("--out", type=Path, default=Path("runs/benchmarks/long.json"))
    given = parser.parse_args(argv)
    shapes = [Shape(T, 1, given.inputs, given.hidden) for T in given.lengths]
    problems = (make(given.cell, shape) for shape in shapes)
    makers = {name: peers.LONG[name] for name in given.contestants}
    limits = ("parameters",), given.rounds, math.inf, given.limit * 2**30
    found = run.compare_all(given.out, problems, makers, *limits)
    return int(any(point["failed"] for point in found))


if __name__ == "__main__":
    raise SystemExit(main())
