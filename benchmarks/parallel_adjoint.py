"""Times the adjoint as a loop over steps beside the adjoint as an associative scan.

    python -m benchmarks.parallel_adjoint                     some minutes
    python -m benchmarks.parallel_adjoint --cell indrnn,gru --sizes "10000,1,16,32"

Both are the gradient of the sum of squares of the outputs by the parameters, in
float32: `jaxrnn.unroll` and `jaxrnn.unroll_parallel_adjoint`, whose forward pass is the
same loop. They are timed in turn, and only if their gradients agree. Those that need
more memory than `--limit` are compiled, but not run. The table, in Markdown, has
milliseconds, the median over the rounds and the quartiles, and the memory of each.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax

import jaxrnn
from benchmarks import command, contest, measure, problem, tables
from benchmarks.contest import Contestant, Maker
from benchmarks.problem import Problem, Shape
from jaxrnn import cells

# Units of one number, of two, and of all of the state's.
CELLS = {name: cells.CELLS[name] for name in ("indrnn", "lru", "elman", "gru", "lstm")}

# T, B, I, H: one short and one long sequence of few units, a batch, a larger network.
SIZES = ((1000, 1, 16, 16), (10_000, 1, 16, 16), (1000, 16, 16, 16), (1000, 1, 64, 128))


def _contestant(unroll: Any, given: Problem) -> Contestant:
    cell = CELLS[given.cell]

    def outputs(params: Any, xs: Any) -> Any:
        return unroll(cell, params, None, xs)[1]

    return contest.from_outputs(outputs, given.params, given.xs)


CONTESTANTS: Mapping[str, Maker] = {
    "loop": partial(_contestant, jaxrnn.unroll),
    "scan": partial(_contestant, jaxrnn.unroll_parallel_adjoint),
}


def rows(points: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns a head, and a row for each cell and size."""
    found = []
    for point in points:
        row = [point["cell"], " ".join(map(str, point["shape"]))]
        for kind in ("forward", "parameters"):
            for name in CONTESTANTS:
                record = point["contestants"].get(name, {}).get(kind, {})
                low, median, high = (
                    f"{one:.3g}" for one in record.get("ms") or [0] * 3
                )
                row.append(f"{median} ({low} to {high})" if record.get("ms") else "")
        for name in CONTESTANTS:
            record = point["contestants"].get(name, {}).get("parameters", {})
            size = record.get("temporary_bytes")
            row.append("" if size is None else f"{size / 2**20:.3g}")
        found.append(row)
    head = ["cell", "T B I H"]
    head += [
        f"{kind}, {name}, ms"
        for kind in ("forward", "gradient")
        for name in CONTESTANTS
    ]
    return [*head, *(f"gradient, {name}, MiB" for name in CONTESTANTS)], found


def _sizes(text: str) -> list[tuple[int, ...]]:
    found = [tuple(map(int, one.split(","))) for one in text.split()]
    fit = all(len(one) == 4 and min(one) >= 1 for one in found)
    return found if fit else []


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if a contestant failed."""
    parser, names = command.Parser("parallel_adjoint", __doc__), [*CELLS]
    rule = 'sizes T,B,I,H, each at least 1, such as "1000,1,16,16"'
    add = parser.add_argument
    add("--cell", type=command.names(names), default=names, help="such as indrnn,gru")
    add("--sizes", type=command.argument(rule, _sizes), default=SIZES, help=rule)
    add("--rounds", type=command.at_least(2), default=9, help="9")
    add("--limit", type=command.at_least(0, float), default=4.0, help="GiB: 4")
    options = parser.parse_args(argv)
    print(measure.machine(), end="\n\n")
    points = []
    for name in options.cell:
        for size in options.sizes:
            shape = Shape(*size)
            params = problem.weights(CELLS[name], jax.random.key(0), shape.I, shape.H)
            given = Problem(name, shape, params, problem.inputs(shape))
            kinds = ["forward", "parameters"]
            limit = options.limit * 2**30
            points.append(
                contest.compare(given, CONTESTANTS, kinds, options.rounds, limit=limit)
            )
    print("\n".join(tables.markdown(*rows(points))))
    failed = {name: why for point in points for name, why in point["failed"].items()}
    for name, why in failed.items():
        print(f"{name} is missing: {why}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
