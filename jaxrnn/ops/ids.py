"""Inputs of two kinds: vectors `[*N, I]`, or ids `[*N]` that stand for one-hot vectors.

The dtype tells them apart: integers are ids. An id outside 0 … I - 1 stands for zeros.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Integer


def are_ids(xs: Array) -> bool:
    """Returns whether `xs` are ids `[*N]`, not vectors `[*N, I]`."""
    return jnp.issubdtype(xs.dtype, jnp.integer)


def leading_shape(xs: Array) -> tuple[Any, ...]:
    """Returns *N of vectors `[*N, I]` or ids `[*N]`: (T, *B) of a sequence."""
    return xs.shape if are_ids(xs) else xs.shape[:-1]


def indices(ids: Integer[Array, "*N"]) -> Integer[Array, "*N"]:
    """Returns the ids in 32 bits or more, so that every size has a number in them."""
    return ids if ids.dtype.itemsize >= 4 else ids.astype(jnp.int32)


def one_hot(
    ids: Integer[Array, "*N"], size: int, dtype: DTypeLike
) -> Float[Array, "*N I"]:
    """Returns the vectors for which ids stand; I = `size`."""
    return (indices(ids)[..., None] == jnp.arange(size)).astype(dtype)
