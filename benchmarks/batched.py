"""Networks of one size side by side: a loop for each, or one loop of batched products.

    python -m benchmarks.batched
    python -m benchmarks.batched --cell gru --members 2 --points "128,32,64,64"

Two directions of a layer, or the members of an ensemble, read the same inputs with
parameters of their own. The table gives milliseconds of the whole gradient and of the
forward pass: one call of `unroll` for each network, one call under `vmap` over their
parameters, and the ratio.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxrnn
from benchmarks import command, measure, tables
from benchmarks.problem import CELLS, Shape

POINTS = [Shape(*sizes) for sizes in ((128, 1, 32, 64), (128, 32, 64, 64))]
POINTS += [Shape(*sizes) for sizes in ((100, 32, 256, 256), (25, 16, 512, 512))]


def calls(cell: str, members: int, shape: Shape) -> dict[str, measure.Call]:
    """Returns the compiled gradients and forward passes, by name."""
    size, batch, inputs, hidden = shape
    chosen, keys = CELLS[cell], jax.random.split(jax.random.key(0), members)
    apart = [chosen.init(key, inputs, hidden) for key in keys]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart)
    xs = jax.random.normal(jax.random.key(1), (size, batch, inputs))

    def one(params: Any, xs: Any) -> Any:
        return jaxrnn.unroll(chosen, params, None, xs)[1]

    def of_each(params: list[Any], xs: Any) -> Any:
        return jnp.stack([one(p, xs) for p in params])

    def loss(outputs: Any, params: Any, xs: Any) -> Any:
        return jnp.sum(outputs(params, xs) ** 2)

    at_once = jax.vmap(one, in_axes=(0, None))
    found = {}
    for name, outputs, params in (
        ("apart", of_each, apart),
        ("together", at_once, together),
    ):
        gradient = jax.jit(jax.grad(jax.tree_util.Partial(loss, outputs), (0, 1)))
        forward = jax.jit(outputs)
        found[f"gradient {name}"] = lambda f=gradient, p=params: f(p, xs)
        found[f"forward {name}"] = lambda f=forward, p=params: f(p, xs)
    return found


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser, cells = command.Parser("batched", __doc__), ["lstm", "gru"]
    add = parser.add_argument
    add("--cell", type=command.names([*CELLS]), default=cells, help="lstm,gru")
    add("--members", type=command.sizes, default=[2, 8], help="networks: 2,8")
    add("--points", type=command.shapes, default=POINTS, help='T,B,I,H: "9,2,3,4"')
    add("--rounds", type=command.at_least(2), default=9, help="9")
    given = parser.parse_args(argv)
    header = ["cell", "T B I H", "networks", "gradient ms", "ratio"]
    rows = []
    for cell in given.cell:
        for shape in given.points:
            for members in given.members:
                found = measure.interleaved(calls(cell, members, shape), given.rounds)
                ms = {name: timing.median for name, timing in found.items()}
                row = [cell, " ".join(map(str, shape)), str(members)]
                for kind in ("gradient", "forward"):
                    first, second = ms[f"{kind} apart"], ms[f"{kind} together"]
                    row += [f"{first:.2f} / {second:.2f}", f"{second / first:.2f}"]
                rows.append(row)
    header += ["forward ms", "ratio"]
    command.console().print(tables.terminal("apart / together", header, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
