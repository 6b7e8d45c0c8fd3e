"""Times one step of a stream: by `jaxrnn.step`, in `jit`, from a file, in onnxruntime.

    python -m benchmarks.latency                               a minute
    python -m benchmarks.latency --cell gru --sizes "1,8,64 32,64,256"

A call takes one input as a NumPy array and waits for the output as another, as a server
does. The state goes from call to call and stays where the library keeps it: JAX's on
its device, onnxruntime's in NumPy. All start from the same weights in float32, and are
timed only if their first outputs agree. The table, in Markdown, has microseconds per
step: the median over the rounds, and the quartiles.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

import jaxrnn
from benchmarks import command, contest, measure, problem, tables
from benchmarks.contest import Contestant, Maker
from benchmarks.peers import native
from benchmarks.problem import CELLS, Problem, Shape

# B, I, H: a small sensor, a stream of features, a large network, a batch of streams.
SIZES = ((1, 3, 8), (1, 64, 256), (1, 64, 1024), (32, 64, 256))


def plain(given: Problem) -> Contestant:
    """`jaxrnn.step`, which checks its arguments at every call."""
    return _stream(given, partial(jaxrnn.step, CELLS[given.cell], given.params))


def jitted(given: Problem) -> Contestant:
    """The same in `jax.jit`, the parameters part of the program."""
    step = partial(jaxrnn.step, CELLS[given.cell], given.params)
    return _stream(given, jax.jit(step))


def exported(given: Problem) -> Contestant:
    """The same, written by `jaxrnn.export_step` and read again."""
    cell = CELLS[given.cell]
    written = jaxrnn.export_step(cell, given.params, given.shape.I).serialize()
    call = jax.jit(jax.export.deserialize(written).call)

    def step(state: Any, x: np.ndarray) -> tuple[Any, Any]:
        *after, y = call(*state, x)
        return after, y

    return _stream(given, step)


def onnxruntime(given: Problem) -> Contestant:
    """ONNX's operator for the cell, which also takes and returns the state."""
    session, names = native.onnx_session(given, stateful=True)

    def step(state: Any, x: np.ndarray) -> tuple[Any, np.ndarray]:
        arrays = dict(zip(names, state, strict=True))
        ys, *after = session.run(None, {"X": x[None], **arrays})
        return after, ys[0, 0]

    zeros = np.zeros((1, given.shape.B, given.shape.H), np.float32)
    return _stream(given, step, [zeros] * len(names))


CONTESTANTS: Mapping[str, Maker] = {
    "jaxrnn.step": plain,
    "jitted step": jitted,
    "exported step": exported,
    "onnxruntime": onnxruntime,
}


def _stream(
    given: Problem, step: Callable[..., tuple[Any, Any]], state: Any = None
) -> Contestant:
    """Returns calls of `step(state, x) -> (state, y)`, each from the state before."""
    x = np.asarray(given.xs[0])
    if state is None:
        state = CELLS[given.cell].initial_state(given.params, (given.shape.B,))

    def call() -> np.ndarray:
        nonlocal state
        state, y = step(state, x)
        return np.asarray(y)

    return Contestant({"forward": call})


def rows(points: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns a head, and a row for each cell and size."""
    found = []
    for point in points:
        row = [point["cell"], " ".join(map(str, point["shape"][1:]))]
        for name in CONTESTANTS:
            ms = point["contestants"].get(name, {}).get("forward", {}).get("ms")
            low, median, high = (f"{1e3 * one:.3g}" for one in ms) if ms else [""] * 3
            row.append(f"{median} ({low} to {high})" if ms else "")
        found.append(row)
    return ["cell", "B I H", *(f"{name}, µs" for name in CONTESTANTS)], found


def _sizes(text: str) -> list[tuple[int, ...]]:
    found = [tuple(map(int, one.split(","))) for one in text.split()]
    fit = all(len(one) == 3 and min(one) >= 1 for one in found)
    return found if fit else []


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if a contestant failed."""
    parser, cells = command.Parser("latency", __doc__), [*CELLS]
    add, rule = parser.add_argument, 'sizes B,I,H, each at least 1, such as "1,8,64"'
    add("--cell", type=command.names(cells), default=cells, help="such as lstm,gru")
    add("--sizes", type=command.argument(rule, _sizes), default=SIZES, help=rule)
    add("--rounds", type=command.at_least(2), default=25, help="25")
    options = parser.parse_args(argv)
    print(measure.machine(), end="\n\n")
    points = []
    for cell in options.cell:
        for size in options.sizes:
            given = problem.make(cell, Shape(1, *size))
            points.append(
                contest.compare(given, CONTESTANTS, ["forward"], options.rounds)
            )
    print("\n".join(tables.markdown(*rows(points))))
    failed = {name: why for point in points for name, why in point["failed"].items()}
    for name, why in failed.items():
        print(f"{name} is missing: {why}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
