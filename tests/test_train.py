"""The training step: what plain optax would do, and no update that is not finite."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxrnn
from jaxrnn import train
from tests.cases import copied, once, problem

pytestmark = pytest.mark.lowest

CELL = jaxrnn.lstm
CASE = problem(CELL, 6, dtype=jnp.float32)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2))


def loss_fn(params, state, batch):
    xs, weights = batch
    state, hs = jaxrnn.unroll(CELL, params, state, xs)
    return jnp.sum(weights * hs), state


def test_equals_optax_by_hand_with_the_state_carried():
    # The outputs as weights: a sum of squares at first, so that nothing cancels.
    batch = (CASE.xs, jaxrnn.unroll(CELL, *CASE[:3])[1])
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    # Once: the carried state has the type of the first one.
    step = train.make_step(once(value_and_grad), OPTIMIZER)
    learner, state = (
        train.init_learner(CASE.params, OPTIMIZER),
        CASE.state,
    )
    params, opt_state, carried = CASE.params, OPTIMIZER.init(CASE.params), CASE.state
    for _ in range(3):
        learner, state, metrics = step(learner, state, batch)
        (loss, carried), grads = value_and_grad(params, carried, batch)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        expected = train.Metrics(loss, norm, optax.tree.norm(updates))
        chex.assert_trees_all_close(metrics, expected, rtol=1e-5)
        assert (
            norm > 0.1
        )  # clipping was at work, and the metrics give the norm before it
    expected = train.Learner(params, opt_state)
    chex.assert_trees_all_close(learner, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(state, carried, rtol=1e-5, atol=1e-6)


def test_a_sequence_in_windows_is_a_step_too():
    fn = jaxrnn.truncated_value_and_grad(loss_fn, 2)
    step = train.make_step(fn, OPTIMIZER)
    learner = train.init_learner(CASE.params, OPTIMIZER)
    learner, _, metrics = step(learner, CASE.state, (CASE.xs, CASE.on_hs))
    (loss, _), grads = fn(CASE.params, CASE.state, (CASE.xs, CASE.on_hs))
    updates, _ = OPTIMIZER.update(grads, OPTIMIZER.init(CASE.params), CASE.params)
    chex.assert_trees_all_close(metrics.loss, loss, rtol=1e-5)
    expected = optax.apply_updates(CASE.params, updates)
    chex.assert_trees_all_close(learner.params, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("window", [2, 4, 6])
def test_updates_inside_a_sequence_are_steps_over_its_windows(window):
    """With a ragged last window; and the state goes on from call to call."""
    step = train.make_step(jax.value_and_grad(loss_fn, has_aux=True), OPTIMIZER)
    many = train.make_truncated_step(loss_fn, OPTIMIZER, window)
    learner, state = (
        train.init_learner(CASE.params, OPTIMIZER),
        CASE.state,
    )
    got, got_state = (
        train.init_learner(CASE.params, OPTIMIZER),
        CASE.state,
    )
    for _ in range(2):
        metrics = []
        for start in range(0, 6, window):
            batch = tuple(a[start : start + window] for a in (CASE.xs, CASE.on_hs))
            learner, state, of_window = step(learner, state, batch)
            metrics.append(of_window)
        got, got_state, got_metrics = many(got, got_state, (CASE.xs, CASE.on_hs))
        expected = jax.tree.map(lambda *m: jnp.stack(m), *metrics)
        chex.assert_trees_all_close(got_metrics, expected, rtol=1e-5, atol=1e-6)
        assert metrics[0].grad_norm > 0.1  # clipping was at work
    chex.assert_trees_all_close(
        (got, got_state), (learner, state), rtol=1e-4, atol=1e-6
    )


def test_updates_with_losses_sent_back_further_than_a_window():
    """K₁ = 1, K₂ = 2: from the state two steps back, by the parameters of that time."""
    many = train.make_truncated_step(loss_fn, OPTIMIZER, 1, 2)
    batch = (CASE.xs[:4], CASE.on_hs[:4])
    params, opt_state, states = CASE.params, OPTIMIZER.init(CASE.params), [CASE.state]

    def newest(params, start, segment):
        """The last loss, from two steps back, and the states after both steps."""
        first = tuple(a[:1] for a in segment)
        _, between = loss_fn(params, start, first)
        loss, last = loss_fn(params, between, tuple(a[1:] for a in segment))
        return loss, (between, last)

    losses = []
    for end in range(1, 5):
        begin = max(0, end - 2)
        segment = tuple(a[begin:end] for a in batch)
        fn = loss_fn if end == 1 else newest
        start = states[begin]
        (loss, after), grads = jax.value_and_grad(fn, has_aux=True)(
            params, start, segment
        )
        # The state that the present parameters made is the one to start from later.
        states[begin + 1 :] = [after] if end == 1 else list(after)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    learner = train.init_learner(CASE.params, OPTIMIZER)
    learner, state, metrics = many(learner, CASE.state, batch)
    chex.assert_trees_all_close(metrics.loss, jnp.stack(losses), rtol=1e-5)
    chex.assert_trees_all_close(learner.params, params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(state, states[-1], rtol=1e-4, atol=1e-6)


def test_a_window_that_is_not_finite_moves_nothing():
    many = train.make_truncated_step(loss_fn, OPTIMIZER, 2)
    learner = train.init_learner(CASE.params, OPTIMIZER)
    xs, on_hs = CASE.xs.at[2, 0, 0].set(jnp.nan), CASE.on_hs.at[2].set(jnp.nan)
    learner, state, metrics = many(learner, CASE.state, (xs, on_hs))
    assert jnp.isfinite(metrics.loss).tolist() == [True, False, True]
    without = tuple(jnp.concatenate([a[:2], a[4:]]) for a in (CASE.xs, CASE.on_hs))
    expected = many(train.init_learner(CASE.params, OPTIMIZER), CASE.state, without)
    chex.assert_trees_all_close((learner, state), expected[:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_changes_nothing(bad):
    step = train.make_step(jax.value_and_grad(loss_fn, has_aux=True), OPTIMIZER)
    learner = train.init_learner(CASE.params, OPTIMIZER)
    before = copied((learner, CASE.state))
    xs = CASE.xs.at[2, 0, 0].set(bad)
    learner, state, metrics = step(learner, CASE.state, (xs, CASE.on_hs * bad))
    assert not jnp.isfinite(metrics.loss)
    chex.assert_trees_all_equal((learner, state), before)


def test_a_finite_loss_with_a_gradient_that_is_not():
    """√p at p = 0: the loss is 0, its derivative is infinite."""
    step = train.make_step(
        jax.value_and_grad(lambda p, s, b: (jnp.sqrt(p).sum(), s), has_aux=True),
        OPTIMIZER,
    )
    learner = train.init_learner(jnp.zeros(2), OPTIMIZER)
    learner, _, metrics = step(learner, None, None)
    assert metrics.loss == 0 and not jnp.isfinite(metrics.grad_norm)
    chex.assert_trees_all_equal(learner, train.init_learner(jnp.zeros(2), OPTIMIZER))


def test_a_step_is_compiled_once_for_parameters_of_a_weak_dtype():
    """As Python's numbers make them: the updates give them a dtype that is not weak.

    The optimizer's state has a random key.
    """

    @chex.assert_max_traces(1)
    def loss_fn(params, state, x):
        return jnp.sum((params - x) ** 2), state

    params = jnp.full(2, 1.0)
    assert params.weak_type
    optimizer = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), OPTIMIZER)
    step = train.make_step(jax.value_and_grad(loss_fn, has_aux=True), optimizer)
    learner = train.init_learner(params, optimizer)
    for _ in range(3):
        learner, _, _ = step(learner, None, jnp.zeros(2))


def test_an_update_that_is_not_finite_changes_nothing():
    """It is too large for float32, where loss and gradient are finite."""
    steep = optax.sgd(3e38)
    step = train.make_step(jax.value_and_grad(mean_of_squares, has_aux=True), steep)
    params = {"w": jnp.full(3, 10.0)}
    learner, _, metrics = step(train.init_learner(params, steep), None, jnp.zeros(3))
    assert jnp.isfinite(metrics.loss) and jnp.isfinite(metrics.grad_norm)
    assert not jnp.isfinite(metrics.update_norm)
    chex.assert_trees_all_equal(learner.params, params)


def test_a_state_that_is_not_the_loss_function_s():
    step = train.make_step(jax.value_and_grad(loss_fn, has_aux=True), OPTIMIZER)
    learner = train.init_learner(CASE.params, OPTIMIZER)
    with pytest.raises(
        TypeError, match=r"`state` must be a LSTMState.*`loss_fn` returns it.*None"
    ):
        step(learner, None, (CASE.xs, CASE.on_hs))


def test_the_learner_is_donated_and_nothing_else():
    """And a step refuses a learner that was given to an earlier one, in our words."""
    step = train.make_step(jax.value_and_grad(loss_fn, has_aux=True), OPTIMIZER)
    learner = train.init_learner(CASE.params, OPTIMIZER)
    batch = CASE.xs, CASE.on_hs
    step(learner, CASE.state, batch)
    assert all(a.is_deleted() for a in jax.tree.leaves(learner))
    kept = jax.tree.leaves((CASE.params, CASE.state, batch))
    assert not any(a.is_deleted() for a in kept)
    with pytest.raises(
        ValueError,
        match=r"`learner` was given to an earlier step, .* that the step returned",
    ):
        step(learner, CASE.state, batch)
    with pytest.raises(
        ValueError, match=r"`params.w_ih` was donated to an earlier call"
    ):
        jaxrnn.unroll(CELL, learner.params, None, CASE.xs)


def test_an_optimizer_that_keeps_the_parameters_themselves():
    """Its state and the parameters are one buffer, and a buffer can be donated once."""
    keeps = optax.GradientTransformation(
        lambda params: params, lambda grads, state, params: (grads, state)
    )
    step = train.make_step(jax.value_and_grad(mean_of_squares, has_aux=True), keeps)
    params = {"w": jnp.ones(3)}
    learner, _, _ = step(train.init_learner(params, keeps), None, jnp.zeros(3))
    chex.assert_trees_all_equal(learner.opt_state, params)


def mean_of_squares(params, state, xs):
    return jnp.mean((params["w"] - xs) ** 2), state


SQUARES = jax.value_and_grad(mean_of_squares, has_aux=True)
SGD = optax.sgd(0.1)
PARAMS = {"w": jnp.ones(3)}


def call(value_and_grad=SQUARES, optimizer=SGD, learner=None, state=None, **options):
    """Makes a step and calls it."""
    step = train.make_step(value_and_grad, optimizer, **options)
    learner = train.init_learner(PARAMS, SGD) if learner is None else learner
    return step(learner, state, jnp.zeros(3))


RETURNS = r"must return \(\(loss, state\), grads\)"
CURE = r"Give jax.value_and_grad\(loss_fn, has_aux=True\)"

WRONG = {
    "make_step(loss_fn itself)": (
        {"value_and_grad": mean_of_squares},
        rf"`value_and_grad` {RETURNS}, but returned a tuple. {CURE}",
    ),
    "value_and_grad without has_aux of a loss alone": (
        {"value_and_grad": jax.value_and_grad(lambda *a: mean_of_squares(*a)[0])},
        rf"{RETURNS}, but returned a tuple. {CURE}",
    ),
    "value_and_grad without has_aux of a loss and a state": (
        {"value_and_grad": jax.value_and_grad(mean_of_squares)},
        rf"{RETURNS}, the loss one number. {CURE}",
    ),
    "jax.grad": (
        {"value_and_grad": jax.grad(mean_of_squares, has_aux=True)},
        rf"{RETURNS}, but returned a tuple. {CURE}",
    ),
    "no function": (
        {"value_and_grad": None},
        rf"`value_and_grad` must be a function .*, but got None. {CURE}",
    ),
    "a state of another kind": (
        {"state": jnp.zeros(2), "value_and_grad": lambda p, s, b: ((0.0, None), p)},
        r"`state` must be None, as `loss_fn` returns it, but got a traced array, "
        r"float32 \(2,\). `loss_fn` must return the state after its batch",
    ),
    "make_step(vg, 1e-3)": (
        {"optimizer": 1e-3},
        r"`optimizer` must be an optax transformation, such as optax.adam.*got 0.001",
    ),
    "make_step(vg, None)": (
        {"optimizer": None},
        "`optimizer` must be an optax transformation, .* but got None",
    ),
    "parameters in place of the learner": (
        {"learner": PARAMS},
        r"`learner` must be a Learner, as `init_learner\(params, optimizer\)` makes it,"
        " but got a dict",
    ),
    "a learner of Adam through a step of SGD": (
        {"learner": train.init_learner(PARAMS, optax.adam(0.1))},
        r"`learner.opt_state` must be that of the step's own optimizer, but got that of"
        " another one. Make the learner with the same optimizer",
    ),
    "devices='cpu'": (
        {"devices": "cpu"},
        r"`devices` must be a list of JAX devices, such as jax.devices\(\), but got "
        r"'cpu'",
    ),
    "devices=2": ({"devices": 2}, "`devices` must be a list of JAX devices, .* got 2"),
    "a single device": (
        {"devices": jax.devices()[0]},
        r"`devices` must be .* but got a single one, .*Give \[device\]",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(arguments, words):
    with pytest.raises(TypeError, match=words):
        call(**arguments)


@pytest.mark.usefixtures("as_users_see_it")
def test_truncated_steps_check_too():
    with pytest.raises(TypeError, match="`optimizer` must be an optax transformation"):
        train.make_truncated_step(mean_of_squares, 1e-3, 2)
    with pytest.raises(TypeError, match="`loss_fn` must be a function"):
        train.make_truncated_step(None, SGD, 2)
    with pytest.raises(TypeError, match="`optimizer` must be an optax transformation"):
        train.init_learner(PARAMS, None)
