"""The products that authors of cells call: against einsum, with any leading axes."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import ops


def normal(*shape, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape), dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("leading", [(), (3,), (4, 2, 3)], ids=str)
def test_any_leading_axes(leading):
    h, delta, w, b = normal(*leading, 5), normal(*leading, 7), normal(5, 7), normal(7)
    got = (
        ops.matmul(h, w),
        ops.affine(h, w, b),
        ops.outer_sum(h, delta, h.dtype),
        ops.lead_sum(delta),
    )
    product = np.einsum("...k,km->...m", h, w)
    rows, columns = h.reshape(-1, 5), delta.reshape(-1, 7)
    expected = product, product + b, np.einsum("nk,nm->km", rows, columns)
    chex.assert_trees_all_close(got, (*expected, columns.sum(0)), rtol=1e-12)


def test_sums_are_wide():
    """4096 ones are 4096, and in bfloat16, where 256 + 1 is 256, they would be 256."""
    ones = jnp.ones((4096, 1), jnp.bfloat16)
    for total in (
        ops.lead_sum(ones)[0],
        ops.outer_sum(ones, ones, jnp.bfloat16)[0, 0],
        ops.matmul(ones.T, ones)[0, 0],
        ops.affine(ones.T, ones, jnp.zeros(1, jnp.bfloat16))[0, 0],
    ):
        assert total == 4096


def test_the_dtype_of_a_product_is_its_matrix_s():
    """And its result is in the dtype of the rows; `affine`'s in that of the bias."""
    h, w = normal(2, 3, dtype=jnp.float32), normal(3, 2, dtype=jnp.bfloat16)
    rounded = h.astype(jnp.bfloat16).astype(jnp.float32) @ w.astype(jnp.float32)
    chex.assert_trees_all_close(ops.matmul(h, w), rounded, rtol=1e-6)
    assert ops.matmul(h, w).dtype == jnp.float32
    assert ops.affine(h, w, jnp.zeros(2, jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_public_ones():
    assert sorted(ops.__all__) == ["affine", "lead_sum", "matmul", "outer_sum"]
