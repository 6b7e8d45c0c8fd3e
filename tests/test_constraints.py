"""Dale's law and low rank: what the maps promise, also after training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import constraints
from tests.cases import problem

SIGNS = jnp.array([1.0, -1, 1, 1, -1])


def test_signs_survive_training():
    """However far the free weights move, each row keeps its sign."""
    cell = jaxrnn.make_leaky("relu")
    case = problem(cell, dtype=jnp.float32)

    @jax.jit
    def step(free):
        def loss(free):
            params = constraints.dale(free, SIGNS)
            return (jaxrnn.unroll(cell, params, None, case.xs)[1] ** 2).sum()

        grads = jax.grad(loss)(free)
        return jax.tree.map(lambda p, g: p - 0.05 * jnp.sign(g), free, grads)

    free = case.params
    for _ in range(5):
        free = step(free)
    assert (np.abs(free.w_hh - case.params.w_hh) > 0.04).any()
    w_hh = constraints.dale(free, SIGNS).w_hh
    assert (np.sign(w_hh) == SIGNS[:, None]).all()
    np.testing.assert_array_equal(np.abs(w_hh), np.abs(free.w_hh))


@pytest.mark.usefixtures("x64")
def test_a_network_of_rank_one_follows_one_number():
    """Without inputs h[t] lies along m from the second step of an identity network on:
    h[t] = (n · h[t-1] / H) m, by hand."""
    cell = jaxrnn.make_elman("identity")
    case = problem(cell, size=4, batch=())
    n, m = (jax.random.normal(jax.random.key(k), (5, 1), jnp.float64) for k in (1, 2))
    params = constraints.low_rank(case.params, n, m)
    params = params._replace(w_ih=0 * params.w_ih, b=0 * params.b)
    _, hs = jaxrnn.unroll(cell, params, case.state, case.xs)
    heard, expected = np.vdot(n, case.state.h) / 5, []
    for _ in range(4):
        expected.append(heard * m[:, 0])
        heard = heard * np.vdot(n, m) / 5
    chex.assert_trees_all_close(hs, jnp.stack(expected), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_gradients_by_the_patterns():
    """Those of the full matrix, multiplied out: W̄ m / H and W̄ᵀ n / H. The matrix that
    is not used has none."""
    cell = jaxrnn.gru
    case = problem(cell)
    n, m = (
        jax.random.normal(jax.random.key(k), (size, 2), jnp.float64)
        for k, size in ((1, 5), (2, 15))
    )

    def loss(params):
        return (jaxrnn.unroll(cell, params, case.state, case.xs)[1] ** 2).sum()

    full = jax.grad(loss)(constraints.low_rank(case.params, n, m)).w_hh
    unused, dn, dm = jax.grad(
        lambda params, n, m: loss(constraints.low_rank(params, n, m)), (0, 1, 2)
    )(case.params, n, m)
    chex.assert_trees_all_close((dn, dm), (full @ m / 5, full.T @ n / 5), rtol=1e-10)
    assert not unused.w_hh.any()


@pytest.mark.usefixtures("as_users_see_it")
def test_wrong_arguments():
    params = jaxrnn.elman.init(jax.random.key(0), 2, 5)
    with pytest.raises(ValueError, match=r"`signs` must have shape \(H,\) = \(5,\)"):
        constraints.dale(params, SIGNS[:3])
    with pytest.raises(ValueError, match="`signs` must be 1 or -1, but got"):
        constraints.dale(params, 0 * SIGNS)
    with pytest.raises(TypeError, match="a matrix `w_hh`, but got a IndRNNParams"):
        constraints.dale(jaxrnn.indrnn.init(jax.random.key(0), 2, 5), SIGNS)
    with pytest.raises(
        ValueError, match=r"\(G, R\), H = 5 and G = 5, but got \(5, 2\)"
    ):
        constraints.low_rank(params, jnp.ones((5, 2)), jnp.ones((5, 3)))
