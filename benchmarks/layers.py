"""Times networks of layers and linear recursions beside those of the peers.

    python -m benchmarks.layers                        the second grid: ten minutes
    python -m benchmarks.layers --network bilstm,lru --points "64,32,128,128"

Every library builds a network of its own layers, with the same weights and inputs.
Dropout is off while results are compared, and on while they are timed, the forward pass
too. The peers have no layers of LRU or minGRU: a plain scan and a plain associative
scan, differentiated by JAX, stand in for them.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import command, contest, networks, results, run, tables
from benchmarks.peers.networks import CONTESTANTS
from jaxrnn import devices


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if a contestant failed."""
    parser, everyone = command.Parser("layers", __doc__), [*CONTESTANTS]
    add, known = parser.add_argument, [*networks.NETWORKS]
    add("--network", type=command.names(known), default=known, help=", ".join(known))
    add("--points", type=command.shapes, help='T,B,I,H: "64,32,128,128 9,2,3,4"')
    add("--contestants", type=command.names(everyone), default=everyone)
    add("--rounds", type=command.at_least(2), default=9, help="9")
    add("--seconds", type=command.at_least(0, float), default=4.0, help="4, as in run")
    add("--out", type=Path, default=Path("runs/benchmarks/layers.json"))
    given = parser.parse_args(argv)
    devices.one_per_core()
    problems = (
        networks.make(name, shape)
        for name in given.network
        for shape in given.points or networks.shapes(name)
    )
    makers = {name: CONTESTANTS[name] for name in given.contestants}
    limits = contest.KINDS, given.rounds, given.seconds
    found = run.compare_all(given.out, problems, makers, *limits)
    title = "ours divided by theirs, geometric means"
    summary = tables.summary(found, results.OF_LAYERS)
    command.console().print(tables.terminal(title, *summary))
    return int(any(point["failed"] for point in found))


if __name__ == "__main__":
    raise SystemExit(main())
