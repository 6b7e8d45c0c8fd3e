"""Prints where the time of one program goes, operation by operation.

    python -m benchmarks.profile.operations lstm 512,16,64,64 gradient
    python -m benchmarks.profile.operations gru 512,16,64,64 --contestant scan-hoisted

One line per operation of the optimized program: milliseconds per call of the program,
how often it ran, microseconds each. Operations that run at the same time are counted
twice, and so are a loop (`while`) and its body.
"""

import collections
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import command, contest, measure, peers, problem
from benchmarks.peers import ours
from jaxrnn import devices

CALLS = 10
SHOWN = 0.004  # the share of the program's time from which an operation is printed
OPERATION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\S+) (?:.*op_name=\"([^\"]*)\")?")


class Operation(NamedTuple):
    """One operation: how often it ran in a call, and how long in all."""

    name: str
    runs: int
    milliseconds: float
    shape: str
    source: str


def operations(program: Any, *arguments: Any) -> list[Operation]:
    """Returns the operations of a compiled program, the longest first."""
    matches = filter(None, map(OPERATION.match, program.as_text().splitlines()))
    known = {match[1]: (match[2], match[3] or "") for match in matches}
    spent = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS):
                jax.block_until_ready(program(*arguments))
        (trace,) = Path(folder).rglob("*.xplane.pb")
        planes = jax.profiler.ProfileData.from_file(str(trace)).planes
        for row in [row for plane in planes for row in plane.lines]:
            for event in row.events:
                spent[event.name].append(event.duration_ns / 1e6 / CALLS)
    found = [
        Operation(name, len(spent[name]) // CALLS, sum(spent[name]), *known[name])
        for name in spent.keys() & known.keys()
    ]
    return sorted(found, key=lambda o: o.milliseconds, reverse=True)


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser, everyone = command.Parser("profile.operations", __doc__), peers.CONTESTANTS
    add = parser.add_argument
    add("cell", choices=problem.CELLS)
    add("shape", type=command.shapes, help="T,B,I,H: 512,16,64,64")
    add("kind", choices=contest.KINDS, nargs="?", default="gradient")
    add("--contestant", choices=everyone, default="jaxrnn")
    add("--chunk", type=command.at_least(1), help="of jaxrnn.unroll")
    given = parser.parse_args(argv)
    devices.one_per_core()
    make = everyone[given.contestant]
    make = partial(ours.unrolled, chunk=given.chunk) if given.chunk else make
    made = make(problem.make(given.cell, given.shape[0]))
    if made is None or not made.arguments or given.kind not in made.functions:
        parser.error(f"{given.contestant} has no such program in JAX: see --help")
    program = jax.jit(made.functions[given.kind]).lower(*made.arguments).compile()
    calls = {"": lambda: program(*made.arguments)}
    whole = measure.interleaved(calls, rounds=5)[""].median
    print(f"{whole:.2f} ms a call")
    for name, runs, spent, shape, source in operations(program, *made.arguments):
        if spent > SHOWN * whole:
            each = f"{spent:8.3f} ms {runs:6d} x {1e3 * spent / max(1, runs):8.1f} us"
            print(f"{each}  {name:40s} {shape[:36]:36s} {source[-60:]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
