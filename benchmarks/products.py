"""How fast the products of a recurrent step and of a chunk are: `python -m benchmarks.products`.

Two tables of GFLOP/s. In a loop, B rows times a matrix `[K, N]` that is stored directly, or
transposed: the measurements behind `jaxrnn.ops.products.stored_for_loop`. Outside, by the rows
of a chunk: below some number a product runs on one core alone.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from jax import lax
from rich.table import Table

from benchmarks import measure, results
from jaxrnn.ops.products import matmul

LOOP = 20  # products in a program
ROUNDS = 7
HIDDEN = (64, 128, 256, 512, 1024)
BATCHES = (16, 32, 64, 128)
ROWS = (128, 256, 512, 1024, 2048)


def gflops(rows: int, columns: int, width: int, transposed: bool = False) -> float:
    """Of `[rows, columns]` times `[columns, width]`, again and again, each waiting for the last."""

    def products(x, w):
        def over_step(carry, _):
            y = matmul(x + carry, w.T if transposed else w)
            return 1e-9 * y[:1, :1], None

        return lax.scan(over_step, jnp.zeros((1, 1)), length=LOOP)[0]

    w = jnp.ones((width, columns) if transposed else (columns, width))
    arguments = jnp.ones((rows, columns)), w
    program = jax.jit(products).lower(*arguments).compile()
    jax.block_until_ready(program(*arguments))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(time.perf_counter() - began)
    flops = 2 * rows * columns * width * LOOP
    return measure.gflops(flops, 1e3 * statistics.median(times))


def main() -> None:
    """The command."""
    console = results.console()
    console.print(measure.machine())
    loops = Table(
        "K N", *(f"B = {b}" for b in BATCHES), title="in a loop: as it is / transposed"
    )
    for hidden in HIDDEN:
        for k, n in ((hidden, 4 * hidden), (4 * hidden, hidden)):
            row = []
            for rows in BATCHES:
                found = (gflops(rows, k, n, transposed) for transposed in (False, True))
                row.append(" / ".join(f"{g:.0f}" for g in found))
            loops.add_row(f"{k} {n}", *row)
    chunk = Table(
        "K N", *(f"{rows} rows" for rows in ROWS), title="by the rows of a chunk"
    )
    for hidden in HIDDEN:
        row = (f"{gflops(rows, hidden, 4 * hidden):.0f}" for rows in ROWS)
        chunk.add_row(f"{hidden} {4 * hidden}", *row)
    for table in (loops, chunk):
        console.print(table)


if __name__ == "__main__":
    main()
