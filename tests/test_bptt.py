"""The gradient of `unroll`: against autodiff, plain loops, dense Jacobians, and
identities."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from allpairspy import AllPairs
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

import jaxrnn
from tests.cases import (
    ACTIVATIONS,
    ALL_CELLS,
    CELLS,
    FIELD,
    LSTM_FIRST,
    LSTM_LOWEST,
    each_once,
    factors,
    loss,
    problem,
    softsign,
    softsign_slope,
    steps,
    unroll_by_hand,
    value_and_grads,
)

# Products are summed in another order than the oracle's: a few hundred roundings of
# float64.
RTOL, ATOL = 1e-10, 1e-12
SIZE = 11  # prime: every chunk but 1 and T leaves a tail, and so does the default

AXES = {
    "store": ("states", "residuals", "boundaries"),
    "chunk": (1, 4, SIZE, None),
    "batch": ((), (3,), (2, 3)),
    "mask": (False, True),
    "reset": (False, True),
    "reverse": (False, True),
    "truncate": (None, 3),
    "gamma": (None, "per step", "per step and sequence"),
}
STORES = {store: store for store in AXES["store"]}
PAIRS = [tuple(case) for case in AllPairs(list(AXES.values()))]


def cases():
    """Each pair of options with the LSTM and, cells counted as an option, with the
    others."""
    others = AllPairs([["elman", "gru"], *AXES.values()])
    chosen = [("lstm", *case) for case in PAIRS] + [tuple(case) for case in others]
    yield from (pytest.param(*case, marks=marks_of(case)) for case in chosen)
    for case in itertools.product(CELLS, *AXES.values()):
        if case not in chosen:
            yield pytest.param(*case, marks=pytest.mark.slow)


def field_cases():
    """Each cell of the field with two rows of options: each option with and without,
    each store and each chunk in turn. Behind `slow` it meets each pair of options."""
    stores, chunks = itertools.cycle(AXES["store"]), itertools.cycle((4, 3, 4, None))
    for name in FIELD:
        chosen = [
            (next(stores), next(chunks), *rest)
            for rest in (
                ((3,), True, True, False, None, "per step and sequence"),
                ((2, 3), False, False, True, 3, None),
            )
        ]
        yield from ((name, *case) for case in chosen)
        for case in PAIRS:
            if case not in chosen:
                yield pytest.param(name, *case, marks=pytest.mark.slow)


def marks_of(case):
    return pytest.mark.lowest if case[0] == "lstm" else ()


def assert_close(got, expected, rtol=RTOL, atol=ATOL):
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=atol)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", *AXES), [*cases(), *field_cases()])
def test_equals_autodiff(
    name, store, chunk, batch, mask, reset, reverse, truncate, gamma
):
    cell = (CELLS | FIELD)[name]
    case = problem(cell, SIZE, batch)
    options = {"reverse": reverse, "truncate": truncate}
    options |= {"mask": steps(0.7, SIZE, batch, seed=1)} if mask else {}
    options |= {"reset": steps(0.3, SIZE, batch, seed=2)} if reset else {}
    if gamma is not None:
        options["gamma"] = factors(SIZE, () if gamma == "per step" else batch)
    got = value_and_grads(
        jaxrnn.unroll, cell, case, store=store, chunk=chunk, **options
    )
    assert_close(got, value_and_grads(jaxrnn.unroll_autodiff, cell, case, **options))


@pytest.mark.usefixtures("x64")
@each_once(("cell", "store"), ACTIVATIONS, STORES)
def test_every_activation_equals_autodiff(cell, store):
    case = problem(cell, SIZE)
    options = {"mask": steps(0.7, SIZE, seed=1), "reset": steps(0.3, SIZE, seed=2)}
    got = value_and_grads(jaxrnn.unroll, cell, case, store=store, chunk=3, **options)
    assert_close(got, value_and_grads(jaxrnn.unroll_autodiff, cell, case, **options))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reverse", [False, True])
@LSTM_LOWEST
def test_masks_and_resets_equal_plain_loops(cell, reverse):
    case = problem(cell, SIZE)
    options = {"mask": steps(0.6, SIZE, seed=3), "reset": steps(0.4, SIZE, seed=4)}
    assert (
        options["reset"] & ~options["mask"]
    ).any()  # a reset at a masked step is among them
    options["reverse"] = reverse
    by_hand = jax.value_and_grad(
        lambda *args: loss(unroll_by_hand, cell, case, *args, **options), (0, 1, 2)
    )(case.params, case.state, case.xs)
    assert_close(value_and_grads(jaxrnn.unroll, cell, case, **options), by_hand)
    assert_close(
        value_and_grads(jaxrnn.unroll_autodiff, cell, case, **options), by_hand
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("store", "truncate", "gamma"),
    [
        ("states", None, None),
        ("states", 4, factors(15)),
        ("residuals", None, factors(15, (3,))),
        ("residuals", 4, None),
        ("boundaries", None, None),
        ("boundaries", 4, factors(15, (3,))),
    ],
)
@LSTM_FIRST
def test_chunks_without_a_step_are_skipped(cell, store, gamma, truncate):
    """The first chunk, one in the middle and the last two, the tail among them, with
    NaN inside."""
    case = problem(cell, 15)
    live = (
        steps(0.8, 15, seed=1)
        & jnp.repeat(jnp.array([0, 1, 0, 1, 1, 0, 0, 0], bool), 2)[:15, None]
    )
    case = case._replace(xs=jnp.where(live[..., None], case.xs, jnp.nan))
    options = {"mask": live, "truncate": truncate}
    options |= {} if gamma is None else {"gamma": gamma}
    got = value_and_grads(jaxrnn.unroll, cell, case, store=store, chunk=2, **options)
    assert_close(got, value_and_grads(jaxrnn.unroll_autodiff, cell, case, **options))


@pytest.mark.usefixtures("x64")
@each_once(("cell", "batch"), CELLS, {str(b): b for b in ((1,), (1, 1), (2, 1))})
def test_axes_of_one_sequence_are_kept(cell, batch):
    case = problem(cell, SIZE, batch)
    options = {
        "mask": steps(0.7, SIZE, batch, seed=1),
        "reset": steps(0.3, SIZE, batch, seed=2),
    }
    options["gamma"] = factors(SIZE)
    got = value_and_grads(jaxrnn.unroll, cell, case, **options)
    chex.assert_trees_all_equal_shapes(got[1], case[:3])
    assert_close(got, value_and_grads(jaxrnn.unroll_autodiff, cell, case, **options))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("cell", "gamma"),
    [
        *((cell, None) for cell in ALL_CELLS.values()),
        *((c, factors(SIZE)) for c in CELLS.values()),
        *(pytest.param(c, None, marks=pytest.mark.slow) for c in FIELD.values()),
    ],
    ids=[*ALL_CELLS, *(f"{name}, gamma" for name in CELLS), *FIELD],
)
@pytest.mark.lowest
def test_equals_the_dense_product_of_jacobians(cell, gamma):
    """λ[t-1] = g[t-1] + γ[t] J[t]ᵀ λ[t] and Σ M[t]ᵀ λ[t], with J and M as matrices."""
    case = problem(cell, SIZE, batch=())
    state, unflatten = ravel_pytree(case.state)
    theta, unflatten_params = ravel_pytree(case.params)

    def step(state, theta, x):
        params = unflatten_params(theta)
        after, _ = cell.step(params, unflatten(state), cell.drive(params, x))
        return ravel_pytree(after)[0]

    jacobians, states = jax.jit(jax.jacfwd(step, (0, 1, 2))), [state]
    for x in case.xs:
        states.append(step(states[-1], theta, x))
    width = case.on_hs.shape[-1]
    on_last = ravel_pytree(case.on_last)[0]
    adjoint, dtheta, dxs = -on_last * jnp.sin(states[-1]), 0.0, []
    for t in reversed(range(SIZE)):
        direct = case.on_hs[t] * jnp.cos(
            states[t + 1][:width]
        )  # g[t]; h comes first in the state
        adjoint = adjoint.at[:width].add(direct)
        by_state, by_theta, by_x = jacobians(states[t], theta, case.xs[t])
        dtheta = dtheta + adjoint @ by_theta
        dxs.append(adjoint @ by_x)
        adjoint = (1 if gamma is None else gamma[t]) * (adjoint @ by_state)
    expected = unflatten_params(dtheta), unflatten(adjoint), jnp.stack(dxs[::-1])
    options = {} if gamma is None else {"gamma": gamma}
    _, got = value_and_grads(jaxrnn.unroll, cell, case, chunk=3, **options)
    assert_close(got, expected)


@pytest.mark.usefixtures("x64")
@LSTM_LOWEST
def test_truncation_is_gamma_of_zeros(cell):
    case = problem(cell, SIZE)
    gamma = jnp.asarray(np.arange(SIZE) % 3 != 0, float).at[0].set(1)
    got = value_and_grads(jaxrnn.unroll, cell, case, gamma=gamma, chunk=4)
    expected = value_and_grads(jaxrnn.unroll, cell, case, truncate=3, chunk=4)
    # Up to the rounding of complex products, which two programs order differently.
    assert_close(got, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
@pytest.mark.lowest
def test_the_gradient_is_differentiable_by_gamma(cell):
    """Where it is zero too: a cut that selects has no slope there, a factor has."""
    case = problem(cell, SIZE)

    def by(unroll):
        def loss_of(gamma):
            grads = jax.grad(
                lambda p: loss(unroll, cell, case, p, *case[1:3], gamma=gamma)
            )
            return sum(jnp.sum(jnp.sin(g)) for g in jax.tree.leaves(grads(case.params)))

        return jax.jit(jax.value_and_grad(loss_of))(
            jnp.asarray(factors(SIZE)).at[4].set(0)
        )

    assert_close(by(jaxrnn.unroll), by(jaxrnn.unroll_autodiff))


# Each store, and each kind of adjoint: of two products, of several states, of means
# over units, and of a scan.
SECOND_ORDER = {
    ("every_lstm", "residuals"),
    ("layer_norm_gru", "states"),
    ("parallel_lru", "boundaries"),
    ("slstm", "states"),
}


@pytest.mark.usefixtures("x64")
@each_once(("cell", "store"), CELLS, STORES, lstm=pytest.mark.lowest)
def test_second_order(cell, store):
    case = problem(cell, size=5, batch=(2,), inputs=2, hidden=3)
    options = {
        "mask": steps(0.8, 5, (2,), seed=5),
        "reset": steps(0.2, 5, (2,), seed=6),
    }

    @jax.jit
    def loss_of(params, state, xs):
        return loss(
            jaxrnn.unroll,
            cell,
            case,
            params,
            state,
            xs,
            store=store,
            chunk=2,
            **options,
        )

    check_grads(loss_of, (case.params, case.state, case.xs), order=2, modes=["rev"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "store"),
    [
        pytest.param(name, store, marks=() if quick else pytest.mark.slow)
        for name, store in itertools.product(FIELD, STORES)
        for quick in [(name, store) in SECOND_ORDER]
    ],
)
def test_second_order_in_the_field(name, store):
    """The gradient of a product of the gradient, reverse over reverse, by autodiff."""
    cell = FIELD[name]
    case = problem(cell, 5, (2,), inputs=2, hidden=3)
    options = {
        "mask": steps(0.8, 5, (2,), seed=5),
        "reset": steps(0.2, 5, (2,), seed=6),
    }

    def by(unroll, **static):
        def product(args):
            grads = jax.grad(
                lambda args: loss(unroll, cell, case, *args, **options, **static)
            )(args)
            products = jax.tree.map(lambda a, g: jnp.vdot(jnp.cos(a), g), args, grads)
            return sum(jax.tree.leaves(products))

        return jax.jit(jax.grad(product))(tuple(case[:3]))

    got = by(jaxrnn.unroll, store=store, chunk=2)
    assert_close(got, by(jaxrnn.unroll_autodiff), rtol=1e-9)


@pytest.mark.usefixtures("x64")
@LSTM_LOWEST
def test_forward_over_reverse_and_forward_mode(cell):
    case = problem(cell, size=5)
    args = case.params, case.state, case.xs
    tangents = jax.tree.map(jnp.cos, args)

    def by(unroll):
        return jax.grad(lambda *args: loss(unroll, cell, case, *args), (0, 1, 2))

    got = jax.jit(lambda: jax.jvp(by(jaxrnn.unroll), args, tangents))()
    assert_close(
        got, jax.jit(lambda: jax.jvp(by(jaxrnn.unroll_autodiff), args, tangents))()
    )
    check_grads(
        jax.jit(lambda *args: loss(jaxrnn.unroll_autodiff, cell, case, *args)),
        args,
        order=1,
        modes=["fwd"],
    )


@pytest.mark.usefixtures("x64")
@LSTM_LOWEST
def test_garbage_in_masked_inputs_changes_nothing(cell):
    case, mask = problem(cell, SIZE), steps(0.6, SIZE, seed=7)
    clean = value_and_grads(jaxrnn.unroll, cell, case, mask=mask, chunk=3)
    for garbage in (jnp.nan, jnp.inf, 1e300):
        dirty = case._replace(xs=jnp.where(mask[..., None], case.xs, garbage))
        for store in AXES["store"]:
            got = value_and_grads(
                jaxrnn.unroll, cell, dirty, mask=mask, chunk=3, store=store
            )
            assert_close(got, clean)
            assert not got[1][2][~mask].any()  # exactly zero
    got = value_and_grads(jaxrnn.unroll_autodiff, cell, dirty, mask=mask)
    assert_close(got, clean)


@pytest.mark.usefixtures("x64")
@LSTM_LOWEST
def test_no_steps_and_no_inputs(cell):
    """T = 0 and a mask that is nowhere True give back the state, and its gradient
    alone."""
    for size, options in ((0, {}), (3, {"mask": steps(0.0, 3)})):
        case = problem(cell, size)
        last, hs = jaxrnn.unroll(cell, case.params, case.state, case.xs, **options)
        chex.assert_trees_all_equal(last, case.state)
        chex.assert_trees_all_equal(hs, jnp.zeros_like(case.on_hs))
        _, (dparams, dstate, dxs) = value_and_grads(
            jaxrnn.unroll, cell, case, **options
        )
        chex.assert_trees_all_equal(dparams, jax.tree.map(jnp.zeros_like, case.params))
        chex.assert_trees_all_equal(dxs, jnp.zeros_like(case.xs))
        on_state = jax.tree.map(lambda w, s: -w * jnp.sin(s), case.on_last, case.state)
        assert_close(dstate, on_state)


@pytest.mark.usefixtures("x64")
@LSTM_LOWEST
def test_a_reset_equals_two_calls(cell):
    case, cut = problem(cell, SIZE), 4
    reset = jnp.zeros((SIZE, 3), bool).at[cut].set(True)

    def two_calls(cell, params, state, xs):
        _, hs = jaxrnn.unroll(cell, params, state, xs[:cut])
        last, more = jaxrnn.unroll(cell, params, None, xs[cut:])
        return last, jnp.concatenate([hs, more])

    expected = value_and_grads(two_calls, cell, case)
    assert_close(value_and_grads(jaxrnn.unroll, cell, case, reset=reset), expected)


@pytest.mark.usefixtures("x64")
@LSTM_LOWEST
def test_two_calls_with_the_state_carried_equal_one(cell):
    case, cut = problem(cell, SIZE), 4

    def two_calls(cell, params, state, xs):
        state, hs = jaxrnn.unroll(cell, params, state, xs[:cut])
        last, more = jaxrnn.unroll(cell, params, state, xs[cut:])
        return last, jnp.concatenate([hs, more])

    assert_close(
        value_and_grads(jaxrnn.unroll, cell, case),
        value_and_grads(two_calls, cell, case),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reverse", [False, True])
@LSTM_LOWEST
def test_truncation(cell, reverse):
    case = problem(cell, SIZE)
    whole = value_and_grads(jaxrnn.unroll, cell, case, reverse=reverse)
    for k in (SIZE, SIZE + 1):
        chex.assert_trees_all_equal(
            value_and_grads(jaxrnn.unroll, cell, case, reverse=reverse, truncate=k),
            whole,
        )

    # dR̂/dx for a loss at the last step of the run alone: zero across the cut, alive
    # within it.
    end, window = (0, slice(None, 1)) if reverse else (SIZE - 1, slice(SIZE - 1, None))
    late = case._replace(
        on_hs=jnp.zeros_like(case.on_hs).at[end].set(case.on_hs[end]),
        on_last=jax.tree.map(jnp.zeros_like, case.on_last),
    )
    for store in AXES["store"]:
        options = {"reverse": reverse, "truncate": 5, "store": store, "chunk": 2}
        value, (_, dstate, dxs) = value_and_grads(jaxrnn.unroll, cell, late, **options)
        assert dxs[window].all()
        assert not dxs.at[window].set(0).any()
        assert not any(d.any() for d in jax.tree.leaves(dstate))
        assert_close(
            value, value_and_grads(jaxrnn.unroll, cell, late, reverse=reverse)[0]
        )


@LSTM_LOWEST
def test_reverse_is_the_flipped_run(cell):
    case = problem(cell, SIZE, dtype=jnp.float32)
    mask, reset = steps(0.7, SIZE, seed=8), steps(0.3, SIZE, seed=9)
    last, hs = jaxrnn.unroll(
        cell, case.params, case.state, case.xs, mask=mask, reset=reset, reverse=True
    )
    flipped = jaxrnn.unroll(
        cell, case.params, case.state, case.xs[::-1], mask=mask[::-1], reset=reset[::-1]
    )
    chex.assert_trees_all_close((last, hs), (flipped[0], flipped[1][::-1]), rtol=1e-6)


@pytest.mark.usefixtures("x64")
@LSTM_LOWEST
def test_vmap_and_one_trace(cell):
    """An ensemble of parameters; `grad` of `vmap` and `vmap` of `grad`; no second
    trace."""
    case = problem(cell, SIZE, batch=())
    ensemble = jax.tree.map(lambda p: jnp.stack([p, 0.9 * p, p + 0.1]), case.params)

    def loss_of(params, state, xs):
        return loss(jaxrnn.unroll, cell, case, params, state, xs)

    # It counts by name, and the loss of every cell has this name.
    chex.clear_trace_counter()
    one_by_one = jax.jit(jax.grad(chex.assert_max_traces(loss_of, n=1)))
    expected = [
        one_by_one(jax.tree.map(lambda p, i=i: p[i], ensemble), case.state, case.xs)
        for i in range(3)
    ]
    expected = jax.tree.map(lambda *g: jnp.stack(g), *expected)
    vmapped = jax.vmap(loss_of, (0, None, None))
    assert_close(
        jax.jit(jax.vmap(jax.grad(loss_of), (0, None, None)))(ensemble, *case[1:3]),
        expected,
    )
    grads = jax.jit(jax.grad(lambda *args: vmapped(*args).sum()))(ensemble, *case[1:3])
    assert_close(grads, expected)


def test_the_same_activation_is_the_same_cell():
    assert jaxrnn.make_elman() is jaxrnn.elman
    assert jaxrnn.make_elman("relu") is jaxrnn.make_elman("relu")
    assert jaxrnn.make_elman((softsign, softsign_slope)) is ACTIVATIONS["pair"]


@LSTM_LOWEST
def test_step_is_the_step_that_unroll_scans(cell):
    case = problem(cell, SIZE, dtype=jnp.float32)
    state, hs = case.state, []
    for x in case.xs:
        state, h = jaxrnn.step(cell, case.params, state, x)
        hs.append(h)
    expected = jaxrnn.unroll(cell, case.params, case.state, case.xs)
    chex.assert_trees_all_close((state, jnp.stack(hs)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("as_users_see_it")
@LSTM_LOWEST
def test_no_state_is_the_initial_state(cell):
    case = problem(cell, SIZE, dtype=jnp.float32)
    zeros = cell.initial_state(case.params, (3,))
    chex.assert_trees_all_equal(
        jaxrnn.unroll(cell, case.params, None, case.xs),
        jaxrnn.unroll(
            cell, case.params, zeros, np.asarray(case.xs)
        ),  # numpy is welcome
    )


@LSTM_LOWEST
def test_bfloat16(cell):
    """Gradients have their primal's dtype; products accumulate in float32."""
    case = problem(cell, SIZE, dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), case)
    expected = value_and_grads(jaxrnn.unroll, cell, wide)
    for store in AXES["store"]:
        got = value_and_grads(jaxrnn.unroll, cell, case, store=store, chunk=3)
        chex.assert_trees_all_equal_dtypes(got[1], (case.params, case.state, case.xs))
        # 8 bits of mantissa: 2^-8 per operation, a few dozen of them on the way.
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            a, b = np.asarray(a, np.float32), np.asarray(b)
            assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b) + 0.1


