"""Truncation: drawn, against the exact gradient in the mean; measured, where the bias
is known."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxrnn
from tests.cases import FIELD, each_cell, problem

KINDS = {"constant": None, "growing": 6.0}
each_kind = pytest.mark.parametrize("exponent", KINDS.values(), ids=KINDS)


@each_kind
def test_windows_have_the_mean_length(exponent):
    """Between cuts lie K steps in the mean; where there is none, γ makes up for its
    chance."""
    mean, size = 5.0, 200_000
    gamma = np.asarray(
        jaxrnn.randomized_truncation(jax.random.key(0), size, mean, exponent=exponent)
    )
    chex.assert_shape(gamma, (size,))
    assert gamma[0] == 1
    cuts = np.flatnonzero(gamma == 0)
    lengths = np.diff(cuts)
    error = lengths.std() / math.sqrt(len(lengths))
    assert abs(lengths.mean() - mean) < 4 * error < 0.2
    since = (
        np.arange(size)[1:]
        - np.maximum.accumulate(np.where(gamma == 0, np.arange(size), 0))[:-1]
    )
    chance = (
        1 / mean
        if exponent is None
        else (exponent - 1) / ((exponent - 2) * mean + since)
    )
    expected = np.where(gamma[1:] == 0, 0, 1 / (1 - chance))
    np.testing.assert_allclose(gamma[1:], expected, rtol=1e-5)


def test_growing_windows_have_a_heavier_tail():
    """P(length > n) is (1 - 1/K)^n, or falls as n^-5."""
    keys = jax.random.key(1)

    def longest(exponent):
        gamma = jaxrnn.randomized_truncation(keys, 100_000, 5.0, exponent=exponent)
        return np.diff(np.flatnonzero(gamma == 0)).max()

    assert longest(6.0) > 1.5 * longest(None)


@each_kind
def test_every_sequence_has_its_own_cuts(exponent):
    gamma = jaxrnn.randomized_truncation(
        jax.random.key(0), 50, 4.0, exponent=exponent, batch_shape=(2, 3)
    )
    chex.assert_shape(gamma, (50, 2, 3))
    cuts = np.asarray(gamma == 0).reshape(50, 6).T
    assert len({tuple(row) for row in cuts}) == 6


@pytest.mark.parametrize("size", [0, 1])
def test_sequences_without_a_way_back(size):
    gamma = jaxrnn.randomized_truncation(jax.random.key(0), size, 2.0)
    chex.assert_trees_all_equal(gamma, jnp.ones(size))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("cell", "exponent"),
    [(jaxrnn.elman, None), (jaxrnn.elman, 6.0), (jaxrnn.lstm, 6.0), (jaxrnn.gru, None)],
    ids=["elman, constant", "elman, growing", "lstm, growing", "gru, constant"],
)
def test_the_mean_over_draws_is_the_exact_gradient(cell, exponent):
    """z-scores of 20,000 draws; TBPTT with windows of the same mean length is off by a
    tenth."""
    size, window, draws = 12, 4, 20_000
    case = problem(cell, size, (), inputs=2, hidden=3)

    def gradient(**options):
        def loss(params):
            _, hs = jaxrnn.unroll(cell, params, case.state, case.xs, **options)
            return jnp.sum(case.on_hs * jnp.sin(hs))

        return ravel_pytree(jax.grad(loss)(case.params))[0]

    def drawn(key):
        return gradient(
            gamma=jaxrnn.randomized_truncation(
                key, size, float(window), exponent=exponent
            )
        )

    exact, truncated = gradient(), gradient(truncate=window)
    samples = jax.jit(jax.vmap(drawn))(jax.random.split(jax.random.key(2), draws))
    error = samples.std(0) / math.sqrt(draws)
    scores = (samples.mean(0) - exact) / error
    assert (
        jnp.abs(scores).max() < 4.5
    )  # of 30 to 70 numbers, each beyond 4.5 once in 150,000
    assert jnp.linalg.norm(truncated - exact) > 0.1 * jnp.linalg.norm(exact)
    assert (
        jnp.abs((truncated - exact) / error).max() > 20
    )  # the test would see such a bias


BAD_DRAWS = {
    "size": ((-1, 2.0), ValueError, "`size` must be an integer ≥ 0, but got -1"),
    "size 0.0": ((0.0, 2.0), TypeError, "`size` must be an integer, but got 0.0"),
    "window": ((3, 1), ValueError, "`window` must be a number above 1, but got 1"),
    "window 9": ((3, "9"), TypeError, "`window` must be a number above 1, but got '9'"),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("arguments", "error", "words"), BAD_DRAWS.values(), ids=BAD_DRAWS
)
def test_bad_arguments_of_draws(arguments, error, words):
    with pytest.raises(error, match=words):
        jaxrnn.randomized_truncation(jax.random.key(0), *arguments)
    with pytest.raises(
        ValueError, match="`exponent` must be a number above 2, but got 2"
    ):
        jaxrnn.randomized_truncation(jax.random.key(0), 3, 2.0, exponent=2)


def summed(cell):
    def loss_fn(params, state, xs):
        state, hs = jaxrnn.unroll(cell, params, state, xs)
        return jnp.sum(hs), state

    return loss_fn


LINEAR = jaxrnn.make_elman("identity")


def linear(w, steps):
    """h[t] = w h[t-1] + 1 - w from h = 1 stays there: all contributions are w^i times
    the first."""
    params = jaxrnn.ElmanParams(jnp.ones((1, 1)), jnp.full((1, 1), w), jnp.zeros(1))
    return params, jaxrnn.ElmanState(jnp.ones(1)), jnp.full((steps, 1), 1 - w)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("w", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("bias", [0.3, 0.1, 0.01])
def test_the_window_for_a_known_bias(w, bias):
    """The relative bias of K steps is w^K, the decay w, in the linear network above."""
    got = jaxrnn.adaptive_truncation(summed(LINEAR), bias)(*linear(w, 1000))
    assert got.rate == pytest.approx(w, rel=1e-9)
    assert got.window == math.ceil(math.log(bias) / math.log(w))
    np.testing.assert_allclose(got.biases[:50], w ** np.arange(1, 51), rtol=1e-6)
    # By w_ih, w_hh and b at step T: x = 1 - w, h = 1 and 1.
    first = math.hypot(1 - w, 1, 1)
    np.testing.assert_allclose(
        got.contributions[:50], first * w ** np.arange(50), rtol=1e-9
    )


@pytest.mark.usefixtures("x64")
def test_lags_are_counted_as_in_flow():
    """Lag 0 is the last step, in `contributions` as in the terms of
    `flow.lag_gradients`."""
    case = problem(jaxrnn.lstm, 6, ())

    def loss_fn(params, state, xs):
        state, hs = jaxrnn.unroll(jaxrnn.lstm, params, state, xs)
        return jnp.sum(jnp.sin(hs[-1])), state

    measured = jaxrnn.adaptive_truncation(loss_fn, 0.1)(*case[:3])
    terms = jax.jit(
        lambda params, state, xs: jaxrnn.flow.lag_gradients(
            lambda last, hs: jnp.sum(jnp.sin(hs[-1])), jaxrnn.lstm, params, state, xs
        )
    )(*case[:3])
    expected = np.sqrt(sum(np.sum(d.reshape(6, -1) ** 2, 1) for d in terms))
    np.testing.assert_allclose(measured.contributions, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@each_cell(others=pytest.mark.slow, without=FIELD)
def test_the_bias_is_bounded(cell):
    """Against the true bias of the last step's loss, sent back over K steps and over
    all."""
    case, size, bias = problem(cell, 60, (4,)), 60, 0.05
    params = case.params._replace(w_hh=0.6 * case.params.w_hh)
    got = jaxrnn.adaptive_truncation(summed(cell), bias)(params, case.state, case.xs)
    assert got.window is not None and 1 < got.window < size // 2

    @jax.jit
    def gradient(gamma):
        def loss(params):
            last, _ = jaxrnn.unroll(cell, params, case.state, case.xs, gamma=gamma)
            return jnp.sum(last.h)

        return ravel_pytree(jax.grad(loss)(params))[0]

    exact = gradient(jnp.ones(size))
    for steps in (1, got.window - 1, got.window, size - 1):
        sent_back = gradient(jnp.ones(size).at[size - steps].set(0))
        true = jnp.linalg.norm(sent_back - exact) / jnp.linalg.norm(exact)
        assert true <= got.biases[steps - 1] + 1e-13
    assert got.biases[got.window - 1] <= bias < got.biases[got.window - 2]


def test_without_decay_no_window_is_known():
    measure = jaxrnn.adaptive_truncation(summed(LINEAR), 0.1)
    growing = measure(*linear(1.1, 30))
    assert growing.window is None and growing.rate == pytest.approx(1.1, rel=1e-3)
    assert np.isinf(growing.biases).all()
    too_short = measure(*linear(0.99, 10))
    assert too_short.window is None and too_short.rate == pytest.approx(0.99, rel=1e-3)
    overflown = measure(*linear(1e4, 30))
    assert overflown.window is None and math.isinf(overflown.rate)


def test_gamma_is_not_rounded_to_bfloat16():
    """200 · 1.003 = 200.6, which rounds to 201; but 1.003 alone rounds to 1."""
    params, state, xs = jax.tree.map(lambda a: a.astype(jnp.bfloat16), linear(1.0, 1))
    for unroll in (jaxrnn.unroll, jaxrnn.unroll_autodiff):

        def loss(state, unroll=unroll):
            return (
                200
                * unroll(LINEAR, params, state, xs, gamma=jnp.array([1.003]))[0].h.sum()
            )

        assert jax.grad(loss)(state).h == 201


def test_an_adjoint_that_vanishes_altogether():
    """w = 0: a loss owes nothing to steps before its own."""
    got = jaxrnn.adaptive_truncation(summed(LINEAR), 0.1)(*linear(0.0, 10))
    assert got.window == 1 and got.rate == 0


@pytest.mark.usefixtures("as_users_see_it")
def test_bad_arguments_of_the_measurement():
    with pytest.raises(ValueError, match="`bias` must be between 0 and 1, but got 1"):
        jaxrnn.adaptive_truncation(summed(LINEAR), 1)
    with pytest.raises(
        ValueError, match="`batch` must have at least 4 steps, but got R = 3"
    ):
        jaxrnn.adaptive_truncation(summed(LINEAR), 0.5)(*linear(0.5, 3))
    with pytest.raises(
        ValueError,
        match=r"the last step of `batch` must have a gradient, but it is zero",
    ):
        unlabelled = jaxrnn.adaptive_truncation(
            lambda p, s, xs: (0.0 * jnp.sum(xs), s), 0.5
        )
        unlabelled(*linear(0.5, 9))
    with pytest.raises(
        TypeError, match=r"`state` must be a ElmanState.*as `loss_fn` returns it"
    ):
        params, _, xs = linear(0.5, 9)
        jaxrnn.adaptive_truncation(summed(LINEAR), 0.5)(params, None, xs)
