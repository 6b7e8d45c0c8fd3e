"""Truncated BPTT as a windowed scan, against the same thing inside one call and by hand."""

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from tests.cases import CELLS, problem

SIZE = 7


def make_loss(cell):
    def loss_fn(params, state, batch):
        xs, weights = batch
        state, hs = jaxrnn.unroll(cell, params, state, xs)
        return jnp.sum(weights * jnp.sin(hs)), state

    return loss_fn


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window", [1, 3, SIZE, SIZE + 2])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_equals_truncation_inside_unroll(cell, window):
    case = problem(cell, SIZE)
    batch = (case.xs, case.on_hs)

    def truncated(params):
        last, hs = jaxrnn.unroll_autodiff(cell, params, case.state, case.xs, truncate=window)
        return jnp.sum(case.on_hs * jnp.sin(hs)), last

    expected = jax.jit(jax.value_and_grad(truncated, has_aux=True))(case.params)
    fn = jax.jit(jaxrnn.truncated_value_and_grad(make_loss(cell), window))
    got = fn(case.params, case.state, batch)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_state_continues_the_next_call():
    """Two calls over the parts of a sequence, cut at a window's edge, are one over the whole."""
    cell = jaxrnn.lstm
    case, cut = problem(cell, SIZE), 4
    batch = (case.xs, case.on_hs)
    fn = jax.jit(jaxrnn.truncated_value_and_grad(make_loss(cell), 2))
    (loss, last), grads = fn(case.params, case.state, batch)
    (first_loss, state), first = fn(case.params, case.state, tuple(a[:cut] for a in batch))
    (more_loss, state), more = fn(case.params, state, tuple(a[cut:] for a in batch))
    got = first_loss + more_loss, state, jax.tree.map(jnp.add, first, more)
    chex.assert_trees_all_close(got, (loss, last, grads), rtol=1e-12, atol=1e-13)


def test_gradients_have_the_dtype_of_the_parameters():
    case = problem(jaxrnn.gru, SIZE, dtype=jnp.bfloat16)
    fn = jax.jit(jaxrnn.truncated_value_and_grad(make_loss(jaxrnn.gru), 3))
    (loss, _), grads = fn(case.params, case.state, (case.xs, case.on_hs))
    chex.assert_trees_all_equal_dtypes(grads, case.params)
    assert loss.dtype == jnp.bfloat16


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(("window", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)])
def test_a_window_that_is_none(window, error):
    with pytest.raises(error, match="`window` must be an integer"):
        jaxrnn.truncated_value_and_grad(make_loss(jaxrnn.lstm), window)


def test_a_batch_that_disagrees_on_time():
    fn = jaxrnn.truncated_value_and_grad(make_loss(jaxrnn.lstm), 2)
    with pytest.raises(ValueError, match=r"`batch` must have the same first axis.*\[0\]': 5"):
        fn(None, None, (jnp.ones((5, 1)), jnp.ones((4, 1))))
    with pytest.raises(ValueError, match="there are no leaves"):
        fn(None, None, ())
