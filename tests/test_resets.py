"""A reset step starts from `reset_state`, whatever state is carried."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import jaxrnn
from jaxrnn import train
from tests.cases import LSTM_FIRST, problem, steps, unroll_by_hand

SIZE, BATCH = 9, (2,)
MASK, RESET = steps(0.7, SIZE, BATCH, seed=1), steps(0.3, SIZE, BATCH, seed=2)


def assert_close(got, expected):
    chex.assert_trees_all_close(got, expected, rtol=1e-12, atol=1e-13)


def reset_state_of(case):
    """Not the initial state, and not zero; of the sLSTM, with positive weights."""
    return jax.tree.map(lambda s: 0.7 * s[::-1], case.state)


def gradients(run, case):
    """Those of a loss of all outputs and the last state, by all four arguments."""

    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2, 3))
    def loss(params, state, reset_state, xs):
        last, hs = run(params, state, reset_state, xs)
        ends = jax.tree.map(lambda w, s: jnp.sum(w * jnp.cos(s)), case.on_last, last)
        return jnp.sum(case.on_hs * jnp.sin(hs)) + sum(jax.tree.leaves(ends))

    return jax.jit(loss)(case.params, case.state, reset_state_of(case), case.xs)


def options_at(begin, end):
    return {"mask": MASK[begin:end], "reset": RESET[begin:end]}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reverse", [False, True])
@LSTM_FIRST
def test_equals_plain_loops(cell, reverse):
    """Values, and gradients by the reset state and the initial state, each its own."""
    case = problem(cell, SIZE, BATCH)

    def by(unroll):
        def run(params, state, reset_state, xs):
            options = options_at(0, SIZE) | {
                "reverse": reverse,
                "reset_state": reset_state,
            }
            return unroll(cell, params, state, xs, **options)

        return gradients(run, case)

    expected = by(unroll_by_hand)
    assert any(leaf.any() for leaf in jax.tree.leaves(expected[1][1:3]))
    for store, chunk in (
        [("boundaries", 4)] if reverse else [("states", 5), ("residuals", 9)]
    ):
        unroll = functools.partial(jaxrnn.unroll, store=store, chunk=chunk)
        assert_close(by(unroll), expected)
    assert_close(by(jaxrnn.unroll_autodiff), expected)


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
def test_one_call_equals_any_split_into_calls(cell):
    """With the state carried from call to call: at a reset, at a masked step,
    anywhere."""
    case = problem(cell, SIZE, BATCH)

    def split(*edges):
        def run(params, state, reset_state, xs):
            parts = []
            for begin, end in itertools.pairwise((0, *edges, SIZE)):
                state, hs = jaxrnn.unroll(
                    cell,
                    params,
                    state,
                    xs[begin:end],
                    reset_state=reset_state,
                    **options_at(begin, end),
                )
                parts.append(hs)
            return state, jnp.concatenate(parts)

        return run

    whole = gradients(split(), case)
    assert_close(gradients(split(1, 4), case), whole)


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
def test_step_does_what_unroll_does_in_one_step(cell):
    """Mask, reset and both, and NaN in what is masked; so a loop of steps is a run."""
    case = problem(cell, SIZE, BATCH)
    xs = jnp.where(MASK[..., None], case.xs, jnp.nan)

    def loop(params, state, reset_state, _):
        outputs = []
        for t in range(SIZE):
            state, h = jaxrnn.step(
                cell,
                params,
                state,
                xs[t],
                mask=MASK[t],
                reset=RESET[t],
                reset_state=reset_state,
            )
            outputs.append(h)
        return state, jnp.stack(outputs)

    def run(params, state, reset_state, _):
        options = options_at(0, SIZE) | {"reset_state": reset_state}
        return jaxrnn.unroll(cell, params, state, xs, **options)

    assert_close(gradients(loop, case), gradients(run, case))


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
def test_by_default_a_reset_starts_from_the_initial_state(cell):
    """Zeros, for `unroll`, its oracle and `step`, although another state was passed."""
    case = problem(cell, SIZE, BATCH)
    zeros = cell.initial_state(case.params, BATCH)
    arguments = cell, case.params, case.state
    for unroll in (jaxrnn.unroll, jaxrnn.unroll_autodiff):
        got = unroll(*arguments, case.xs, reset=RESET)
        chex.assert_trees_all_equal(
            got, unroll(*arguments, case.xs, reset=RESET, reset_state=zeros)
        )
    got = jaxrnn.step(*arguments, case.xs[0], reset=jnp.ones(BATCH, bool))
    assert_close(got, jaxrnn.step(cell, case.params, zeros, case.xs[0]))


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
def test_windows_with_resets_equal_the_plain_computation(cell):
    """Checkpointed: exact. Truncated: `unroll` with the adjoint cut at the windows."""
    case, window = problem(cell, SIZE, BATCH), 4
    batch = case.xs, MASK, RESET, case.on_hs

    def loss_of(params, state, batch, **options):
        xs, mask, reset, weights = batch
        state, hs = jaxrnn.unroll(
            cell, params, state, xs, mask=mask, reset=reset, **options
        )
        return jnp.sum(weights * jnp.sin(hs)), state

    def plain(**options):
        loss = functools.partial(loss_of, **options)
        value_and_grad = jax.value_and_grad(loss, has_aux=True)
        return jax.jit(value_and_grad)(case.params, case.state, batch)

    def windowed(make, *arguments, **options):
        return jax.jit(make(loss_of, *arguments, **options))(
            case.params, case.state, batch
        )

    exact = plain()
    nested = windowed(jaxrnn.checkpointed_value_and_grad, windows=(4, 2))
    assert_close(nested, exact)
    truncated = plain(truncate=window)
    assert_close(windowed(jaxrnn.truncated_value_and_grad, window), truncated)
    # With K₂ = T nothing is cut.
    assert_close(windowed(jaxrnn.truncated_value_and_grad, window, SIZE), exact)


@pytest.mark.usefixtures("x64")
def test_training_in_windows_with_resets_equals_a_loop_of_steps():
    cell, window, optimizer = jaxrnn.gru, 4, optax.sgd(0.1)
    case = problem(cell, SIZE, BATCH)
    batch = case.xs, MASK, RESET, case.on_hs

    def loss_fn(params, state, batch):
        xs, mask, reset, weights = batch
        state, hs = jaxrnn.unroll(cell, params, state, xs, mask=mask, reset=reset)
        return jnp.sum(weights * jnp.sin(hs)), state

    def plain(params, state):
        for begin in range(0, SIZE, window):
            part = jax.tree.map(lambda a, at=begin: a[at : at + window], batch)
            (_, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                params, state, part
            )
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return params, state

    expected = jax.jit(plain)(case.params, case.state)
    step = train.make_truncated_step(loss_fn, optimizer, window)
    learner = train.init_learner(case.params, optimizer)
    learner, state, _ = step(learner, case.state, batch)
    assert_close((learner.params, state), expected)


@pytest.mark.usefixtures("x64")
def test_adaptive_truncation_ends_at_a_reset():
    """What came before the last reset contributes nothing; the rest contributes all."""
    cell, at = jaxrnn.lstm, 5
    case = problem(cell, SIZE, ())
    reset = jnp.arange(SIZE) == at

    def loss_fn(params, state, batch):
        xs, reset = batch
        state, hs = jaxrnn.unroll(cell, params, state, xs, reset=reset)
        return jnp.sum(hs[-1]), state

    measure = jaxrnn.adaptive_truncation(loss_fn, 0.1)
    got = measure(case.params, case.state, (case.xs, reset)).contributions
    lags = SIZE - at
    assert got[:lags].all() and not got[lags:].any()
    zeros = cell.initial_state(case.params, ())
    alone = measure(case.params, zeros, (case.xs[at:], reset[at:])).contributions
    np.testing.assert_allclose(got[:lags], alone, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_equals_flax_in_a_scan_that_zeroes_the_carry_at_done():
    """The `ScannedRNN` of recurrent PPO: values, and all gradients."""
    case = problem(jaxrnn.gru, SIZE, BATCH)
    flax_cell = linen.GRUCell(features=case.on_hs.shape[-1])

    def scanned(params, state, _, xs):
        def over_step(carry, inputs):
            x, done = inputs
            carry = jnp.where(done[:, None], jnp.zeros_like(carry), carry)
            return flax_cell.apply({"params": flax_params(params)}, carry, x)

        last, hs = jax.lax.scan(over_step, state.h, (xs, RESET))
        return jaxrnn.GRUState(last), hs

    def ours(params, state, _, xs):
        return jaxrnn.unroll(jaxrnn.gru, params, state, xs, reset=RESET)

    assert_close(gradients(ours, case), gradients(scanned, case))


def flax_params(params):
    """The same weights as in Flax: a dense layer for each gate and direction."""
    tree = {"hn": {"bias": params.b_hn}}
    inputs, recurrent, biases = (
        jnp.split(packed, 3, axis=-1) for packed in (params.w_ih, params.w_hh, params.b)
    )
    for number, gate in enumerate(params.gates.order):
        tree[f"i{gate}"] = {"kernel": inputs[number], "bias": biases[number]}
        tree.setdefault(f"h{gate}", {})["kernel"] = recurrent[number]
    return tree