@pytest.mark.lowest
def test_bfloat16_sums_in_float32():
    """Σ of 4096 ones is 4096; in bfloat16, where 256 + 1 = 256, it would be 256."""
    cell = jaxrnn.make_elman("identity")
    one = jnp.ones((1, 1), jnp.bfloat16)
    params = jaxrnn.ElmanParams(one, 0 * one, 0 * one[0])
    xs = jnp.ones((4096, 1), jnp.bfloat16)
    grads = jax.grad(
        lambda p: jaxrnn.unroll(cell, p, None, xs, chunk=16)[1].sum(dtype=jnp.float32)
    )(params)
    assert grads.w_ih == 4096 and grads.b == 4096
    wide = jaxrnn.ElmanParams(jnp.ones((4096, 1), jnp.bfloat16), 0 * one, 0 * one[0])
    _, hs = jaxrnn.unroll(cell, wide, None, jnp.ones((1, 4096), jnp.bfloat16))
    assert hs == 4096


@pytest.mark.parametrize("size", [1, 2, 7, 100, 997, 1000])
@pytest.mark.parametrize("batch", [(), (1,), (64,), (0,), (600,)])
def test_default_chunks_fit(size, batch):
    """Any T and B run by default, also with rows for many chunks, for one, and for
    none."""
    params = jaxrnn.elman.init(jax.random.key(0), 1, 2)
    xs = jnp.ones((size, *batch, 1))
    for store in AXES["store"]:
        _, hs = jax.eval_shape(
            lambda: jaxrnn.unroll(jaxrnn.elman, params, None, xs, store=store)  # noqa: B023
        )
        assert hs.shape == (size, *batch, 2)


