"""The order of gates in each library's weights: one table, and one permutation."""

from typing import Any, Literal, TypeVar, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

Library = Literal["torch", "flax", "equinox", "keras", "haiku", "onnx"]

# The blocks along the axis of the gates, in our letters, by our own order. A library
# that is not listed under a cell has our order.
ORDERS: dict[str, dict[Library, str]] = {
    "ifgo": {"haiku": "igfo", "onnx": "iofg"},
    "rzn": {"haiku": "zrn", "keras": "zrn", "onnx": "zrn"},
}

A = TypeVar("A", np.ndarray, Array)


def order_of(gates: str, library: Library) -> str:
    """Returns a library's order of the gates that we order as `gates`.

    `gates` is `LSTMParams.gates.order`, say.

    Raises:
      ValueError: if `library` is unknown.
    """
    if library not in get_args(Library):
        raise ValueError(
            f"`library` must be one of {', '.join(get_args(Library))}, but got "
            f"{library!r}."
        )
    return ORDERS.get(gates, {}).get(library, gates)


def to_library(array: A, gates: str, library: Library, axis: int = -1) -> A:
    """Returns weights, with our gates along `axis`, in a library's order."""
    return permuted(array, gates, order_of(gates, library), axis)


def from_library(array: A, gates: str, library: Library, axis: int = -1) -> A:
    """Returns weights, with a library's gates along `axis`, in our order."""
    return permuted(array, order_of(gates, library), gates, axis)


def permuted(array: A, order: str, wanted: str, axis: int = -1) -> A:
    """Returns the blocks along `axis`, one for each letter of `order`, as `wanted`."""
    if order == wanted:
        return array
    numpy: Any = np if isinstance(array, np.ndarray) else jnp
    blocks = dict(zip(order, numpy.split(array, len(order), axis), strict=True))
    return numpy.concatenate([blocks[gate] for gate in wanted], axis)
