"""Windowed scans: truncated BPTT against dense sums, checkpointed BPTT against the
plain one."""

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxrnn
from tests.cases import CELLS, problem

SIZE = 7
XS = jnp.arange(6.0)


def make_loss(cell):
    def loss_fn(params, state, batch):
        xs, weights = batch
        state, hs = jaxrnn.unroll(cell, params, state, xs)
        return jnp.sum(weights * jnp.sin(hs)), state

    return loss_fn


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("window", [1, 3, SIZE])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_equals_truncation_inside_unroll(cell, window):
    case = problem(cell, SIZE)
    batch = (case.xs, case.on_hs)

    def truncated(params):
        last, hs = jaxrnn.unroll_autodiff(
            cell, params, case.state, case.xs, truncate=window
        )
        return jnp.sum(case.on_hs * jnp.sin(hs)), last

    expected = jax.jit(jax.value_and_grad(truncated, has_aux=True))(case.params)
    fn = jax.jit(jaxrnn.truncated_value_and_grad(make_loss(cell), window))
    got = fn(case.params, case.state, batch)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "size", [12, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 5))]
)
@pytest.mark.parametrize(
    ("window", "backprop"),
    [(1, 1), (1, 4), (3, 3), (3, 4), (3, 6), (3, 8), (2, 5), (3, 99)],
)
def test_the_newest_losses_go_back_over_the_last_steps(window, backprop, size):
    """Σ_w Σ_{t in w} Σ_{a_w ≤ r ≤ t} g[t] J[t] … J[r+1] M[r], with J and M as
    matrices."""
    window = min(window, size)
    cell = jaxrnn.elman
    case = problem(cell, size, ())
    theta, unflatten = ravel_pytree(case.params)

    def step(h, theta, x):
        params = unflatten(theta)
        return cell.step(params, jaxrnn.ElmanState(h), cell.drive(params, x))[0].h

    jacobians, states, matrices = jax.jit(jax.jacfwd(step, (0, 1))), [case.state.h], []
    for x in case.xs:
        matrices.append(jacobians(states[-1], theta, x))
        states.append(step(states[-1], theta, x))
    expected = jnp.zeros_like(theta)
    for t in range(size):
        earliest = max(0, (t // window + 1) * window - backprop)
        adjoint = case.on_hs[t] * jnp.cos(states[t + 1])
        for r in range(t, earliest - 1, -1):
            by_state, by_theta = matrices[r]
            expected += adjoint @ by_theta
            adjoint = adjoint @ by_state
    fn = jax.jit(jaxrnn.truncated_value_and_grad(make_loss(cell), window, backprop))
    (loss, last), grads = fn(case.params, case.state, (case.xs, case.on_hs))
    chex.assert_trees_all_close(
        ravel_pytree(grads)[0], expected, rtol=1e-10, atol=1e-12
    )
    chex.assert_trees_all_close(last.h, states[-1], rtol=1e-10)
    hs = jnp.stack(states[1:])
    chex.assert_trees_all_close(loss, jnp.sum(case.on_hs * jnp.sin(hs)), rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "levels"),
    [
        *(
            ("lstm", levels)
            for levels in (None, (1,), (3,), (SIZE,), (4, 2), (6, 4, 3))
        ),
        *((name, levels) for name in ("elman", "gru") for levels in (None, (4, 2))),
    ],
    ids=str,
)
@pytest.mark.lowest
def test_checkpoints_change_nothing(name, levels):
    cell = CELLS[name]
    case = problem(cell, SIZE)
    plain = jax.value_and_grad(
        lambda params: (jnp.sum(case.on_hs * jnp.sin(out(params)[1])), out(params)[0]),
        has_aux=True,
    )

    def out(params):
        return jaxrnn.unroll_autodiff(cell, params, case.state, case.xs)

    fn = jaxrnn.checkpointed_value_and_grad(make_loss(cell), windows=levels)
    got = jax.jit(fn)(case.params, case.state, (case.xs, case.on_hs))
    chex.assert_trees_all_close(
        got, jax.jit(plain)(case.params), rtol=1e-12, atol=1e-13
    )


EVERY_FORM = {
    "truncated": lambda loss_fn: jaxrnn.truncated_value_and_grad(loss_fn, 2),
    "overlapping": lambda loss_fn: jaxrnn.truncated_value_and_grad(loss_fn, 2, 3),
    "checkpointed": lambda loss_fn: jaxrnn.checkpointed_value_and_grad(loss_fn, 2),
    "nested": lambda loss_fn: jaxrnn.checkpointed_value_and_grad(
        loss_fn, windows=(4, 2)
    ),
}
every_form = pytest.mark.parametrize("form", EVERY_FORM.values(), ids=EVERY_FORM)


@pytest.mark.usefixtures("x64")
def test_the_state_continues_the_next_call():
    """Two calls over the parts of a sequence, cut at a window's edge, are one over the
    whole."""
    cell = jaxrnn.lstm
    case, cut = problem(cell, SIZE), 4
    batch = (case.xs, case.on_hs)
    fn = jax.jit(jaxrnn.truncated_value_and_grad(make_loss(cell), 2))
    (loss, last), grads = fn(case.params, case.state, batch)
    (first_loss, state), first = fn(
        case.params, case.state, tuple(a[:cut] for a in batch)
    )
    (more_loss, state), more = fn(case.params, state, tuple(a[cut:] for a in batch))
    got = first_loss + more_loss, state, jax.tree.map(jnp.add, first, more)
    chex.assert_trees_all_close(got, (loss, last, grads), rtol=1e-12, atol=1e-13)


@every_form
def test_gradients_have_the_dtype_of_the_parameters(form):
    case = problem(jaxrnn.gru, SIZE, dtype=jnp.bfloat16)
    fn = jax.jit(form(make_loss(jaxrnn.gru)))
    (loss, _), grads = fn(case.params, case.state, (case.xs, case.on_hs))
    chex.assert_trees_all_equal_dtypes(grads, case.params)
    assert loss.dtype == jnp.float32


@every_form
def test_bfloat16_is_summed_in_float32(form):
    """Σ of 4096 ones is 4096; in bfloat16, where 256 + 1 = 256, it would be 256."""
    one = jnp.ones((), jnp.bfloat16)
    fn = form(lambda p, s, x: (p * x.sum(), s))
    (loss, _), grad = fn(one, None, jnp.ones(4096, jnp.bfloat16))
    assert loss == grad == 4096


def noisy_loss(params, state, batch):
    """Dropout of a random walk: the state holds a key and a count beside its number."""
    (key, count, s), loss = state, jnp.zeros(())
    for x in batch:
        key, now = jax.random.split(key)
        s = params * s + x * jax.random.bernoulli(now)
        loss, count = loss + s * x, count + 1
    return loss, (key, count, s)


@every_form
def test_a_state_with_leaves_that_have_no_gradient(form):
    xs, state = jnp.arange(6.0), (jax.random.key(3), 0, 1.0)
    # As a user would write it: the key is an array, the numbers are Python's.
    (loss, (key, count, s)), grad = form(noisy_loss)(jnp.float32(0.5), state, xs)
    expected = state
    total = 0.0
    for part in (xs[:2], xs[2:4], xs[4:]):
        loss_part, expected = noisy_loss(jnp.float32(0.5), expected, part)
        total += loss_part
    chex.assert_trees_all_close((loss, count, s), (total, *expected[1:]), rtol=1e-6)
    assert count == 6 and key == expected[0] and jnp.isfinite(grad)


def test_checkpoints_through_a_state_with_a_key():
    def whole(params):
        state, total = (jax.random.key(3), 0, jnp.ones(())), 0.0
        for part in (XS[:2], XS[2:4], XS[4:]):
            loss_part, state = noisy_loss(params, state, part)
            total += loss_part
        return total

    fn = EVERY_FORM["checkpointed"](noisy_loss)
    state = jax.tree.map(jnp.asarray, (jax.random.key(3), 0, jnp.ones(())))
    _, grad = fn(jnp.float32(0.5), state, XS)
    chex.assert_trees_all_close(grad, jax.grad(whole)(jnp.float32(0.5)), rtol=1e-6)


@every_form
def test_no_sequences_and_no_steps(form):
    loss_fn = make_loss(jaxrnn.lstm)
    params = jaxrnn.lstm.init(jax.random.key(0), 4, 5)
    for size, batch in ((7, 0), (0, 3)):
        state = jaxrnn.lstm.initial_state(params, (batch,))
        arrays = jnp.ones((size, batch, 4)), jnp.ones((size, batch, 5))
        (loss, last), grads = form(loss_fn)(params, state, arrays)
        assert loss == 0
        chex.assert_trees_all_equal(last, state)
        chex.assert_trees_all_equal(grads, jax.tree.map(jnp.zeros_like, params))


@every_form
@pytest.mark.lowest
def test_inside_shard_map(form):
    case = problem(jaxrnn.gru, SIZE, (4,), dtype=jnp.float32)
    fn = form(make_loss(jaxrnn.gru))
    (_, last), grads = fn(case.params, case.state, (case.xs, case.on_hs))

    def shard(params, state, batch):
        (_, last), grads = fn(params, state, batch)
        return last, grads

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rows = P(None, "data")
    mapped = jax.shard_map(
        shard, mesh=mesh, in_specs=(P(), P("data"), rows), out_specs=(P("data"), P())
    )
    got = jax.jit(mapped)(case.params, case.state, (case.xs, case.on_hs))
    chex.assert_trees_all_close(got, (last, grads), rtol=1e-4, atol=1e-5)


@every_form
@pytest.mark.lowest
def test_parameters_that_vary_over_a_mesh(form):
    """An ensemble: each device has its own."""
    case = problem(jaxrnn.gru, SIZE, (4,), dtype=jnp.float32)
    fn = form(make_loss(jaxrnn.gru))
    both = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), case.params)
    expected = jax.vmap(fn, (0, None, None))(both, case.state, (case.xs, case.on_hs))

    def shard(params, state, batch):
        result = fn(jax.tree.map(lambda p: p[0], params), state, batch)
        return jax.tree.map(lambda a: a[None], result)

    mesh = jax.make_mesh((2,), ("member",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        shard, mesh=mesh, in_specs=(P("member"), P(), P()), out_specs=P("member")
    )
    got = jax.jit(mapped)(both, case.state, (case.xs, case.on_hs))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


@every_form
def test_a_state_that_is_not_the_loss_function_s(form):
    fn = form(make_loss(jaxrnn.gru))
    case = problem(jaxrnn.gru, SIZE, dtype=jnp.float32)
    with pytest.raises(
        TypeError, match=r"`state` must be a GRUState.*`loss_fn` returns it.*None"
    ):
        fn(case.params, None, (case.xs, case.on_hs))


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("window", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)]
)
def test_a_window_that_is_no_window(window, error):
    with pytest.raises(error, match="`window` must be an integer"):
        jaxrnn.truncated_value_and_grad(make_loss(jaxrnn.lstm), window)


