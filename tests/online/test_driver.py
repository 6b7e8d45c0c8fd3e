"""Training with a rule: in `jit`, `vmap` and optax, over devices, and bad steps."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxrnn
from jaxrnn import online, train
from tests.cases import copied, problem, steps
from tests.online.runs import backwards, given, loss_fn

SIZE, BATCH = 6, (2,)
RTRL = online.rtrl()
OPTIMIZER = optax.adam(0.05)
x64 = pytest.mark.usefixtures("x64")


def case_of(cell=jaxrnn.elman, dtype=jnp.float64):
    case = problem(cell, SIZE, BATCH, 3, 4, dtype)
    return given(case, steps(0.7, SIZE, BATCH, seed=1), steps(0.3, SIZE, BATCH, seed=2))


def start(case, rule=RTRL, cell=jaxrnn.elman, key=None):
    return online.online_start(rule, cell, case.params[0], case.state, key)


def assert_close(got, expected):
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@x64
def test_an_ensemble_and_a_step_of_the_trainer():
    """`vmap` over parameters; and `make_step`, as with BPTT's gradient."""
    case = case_of()
    fn = online.online_value_and_grad(RTRL, loss_fn)
    many = jax.tree.map(lambda p: jnp.stack([p, 0.8 * p]), case.params)

    def one(params):
        carry = online.online_start(RTRL, jaxrnn.elman, params[0], case.state)
        return fn(params, carry, case.batch)[1]

    got = jax.jit(jax.vmap(one))(many)
    for n in range(2):
        params = jax.tree.map(lambda p, n=n: p[n], many)
        expected = backwards(jaxrnn.elman, case._replace(params=params))[1]
        assert_close(jax.tree.map(lambda g, n=n: g[n], got), expected)

    step = train.make_step(fn, OPTIMIZER)
    learner = train.init_learner(copied(case.params), OPTIMIZER)
    learner, carry, metrics = step(learner, start(case), case.batch)
    value, grads = backwards(jaxrnn.elman, case)
    updates, _ = OPTIMIZER.update(grads, OPTIMIZER.init(case.params))
    assert_close(learner.params, optax.apply_updates(case.params, updates))
    assert_close((metrics.loss, metrics.grad_norm), (value, optax.tree.norm(grads)))
    assert isinstance(carry, online.Carry)


def by_hand(case, every, rule=RTRL, key=None):
    """Updates of `every` steps each, one call for each."""
    fn = jax.jit(online.online_value_and_grad(rule, loss_fn))
    params, carry = case.params, start(case, rule, key=key)
    opt_state, losses = OPTIMIZER.init(params), []
    for first in range(0, SIZE, every):
        part = jax.tree.map(lambda a, n=first: a[n : n + every], case.batch)
        (loss, carry), grads = fn(params, carry, part)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    return train.Learner(params, opt_state), carry, jnp.stack(losses)


