"""The problems of the second grid: networks of layers, and linear recursions."""

from typing import NamedTuple

import jax

from benchmarks.problem import Problem, Shape, inputs, weights
from jaxrnn import cells


class Network(NamedTuple):
    """Layers of one cell."""

    cell: str
    depth: int = 1
    both_ways: bool = False
    dropout: float = 0.0
    """The probability that a feature is dropped between two layers."""


NETWORKS = {
    "lstm-2-layers": Network("lstm", depth=2),
    "bilstm": Network("lstm", both_ways=True),
    "bigru": Network("gru", both_ways=True),
    "gru-3-layers-dropout": Network("gru", depth=3, dropout=0.2),
    "lru": Network("lru"),
    "mingru": Network("min_gru"),
}
# Their state enters linearly, so that their steps can run in parallel.
LINEAR = ("lru", "min_gru")

SHAPES = [Shape(64, 32, 128, 128), Shape(128, 32, 256, 256), Shape(512, 16, 128, 128)]
LONG = Shape(4096, 2, 128, 128)


def shapes(name: str) -> list[Shape]:
    """Returns the grid's shapes of a network."""
    return [*SHAPES, LONG] if NETWORKS[name].cell in LINEAR else SHAPES


def make(name: str, shape: Shape) -> Problem:
    """Returns the problem of a network."""
    network, key, input_size = NETWORKS[name], jax.random.key(0), shape.I
    layers = []
    for own in jax.random.split(key, network.depth):
        ways = jax.random.split(own, 1 + network.both_ways)
        cell = cells.CELLS[network.cell]
        layers.append(tuple(weights(cell, way, input_size, shape.H) for way in ways))
        input_size = shape.H * len(ways)
    return Problem(name, shape, tuple(layers), inputs(shape))
