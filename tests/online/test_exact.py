"""Rules that are exact while the parameters stay the same: equal to BPTT."""

import math

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from jaxrnn import online
from tests.cases import CELLS, FIELD, copied, problem, steps
from tests.cells.test_noise import NOISY, noisy_problem
from tests.online.runs import backwards, forwards, given, loss_fn
from tests.test_units import Two, cell_of, in_heads, memory_and_output

pytestmark = pytest.mark.usefixtures("x64")

SIZE, BATCH, INPUTS, HIDDEN = 6, (2,), 3, 4
RTRL, SNAP = online.rtrl(), online.snap()
SEPARATE = {"indrnn", "lru", "min_gru", "min_lstm"}
SEPARATE |= {f"parallel_{name}" for name in ("lru", "min_gru", "min_lstm")}
CORE = {*CELLS, "indrnn", "lru", "min_gru", "layer_norm_gru", "projected_lstm"}
OWN = {"memory": cell_of(memory_and_output, Two), "heads": cell_of(in_heads)}


def each(cells):
    """Parametrizes a test by the cell; those of the field outside the core are slow."""
    return pytest.mark.parametrize(
        "cell",
        [
            pytest.param(cell, id=name, marks=() if quick else pytest.mark.slow)
            for name, cell in cells.items()
            for quick in [name in CORE or name in OWN]
        ],
    )


def random_given(cell, last_only=False):
    """With masks, resets, and a state from which reset steps start."""
    hidden = 6 if cell in OWN.values() else HIDDEN
    case = problem(cell, SIZE, BATCH, INPUTS, hidden)
    return given(
        case,
        steps(0.7, SIZE, BATCH, seed=1),
        steps(0.3, SIZE, BATCH, seed=2),
        jax.tree.map(lambda s: 0.5 * s + 0.2, case.state),
        last_only,
    )


def assert_close(got, expected):
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@each(CELLS | FIELD | OWN)
def test_rtrl_equals_bptt(cell):
    """For a loss at each step, and for one at the last step alone."""
    for last_only in (False, True):
        case = random_given(cell, last_only)
        expected = backwards(cell, case)
        assert jnp.abs(expected[1][0][0]).max() > 1e-3
        assert_close(forwards(RTRL, cell, case), expected)


@each({name: cell for name, cell in FIELD.items() if name in SEPARATE})
def test_local_rules_are_exact_where_the_units_are_separate(cell):
    """And equal to RTRL but for the last bits: nothing is left out."""
    case = random_given(cell)
    expected = forwards(RTRL, cell, case)
    for rule in (SNAP, online.rflo(), online.eprop()):
        got = forwards(rule, cell, case)
        chex.assert_trees_all_close(got, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["elman", "lstm", "gru"])
def test_snap_is_rtrl_once_the_pattern_is_full(name):
    """Which it is after two steps with dense weights."""
    case = random_given(CELLS[name])
    assert_close(
        forwards(online.snap(2), CELLS[name], case), forwards(RTRL, CELLS[name], case)
    )


def test_snap_of_a_ring_is_rtrl_after_once_around():
    """Each unit of four acts on the next alone, so that four steps reach all."""
    case = problem(jaxrnn.elman, SIZE, BATCH, INPUTS, HIDDEN)
    ring = jnp.roll(jnp.eye(HIDDEN), 1, axis=1)
    case = given(case._replace(params=case.params._replace(w_hh=0.9 * ring)))
    expected = forwards(RTRL, jaxrnn.elman, case)
    assert_close(forwards(online.snap(4), jaxrnn.elman, case), expected)
    near = forwards(online.snap(3), jaxrnn.elman, case)
    assert not jnp.allclose(near[1][0].w_ih, expected[1][0].w_ih)


@pytest.mark.parametrize("name", ["zoneout, lstm", "zoneout, elman"])
def test_noise(name):
    """The masks of the noise come with the inputs, whatever drew them."""
    cell, (case, _) = NOISY[name], noisy_problem(NOISY[name])
    case = given(case, steps(0.7, seed=1), steps(0.3, seed=2))
    assert_close(forwards(RTRL, cell, case), backwards(cell, case))


