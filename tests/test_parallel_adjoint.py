"""The adjoint as an associative scan: BPTT's gradients, without a loop on the way
back."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxrnn
from jaxrnn import unroll_parallel_adjoint
from tests.cases import (
    CELLS,
    FIELD,
    factors,
    loss,
    problem,
    steps,
    value_and_grads,
)
from tests.cells.test_noise import NOISY, noisy_problem
from tests.test_structure import arguments, equations, scans
from tests.test_units import Two, cell_of, in_heads, memory_and_output

SIZE, BATCH = 7, (3,)
OWN = {"memory": cell_of(memory_and_output, Two), "heads": cell_of(in_heads)}
# The field's of each kind of block, and the LSTM, whose state has two leaves.
CORE = {"lru", "indrnn", "min_gru", "parallel_lru", "projected_lstm"}
EACH = pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=() if name in CORE else pytest.mark.slow)
        for name, cell in (CELLS | FIELD | OWN).items()
        if name not in ("lstm", *OWN)
    ]
    + [
        pytest.param(CELLS["lstm"], id="lstm", marks=pytest.mark.lowest),
        *(pytest.param(cell, id=name) for name, cell in OWN.items()),
    ],
)


def random_problem(cell):
    return problem(cell, SIZE, BATCH, hidden=6 if cell in OWN.values() else 5)


def all_options(**others):
    return {
        "mask": steps(0.7, seed=1),
        "reset": steps(0.2, seed=2),
        "gamma": factors(SIZE, BATCH),
        **others,
    }


@pytest.mark.usefixtures("x64")
@EACH
def test_equals_bptt(cell):
    """To rounding, with masks, resets and γ."""
    case = random_problem(cell)
    expected = value_and_grads(jaxrnn.unroll_autodiff, cell, case, **all_options())
    got = value_and_grads(unroll_parallel_adjoint, cell, case, **all_options())
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("store", ["states", "residuals", "boundaries"])
@pytest.mark.parametrize("name", [pytest.param("lru", marks=pytest.mark.slow), "elman"])
def test_in_chunks_with_cuts_and_in_reverse(name, store):
    cell = (CELLS | FIELD)[name]
    case, cuts = random_problem(cell), {"truncate": 3, "reverse": True}
    options = {**all_options(), **cuts}
    expected = value_and_grads(jaxrnn.unroll_autodiff, cell, case, **options)
    got = value_and_grads(
        unroll_parallel_adjoint, cell, case, store=store, chunk=3, **options
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name", ["zoneout, lstm", pytest.param("dropout, gru", marks=pytest.mark.slow)]
)
def test_with_noise(name):
    case, _ = noisy_problem(NOISY[name])
    options = {"mask": steps(0.7, seed=1)}
    expected = value_and_grads(jaxrnn.unroll_autodiff, NOISY[name], case, **options)
    got = value_and_grads(unroll_parallel_adjoint, NOISY[name], case, **options)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_resets_ids_and_second_order():
    """The gradient of the reset state, of a batch without axes, and of a gradient."""
    cell, case = jaxrnn.lru, problem(jaxrnn.lru, 5, ())
    ids, reset = jnp.arange(5) % 4, jnp.arange(5) % 2 == 0
    reset_state = jax.tree.map(lambda s: 0.5 * s + 0.2, case.state)

    def gradients(unroll):
        def value(params, state, reset_state):
            options = {"reset": reset, "reset_state": reset_state}
            last, hs = unroll(cell, params, state, ids, **options)
            return jnp.sum(jnp.sin(hs)) + jnp.sum(jnp.cos(last.h))

        def size(*given):
            found = jax.grad(value, (0, 1, 2))(*given)
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(found)), found

        by = jax.grad(size, (0, 2), has_aux=True)
        return jax.jit(by)(case.params, case.state, reset_state)

    chex.assert_trees_all_close(
        gradients(unroll_parallel_adjoint),
        gradients(jaxrnn.unroll_autodiff),
        rtol=1e-10,
        atol=1e-12,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["elman", "lru"])
def test_nan_stays_where_it_is_masked(name):
    """And a gradient that is infinite on the other side of a reset stays there."""
    cell = (CELLS | FIELD)[name]
    case = problem(cell, SIZE, BATCH)
    mask = steps(0.7, seed=1)
    xs = jnp.where(mask[..., None], case.xs, jnp.nan)
    expected = value_and_grads(unroll_parallel_adjoint, cell, case, mask=mask)
    got = value_and_grads(
        unroll_parallel_adjoint, cell, case._replace(xs=xs), mask=mask
    )
    chex.assert_trees_all_equal(got, expected)

    def first_steps(xs, weights):
        reset = jnp.arange(SIZE) == 3
        reset = jnp.broadcast_to(reset[:, None], (SIZE, *BATCH))
        state, params = case.state, case.params
        _, hs = unroll_parallel_adjoint(cell, params, state, xs, reset=reset)
        return jnp.sum(weights[:, None, None] * hs)

    gradient = jax.jit(jax.grad(first_steps))
    weights = jnp.ones(SIZE)
    finite = gradient(case.xs, weights)
    infinite = gradient(case.xs, weights.at[5].set(jnp.inf))
    chex.assert_trees_all_equal(infinite[:3], finite[:3])
    assert not jnp.isfinite(infinite[3:6]).all()


@pytest.mark.parametrize("name", ["elman", "lru", "lstm"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_split_over_devices(name, kind):
    cell = (CELLS | FIELD)[name]
    case = problem(cell, SIZE, (4,), dtype=jnp.float32)

    def gradient(params, state, xs):
        def loss_of(*given):
            return loss(unroll_parallel_adjoint, cell, case, *given)

        return jax.grad(loss_of, (0, 1, 2))(params, state, xs)

    expected = jax.device_get(jax.jit(gradient)(*case[:3]))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        params = jax.device_put(case.params, P())
        state = jax.device_put(case.state, P("data"))
        xs = jax.device_put(case.xs, P(None, "data"))
        on_hs, on_last = case.on_hs, case.on_last
        case = case._replace(
            on_hs=jax.device_put(on_hs, P(None, "data")),
            on_last=jax.device_put(on_last, P("data")),
        )
        got = jax.device_get(jax.jit(gradient)(params, state, xs))
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["elman", "lru"])
def test_many_networks_and_any_length(name):
    """In `vmap` over the parameters; without a step; and with T symbolic, in a loop."""
    cell = (CELLS | FIELD)[name]
    case = problem(cell, 4, ())
    many = jax.tree.map(lambda p: jnp.stack([p, 0.7 * p]), case.params)

    def gradient(unroll, xs):
        def value(params):
            last, hs = unroll(cell, params, case.state, xs)
            return jnp.sum(jnp.sin(hs)) + jnp.sum(jnp.cos(last.h))

        return jax.jit(jax.vmap(jax.grad(value)))(many)

    for xs in (case.xs, case.xs[:0]):
        got, expected = (
            gradient(unroll, xs) for unroll in (unroll_parallel_adjoint, jaxrnn.unroll)
        )
        chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)

    def by_inputs(xs):
        def value(xs):
            hs = unroll_parallel_adjoint(cell, case.params, case.state, xs)[1]
            return jnp.sum(jnp.sin(hs))

        return jax.grad(value)(xs)

    (size,) = jax.export.symbolic_shape("T")
    kind = jax.ShapeDtypeStruct((size, 4), jnp.float64)
    exported = jax.export.export(jax.jit(by_inputs))(kind)
    np.testing.assert_allclose(
        exported.call(case.xs), by_inputs(case.xs), rtol=1e-10, atol=1e-12
    )


def test_mixed_precision():
    """The products of the Jacobians are in float32, those of a step in bfloat16."""
    case = problem(jaxrnn.elman, SIZE, BATCH, dtype=jnp.float32)

    def gradient(unroll, dtype=None):
        return value_and_grads(unroll, jaxrnn.elman, case, compute_dtype=dtype)[1]

    exact = gradient(jaxrnn.unroll)
    got = gradient(unroll_parallel_adjoint, jnp.bfloat16)
    chex.assert_trees_all_equal_dtypes(got, exact)
    chex.assert_trees_all_close(got, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["elman", "lstm", "indrnn", "lru", "min_gru"])
def test_no_loop_runs_backwards(name):
    """One scan is left, the forward one; the arrays of the tree halve in length, so
    ten times the steps need few more equations."""
    cell = (CELLS | FIELD)[name]

    def program(size):
        params, state, xs = arguments(cell, 3, 6, 7, size)

        def value(params, state, xs):
            last, hs = unroll_parallel_adjoint(cell, params, state, xs)
            return jnp.sum(jnp.sin(hs)) + jnp.sum(jnp.cos(last.h))

        return jax.make_jaxpr(jax.grad(value, (0, 1, 2)))(params, state, xs).jaxpr

    short, long = program(100), program(1000)
    (forward,) = scans(short)
    assert not forward.params["reverse"]
    assert not any(e.primitive.name == "while" for e in equations(short))
    rounds = math.log2(10)
    per_round = 40  # slices, products, sums and pads of one level
    more = len(list(equations(long))) - len(list(equations(short)))
    assert 0 < more <= 2 * rounds * per_round


@pytest.mark.parametrize(
    ("name", "blocks", "products"),
    [("elman", 36, 36), ("lstm", 144, 12 * 24), ("lru", 12, 12), ("indrnn", 6, 6)],
)
def test_the_arrays_are_no_larger_than_the_blocks(name, blocks, products):
    """Floats per step and sequence, H = 6: n k² for n units of k numbers, and k drives
    for the products that make them. D² only where J is dense."""
    cell, size, batch = (CELLS | FIELD)[name], 64, 7

    def value(params, state, xs):
        return unroll_parallel_adjoint(cell, params, state, xs)[1].sum()

    given = arguments(cell, 3, 6, batch, size)
    jaxpr = jax.make_jaxpr(jax.grad(value))(*given).jaxpr
    shapes = [v.aval.shape for e in equations(jaxpr) for v in e.outvars]
    widest = max(map(math.prod, shapes)) / batch
    # States before and after each step: one more than there are steps.
    assert size * blocks <= widest <= (size + 1) * max(blocks, products)


def test_an_unknown_option():
    with pytest.raises(TypeError, match="no option lengths"):
        unroll_parallel_adjoint(
            jaxrnn.elman, (), None, jnp.zeros((2, 3)), **{"lengths": 3}
        )
