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


@pytest.mark.usefixtures("as_users_see_it")
def test_errors():
    params = layers.init_dense(jax.random.key(0), 4, 6)
    with pytest.raises(ValueError, match=r"the last axis of `xs` must be 4.*\(2, 5\)"):
        layers.dense(params, jnp.ones((2, 5)))
    with pytest.raises(TypeError, match="`ids` must be integers, but got float32"):
        layers.embed(jnp.ones((4, 2)), jnp.ones(3))
