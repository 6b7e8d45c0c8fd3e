"""Times jaxrnn and its peers, whole gradient and forward alone, on the same problems.

    python -m benchmarks.run                  two shapes, the main peers: three minutes
    python -m benchmarks.run --full           the whole grid, everyone in float32
    python -m benchmarks.run --points 300,8,32,96 --cell gru --contestants jaxrnn,scan
    python -m benchmarks.run --full --contestants jaxrnn,jaxrnn-ragged,jaxrnn-resets

All contestants have the same weights and inputs, in float32. Programs are timed only if
they agree with the first contestant's or solve another equation; the table names these.
"""

import gc
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import command, contest, measure, peers, problem, results, tables
from jaxrnn import devices

MAIN = ["jaxrnn", "jaxrnn-cores", "flax-nnx", "scan-hoisted", "checkpoint", "pytorch"]
# The grid leaves out the contestants whose names end so.
APART = ("bfloat16", "ragged", "resets", "from-step")
SECONDS = 5.0  # quick: after these no round of a point and kind begins, save the first


def parse(argv: Sequence[str] | None) -> Any:
    """Reads the arguments."""
    parser = command.Parser("run", __doc__)
    add, cells, everyone = parser.add_argument, [*problem.CELLS], [*peers.CONTESTANTS]
    add("--full", action="store_true", help="the whole grid, everyone in float32")
    add("--cell", type=command.names(cells), default=cells, help="such as lstm,gru")
    add("--points", type=command.shapes, help='T,B,I,H: "25,16,512,512 9,2,3,4"')
    add("--contestants", type=command.names(everyone), help=", ".join(everyone))
    add("--rounds", type=command.at_least(2), default=9, help="9")
    add("--seconds", type=command.at_least(0, float), help="per point and kind")
    add("--out", type=Path, help="default: runs/benchmarks/quick.json or full.json")
    options = parser.parse_args(argv)
    in_float32 = [name for name in everyone if not name.endswith(APART)]
    contestants, points, seconds = MAIN, problem.QUICK, SECONDS
    if options.full:
        contestants, points, seconds = in_float32, problem.GRID, math.inf
    options.contestants = options.contestants or contestants
    options.points = options.points or points
    options.seconds = seconds if options.seconds is None else options.seconds
    name = "full" if options.full else "quick"
    options.out = options.out or Path(f"runs/benchmarks/{name}.json")
    return options


def compare_all(
    out: Path,
    problems: Iterable[problem.Problem],
    makers: dict[str, contest.Maker],
    *limits: Any,
) -> list[results.Point]:
    """Compares on every problem, shows its table, and writes the file after each."""
    found: list[results.Point] = []
    machine, console = measure.machine(), command.console()
    results.write(out, {"machine": machine, "points": found})
    console.print(machine)
    for one in problems:
        found.append(contest.compare(one, makers, *limits))
        results.write(out, {"machine": machine, "points": found})
        console.print(tables.contestants(found[-1]))
        jax.clear_caches()
        gc.collect()  # the programs and their buffers, before the next point's
    console.print(f"All of it is in {out}.")
    return found


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if a contestant failed."""
    options = parse(argv)
    devices.one_per_core()
    points = [(cell, shape) for cell in options.cell for shape in options.points]
    problems = (problem.make(*point) for point in points)
    makers = {name: peers.CONTESTANTS[name] for name in options.contestants}
    limits = contest.KINDS, options.rounds, options.seconds
    found = compare_all(options.out, problems, makers, *limits)
    title = "ours divided by theirs, geometric means"
    command.console().print(tables.terminal(title, *tables.summary(found)))
    return int(any(point["failed"] for point in found))


if __name__ == "__main__":
    raise SystemExit(main())
