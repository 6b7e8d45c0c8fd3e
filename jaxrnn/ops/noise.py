"""Random factors for dropout, drawn from a key and the number of the step.

A mask of step t depends on the key, on t and on the shape of the batch alone. So one
key gives the same masks to a whole sequence, to its parts, and to single steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from jaxrnn.ops import placement


def kept(
    key: PRNGKeyArray, rate: float, shape: tuple[Any, ...], dtype: DTypeLike
) -> Float[Array, "*N"]:
    """Returns factors of dropout: 0 with probability `rate`, else 1/(1 - rate)."""
    factor = jnp.asarray(1 / (1 - rate), dtype)
    return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), factor, 0)


def dropped(
    key: PRNGKeyArray, rate: float, shape: tuple[Any, ...], dtype: DTypeLike
) -> Float[Array, "*N"]:
    """Returns 1 with probability `rate`, else 0."""
    return jax.random.bernoulli(key, rate, shape).astype(dtype)


def of_steps(
    draw: Callable[[PRNGKeyArray], Array],
    key: PRNGKeyArray,
    steps: Any,
    size: int | Any,
    variational: bool,
) -> Array:
    """Returns `draw`'s masks of `size` steps, `[T, ...]`.

    Args:
      draw: `key -> mask [...]`, the mask of a step.
      key: a random key.
      steps: the number of steps before these, the same for each sequence, `[*B]`; only
        read if each step has its own mask.
      size: T.
      variational: whether all steps have the same mask.
    """
    if variational:
        mask = draw(key)
        return jnp.broadcast_to(mask, (size, *mask.shape))
    first = jnp.max(steps, initial=0).astype(jnp.uint32)
    numbers = first + jnp.arange(size, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    return jax.vmap(draw)(keys)


def like(xs: Array, mask: Array) -> Array:
    """Returns `mask [T, *B, N]`, sharded over explicit axes like `xs [T, *B, I]`."""
    if not placement.is_explicit(xs):
        return mask
    return jax.sharding.reshard(mask, jax.typeof(xs).sharding)
