"""What is computed: a cell, a shape, weights and inputs, the same for every contestant."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

import jaxrnn

CELLS = {"elman": jaxrnn.elman, "lstm": jaxrnn.lstm, "gru": jaxrnn.gru}
GATES = {"elman": 1, "lstm": 4, "gru": 3}


class Shape(NamedTuple):
    """T steps, B sequences, I inputs, H units."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int


GRID = (
    Shape(128, 32, 128, 256),
    Shape(784, 64, 1, 128),
    Shape(512, 16, 64, 64),
    Shape(128, 64, 512, 512),
    Shape(64, 32, 1024, 1024),
    Shape(25, 16, 512, 512),
    Shape(25, 64, 1024, 1024),
    Shape(150, 16, 256, 256),
    Shape(1000, 1, 64, 64),
    Shape(100, 128, 64, 128),
)
QUICK = (Shape(128, 32, 128, 256), Shape(512, 16, 64, 64))


class Problem(NamedTuple):
    """`cell` by its name, `params` in the library's layout, `xs [T, B, I]`, float32."""

    cell: str
    shape: Shape
    params: Any
    xs: Array


def make(cell: str, shape: Shape) -> Problem:
    """The library's initial weights, with biases that are not zero, and normal inputs.

    The GRU's `b_hn` stays zero, so that libraries without that bias compute the same outputs.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    params = CELLS[cell].init(keys[0], shape.I, shape.H)
    params = params._replace(
        b=params.b + 0.1 * jax.random.normal(keys[1], params.b.shape)
    )
    return Problem(
        cell, shape, params, jax.random.normal(keys[2], (shape.T, shape.B, shape.I))
    )


def flops(cell: str, shape: Shape, kind: str) -> int:
    """Floating-point operations in matrix products, which are all that is counted.

    Forward, G = gates · H columns of pre-activations, each a product with x and one with h:

        2 · T · B · G · (I + H)

    The backward pass has two products for each one forward, for the gradient of its weights and
    for that of its input: so the whole gradient counts three times as much. What a contestant
    computes again, to save memory, does not count.
    """
    forward = 2 * shape.T * shape.B * GATES[cell] * shape.H * (shape.I + shape.H)
    return {"forward": 1, "gradient": 3}[kind] * forward


def ragged(shape: Shape) -> np.ndarray:
    """Lengths `[B]` spread evenly over 1 … T: mean T/2, the longest T, in random order."""
    lengths = np.ceil(np.linspace(1 / shape.B, 1, shape.B) * shape.T).astype(np.int32)
    return np.random.default_rng(0).permutation(lengths)


def resets(shape: Shape) -> np.ndarray:
    """Where episodes start, `[T, B]`: every √T steps on average, at steps drawn for each."""
    return np.random.default_rng(0).random((shape.T, shape.B)) < 1 / math.sqrt(shape.T)
