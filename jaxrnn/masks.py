"""Masks of sequences of different lengths."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from jaxrnn import checks


def lengths_to_mask(lengths: Int[Array, "*B"], size: int) -> Bool[Array, "T *B"]:
    """Returns the mask `[T, *B]` of sequences of the given lengths `[*B]`, T = `size`.

    Args:
      lengths: integers. A sequence of length 0 is masked throughout; a length above T
        counts as T.
      size: T, static.

    Raises:
      TypeError: if the lengths are not integers, or `size` is not an integer.
      ValueError: if `size` is negative.
    """
    size = checks.mask_size(size)
    lengths = checks.array("lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must be integers, but got {lengths.dtype}.")
    return jnp.arange(size).reshape(-1, *[1] * lengths.ndim) < lengths
