"""The problems: a cell, a shape, weights and inputs, the same for every contestant."""

import math
from typing import Any, NamedTuple

import jax
from jax import Array

from jaxrnn import Cell, cells

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
    """What to solve, in float32."""

    cell: str
    """Its name, or that of a network (`networks`)."""
    shape: Shape
    params: Any
    """In jaxrnn's layout; of a network, a tuple of layers of tuples of directions."""
    xs: Array
    """`[T, B, I]`."""


def make(cell: str, shape: Shape) -> Problem:
    """Returns the problem of one cell, `params` being the cell's own."""
    key = jax.random.key(0)
    params = weights(CELLS[cell], key, shape.I, shape.H)
    return Problem(cell, shape, params, inputs(shape))


def weights(cell: Cell, key: Array, input_size: int, hidden_size: int) -> Any:
    """Returns jaxrnn's initial weights, with nonzero biases `b`.

    `b_hn` stays zero: libraries without that bias then compute the same outputs.
    """
    ours, noise = jax.random.split(key)
    params = cell.init(ours, input_size, hidden_size)
    if not hasattr(params, "b"):
        return params
    b = params.b + 0.1 * jax.random.normal(noise, params.b.shape)
    return params._replace(b=b)


def inputs(shape: Shape) -> Array:
    """Returns normal numbers `[T, B, I]`."""
    return jax.random.normal(jax.random.key(1), (shape.T, shape.B, shape.I))


def flops(problem: Problem, kind: str) -> int:
    """Returns the floating-point operations of the matrix products.

    Forward, each matrix takes one product, of two operations for each weight, step and
    sequence. Going back, each product becomes two, for the gradients of its weights and
    of its input; "parameters" of one cell has none of x. Recomputation does not count.
    """
    matrices = [p.size for p in jax.tree.leaves(problem.params) if p.ndim == 2]
    products = sum(matrices) * (1 if kind == "forward" else 3)
    if kind == "parameters":
        products -= problem.params.w_ih.size
    return 2 * math.prod(problem.shape[:2]) * products
