"""Matrix products on any leading axes, and how matrices are stored for a loop.

Every product accumulates in float32 or wider. The dtype of a matrix is the dtype in
which it is multiplied, so the engine casts the matrices, and nothing else, for mixed
precision (`matrices_in`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, PyTree

from jaxrnn.ops import placement

# SMALL and LARGE are bytes. With fewer than FEW_ROWS rows, a product with a matrix
# below SMALL is fastest if the sums run over its rows. With a matrix of LARGE or more,
# which outgrows the cache, it is fastest if they run over its columns
# (`stored_for_loop`).
SMALL, LARGE, FEW_ROWS = 2**21, 2**23, 64

# XLA:CPU of JAX 0.8.0 cannot multiply bfloat16 rows on several leading axes by a
# transpose. Later versions can, and keep the axes: merging them would move the batch
# between devices where it is split.
ONE_LEADING_AXIS = jax.__version_info__ < (0, 8, 1)


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype in which sums accumulate: float32, or `dtype` if wider."""
    return jnp.promote_types(dtype, jnp.float32)


def matmul(a: Float[Array, "*N K"], w: Float[Array, "K M"]) -> Float[Array, "*N M"]:
    """Returns `a @ w` in the dtype of `a`.

    It is multiplied in the dtype of `w`, and accumulated in float32 or wider.
    """
    rows = a.astype(w.dtype)
    narrow = w.dtype.itemsize < 4 and a.ndim > 2
    if ONE_LEADING_AXIS and narrow and not placement.is_explicit(a):
        rows = rows.reshape(-1, a.shape[-1])
    product = lax.dot_general(
        rows,
        w,
        (((rows.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=accumulation_dtype(w.dtype),
    )
    if rows.ndim < a.ndim:
        product = product.reshape(*a.shape[:-1], w.shape[-1])
    return product.astype(a.dtype)


def outer_sum(
    a: Float[Array, "*N K"], b: Float[Array, "*N M"], dtype: DTypeLike
) -> Float[Array, "K M"]:
    """Returns Σ aᵀ b over all leading axes, as one product that multiplies in `dtype`.

    The sum is accumulated, and returned, in float32 or wider.
    """
    leading = tuple(range(a.ndim - 1))
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        ((leading, leading), ((), ())),
        preferred_element_type=accumulation_dtype(dtype),
        out_sharding=placement.sharding_of_outer(a, b),
    )


def lead_sum(a: Float[Array, "*N M"]) -> Float[Array, " M"]:
    """Returns Σ a over all leading axes, in float32 or wider."""
    leading = tuple(range(a.ndim - 1))
    return jnp.sum(a, axis=leading, dtype=accumulation_dtype(a.dtype))


def zeros_for_sums(tree: PyTree) -> Any:
    """Returns zeros like every leaf `[...]`, in the dtype in which sums accumulate.

    In bfloat16, 256 + 1 is 256.
    """
    return jax.tree.map(lambda p: jnp.zeros_like(p, accumulation_dtype(p.dtype)), tree)


def cast_like(tree: PyTree, like: PyTree) -> Any:
    """Returns every leaf `[...]` in the dtype of the corresponding leaf of `like`."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), tree, like)


def matrices_in(params: PyTree, dtype: DTypeLike | None) -> Any:
    """Returns the parameters with every matrix cast to `dtype`; None: unchanged."""
    if dtype is None:
        return params
    return jax.tree.map(lambda p: p.astype(dtype) if p.ndim == 2 else p, params)


def transposed(params: PyTree) -> Any:
    """Returns θᵀ: the parameters with every matrix `[K, M]` transposed, `[M, K]`.

    Outside a loop nothing is copied: XLA reads a transpose as an axis of the product.
    """
    return jax.tree.map(lambda p: p.T if p.ndim == 2 else p, params)


def stored_for_loop(
    params: PyTree, rows: int | Any, transpose: bool = False
) -> Callable[[], Any]:
    """Stores the parameters for a loop; returns the function that reads them inside it.

    On two cores, with 16 to 32 rows, a `[256, 64]` matrix reached 52 to 67 GFLOP/s as
    stored and 31 to 50 transposed; a `[4096, 1024]` matrix, too large for the cache, 94
    to 102 and 107 to 133. From 64 rows on they differ little (`python -m
    benchmarks.profile.products`). A matrix that is faster transposed is copied once,
    here. The returned function transposes it back inside the loop, which XLA folds into
    the product, so a cell sees plain arrays.

    Args:
      params: a tree of arrays; only the matrices, `[K, M]`, are ever stored transposed.
      rows: how many rows the loop multiplies by the matrices at a time.
      transpose: whether the loop needs θᵀ.

    Returns:
      A function without arguments, to be called in the loop's body. It returns the
      parameters, or θᵀ.
    """
    few = isinstance(rows, int) and rows < FEW_ROWS

    def is_copied(p: Array) -> bool:
        size = p.size * p.dtype.itemsize
        return p.ndim == 2 and (size < SMALL if transpose else few and size >= LARGE)

    copied = jax.tree.map(is_copied, params)
    stored = jax.tree.map(lambda p, other: p.T if other else p, params, copied)

    def read() -> Any:
        return jax.tree.map(
            lambda p, other: p.T if p.ndim == 2 and other != transpose else p,
            stored,
            copied,
        )

    return read
