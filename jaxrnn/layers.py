"""What stands around a cell: embeddings before it, readouts after it, on any leading axes.

The lecture's output is y[t] = f(W₂ h[t]): `f(dense(params, hs))`, for all t at once, since no
output depends on another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Float, Int, PRNGKeyArray

from jaxrnn.ops.products import accumulation_dtype, matmul


class DenseParams(NamedTuple):
    """`w [H, O]` and `b [O]`."""

    w: Array
    b: Array


def init_dense(
    key: PRNGKeyArray, input_size: int, output_size: int, dtype: DTypeLike = jnp.float32
) -> DenseParams:
    """Glorot-uniform weights (Glorot & Bengio, 2010, eq. 16), zero bias; shapes `[H, O]`, `[O]`."""
    w = initializers.glorot_uniform()(
        key, (input_size, output_size), accumulation_dtype(dtype)
    )
    return DenseParams(w.astype(dtype), jnp.zeros(output_size, dtype))


def dense(params: DenseParams, xs: Float[Array, "*N H"]) -> Float[Array, "*N O"]:
    """`xs @ w + b`, `[..., H]` to `[..., O]`, accumulated in float32 or wider.

    Raises:
      ValueError: if the last axis of `xs` is not H.
    """
    if xs.shape[-1] != params.w.shape[0]:
        raise ValueError(
            f"the last axis of `xs` must be {params.w.shape[0]}, as `w` {params.w.shape} has it, "
            f"but `xs` has shape {xs.shape}."
        )
    return matmul(xs, params.w) + params.b


def init_embedding(
    key: PRNGKeyArray, vocabulary: int, size: int, dtype: DTypeLike = jnp.float32
) -> Float[Array, "V I"]:
    """A table `[V, I]` of standard normal rows: features of unit variance, as inputs should be."""
    return jax.random.normal(key, (vocabulary, size), accumulation_dtype(dtype)).astype(
        dtype
    )


def embed(table: Float[Array, "V I"], ids: Int[Array, "*N"]) -> Float[Array, "*N I"]:
    """Row `ids` of the table, `[*N]` integers to `[*N, I]`.

    Ids are *not* checked: JAX clamps an id ≥ V silently. Check them on the host, once per data
    set.

    Raises:
      TypeError: if the ids are not integers.
    """
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"`ids` must be integers, but got {ids.dtype}.")
    return table[ids]


register_namedtuple_serialization(
    DenseParams, serialized_name="jaxrnn.layers.DenseParams"
)
