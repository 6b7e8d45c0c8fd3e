"""A training step on one device, and on the devices of a host in both ways to split it.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --points "64,16,512,512" --out FILE.json
    python -m benchmarks.scaling --table FILE.json PAGE.md    # a table of what it left

An LSTM is trained by plain gradient descent on the sum of its squared outputs: on the
first device, with the batch split over all of them (`jaxrnn.train.make_step`), and with
the units split over them (`jaxrnn.sharding`). In the first steps from the same weights
the losses must agree; then all take turns. There is a device for each core.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import jaxrnn
from benchmarks import command, measure, problem, results, tables
from benchmarks.problem import CELLS, Shape
from jaxrnn import Cell, devices, sharding, train

WAYS = ("one device", "batch split", "units split")
POINTS = [Shape(*sizes) for sizes in ((64, 16, 256, 256), (64, 64, 256, 256))]
POINTS += [Shape(*sizes) for sizes in ((32, 16, 1024, 1024), (16, 16, 2048, 2048))]
RATE = 1e-6  # small: the sum of squares of all outputs has a large gradient
STEPS, TOLERANCE = 3, 1e-4  # the losses compared, and their relative difference


def trainer(way: str, cell: Cell, params: Any, xs: Any) -> measure.Call:
    """Returns a call that trains for one step, and returns its loss `[]`."""
    all_devices, optimizer = jax.devices(), optax.sgd(RATE)
    over = all_devices if way == "batch split" else all_devices[:1]
    if way == "units split":
        cell = sharding.hidden_sharded(cell, Mesh(np.array(all_devices), ("m",)), "m")
        params = sharding.shard_params(cell, params)

    def loss_fn(params: Any, state: Any, xs: Any) -> tuple[Any, Any]:
        return jnp.sum(jaxrnn.unroll(cell, params, None, xs)[1] ** 2), state

    step = train.make_step(jax.value_and_grad(loss_fn, has_aux=True), optimizer, over)
    learner = train.init_learner(params, optimizer)

    def call() -> Any:
        nonlocal learner
        learner, _, metrics = step(learner, None, xs)
        return metrics.loss

    return call


def compare(cell: str, shape: Shape, rounds: int) -> dict[str, Any]:
    """Returns milliseconds of a step by way, and how far the losses differ."""
    given, calls, losses = problem.make(cell, shape), {}, {}
    for way in WAYS:
        calls[way] = trainer(way, CELLS[cell], given.params, given.xs)
        losses[way] = np.array([calls[way]() for _ in range(STEPS)])
    first = losses[WAYS[0]]
    found = {}
    for way, timing in measure.interleaved(calls, rounds).items():
        difference = float(np.max(np.abs(losses[way] / first - 1)))
        found[way] = {"difference": difference, "ms": [*timing]}
    count = len(jax.devices())
    return {"cell": cell, "shape": [*shape], "devices": count, "contestants": found}


def rows(points: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns a head and a row for each point."""
    found = []
    for point in points:
        row = [point["cell"], " ".join(map(str, point["shape"])), str(point["devices"])]
        for record in point["contestants"].values():
            low, median, high = record["ms"]
            row.append(f"{median:.3g} ({low:.3g} to {high:.3g})")
        found.append(row)
    return ["cell", "T B I H", "devices", *(f"{way}, ms" for way in WAYS)], found


def page(found: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of the table, under what made it."""
    facts = found["machine"]
    yield "Made by `python -m benchmarks.scaling --out benchmarks/results/scaling.json`"
    yield f"on {facts['cores']} cores of {facts['processor']},"
    yield f"Python {facts['python']}, JAX {facts['versions']['jax']}."
    yield "Medians and quartiles over the rounds."
    yield ""
    yield from tables.markdown(*rows(found["points"]))


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if the losses are not the same."""
    parser, cells = command.Parser("scaling", __doc__), [*CELLS]
    add = parser.add_argument
    add("--cell", type=command.names(cells), default=["lstm"], help="such as lstm,gru")
    add("--points", type=command.shapes, default=POINTS, help='T,B,I,H: "9,2,3,4"')
    add("--rounds", type=command.at_least(2), default=9, help="9")
    add("--out", type=Path, default=Path("runs/benchmarks/scaling.json"))
    add("--table", type=Path, nargs=2, metavar=("JSON", "PAGE"), help="only write it")
    given = parser.parse_args(argv)
    if given.table:
        source, target = given.table
        found = json.loads(source.read_text(encoding="utf-8"))
        target.write_text("\n".join(page(found)) + "\n", encoding="utf-8")
        return 0
    devices.one_per_core()
    found = {"machine": measure.machine(), "points": []}
    for cell in given.cell:
        for shape in given.points:
            found["points"].append(compare(cell, shape, given.rounds))
            results.write(given.out, found)
    command.console().print(tables.terminal("a training step", *rows(found["points"])))
    differences = [
        record["difference"]
        for point in found["points"]
        for record in point["contestants"].values()
    ]
    return int(max(differences) > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
