"""Embeddings and readouts on any leading axes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import layers


@pytest.mark.parametrize("leading", [(), (3,), (5, 3), (5, 2, 3)])
def test_dense(leading):
    params = layers.init_dense(jax.random.key(0), 4, 6)
    params = params._replace(b=jnp.arange(6.0))
    xs = jax.random.normal(jax.random.key(1), (*leading, 4))
    expected = np.einsum("...i,io->...o", xs, params.w) + np.arange(6.0)
    chex.assert_trees_all_close(
        layers.dense(params, xs), expected, rtol=1e-5, atol=1e-6
    )


def test_embed_is_a_product_with_one_hot_vectors():
    table = layers.init_embedding(jax.random.key(0), 7, 3)
    ids = jnp.array([[0, 6], [3, 3]])
    chex.assert_trees_all_equal(
        layers.embed(table, ids), jax.nn.one_hot(ids, 7) @ table
    )
    grad = jax.grad(lambda t: layers.embed(t, ids).sum())(table)
    chex.assert_trees_all_equal(grad[:, 0], jnp.array([1.0, 0, 0, 2, 0, 0, 1]))


def test_initial_scales_and_dtypes():
    params = layers.init_dense(jax.random.key(0), 300, 200, jnp.bfloat16)
    assert params.w.dtype == params.b.dtype == jnp.bfloat16
    # Uniform on ±√(6/(in+out)): variance 2/(in+out); 60,000 draws are within 2 %.
    chex.assert_trees_all_close(params.w.astype(jnp.float32).var(), 2 / 500, rtol=0.02)
    table = layers.init_embedding(jax.random.key(0), 200, 300)
    chex.assert_trees_all_close(table.std(), 1.0, rtol=0.02)


def test_ids_out_of_range_are_an_error_or_nan_and_never_another_row():
    """Known ids are an error; under `jit` their rows are NaN, with no gradient."""
    table = layers.init_embedding(jax.random.key(0), 7, 3)
    for wrong in (-1, 7):
        with pytest.raises(
            ValueError, match=rf"0 and V - 1 = 6, but got {wrong}. Mask"
        ):
            layers.embed(table, jnp.array([0, wrong]))
    ids = jnp.array([0, -1, 6, 7, -7], jnp.int8)
    known = ids[jnp.array([0, 2])]

    def loss(table, ids):
        rows = layers.embed(table, ids)
        return jnp.sum(rows**2, where=jnp.isfinite(rows)), rows

    (_, rows), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(table, ids)
    bad = np.array([False, True, False, True, True])
    assert np.isnan(rows[bad]).all()
    chex.assert_trees_all_equal(rows[~bad], layers.embed(table, known))
    chex.assert_trees_all_close(grad, jax.grad(lambda t: loss(t, known)[0])(table))
