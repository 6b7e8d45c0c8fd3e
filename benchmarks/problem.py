"""The problems: a cell, a shape, weights and inputs, the same for every contestant."""

from typing import Any, NamedTuple

import jax
from jax import Array

from jaxrnn import cells

# The cells that the peers have too.
CELLS = {name: cells.CELLS[name] for name in ("elman", "lstm", "gru")}


class Shape(NamedTuple):
    """T time steps, B sequences, I inputs, H units."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int


_SIZES = (
    *((128, 32, 128, 256), (784, 64, 1, 128), (512, 16, 64, 64), (128, 64, 512, 512)),
    *((64, 32, 1024, 1024), (25, 16, 512, 512), (25, 64, 1024, 1024)),
    *((150, 16, 256, 256), (1000, 1, 64, 64), (100, 128, 64, 128)),
)
GRID = [Shape(*sizes) for sizes in _SIZES]
QUICK = [GRID[0], GRID[2]]


class Problem(NamedTuple):
    """`cell` by its name, `params` in jaxrnn's layout, `xs [T, B, I]`, all float32."""

    cell: str
    shape: Shape
    params: Any
    xs: Array


def make(cell: str, shape: Shape) -> Problem:
    """Returns jaxrnn's initial weights, with nonzero biases, and normal inputs.

    `b_hn` stays zero: libraries without that bias then compute the same outputs.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    params = CELLS[cell].init(keys[0], shape.I, shape.H)
    noise = 0.1 * jax.random.normal(keys[1], params.b.shape)
    xs = jax.random.normal(keys[2], (shape.T, shape.B, shape.I))
    return Problem(cell, shape, params._replace(b=params.b + noise), xs)


def flops(problem: Problem, kind: str) -> int:
    """Returns the floating-point operations of the matrix products.

    Forward, each of G = gates · H columns is a product with x and one with h: together
    2 · T · B · G · (I + H) operations. Going back, each product becomes two, for the
    gradients of its weights and of its input; "parameters" has none of x. Recomputation
    does not count.
    """
    (size, batch, inputs, hidden), columns = problem.shape, problem.params.b.size
    factors = {"forward": (1, 1), "gradient": (3, 3), "parameters": (2, 3)}[kind]
    return 2 * size * batch * columns * (factors[0] * inputs + factors[1] * hidden)