MIXED = problem(jaxrnn.gru, SIZE, dtype=jnp.float32)
RAGGED = jax.jit(
    lambda lengths: jaxrnn.unroll(
        jaxrnn.gru, *MIXED[:3], mask=jaxrnn.lengths_to_mask(lengths, SIZE), chunk=3
    )
)
RESETTING = jax.jit(
    lambda reset: jaxrnn.unroll(jaxrnn.gru, *MIXED[:3], reset=reset, chunk=3)[1]
)


@functools.cache
def step_by_step(b):
    """The states of sequence b, from the first one on, `[T + 1, H]`: of `jaxrnn.step`
    alone."""
    step = jax.jit(functools.partial(jaxrnn.step, jaxrnn.gru))
    state = jax.tree.map(lambda s: s[b], MIXED.state)
    states = [np.asarray(state.h)]
    for t in range(SIZE):
        state, h = step(MIXED.params, state, MIXED.xs[t, b])
        chex.assert_trees_all_equal(h, state.h)
        states.append(np.asarray(h))
    return np.stack(states)


@given(st.lists(st.integers(0, SIZE), min_size=3, max_size=3))
@settings(deadline=None, max_examples=50)
def test_ragged_sequences_do_not_know_of_each_other(lengths):
    last, hs = jax.device_get(RAGGED(np.asarray(lengths)))
    for b, length in enumerate(lengths):
        alone = step_by_step(b)
        np.testing.assert_allclose(
            hs[:length, b], alone[1 : length + 1], rtol=1e-5, atol=1e-6
        )
        assert not hs[length:, b].any()
        np.testing.assert_allclose(last.h[b], alone[length], rtol=1e-5, atol=1e-6)


