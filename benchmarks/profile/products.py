"""Prints GFLOP/s of the products of a recurrent step and of a chunk, in two tables.

In a loop, B rows times a matrix `[K, N]`: with the matrix as the right operand, stored
directly or as its transpose, and with its transpose as the left operand. These are the
measurements behind `jaxrnn.ops.products.is_left_operand` and `stored_for_loop`. Then by
the rows of a chunk: below some number of rows a product runs on one core.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks import command, measure, tables

LOOP = 20  # products in a program
HIDDEN = (64, 128, 256, 512, 1024)
BATCHES = (16, 32, 64, 128)
ROWS = (128, 256, 512, 1024, 2048)


def _left(x: Array, w_t: Array) -> Array:
    """Returns x w from the transpose of w, as the left operand."""
    product = lax.dot_general(w_t, x, (((1,), (1,)), ((), ())))
    return lax.optimization_barrier(product).T


# How x `[B, K]` is multiplied, and whether the matrix is stored as its transpose.
WAYS: dict[str, tuple[Callable[[Array, Array], Array], bool]] = {
    "directly": (jnp.matmul, False),
    "transposed": (lambda x, w_t: x @ w_t.T, True),
    "on the left": (_left, True),
}


def speeds(rows: int, columns: int, width: int, ways: Sequence[str]) -> list[str]:
    """Returns those of `[rows, columns]` by `[columns, width]`, for each of the ways.

    Each of a program's products waits for the one before.
    """

    def products(multiply, x, w):
        def over_step(carry, _):
            return 1e-9 * multiply(x + carry, w)[:1, :1], None

        return lax.scan(over_step, jnp.zeros((1, 1)), length=LOOP)[0]

    calls = {}
    for name in ways:
        multiply, transposed = WAYS[name]
        shape = (width, columns) if transposed else (columns, width)
        arguments = jnp.ones((rows, columns)), jnp.ones(shape)
        program = jax.jit(partial(products, multiply)).lower(*arguments).compile()
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
            found = [" / ".join(speeds(batch, k, n, [*WAYS])) for batch in BATCHES]
            loops.append([f"{k} {n}", *found])
        direct = [speeds(rows, hidden, 4 * hidden, ["directly"])[0] for rows in ROWS]
        chunks.append([f"{hidden} {4 * hidden}", *direct])
    console = command.console()
    console.print(measure.machine())
    head = ["K N", *(f"B = {batch}" for batch in BATCHES)]
    console.print(tables.terminal(f"in a loop: {' / '.join(WAYS)}", head, loops))
    head = ["K N", *(f"{rows} rows" for rows in ROWS)]
    console.print(tables.terminal("by the rows of a chunk", head, chunks))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
