"""Matrix products on any leading axes, and how matrices are stored for a loop.

Every product accumulates in float32 or wider. The dtype of a matrix is the dtype in
which it is multiplied, so the engine casts the matrices, and nothing else, for mixed
precision (`matrices_in`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, PyTree

from jaxrnn.ops import placement

# A matrix of LARGE bytes or more does not stay in the cache of a core, and few rows,
# below FEW_ROWS, are then multiplied fastest with the matrix as the left operand
# (`is_left_operand`).
LARGE, FEW_ROWS = 2**23, 128

# XLA:CPU of JAX 0.8.0 cannot multiply bfloat16 rows on several leading axes by a
# transpose. Later versions can, and keep the axes: merging them would move the batch
# between devices where it is split.
ONE_LEADING_AXIS = jax.__version_info__ < (0, 8, 1)


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype in which sums accumulate: float32, or `dtype` if wider."""
    return jnp.promote_types(dtype, jnp.float32)


class SplitColumns(NamedTuple):
    """A matrix `[K, M]` of which each of n devices along a mesh axis has columns.

    They are blocks `[K, M/n]` of a device's own columns, side by side.
    """

    blocks: tuple[Array, ...]
    axis: str


class SplitRows(NamedTuple):
    """The transpose of `SplitColumns`: blocks `[M/n, K]`, one below the other."""

    blocks: tuple[Array, ...]
    axis: str


def matmul(
    a: Float[Array, "*N K"], w: Float[Array, "K M"] | SplitColumns | SplitRows
) -> Float[Array, "*N M"]:
    """Returns `a @ w` in the dtype of `a`.

    It is multiplied in the dtype of `w`, and accumulated in float32 or wider. Where `w`
    is split over devices, so are `a` and the product, by their last axes: rows are
    gathered before a product with columns, and sums scattered after one with rows.
    """
    if isinstance(w, SplitColumns):
        rows = placement.gathered(a.astype(w.blocks[0].dtype), w.axis)
        products = [_product(rows, block) for block in w.blocks]
        return jnp.concatenate(products, axis=-1).astype(a.dtype)
    if isinstance(w, SplitRows):
        parts = jnp.split(a, len(w.blocks), axis=-1)
        pairs = zip(parts, w.blocks, strict=True)
        products = [_product(part.astype(block.dtype), block) for part, block in pairs]
        total = sum(products[1:], start=products[0])
        return placement.sum_scattered(total, w.axis).astype(a.dtype)
    return _product(a.astype(w.dtype), w).astype(a.dtype)


def _product(a: Float[Array, "*N K"], w: Float[Array, "K M"]) -> Float[Array, "*N M"]:
    """Returns `a @ w`, of one dtype, in float32 or wider."""
    rows, narrow = a, w.dtype.itemsize < 4 and a.ndim > 2
    if ONE_LEADING_AXIS and narrow and not placement.is_explicit(a):
        rows = rows.reshape(-1, a.shape[-1])
    dtype, axis = accumulation_dtype(w.dtype), rows.ndim - 1
    if is_left_operand(w, math.prod(a.shape[:-1])):
        columns = lax.dot_general(
            w.T, rows, (((1,), (axis,)), ((), ())), preferred_element_type=dtype
        )
        # XLA would exchange the operands again, were it not for the barrier.
        product = jnp.moveaxis(lax.optimization_barrier(columns), 0, -1)
    else:
        product = lax.dot_general(
            rows, w, (((axis,), (0,)), ((), ())), preferred_element_type=dtype
        )
    if rows.ndim < a.ndim:
        product = product.reshape(*a.shape[:-1], w.shape[-1])
    return product


def affine(
    xs: Float[Array, "*N K"], w: Float[Array, "K M"], b: Float[Array, " M"]
) -> Float[Array, "*N M"]:
    """Returns `xs @ w + b`, multiplied in the dtype of `w`, in the dtype of `b`.

    In a drive this is x W_ih + b for all steps. The cells of this library add the bias
    in the step instead, which saves a pass over the drives.
    """
    return matmul(xs, w).astype(b.dtype) + b


def is_left_operand(w: Array, rows: int | Any) -> bool:
    """Returns whether `matmul` computes `rows [N, K] @ w [K, M]` as `(wᵀ rowsᵀ)ᵀ`.

    XLA:CPU then reads the large matrix row by row, and packs the small one. With 16 to
    64 rows a `[1024, 4096]` matrix is multiplied at 137 to 188 GFLOP/s so, and
    otherwise at 110 to 155 (`python -m benchmarks.profile.products`).
    """
    few = isinstance(rows, int) and 1 < rows < FEW_ROWS
    return few and w.size * w.dtype.itemsize >= LARGE


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

    A product is fastest if its sums run down the columns of a right operand, or along
    the rows of a left one (`is_left_operand`). A matrix that does not lie so is copied
    once, here. The returned function transposes it back inside the loop, which XLA
    folds into the product, so a cell sees plain arrays.

    Args:
      params: a tree of arrays; only the matrices, `[K, M]`, are ever stored transposed.
      rows: how many rows the loop multiplies by the matrices at a time.
      transpose: whether the loop needs θᵀ.

    Returns:
      A function without arguments, to be called in the loop's body. It returns the
      parameters, or θᵀ.
    """

    def is_copied(p: Array) -> bool:
        return p.ndim == 2 and is_left_operand(p, rows) != transpose

    copied = jax.tree.map(is_copied, params)
    stored = jax.tree.map(lambda p, other: p.T if other else p, params, copied)

    def read() -> Any:
        return jax.tree.map(
            lambda p, other: p.T if p.ndim == 2 and other != transpose else p,
            stored,
            copied,
        )

    return read