@x64
@pytest.mark.parametrize("every", [1, 4, 100])
def test_updates_within_a_sequence_are_those_of_a_loop(every):
    """At each step, at every fourth with a shorter rest, and once."""
    case = case_of()
    step = online.online_train_step(RTRL, loss_fn, OPTIMIZER, every)
    learner = train.init_learner(copied(case.params), OPTIMIZER)
    learner, carry, metrics = step(learner, start(case), case.batch)
    expected = by_hand(case, min(every, SIZE))
    assert_close((learner, carry, metrics.loss), expected)
    assert metrics.loss.shape == (-(-SIZE // every),)


@x64
def test_a_rule_that_draws_goes_on_drawing():
    """Each step has a key of its own, and so has each sequence of a batch."""
    case, rule, key = case_of(), online.uoro(), jax.random.key(5)
    step = online.online_train_step(rule, loss_fn, OPTIMIZER, 2)
    learner = train.init_learner(copied(case.params), OPTIMIZER)
    carry = start(case, rule, key=jnp.copy(key))
    learner, carry, metrics = step(learner, carry, case.batch)
    assert_close(
        (learner, carry._replace(key=None), metrics.loss),
        (lambda a, b, c: (a, b._replace(key=None), c))(*by_hand(case, 2, rule, key)),
    )
    assert (jax.random.key_data(carry.key) != jax.random.key_data(key)).any()
    alike = jax.tree.map(lambda s: jnp.stack([s[0], s[0]]), case.state)
    trace = rule.init(jaxrnn.elman, case.params[0], alike)
    x = jnp.ones((2, 3))
    _, trace = rule.update(case.params[0], alike, x, trace, key)
    assert (trace.state[0] != trace.state[1]).any()


@x64
def test_a_step_that_is_not_finite_changes_nothing():
    """One infinite input in the middle: its update is left out, with its state."""
    case = case_of()
    case = case._replace(batch=case.batch._replace(mask=None, reset=None))
    target = case.batch.targets.at[2:4].set(jnp.inf)
    bad = case.batch._replace(targets=target)
    step = online.online_train_step(RTRL, loss_fn, OPTIMIZER, 2)

    def run(batch):
        learner = train.init_learner(copied(case.params), OPTIMIZER)
        return step(learner, start(case), batch)

    learner, carry, metrics = run(bad)
    assert jnp.isfinite(metrics.loss).tolist() == [True, False, True]
    without = jax.tree.map(lambda a: jnp.concatenate([a[:2], a[4:]]), case.batch)
    expected_learner, expected_carry, _ = run(without)
    chex.assert_trees_all_equal(learner, expected_learner)
    chex.assert_trees_all_equal(carry, expected_carry)


def test_two_devices_give_the_results_of_one():
    case = case_of(jaxrnn.lstm, jnp.float32)
    first = jax.devices()[:1]
    found = []
    for devices in (first, jax.devices()[:2]):
        step = online.online_train_step(RTRL, loss_fn, OPTIMIZER, 3, devices=devices)
        learner = train.init_learner(copied(case.params), OPTIMIZER)
        carry = copied(start(case, cell=jaxrnn.lstm))
        found.append(jax.device_get(step(learner, carry, copied(case.batch))))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)


@x64
def test_one_compilation_serves_a_stream():
    case = case_of()
    fn = jax.jit(
        chex.assert_max_traces(online.online_value_and_grad(RTRL, loss_fn), n=1)
    )
    carry = start(case)
    for _ in range(3):
        (_, carry), _ = fn(case.params, carry, case.batch)


@x64
def test_no_step_at_all():
    """Zero, and the carry as it was."""
    case = case_of()
    none = jax.tree.map(lambda a: a[:0], case.batch)
    fn = online.online_value_and_grad(RTRL, loss_fn)
    (loss, carry), grads = fn(case.params, start(case), none)
    assert loss == 0 and not any(g.any() for g in jax.tree.leaves(grads))
    chex.assert_trees_all_equal(carry, start(case))


@x64
@pytest.mark.parametrize("adaptive", [False, True])
def test_feedback_goes_back_by_its_own_weights(adaptive):
    """dh = dy Bᵀ, dW = hᵀ dy, and B's gradient is W's, or none."""
    case = problem(jaxrnn.elman, SIZE, BATCH)
    h = case.on_hs
    w, b = (jnp.cos(n + jnp.arange(10.0)).reshape(5, 2) for n in (0, 1))
    goal = jnp.sin(jnp.arange(2.0))

    def value(h, w, b):
        return jnp.sum((online.feedback(h, w, b, adaptive=adaptive) - goal) ** 2)

    got, (dh, dw, db) = jax.jit(jax.value_and_grad(value, (0, 1, 2)))(h, w, b)
    dy = 2 * (h @ w - goal)
    expected = jnp.einsum("tbh,tbo->ho", h, dy)
    assert_close(got, jnp.sum((h @ w - goal) ** 2))
    assert_close((dh, dw), (dy @ b.T, expected))
    assert_close(db, expected if adaptive else jnp.zeros_like(b))
    symmetric = jax.grad(lambda h: value(h, w, w))(h)
    assert_close(symmetric, jax.grad(lambda h: jnp.sum((h @ w - goal) ** 2))(h))