@functools.cache
def steps_from_the_start():
    """The outputs `[T, B, H]` if every step were the first one."""
    return jax.vmap(lambda x: jaxrnn.step(jaxrnn.gru, MIXED.params, None, x)[1])(
        MIXED.xs
    )


@given(st.lists(st.booleans(), min_size=3 * SIZE, max_size=3 * SIZE))
@settings(deadline=None, max_examples=50)
def test_after_a_reset_nothing_is_remembered(bits):
    reset = np.asarray(bits).reshape(SIZE, 3)
    hs, anew = jax.device_get((RESETTING(reset), steps_from_the_start()))
    np.testing.assert_allclose(hs[reset], anew[reset], rtol=1e-5, atol=1e-6)


@given(
    st.integers(0, 9), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 12),
    st.sampled_from(AXES["store"]), st.sampled_from(list(CELLS.values())),
)  # fmt: skip
@settings(deadline=None, max_examples=8)
def test_any_shape(size, batch, chunk, store, cell):
    case = problem(cell, size, tuple(batch), inputs=1, hidden=2, dtype=jnp.float32)
    got = value_and_grads(jaxrnn.unroll, cell, case, store=store, chunk=chunk)
    expected = value_and_grads(jaxrnn.unroll_autodiff, cell, case)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


def test_lengths_to_mask():
    mask = jaxrnn.lengths_to_mask(jnp.array([[0, 2], [5, 9]]), 5)
    chex.assert_shape(mask, (5, 2, 2))
    chex.assert_trees_all_equal(mask.sum(0), jnp.array([[0, 2], [5, 5]]))
    chex.assert_trees_all_equal(mask[:, 0, 1], jnp.arange(5) < 2)
    chex.assert_trees_all_equal(
        jaxrnn.lengths_to_mask(jnp.array(3), 4), jnp.arange(4) < 3
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "option", "store", "chunk"),
    [
        ("lstm", "", "states", None),
        ("lstm", "mask", "residuals", 4),
        (
            "lstm",
            "ragged",
            "states",
            4,
        ),  # with chunks in which every sequence has ended
        ("lstm", "reset", "boundaries", 3),
        ("lstm", "truncate", "states", 3),
        ("lstm", "gamma", "residuals", None),
        ("lstm", "reverse", "boundaries", 4),
        ("elman", "ragged", "residuals", 3),
        ("elman", "reset", "states", None),
        ("gru", "mask", "boundaries", 4),
        ("gru", "gamma", "states", 3),
    ],
)
@pytest.mark.lowest
def test_adjoints_are_derivatives_by_the_states(name, option, store, chunk):
    """Against autodiff by a number added to every state, in a plain loop over the
    steps."""
    cell = CELLS[name]
    case = problem(cell, SIZE)
    options = {
        "mask": {"mask": steps(0.7, SIZE, seed=1)},
        "ragged": {"mask": jaxrnn.lengths_to_mask(jnp.array([2, 0, 6]), SIZE)},
        "reset": {"mask": steps(0.7, SIZE, seed=1), "reset": steps(0.3, SIZE, seed=2)},
        "truncate": {"truncate": 4},
        "gamma": {"gamma": jnp.asarray(factors(SIZE, (3,)))},
        "reverse": {"reverse": True},
    }.get(option, {})
    mask, reset = options.get("mask", jnp.ones((SIZE, 3), bool)), options.get("reset")
    gamma = options.get("gamma", jnp.ones((SIZE, 3)))
    if option == "truncate":
        gamma = jnp.where(jnp.arange(SIZE)[:, None] % 4 == 0, 0.0, gamma).at[0].set(1)

    def loss_of(last, hs):
        ends = jax.tree.map(lambda w, s: jnp.sum(w * jnp.cos(s)), case.on_last, last)
        return jnp.sum(case.on_hs * jnp.sin(hs)) + sum(jax.tree.leaves(ends))

    def by_hand(probe):
        now, hs = case.state, [jnp.zeros((3, 5))] * SIZE

        def select(where, a, b):
            return jax.tree.map(lambda a, b: jnp.where(where[:, None], a, b), a, b)

        for t in reversed(range(SIZE)) if option == "reverse" else range(SIZE):
            # γ times the derivative, and the value.
            fixed = jax.lax.stop_gradient(now)
            now = jax.tree.map(
                lambda s, f, t=t: f + gamma[t, :, None] * (s - f), now, fixed
            )
            now = (
                now
                if reset is None
                else select(reset[t], jax.tree.map(jnp.zeros_like, now), now)
            )
            after, _ = cell.step(case.params, now, cell.drive(case.params, case.xs[t]))
            now = select(mask[t], after, now)
            now = jax.tree.map(lambda s, p, t=t: s + p[t], now, probe)
            hs[t] = jnp.where(mask[t][:, None], now.h, 0)
        return loss_of(now, jnp.stack(hs))

    probe = jax.tree.map(lambda s: jnp.zeros((SIZE, *s.shape)), case.state)
    expected = jax.jit(jax.value_and_grad(by_hand))(probe)
    got = jax.jit(
        lambda: jaxrnn.adjoints(
            loss_of,
            cell,
            case.params,
            case.state,
            case.xs,
            store=store,
            chunk=chunk,
            **options,
        )
    )()
    assert_close(got, expected)
