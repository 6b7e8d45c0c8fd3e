"""UORO, KF-RTRL and OK(r): right on average, and how far off a draw is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
DRAWS, SIZE = 8192, 5
each_cell = pytest.mark.parametrize("name", CELLS)


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


@each_cell
@pytest.mark.parametrize("rule", RULES)
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
