"""Initial parameters and states: what the docstrings of `cells/` promise of them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import CELLS

GATES = {"elman": 1, "lstm": 4, "gru": 3}
INPUTS, HIDDEN = (
    40,
    64,
)  # 2560 numbers per gate and more: their moments are known to a few per cent

each_cell = pytest.mark.parametrize("name", CELLS)


@functools.cache
def init(name, key=0, dtype=jnp.float32):
    return CELLS[name].init(jax.random.key(key), INPUTS, HIDDEN, dtype)


def per_gate(name, w):
    return np.split(np.asarray(w), GATES[name], axis=-1)


@each_cell
def test_recurrent_weights_are_orthogonal_per_gate(name):
    for w in per_gate(name, init(name).w_hh):
        # Rounding of float32 in a sum of 64 products.
        chex.assert_trees_all_close(
            w.T @ w, np.eye(HIDDEN, dtype=np.float32), atol=1e-5
        )


@each_cell
def test_input_weights_are_glorot_uniform_per_gate(name):
    """U(-a, a) with a² = 6 / (I + H): so the variance is a²/3 = 2 / (I + H)."""
    bound = np.sqrt(6 / (INPUTS + HIDDEN))
    for w in per_gate(name, init(name).w_ih):
        assert 0.99 * bound < np.abs(w).max() <= bound
        # Of n = 2560 uniform numbers the mean varies by a / √(3n) = 0.011 a, the
        # variance by a²/3 · √(4/5n) = 1.8 %; four such deviations.
        assert abs(w.mean()) < 0.046 * bound
        assert abs(w.var() / (2 / (INPUTS + HIDDEN)) - 1) < 0.07


@each_cell
def test_biases(name):
    """All zero, but for the LSTM's forget gate (the second of i f g o), which is 1."""
    params = init(name)
    expected = np.zeros(GATES[name] * HIDDEN, np.float32)
    if name == "lstm":
        expected[HIDDEN : 2 * HIDDEN] = 1
    chex.assert_trees_all_equal(params.b, expected)
    if name == "gru":
        chex.assert_trees_all_equal(params.b_hn, np.zeros(HIDDEN, np.float32))


@each_cell
def test_shapes_and_dtypes(name):
    chex.assert_tree_all_finite(init(name))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        params = init(name, dtype=dtype)
        state = CELLS[name].initial_state(params, (2, 3))
        assert {leaf.dtype for leaf in (*params, *state)} == {jnp.dtype(dtype)}
        chex.assert_shape(params.w_ih, (INPUTS, GATES[name] * HIDDEN))
        chex.assert_shape(params.w_hh, (HIDDEN, GATES[name] * HIDDEN))
        chex.assert_shape(list(state), (2, 3, HIDDEN))
        assert not any(leaf.any() for leaf in state)
        # The same numbers, rounded: drawn in float32 whatever the dtype.
        chex.assert_trees_all_equal(
            params,
            jax.tree.map(lambda p: p.astype(dtype), init(name)),  # noqa: B023
        )


@pytest.mark.usefixtures("x64")
@each_cell
def test_double_precision_is_drawn_in_double_precision(name):
    params = init(name, dtype=jnp.float64)
    assert {leaf.dtype for leaf in params} == {jnp.dtype(jnp.float64)}
    for w in per_gate(name, params.w_hh):
        chex.assert_trees_all_close(w.T @ w, np.eye(HIDDEN), atol=1e-13)


@each_cell
def test_every_matrix_has_its_own_random_numbers(name):
    """Neither two keys, nor two gates, nor w_ih and w_hh of a square cell share any."""
    chex.assert_trees_all_equal(init(name), init(name))
    square = CELLS[name].init(jax.random.key(0), HIDDEN, HIDDEN)
    other = CELLS[name].init(jax.random.key(1), HIDDEN, HIDDEN)
    matrices = [
        g for p in (square, other) for w in (p.w_ih, p.w_hh) for g in per_gate(name, w)
    ]
    correlations = np.corrcoef([np.ravel(m) for m in matrices])
    # Of 4096 independent pairs it varies by 1/√4096 = 0.016: five such deviations.
    # Matrices made of the same random numbers, one of them orthogonal, show several
    # times as much.
    chex.assert_trees_all_close(correlations, np.eye(len(matrices)), rtol=0, atol=0.08)


@each_cell
def test_the_initial_state_can_be_donated(name):
    """Its leaves are separate buffers: a buffer cannot be donated twice."""
    cell, params = CELLS[name], init(name)
    state = cell.initial_state(params, (3,))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in state]
    assert len(set(pointers)) == len(pointers)
    after = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)(state)
    chex.assert_trees_all_equal(after, jax.tree.map(jnp.ones_like, after))
    assert all(leaf.is_deleted() for leaf in state)
