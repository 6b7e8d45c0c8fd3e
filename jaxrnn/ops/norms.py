"""Norms of trees that do not underflow, and the rate at which norms decay."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float64, PyTree

from jaxrnn.ops.products import accumulation_dtype


def norm(tree: PyTree, axis: int | None = None) -> Array:
    """Returns the norm over all leaves and `axis` (None: all axes), `[]` or `[...]`.

    It is in float32 or wider. Numbers are divided by the largest before they are
    squared, because adjoints are small, and in float32 the square of 1e-30 is 0.
    """
    tree = jax.tree.map(lambda a: a.astype(accumulation_dtype(a.dtype)), tree)
    largest = largest_modulus(tree, axis)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    divisor = unit if axis is None else jnp.expand_dims(unit, axis)
    scaled = jax.tree.map(lambda a: a / divisor, tree)
    return unit * jnp.sqrt(sum_of_squares(scaled, axis))


def sum_of_squares(tree: PyTree, axis: int | None = None) -> Array:
    """Returns Σ a² over all leaves and `axis` (None: all axes), `[]` or `[...]`.

    It is in float32 or wider.
    """
    wide = jax.tree.map(lambda a: a.astype(accumulation_dtype(a.dtype)), tree)
    sums = [jnp.sum(jnp.square(a), axis=axis) for a in jax.tree.leaves(wide)]
    return functools.reduce(jnp.add, sums)


def largest_modulus(tree: PyTree, axis: int | None = None) -> Array:
    """Returns max |a| over all leaves and `axis` (None: all axes), `[]` or `[...]`."""
    moduli = [jnp.max(jnp.abs(a), axis=axis) for a in jax.tree.leaves(tree)]
    return functools.reduce(jnp.maximum, moduli)


def decay_rate(norms: Float64[np.ndarray, " R"]) -> float:
    """Returns the factor per lag by which norms `[R]` decay.

    It is the slope of a line through their logarithms over the second half. Zeros,
    where norms have underflowed, are left out: the rate is 0 if fewer than two norms
    remain, and infinite if a norm is not finite.
    """
    if not np.isfinite(norms).all():
        return math.inf
    lags = np.flatnonzero(norms)
    lags = lags[len(lags) // 2 :]
    if len(lags) < 2:
        return 0.0
    return float(np.exp(np.polyfit(lags, np.log(norms[lags]), 1)[0]))
