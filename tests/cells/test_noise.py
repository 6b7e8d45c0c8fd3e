"""Recurrent and candidate dropout, zoneout: against autodiff and by the papers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxrnn
from jaxrnn.cells.noise import noise_of
from jaxrnn.layers import candidate_dropout, recurrent_dropout, zoneout
from tests.cases import loss, problem, steps, value_and_grads

SIZE = 7
NOISY = {
    "dropout, elman": recurrent_dropout(jaxrnn.make_elman("relu"), 0.4),
    "dropout, lstm": recurrent_dropout(jaxrnn.lstm, 0.4),
    "dropout, gru": recurrent_dropout(jaxrnn.gru, 0.4, variational=False),
    "candidate, lstm": candidate_dropout(jaxrnn.lstm, 0.4),
    "candidate, gru": candidate_dropout(jaxrnn.gru, 0.4, variational=True),
    "zoneout, elman": zoneout(jaxrnn.elman, 0.3),
    "zoneout, lstm": zoneout(jaxrnn.lstm, 0.2, 0.5),
    "zoneout of dropout, gru": zoneout(recurrent_dropout(jaxrnn.gru, 0.4), 0.3),
}
each_noisy = pytest.mark.parametrize("cell", NOISY.values(), ids=NOISY)


def noisy_problem(cell, size=SIZE, key=3):
    """Vectors with the masks of the cell beside them."""
    case = problem(cell, size)
    so_far = jnp.zeros(3)
    masks = noise_of(cell).draw(case.params, jax.random.key(key), so_far, (size, 3))
    return case._replace(xs=jnp.concatenate([case.xs, masks], -1)), masks


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("store", ["states", "residuals", "boundaries"])
@each_noisy
def test_equals_autodiff(cell, store):
    """With noise, and for one of the stores without; dx is zero for the masks."""
    case, masks = noisy_problem(cell)
    options = {"mask": steps(0.7, SIZE, seed=1), "reset": steps(0.3, SIZE, seed=2)}
    got = value_and_grads(jaxrnn.unroll, cell, case, store=store, chunk=3, **options)
    expected = value_and_grads(jaxrnn.unroll_autodiff, cell, case, **options)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)
    assert not got[1][2][..., -masks.shape[-1] :].any()
    if store == "states":
        case = problem(cell, SIZE)
        got = value_and_grads(jaxrnn.unroll, cell, case, chunk=3, **options)
        expected = value_and_grads(jaxrnn.unroll_autodiff, cell, case, **options)
        chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["candidate, gru", "zoneout, lstm"])
def test_second_order(name):
    case, _ = noisy_problem(NOISY[name], 4)

    @jax.jit
    def loss_of(params, state):
        return loss(jaxrnn.unroll, NOISY[name], case, params, state, case.xs, chunk=2)

    check_grads(loss_of, (case.params, case.state), order=2, modes=["rev"])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def by_the_papers(name, params, state, x, masks):
    """One step, from the equations of the papers, in NumPy."""
    p = jax.tree.map(np.asarray, params)
    rule, cell = name.split(", ")
    h, m = state[0], masks
    into = m * h if rule.startswith("dropout") else h
    if cell == "elman":
        f = np.tanh if rule == "zoneout" else lambda z: np.maximum(z, 0)
        new = [f(x @ p.w_ih + into @ p.w_hh + p.b)]
    elif cell == "lstm":
        z = np.split(x @ p.w_ih + into @ p.w_hh + p.b, 4, -1)
        i, f, g, o = sigmoid(z[0]), sigmoid(z[1]), np.tanh(z[2]), sigmoid(z[3])
        c = f * state[1] + i * (m * g if rule == "candidate" else g)
        new = [o * np.tanh(c), c]
    else:
        u = np.split(x @ p.w_ih + p.b, 3, -1)
        q = np.split(into @ p.w_hh, 3, -1)
        r, z = sigmoid(u[0] + q[0]), sigmoid(u[1] + q[1])
        n = np.tanh(u[2] + r * (q[2] + p.b_hn))
        new = [(1 - z) * (m * n if rule == "candidate" else n) + z * h]
    if rule != "zoneout":
        return new
    return [
        np.where(d, s, a)
        for d, s, a in zip(np.split(m, len(new), -1), state, new, strict=True)
    ]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in NOISY if "of" not in name])
def test_the_papers_equations(name):
    case, masks = noisy_problem(NOISY[name])
    _, hs = jaxrnn.unroll(NOISY[name], case.params, case.state, case.xs)
    state = [np.asarray(s) for s in case.state]
    inputs = np.asarray(case.xs[..., :4])
    assert 0 < (masks == 0).mean() < 1
    for x, mask, h in zip(inputs, np.asarray(masks), hs, strict=True):
        state = by_the_papers(name, case.params, state, x, mask)
        np.testing.assert_allclose(h, state[0], rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_zoneout_without_noise_is_the_mean():
    cell, case = zoneout(jaxrnn.lstm, 0.2, 0.5), problem(jaxrnn.lstm, 1)
    after, _ = jaxrnn.unroll(cell, *case[:3])
    plain, _ = jaxrnn.unroll(jaxrnn.lstm, *case[:3])
    np.testing.assert_allclose(after.h, 0.2 * case.state.h + 0.8 * plain.h)
    np.testing.assert_allclose(after.c, 0.5 * case.state.c + 0.5 * plain.c)


@pytest.mark.parametrize("make", [recurrent_dropout, candidate_dropout])
def test_dropout_without_noise_is_the_cell(make):
    case = problem(jaxrnn.gru, dtype=jnp.float32)
    got = jaxrnn.unroll(make(jaxrnn.gru, 0.5), *case[:3])
    chex.assert_trees_all_equal(got, jaxrnn.unroll(jaxrnn.gru, *case[:3]))
    # Ids too: they have no masks beside them.
    ids = jnp.zeros((SIZE, 3), int)
    got = jaxrnn.unroll(make(jaxrnn.gru, 0.5), case.params, case.state, ids)
    expected = jaxrnn.unroll(jaxrnn.gru, case.params, case.state, ids)
    chex.assert_trees_all_equal(got, expected)


def test_masks_are_drawn_at_their_rate():
    """Over 20,000 draws the standard deviation of a share is 0.0035."""
    params, key = jaxrnn.lstm.init(jax.random.key(0), 1, 20), jax.random.key(1)
    draw = noise_of(zoneout(jaxrnn.lstm, 0.3, 0.6)).draw
    hidden, memory = np.split(draw(params, key, jnp.zeros(10), (100, 10)), 2, -1)
    assert abs(hidden.mean() - 0.3) < 0.014 and abs(memory.mean() - 0.6) < 0.014
    draw = noise_of(candidate_dropout(jaxrnn.lstm, 0.3)).draw
    masks = np.asarray(draw(params, key, jnp.zeros(10), (100, 10)))
    np.testing.assert_allclose(np.unique(masks), [0, 1 / 0.7], rtol=1e-6)
    assert abs((masks == 0).mean() - 0.3) < 0.014
    draw = noise_of(recurrent_dropout(jaxrnn.lstm, 0.3)).draw
    masks = draw(params, key, None, (100, 10))
    assert (masks == masks[0]).all() and (masks[0] != masks[0, 0]).any()


@pytest.mark.usefixtures("as_users_see_it")
def test_refusals():
    with pytest.raises(ValueError, match="`rate` must be at least 0 and below 1, but"):
        zoneout(jaxrnn.lstm, 1.0)
    with pytest.raises(TypeError, match="`zoneout` takes any cell, and goes around"):
        recurrent_dropout(zoneout(jaxrnn.lstm, 0.1), 0.1)
    with pytest.raises(TypeError, match=r"takes jaxrnn\.lstm and jaxrnn.gru"):
        candidate_dropout(jaxrnn.elman, 0.1)
    with pytest.raises(TypeError, match=r"`cell` must be a jaxrnn.Cell, .* but got 3"):
        zoneout(3, 0.1)
