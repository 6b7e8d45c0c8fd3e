"""UORO, KF-RTRL and OK(r): right on average, and how far off a draw is."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.flatten_util import ravel_pytree

import jaxrnn
from jaxrnn import online
from jaxrnn.online.ok import reduced
from tests.cases import problem
from tests.online.runs import backwards, given, loss_fn

pytestmark = pytest.mark.usefixtures("x64")

RULES = {
    "uoro": online.uoro(),
    "kf_rtrl": online.kf_rtrl(),
    "ok1": online.ok(1),
    "ok2": online.ok(2),
}
CELLS = {"elman": jaxrnn.elman, "lstm": jaxrnn.lstm}
DRAWS, SIZE = 4096, 5
EACH = [
    pytest.param(rule, name, marks=pytest.mark.slow if slow else ())
    for rule in RULES
    for name in CELLS
    for slow in [name == "lstm" and rule in ("kf_rtrl", "ok2")]
]


@functools.cache
def case_of(name):
    """One sequence with a reset, so that the trace is cleared once."""
    case = problem(CELLS[name], SIZE, (), inputs=2, hidden=3)
    return given(case, reset=jnp.arange(SIZE) == 1)


@functools.cache
def draws(rule, name):
    """Gradients by a rule, `[DRAWS, |θ|]`, and the exact one."""
    params, state, batch, _ = case_of(name)
    estimator, cell = RULES[rule], CELLS[name]
    fn = online.online_value_and_grad(estimator, loss_fn)

    def gradient(key):
        carry = online.online_start(estimator, cell, params[0], state, key)
        return ravel_pytree(fn(params, carry, batch)[1][0])[0]

    keys = jax.random.split(jax.random.key(1), DRAWS)
    exact = ravel_pytree(backwards(cell, case_of(name))[1][0])[0]
    return np.asarray(jax.jit(jax.vmap(gradient))(keys)), np.asarray(exact)


@pytest.mark.parametrize(("rule", "name"), EACH)
def test_the_mean_is_the_gradient(rule, name):
    """Within four standard errors in every entry, which are small beside it."""
    found, exact = draws(rule, name)
    error = found.std(axis=0, ddof=1) / DRAWS**0.5
    # Entries without noise, such as those of biases, are exact to rounding.
    assert (abs(found.mean(axis=0) - exact) <= 4 * error + 1e-12).all()
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(exact)


def variance(rule, name):
    """The mean squared distance from the gradient, by its square."""
    found, exact = draws(rule, name)
    return ((found - exact) ** 2).sum(axis=1).mean() / (exact**2).sum()


def test_more_of_the_influence_makes_less_noise():
    """Each by more than a factor of two: the order in which the papers rank them."""
    found = [variance(rule, "elman") for rule in ("uoro", "kf_rtrl", "ok1", "ok2")]
    assert all(2 * less < more for more, less in itertools.pairwise(found)), found


def test_float32_stays_float32_where_float64_is_enabled():
    """The trace keeps its dtype from step to step."""
    params, state, batch, _ = jax.tree.map(
        lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a,
        case_of("elman"),
    )
    for estimator in RULES.values():
        fn = online.online_value_and_grad(estimator, loss_fn)
        carry = online.online_start(
            estimator, jaxrnn.elman, params[0], state, jax.random.key(0)
        )
        (_, after), grads = jax.eval_shape(fn, params, carry, batch)
        kinds = [jax.tree.map(lambda a: a.dtype, c.trace) for c in (carry, after)]
        assert kinds[0] == kinds[1]
        assert {a.dtype for a in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}


class Vectors(NamedTuple):
    a: Array
    b: Array


def test_without_a_matrix_nothing_is_random():
    """Vectors have their exact influence."""

    def init(key, input_size, hidden_size, dtype=jnp.float64):
        return Vectors(jnp.full(hidden_size, 0.9, dtype), jnp.ones(hidden_size, dtype))

    def step(params, state, x):
        return jaxrnn.ElmanState(jnp.tanh(params.a * state.h + params.b * x))

    def initial_state(params, batch_shape):
        return jaxrnn.ElmanState(
            jnp.zeros((*batch_shape, *params.a.shape), params.a.dtype)
        )

    cell = jaxrnn.cell_from_step(init, initial_state, step)
    theta = init(None, 2, 2)
    state, x = cell.initial_state(theta, ()), jnp.array([0.3, -0.5])
    grads = []
    for rule in (online.rtrl(), online.kf_rtrl(), online.ok(2)):
        after, trace = state, rule.init(cell, theta, state)
        for key in jax.random.split(jax.random.key(0), 3):
            after, trace = rule.update(theta, after, x, trace, key)
        grads.append(rule.gradient(theta, trace, jaxrnn.ElmanState(jnp.ones(2))))
    for found in grads[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, grads[0]
        )


def products(rows, columns, count, seed=0):
    """Two matrices of `count` columns each."""
    numbers = np.random.default_rng(seed)
    return [numbers.standard_normal((size, count)) for size in (rows, columns)]


def reduced_draws(left, right, count=4096):
    keys = jax.random.split(jax.random.key(2), count)
    one = jax.jit(jax.vmap(reduced, (None, None, 0)))
    found = one(jnp.asarray(left), jnp.asarray(right), keys)
    assert all(a.shape[-1] == left.shape[1] - 1 for a in found)
    return np.einsum("drk,dsk->drs", *found)


@pytest.mark.parametrize(("rows", "columns", "count"), [(4, 9, 2), (6, 7, 4)])
def test_the_reduction_has_the_least_variance(rows, columns, count):
    """Its mean is the product L Rᵀ; its variance, the least that (2) and (3) allow."""
    left, right = products(rows, columns, count)
    found, exact = reduced_draws(left, right), left @ right.T
    error = found.std(axis=0, ddof=1) / len(found) ** 0.5
    assert (abs(found.mean(axis=0) - exact) <= 4 * error + 1e-12).all()
    d = np.linalg.svd(exact, compute_uv=False)[:count]
    # For each number of singular values that may be kept, the variance of mixing the
    # others in r - m columns, and whether the signs allow it.
    r = count - 1
    least = [
        d[m:].sum() ** 2 / (r - m) - (d[m:] ** 2).sum()
        for m in range(r)
        if (r - m) * d[m] <= d[m:].sum()
    ]
    variance = ((found - exact) ** 2).sum(axis=(1, 2)).mean()
    np.testing.assert_allclose(variance, min(least), rtol=1e-10)


def test_what_fits_is_kept():
    """A product of lower rank, exactly; and the large singular values of any."""
    left, right = products(6, 7, 4)
    left[:, 3] = left[:, 0] - left[:, 1]
    found = reduced_draws(left, right, 4)
    np.testing.assert_allclose(found, [left @ right.T] * 4, atol=1e-6)
    narrow, right = products(2, 7, 4)
    found = reduced_draws(narrow, right, 4)
    np.testing.assert_allclose(found, [narrow @ right.T] * 4, atol=1e-6)
    none = reduced_draws(0 * left, right, 4)
    assert not none.any()
    # Three columns, the first so large that it is kept: U₁ᵀ P V₁ is d₁ in each draw.
    left, right = products(6, 7, 3)
    left[:, 0] *= 100
    u, d, vt = np.linalg.svd(left @ right.T)
    found = reduced_draws(left, right, 16)
    np.testing.assert_allclose(u[:, 0] @ found @ vt[0], d[0], rtol=1e-10)
    assert found.std(axis=0).max() > 1e-3
