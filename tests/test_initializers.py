"""Initial parameters: what they promise about memory, measured on the cells."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import flow, initializers
from tests.cases import CELLS

IRNN = jaxrnn.make_elman("relu")


def test_the_irnn_carries_errors_back_unchanged():
    """Inputs and their weights are positive: every unit is active at every step."""
    params = initializers.identity(IRNN.init(jax.random.key(0), 2, 6))
    params = params._replace(w_ih=jnp.abs(params.w_ih))
    xs = jax.random.uniform(jax.random.key(1), (50, 2), minval=0.1)
    profile = flow.adjoint_profile(
        lambda last, hs: hs[-1].sum(), IRNN, params, None, xs
    )
    np.testing.assert_allclose(profile, np.full(50, np.sqrt(6)), rtol=1e-6)
    assert not params.b.any()
    half = initializers.identity(params, 0.5)
    chex.assert_trees_all_equal(half.w_hh, 0.5 * jnp.eye(6))


@pytest.mark.parametrize(
    ("cell", "gate"), [(jaxrnn.lstm, "f"), (jaxrnn.gru, "z")], ids=["lstm", "gru"]
)
def test_units_remember_for_as_long_as_was_drawn(cell, gate):
    """Without inputs and recurrent weights a memory shrinks by σ(b) = τ / (τ + 1)."""
    longest, hidden = 100.0, 300
    before = cell.init(jax.random.key(0), 1, hidden)
    params = initializers.chrono(jax.random.key(1), before, longest)
    names = type(params).gates.order
    gates = dict(zip(names, np.split(np.asarray(params.b), len(names)), strict=True))
    times = np.exp(gates[gate])
    assert times.min() >= 1 and times.max() <= longest - 1
    # Evenly: mean and standard deviation of the uniform distribution on [1, 99], 4
    # errors wide.
    assert abs(times.mean() - longest / 2) < 4 * 28.3 / np.sqrt(hidden)
    if gate == "f":
        np.testing.assert_array_equal(gates["i"], -gates["f"])
    unchanged = set(names) - {gate, "i"}
    old = dict(zip(names, np.split(np.asarray(before.b), len(names)), strict=True))
    for name in unchanged:
        np.testing.assert_array_equal(gates[name], old[name])
    silent = jax.tree.map(lambda p: p if p.ndim == 1 else jnp.zeros_like(p), params)
    start = jax.tree.map(jnp.ones_like, cell.initial_state(params, ()))
    after, _ = jaxrnn.step(cell, silent, start, jnp.zeros(1))
    memory = after.c if gate == "f" else after.h
    np.testing.assert_allclose(memory, times / (times + 1), rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_each_block_has_the_spectral_radius(cell):
    before = cell.init(jax.random.key(0), 3, 7)
    params = initializers.spectral_radius(before, 0.8)
    for block in np.split(
        np.asarray(params.w_hh, np.float64), params.w_hh.shape[1] // 7, axis=1
    ):
        assert np.abs(np.linalg.eigvals(block)).max() == pytest.approx(0.8, rel=1e-5)
    chex.assert_trees_all_equal(params._replace(w_hh=before.w_hh), before)
    chex.assert_trees_all_equal_dtypes(params, before)


@pytest.mark.usefixtures("as_users_see_it")
def test_wrong_arguments():
    lstm, elman = (c.init(jax.random.key(0), 2, 3) for c in (jaxrnn.lstm, jaxrnn.elman))
    with pytest.raises(TypeError, match="must be ElmanParams, but got a LSTMParams"):
        initializers.identity(lstm)
    with pytest.raises(
        TypeError, match=r"a gate that keeps the state, .* got a ElmanParams"
    ):
        initializers.chrono(jax.random.key(0), elman, 10.0)
    with pytest.raises(
        ValueError, match="`longest` must be a number above 2, but got 2"
    ):
        initializers.chrono(jax.random.key(0), lstm, 2)
    with pytest.raises(
        ValueError, match=r"`radius` must be a number above 0, but got -0\.8"
    ):
        initializers.spectral_radius(elman, -0.8)
    with pytest.raises(ValueError, match="eigenvalues that are not 0"):
        initializers.spectral_radius(elman._replace(w_hh=jnp.zeros((3, 3))), 0.5)