@every_form
@pytest.mark.parametrize("losses", [jnp.ones(3), 1])
def test_a_loss_that_is_no_number(form, losses):
    fn = form(lambda params, state, xs: (losses, state))
    with pytest.raises(
        TypeError, match="`loss_fn` must return a loss that is one floating number"
    ):
        fn(jnp.ones(()), None, jnp.ones(5))


@every_form
def test_a_window_that_is_longer_than_the_sequence(form):
    fn = form(make_loss(jaxrnn.lstm))
    with pytest.raises(
        ValueError, match=r"`windows?(\[0\])?` must be at most T, but got [24]"
    ):
        fn(None, None, (jnp.ones((1, 4)), jnp.ones((1, 5))))


BAD_WINDOWS = {
    "a number": (
        {"windows": 100},
        TypeError,
        "`windows` must be a tuple of integers, but got 100",
    ),
    "several": (
        {"window": (9, 3)},
        TypeError,
        r"but got \(9, 3\): give `windows` several",
    ),
    "none": ({"windows": ()}, ValueError, r"K₁ ≥ K₂ ≥ …, but got \(\)"),
    "growing": ({"windows": (2, 3)}, ValueError, r"K₁ ≥ K₂ ≥ …, but got \(2, 3\)"),
    "zero": (
        {"windows": (2, 0)},
        ValueError,
        r"`windows\[1\]` must be an integer ≥ 1, but got 0",
    ),
    "a float": ({"window": 2.5}, TypeError, "`window` must be an integer, but got 2.5"),
    "two answers": (
        {"window": 2, "windows": (2,)},
        ValueError,
        "either `window` or `windows` mus",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("arguments", "error", "words"), BAD_WINDOWS.values(), ids=BAD_WINDOWS
)
def test_windows_that_are_no_windows(arguments, error, words):
    with pytest.raises(error, match=words):
        jaxrnn.checkpointed_value_and_grad(make_loss(jaxrnn.lstm), **arguments)


@pytest.mark.usefixtures("as_users_see_it")
def test_a_way_back_that_is_shorter_than_a_window():
    with pytest.raises(
        ValueError, match="`backprop` must be at least `window`, 5, but got 4"
    ):
        jaxrnn.truncated_value_and_grad(make_loss(jaxrnn.lstm), 5, 4)


@every_form
def test_a_batch_that_disagrees_on_time(form):
    fn = form(make_loss(jaxrnn.lstm))
    with pytest.raises(
        ValueError, match=r"`batch` must have the same first axis.*\[0\]': 5"
    ):
        fn(None, None, (jnp.ones((5, 1)), jnp.ones((4, 1))))
    with pytest.raises(ValueError, match="there are no leaves"):
        fn(None, None, ())
