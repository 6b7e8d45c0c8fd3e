"""Selection, scaling and reversal of whole trees along their leading axes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PyTree


def with_axes_of(a: Array, leading: Array) -> Array:
    """Returns `leading [*N]` with size 1 for the other axes of a `[*N, ...]`."""
    return leading.reshape(leading.shape + (1,) * (a.ndim - leading.ndim))


def select(where: Array | None, a: PyTree, b: PyTree) -> Any:
    """Returns a where `where [*N]` is True, else b, by leaves; None: True everywhere.

    The leaves of a are `[*N, ...]`; those of b broadcast against them.
    """
    if where is None:
        return a
    return jax.tree.map(lambda a, b: jnp.where(with_axes_of(a, where), a, b), a, b)


def keep(where: Array | None, tree: PyTree) -> Any:
    """Returns leaves `[*N, ...]`, 0 where `where [*N]` is False; None: unchanged."""
    if where is None:
        return tree
    return select(where, tree, jax.tree.map(jnp.zeros_like, tree))


def scale(factor: Array | None, tree: PyTree) -> Any:
    """Returns factor `[*N]` times every leaf `[*N, ...]`, in its dtype; None is 1."""
    if factor is None:
        return tree
    return jax.tree.map(lambda a: (with_axes_of(a, factor) * a).astype(a.dtype), tree)


def flip(tree: PyTree) -> Any:
    """Returns every leaf `[T, ...]` backwards in time."""
    return map_axis(jnp.flip, tree, 0)


def map_axis(
    function: Callable[[Array, Any], Array], tree: PyTree, axis: int | tuple[int, ...]
) -> Any:
    """Returns `function(leaf, axis)` for every leaf `[...]`."""
    return jax.tree.map(lambda a: function(a, axis), tree)
