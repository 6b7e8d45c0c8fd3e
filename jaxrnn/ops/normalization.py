"""Layer normalization of the columns of an array, group by group, and its transpose.

    â = (a - mean(a)) ⊙ s,   s = 1 / √(var(a) + ε)                                 (1)
    Nᵀ d = s ⊙ (d - mean(d) - â ⊙ mean(d ⊙ â))                                     (2)

Means run over the columns of a group, in float32 or wider. (2) is the derivative of
(1), ε included.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxrnn.ops.products import accumulation_dtype

# As in Flax, Keras and PyTorch: small beside a variance of order 1.
EPSILON = 1e-5


def normalize(
    a: Float[Array, "*N M"], groups: tuple[int, ...]
) -> tuple[Float[Array, "*N M"], Float[Array, "*N g"]]:
    """Returns â and the scales s of each group, (1).

    Args:
      a: the array.
      groups: how many columns each group has; their sum is M.
    """
    found = [_normalize(part) for part in _split(a, groups)]
    parts, scales = zip(*found, strict=True)
    return jnp.concatenate(parts, axis=-1), jnp.concatenate(scales, axis=-1)


def normalize_vjp(
    normal: Float[Array, "*N M"],
    scales: Float[Array, "*N g"],
    d: Float[Array, "*N M"],
    groups: tuple[int, ...],
) -> Float[Array, "*N M"]:
    """Returns Nᵀ d, (2), from what `normalize` returned for the same groups."""
    parts = zip(
        _split(normal, groups),
        jnp.split(scales, len(groups), axis=-1),
        _split(d, groups),
        strict=True,
    )
    return jnp.concatenate([_normalize_vjp(*part) for part in parts], axis=-1)


def _normalize(a: Array) -> tuple[Array, Array]:
    wide = a.astype(accumulation_dtype(a.dtype))
    centered = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centered**2, axis=-1, keepdims=True)
    scale = 1 / jnp.sqrt(variance + EPSILON)
    return (centered * scale).astype(a.dtype), scale.astype(a.dtype)


def _normalize_vjp(normal: Array, scale: Array, d: Array) -> Array:
    wide, normal = (a.astype(accumulation_dtype(d.dtype)) for a in (d, normal))
    along = jnp.mean(wide * normal, axis=-1, keepdims=True)
    back = scale * (wide - jnp.mean(wide, axis=-1, keepdims=True) - normal * along)
    return back.astype(d.dtype)


def _split(a: Array, groups: tuple[int, ...]) -> list[Array]:
    return jnp.split(a, list(np.cumsum(groups)[:-1]), axis=-1)
