"""Prints GFLOP/s of the products of a recurrent step and of a chunk, in two tables.

In a loop, B rows times a matrix `[K, N]` that is stored directly or as its transpose:
the measurements behind `jaxrnn.ops.products.stored_for_loop`. Then by the rows of a
chunk: below some number of rows a product runs on one core.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import command, measure, tables
from jaxrnn.ops.products import matmul

LOOP = 20  # products in a program
HIDDEN = (64, 128, 256, 512, 1024)
BATCHES = (16, 32, 64, 128)
ROWS = (128, 256, 512, 1024, 2048)


def speeds(rows: int, columns: int, width: int) -> list[str]:
    """Returns those of `[rows, columns]` by `[columns, width]`, stored in both ways.

    Each of a program's products waits for the one before.
    """

    def products(transposed, x, w):
        def over_step(carry, _):
            y = matmul(x + carry, w.T if transposed else w)
            return 1e-9 * y[:1, :1], None

        return lax.scan(over_step, jnp.zeros((1, 1)), length=LOOP)[0]

    calls = {}
    for name, shape in (("", (columns, width)), ("transposed", (width, columns))):
        arguments = jnp.ones((rows, columns)), jnp.ones(shape)
        program = jax.jit(partial(products, bool(name))).lower(*arguments).compile()
        calls[name] = partial(program, *arguments)
    flops = 2 * rows * columns * width * LOOP
    timings = measure.interleaved(calls, rounds=7).values()
    return [f"{timing.gflops(flops):.0f}" for timing in timings]


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    command.Parser("profile.products", __doc__).parse_args(argv)
    loops, chunks = [], []
    for hidden in HIDDEN:
        for k, n in ((hidden, 4 * hidden), (4 * hidden, hidden)):
            pairs = [" / ".join(speeds(batch, k, n)) for batch in BATCHES]
            loops.append([f"{k} {n}", *pairs])
        direct = [speeds(rows, hidden, 4 * hidden)[0] for rows in ROWS]
        chunks.append([f"{hidden} {4 * hidden}", *direct])
    console = command.console()
    console.print(measure.machine())
    head = ["K N", *(f"B = {batch}" for batch in BATCHES)]
    console.print(tables.terminal("in a loop: directly / transposed", head, loops))
    head = ["K N", *(f"{rows} rows" for rows in ROWS)]
    console.print(tables.terminal("by the rows of a chunk", head, chunks))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
