"""Where a program's time goes: `python -m benchmarks.operations CELL T,B,I,H [gradient|forward]`.

    python -m benchmarks.operations lstm 512,16,64,64 gradient --peer scan-hoisted

One line per operation of the optimised program: milliseconds per call of the whole program, times
run, microseconds each. What runs at the same time is counted twice, and so is a loop (`while`)
and what stands in it.
"""

import argparse
import collections
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import contest, ours, peers, problem
from jaxrnn import devices

CALLS = 10
SHOWN = 0.004  # of the program's time: operations below are left out

OPERATION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\S+) ")
SOURCE = re.compile(r'op_name="([^"]*)"')


class Operation(NamedTuple):
    """Of one call: how often it ran, and how long all of that took together."""

    name: str
    runs: int
    milliseconds: float
    shape: str
    source: str


def operations(call: Callable[[], Any], text: str) -> list[Operation]:
    """All operations of a program whose optimised HLO is `text`, the longest first."""
    known = {}
    for line in text.splitlines():
        if match := OPERATION.match(line):
            source = SOURCE.search(line)
            known[match[1]] = match[2], source[1] if source else ""
    spent: collections.Counter[str] = collections.Counter()
    runs: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS):
                jax.block_until_ready(call())
        (trace,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in known:
                        spent[event.name] += event.duration_ns
                        runs[event.name] += 1
    return [
        Operation(name, runs[name] // CALLS, total / CALLS / 1e6, *known[name])
        for name, total in spent.most_common()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cell", choices=problem.CELLS)
    parser.add_argument("shape", help='T,B,I,H, such as "512,16,64,64"')
    parser.add_argument("kind", choices=contest.KINDS, nargs="?", default="gradient")
    parser.add_argument("--store", help="of jaxrnn.unroll")
    parser.add_argument("--chunk", type=int, help="of jaxrnn.unroll")
    parser.add_argument(
        "--peer", choices=peers.MODELS, help="another library's program"
    )
    arguments = parser.parse_args(argv)
    devices.one_per_core()
    of = problem.make(
        arguments.cell, problem.Shape(*map(int, arguments.shape.split(",")))
    )
    model = ours.model(of, store=arguments.store, chunk=arguments.chunk)
    model = peers.MODELS[arguments.peer](of) if arguments.peer else model
    if model is None:
        parser.error(f"{arguments.peer} has no such cell")
    program = contest.compiled(model, of.xs, (arguments.kind,)).programs[arguments.kind]
    jax.block_until_ready(program.call())
    began = time.perf_counter()
    for _ in range(CALLS):
        jax.block_until_ready(program.call())
    whole = 1e3 * (time.perf_counter() - began) / CALLS
    print(f"{whole:.2f} ms a call")
    for operation in operations(program.call, program.text):
        if operation.milliseconds > SHOWN * whole:
            each = 1e3 * operation.milliseconds / max(1, operation.runs)
            print(
                f"{operation.milliseconds:8.3f} ms {operation.runs:6d} x {each:8.1f} us  "
                f"{operation.name:40s} {operation.shape[:36]:36s} {operation.source[-60:]}"
            )


if __name__ == "__main__":
    main()