@pytest.mark.parametrize("name", ["elman", "min_gru"])
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_ids_and_other_batch_axes(name, batch):
    """Every rule that is exact for one of the cells."""
    cell = (CELLS | FIELD)[name]
    case = problem(cell, SIZE, batch, INPUTS, HIDDEN)
    count = SIZE * math.prod(batch)
    ids = (jnp.arange(count) * 7 % INPUTS).reshape(SIZE, *batch)
    case = given(
        case._replace(xs=ids), reset=steps(0.3, SIZE, batch, seed=2), reset_state=None
    )
    expected = backwards(cell, case)
    for rule in (RTRL, SNAP) if name == "min_gru" else (RTRL, online.snap(2)):
        assert_close(forwards(rule, cell, case), expected)


@pytest.mark.parametrize("name", ["lstm", "lru"])
def test_a_stream_may_be_cut_into_calls_anywhere(name):
    """Gradients add up to those of the whole, and the carry is the same in every
    bit."""
    cell = (CELLS | FIELD)[name]
    case = random_given(cell)
    whole = forwards(RTRL, cell, case)
    fn = jax.jit(online.online_value_and_grad(RTRL, loss_fn, case.reset_state))
    start = online.online_start(RTRL, cell, case.params[0], case.state)
    (_, at_once), _ = fn(case.params, start, case.batch)
    carry, total, grads = start, 0.0, jax.tree.map(jnp.zeros_like, case.params)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        batch = jax.tree.map(lambda a, part=part: a[part], case.batch)
        (value, carry), more = fn(case.params, carry, batch)
        total, grads = total + value, jax.tree.map(jnp.add, grads, more)
    assert_close((total, grads), whole)
    assert_close(whole, backwards(cell, case))
    chex.assert_trees_all_equal(carry, at_once)


@pytest.mark.parametrize(
    "rule", [RTRL, SNAP, online.eprop(0.5)], ids=["rtrl", "snap", "eprop"]
)
def test_a_reset_clears_the_influence(rule):
    """What follows a reset of all sequences is as a call of its own."""
    case = random_given(jaxrnn.lstm)
    start = 3
    reset = jnp.broadcast_to((jnp.arange(SIZE) == start)[:, None], (SIZE, *BATCH))
    # The loss begins at the reset, so that nothing before it counts.
    targets = jnp.where(reset.cumsum(axis=0)[..., None] > 0, case.batch.targets, 0)
    batch = case.batch._replace(targets=targets, reset=reset)
    _, together = forwards(rule, jaxrnn.lstm, case._replace(batch=batch))
    after = jax.tree.map(lambda a: a[start:], batch._replace(reset=None))
    case = case._replace(batch=after, state=case.reset_state)
    _, alone = forwards(rule, jaxrnn.lstm, case)
    assert jnp.abs(alone[0].w_hh).max() > 1e-3
    assert_close(together, alone)


@pytest.mark.parametrize("name", ["elman", "lru"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_traces_are_in_float32_and_gradients_like_the_parameters(name, dtype):
    cell = (CELLS | FIELD)[name]
    case = problem(cell, SIZE, BATCH, INPUTS, HIDDEN, dtype)
    case = given(case, reset=steps(0.3, SIZE, BATCH, seed=2))
    carry = online.online_start(RTRL, cell, case.params[0], case.state)
    for leaf in jax.tree.leaves(carry.trace):
        assert leaf.dtype == jnp.float32
    fn = jax.jit(online.online_value_and_grad(RTRL, loss_fn))
    (value, after), grads = fn(case.params, copied(carry), case.batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, carry)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, case.params)
    assert value.dtype == jnp.float32
    _, expected = backwards(cell, case)
    rtol = {"float32": 1e-4, "bfloat16": 0.1}[dtype.__name__]
    for got, want in zip(*map(jax.tree.leaves, (grads, expected)), strict=True):
        got, want = got.astype(float), want.astype(float)
        assert jnp.linalg.norm(got - want) <= rtol * jnp.linalg.norm(want)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("indrnn", 1),
        ("min_gru", 1),
        ("lru", 2),
        ("elman", HIDDEN),
        ("lstm", 2 * HIDDEN),
        ("layer_norm_gru", HIDDEN),
    ],
)
def test_the_influence_has_as_many_numbers_as_it_needs(name, numbers):
    """k for each number of the parameters: the state's that depend on one another."""
    cell = (CELLS | FIELD)[name]
    case = problem(cell, SIZE, BATCH, INPUTS, HIDDEN)
    trace = RTRL.init(cell, case.params, case.state)
    count = sum(p.size for p in jax.tree.leaves(case.params))
    assert sum(a.size for a in jax.tree.leaves(trace)) == numbers * count * BATCH[0]
