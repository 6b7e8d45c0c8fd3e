"""Layers on top of one another: exact where the docstring says so."""

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from jaxrnn import online
from tests.cases import problem, steps
from tests.online.runs import backwards, forwards, given, loss_fn

pytestmark = pytest.mark.usefixtures("x64")

SIZE, BATCH = 6, (2,)
CELLS = jaxrnn.lstm, jaxrnn.elman
RULE = online.stacked(online.rtrl(), online.rtrl())


def two_layers(forgetful=False):
    """An LSTM of 4 units and an Elman network of 3, which may have no memory."""
    lower = problem(CELLS[0], SIZE, BATCH, 3, 4)
    upper = problem(CELLS[1], SIZE, BATCH, 4, 3)
    if forgetful:
        params = upper.params._replace(w_hh=jnp.zeros((3, 3)))
        upper = upper._replace(params=params)
    masks = steps(0.7, SIZE, BATCH, seed=1), steps(0.3, SIZE, BATCH, seed=2)
    found = given(upper._replace(xs=lower.xs), *masks)
    params = (lower.params, upper.params), found.params[1]
    return found._replace(params=params, state=(lower.state, upper.state))


@jax.jit
def by_backpropagation(given):
    def value(params):
        (lower, upper), rest = params
        mask, reset = given.batch.mask, given.batch.reset
        hs = given.batch.xs
        for cell, theta, state in zip(CELLS, (lower, upper), given.state, strict=True):
            hs = jaxrnn.unroll(cell, theta, state, hs, mask=mask, reset=reset)[1]
        return jax.vmap(loss_fn, (None, 0, 0))(rest, hs, given.batch.targets).sum()

    return jax.value_and_grad(value)(given.params)


def assert_close(got, expected):
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("forgetful", [False, True])
def test_the_uppermost_layer_is_exact(forgetful):
    """And the lower one, if the upper one has no memory."""
    case = two_layers(forgetful)
    value, ((lower, upper), rest) = by_backpropagation(case)
    got_value, ((got_lower, got_upper), got_rest) = forwards(RULE, CELLS, case)
    assert_close((got_value, got_upper, got_rest), (value, upper, rest))
    if forgetful:
        assert_close(got_lower, lower)
    else:
        assert not jnp.allclose(got_lower.w_hh, lower.w_hh)


def test_one_layer_is_the_rule_itself():
    case = given(problem(jaxrnn.lstm, SIZE, BATCH, 3, 4))
    expected = forwards(online.rtrl(), jaxrnn.lstm, case)
    (theta, rest), state = case.params, case.state
    many = case._replace(params=((theta,), rest), state=(state,))
    value, ((got,), got_rest) = forwards(
        online.stacked(online.rtrl()), (jaxrnn.lstm,), many
    )
    assert_close((value, (got, got_rest)), expected)
    assert_close(expected, backwards(jaxrnn.lstm, case))


def test_layers_with_rules_of_their_own_and_ids():
    """Rules that draw beside others; the lowest layer takes ids, as vectors."""
    rule = online.stacked(online.uoro(), online.snap())
    case, key = two_layers(), jax.random.key(0)
    ids = jnp.arange(SIZE * 2).reshape(SIZE, 2) % 3
    found = []
    for xs in (ids, jax.nn.one_hot(ids, 3, dtype=jnp.float64)):
        batch = case.batch._replace(xs=xs)
        found.append(forwards(rule, CELLS, case._replace(batch=batch), key))
    assert_close(*found)


def test_reset_states_of_the_layers():
    case = two_layers()
    anew = jax.tree.map(lambda s: 0.5 * s + 0.1, case.state)
    everywhere = jnp.ones((1, *BATCH), bool)
    first = jax.tree.map(lambda a: a[:1], case.batch._replace(mask=None))
    reset = case._replace(batch=first._replace(reset=everywhere), reset_state=anew)
    fresh = case._replace(batch=first._replace(reset=None), state=anew)
    assert_close(forwards(RULE, CELLS, reset), forwards(RULE, CELLS, fresh))


@pytest.mark.usefixtures("as_users_see_it")
def test_the_numbers_of_layers_fit():
    with pytest.raises(TypeError, match="`rules` must be estimators, such as"):
        online.stacked(online.rtrl(), jaxrnn.lstm)
    with pytest.raises(TypeError, match="`rules` must be estimators"):
        online.stacked(online.rtrl)
    with pytest.raises(ValueError, match="at least one"):
        online.stacked()
    case = two_layers()
    theta, state = case.params[0], case.state
    for name, given_ in (
        ("cell", (CELLS[:1], theta, state)),
        ("cell", (jaxrnn.lstm, theta, state)),
        ("params", (CELLS, theta[0], state)),
        ("state", (CELLS, theta, (*state, state[0]))),
    ):
        words = f"`{name}` must be a tuple with one entry for each of the 2 layers"
        with pytest.raises(ValueError, match=words):
            online.online_start(RULE, *given_)
