"""Layers around a cell: embeddings before it, readouts after it, on any leading axes.

The lecture's output is y[t] = f(W₂ h[t]): `f(dense(params, hs))`, for all t at once,
since no output depends on another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Float, Int, PRNGKeyArray

from jaxrnn import arguments, checks
from jaxrnn.ops.products import accumulation_dtype, matmul


class DenseParams(NamedTuple):
    """`w [H, O]` and `b [O]`."""

    w: Array
    b: Array


def init_dense(
    key: PRNGKeyArray, input_size: int, output_size: int, dtype: DTypeLike = jnp.float32
) -> DenseParams:
    """Draws Glorot-uniform weights `[H, O]`; the bias `[O]` is zero.

    Raises:
      TypeError, ValueError: if `key` is not a random key, a size is not an integer ≥ 1,
        or `dtype` is not floating.

    Source: Glorot & Bengio (2010), equation 16.
    """
    arguments.for_init(key, dtype, input_size=input_size, output_size=output_size)
    w = initializers.glorot_uniform()(
        key, (input_size, output_size), accumulation_dtype(dtype)
    )
    return DenseParams(w.astype(dtype), jnp.zeros(output_size, dtype))


def dense(params: DenseParams, xs: Float[Array, "*N H"]) -> Float[Array, "*N O"]:
    """Returns `xs @ w + b`, `[..., H]` to `[..., O]`, accumulated in float32 or wider.

    Raises:
      TypeError: if `xs` is not floating, or `params` is not a DenseParams.
      ValueError: if the last axis of `xs` is not H.
    """
    w, b = _dense_params(params)
    xs = checks.array("xs", xs)
    if not jnp.issubdtype(xs.dtype, jnp.floating):
        raise TypeError(
            f"`xs` must be floating, but got {xs.dtype}. Cast numbers: "
            f"xs.astype({str(w.dtype)!r}); encode ids: jaxrnn.layers.embed."
        )
    if xs.ndim == 0 or xs.shape[-1] != w.shape[0]:
        raise ValueError(
            f"the last axis of `xs` must be {w.shape[0]}, the first of `w` {w.shape}, "
            f"but `xs` has shape {xs.shape}."
        )
    return matmul(xs, w) + b


def init_embedding(
    key: PRNGKeyArray, vocabulary: int, size: int, dtype: DTypeLike = jnp.float32
) -> Float[Array, "V I"]:
    """Draws a table `[V, I]` of standard normal rows: features of unit variance.

    Raises:
      TypeError, ValueError: if `key` is not a random key, a size is not an integer ≥ 1,
        or `dtype` is not floating.
    """
    arguments.for_init(key, dtype, vocabulary=vocabulary, size=size)
    return jax.random.normal(key, (vocabulary, size), accumulation_dtype(dtype)).astype(
        dtype
    )


def embed(table: Float[Array, "V I"], ids: Int[Array, "*N"]) -> Float[Array, "*N I"]:
    """Returns row `ids` of the table, `[*N]` integers to `[*N, I]`.

    An id outside 0 … V - 1, or a negative one, is an error where the ids are known.
    Under `jit` they are not known: there the row of such an id is NaN, and no row of
    the table gets a gradient from it.

    Raises:
      TypeError: if the ids are not integers, or the table is not floating.
      ValueError: if the table is not `[V, I]`, or a known id is outside 0 … V - 1.
    """
    table, ids = checks.array("table", table), checks.array("ids", ids)
    if not jnp.issubdtype(table.dtype, jnp.floating):
        raise TypeError(
            f"`table` must be floating, but got {table.dtype}. "
            "The order is embed(table, ids)."
        )
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"`ids` must be integers, but got {ids.dtype}.")
    if table.ndim != 2:
        raise ValueError(f"`table` must have shape (V, I), but got {table.shape}.")
    if checks.is_known(ids) and ids.size:
        known, last = np.asarray(ids), table.shape[0] - 1
        wrong = known[(known < 0) | (known > last)]
        if wrong.size:
            raise ValueError(
                f"`ids` must be between 0 and V - 1 = {last}, but got {wrong[0]}. Mask "
                "steps without an id, and give them id 0."
            )
    rows = table.at[ids]
    return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _dense_params(params: DenseParams) -> DenseParams:
    """Returns the parameters as arrays; raises unless they are a valid DenseParams."""
    params = checks.unwrapped(params)
    if not isinstance(params, DenseParams):
        raise TypeError(
            f"`params` must be DenseParams, but got {arguments.describe(params)}. The "
            "order is dense(params, xs); from a dict: DenseParams(**params)."
        )
    w, b = (checks.array(f"params.{n}", a) for n, a in params._asdict().items())
    for name, a in (("w", w), ("b", b)):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            raise TypeError(f"`params.{name}` must be floating, but got {a.dtype}.")
    if w.ndim != 2 or b.shape != w.shape[1:]:
        raise ValueError(
            "`params.w` must have shape (H, O) and `params.b` (O,), but got "
            f"{w.shape} and {b.shape}."
        )
    return DenseParams(w, b)


register_namedtuple_serialization(
    DenseParams, serialized_name="jaxrnn.layers.DenseParams"
)
