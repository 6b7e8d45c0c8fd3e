"""Meshes: whatever the sharding, the gradients are those of one device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxrnn
from jaxrnn.ops import placement
from tests.cases import CELLS, LSTM_FIRST, factors, loss, problem, steps

SIZE, BATCH = 7, (4,)
OPTIONS = {
    "plain": {},
    "ragged": {
        "mask": jaxrnn.lengths_to_mask(jnp.array([2, 0, 4, 3]), SIZE),
        "gamma": jnp.asarray(factors(SIZE, BATCH, dtype=np.float32)),
    },
    "masked": {
        "mask": steps(0.7, SIZE, BATCH, seed=1),
        "reset": steps(0.3, SIZE, BATCH, seed=2),
        "truncate": 3,
        "gamma": factors(SIZE, dtype=np.float32),  # of NumPy: closed over, on no mesh
    },
}
pytestmark = pytest.mark.lowest

each_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)

TIME_BATCH = P(None, "data")
SPECS = (P(), P("data"), TIME_BATCH)  # params, state, xs


def make_mesh(kind):
    return jax.make_mesh((2,), ("data",), axis_types=(kind,))


def assert_close(got, expected):
    """To 1e-6 of each array's largest entry: float32, summed in another order."""

    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1e-3, np.abs(b).max()))

    jax.tree.map(check, jax.device_get(got), jax.device_get(expected))


def one_device(cell, case, options):
    def loss_of(*args):
        return loss(jaxrnn.unroll, cell, case, *args, chunk=3, **options)

    return jax.jit(jax.grad(loss_of, (0, 1, 2)))(*case[:3])


@each_option
@each_cell
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_batch_under_jit(kind, cell, options):
    case = problem(cell, SIZE, BATCH, dtype=jnp.float32)
    mesh = make_mesh(kind)
    batched = {k: v for k, v in options.items() if isinstance(v, jax.Array)}
    static = {k: v for k, v in options.items() if k not in batched}

    def place(tree, spec):
        return jax.device_put(tree, NamedSharding(mesh, spec))

    def loss_of(params, state, xs, case, batched):
        return loss(
            jaxrnn.unroll, cell, case, params, state, xs, chunk=3, **static, **batched
        )

    with jax.set_mesh(mesh):
        args = [place(tree, spec) for tree, spec in zip(case[:3], SPECS, strict=True)]
        weights = case._replace(
            on_hs=place(case.on_hs, TIME_BATCH), on_last=place(case.on_last, P("data"))
        )
        grads = jax.jit(jax.grad(loss_of, (0, 1, 2)))(
            *args, weights, place(batched, TIME_BATCH)
        )
    assert_close(grads, one_device(cell, case, options))
    if kind == AxisType.Explicit:
        for grad, primal in zip(
            jax.tree.leaves(grads), jax.tree.leaves(args), strict=True
        ):
            assert jax.typeof(grad).sharding.spec == jax.typeof(primal).sharding.spec


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("params_vary", [True, False])
@pytest.mark.parametrize("state_inside", [True, False])
@each_cell
def test_shard_map(cell, check_vma, params_vary, state_inside):
    case = problem(cell, SIZE, BATCH, dtype=jnp.float32)
    if state_inside:
        case = case._replace(state=jax.tree.map(jnp.zeros_like, case.state))
    expected = one_device(cell, case, {})

    def shard(params, state, xs, on_hs, on_last):
        if params_vary and check_vma:
            params = jax.tree.map(lambda p: placement.varying(p, ("data",)), params)
        part = case._replace(on_hs=on_hs, on_last=on_last)

        def loss_of(params, state, xs):
            given = None if state_inside else state
            return loss(jaxrnn.unroll, cell, part, params, given, xs, chunk=3)

        dparams, dstate, dxs = jax.grad(loss_of, (0, 1, 2))(params, state, xs)
        if (
            params_vary or not check_vma
        ):  # otherwise the cast's transpose has summed them
            dparams = jax.lax.psum(dparams, "data")
        return dparams, dstate, dxs

    mapped = jax.shard_map(
        shard,
        mesh=make_mesh(AxisType.Auto),
        in_specs=(*SPECS, TIME_BATCH, P("data")),
        out_specs=SPECS,
        check_vma=check_vma,
    )
    dparams, dstate, dxs = jax.jit(mapped)(*case)
    assert_close((dparams, dxs), (expected[0], expected[2]))
    if not state_inside:
        assert_close(dstate, expected[1])


@pytest.mark.parametrize("name", ["ragged", "masked"])
@each_cell
def test_shard_map_with_options(cell, name):
    case = problem(cell, SIZE, BATCH, dtype=jnp.float32)
    arrays = {k: v for k, v in OPTIONS[name].items() if isinstance(v, jax.Array)}
    static = {"chunk": 3} | {k: v for k, v in OPTIONS[name].items() if k not in arrays}

    def shard(params, state, xs, on_hs, on_last, arrays):
        part = case._replace(on_hs=on_hs, on_last=on_last)
        options = static | arrays
        return jax.grad(
            lambda *args: loss(jaxrnn.unroll, cell, part, *args, **options), (0, 1, 2)
        )(params, state, xs)

    mapped = jax.shard_map(
        shard,
        mesh=make_mesh(AxisType.Auto),
        in_specs=(*SPECS, TIME_BATCH, P("data"), TIME_BATCH),
        out_specs=SPECS,
    )
    assert_close(jax.jit(mapped)(*case, arrays), one_device(cell, case, OPTIONS[name]))


@each_cell
def test_no_state_on_an_explicit_mesh(cell):
    """The zero state takes the sharding of the inputs' batch."""
    case = problem(cell, SIZE, BATCH, dtype=jnp.float32)
    mesh = make_mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        xs = jax.device_put(case.xs, NamedSharding(mesh, TIME_BATCH))
        params = jax.device_put(case.params, NamedSharding(mesh, P()))
        last, hs = jax.jit(lambda p, x: jaxrnn.unroll(cell, p, None, x))(params, xs)
        oracle = jax.jit(lambda p, x: jaxrnn.unroll_autodiff(cell, p, None, x))(
            params, xs
        )
    expected = jaxrnn.unroll(cell, case.params, None, case.xs)
    assert_close((last, hs), expected)
    assert_close(oracle, expected)
    chex.assert_equal(jax.typeof(hs).sharding.spec, P(None, "data", None))


@LSTM_FIRST
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_adjoints_on_a_mesh(kind, cell):
    case = problem(cell, SIZE, BATCH, dtype=jnp.float32)

    def loss_of(params, state, xs):
        return jaxrnn.adjoints(
            lambda last, hs: jnp.sum(jnp.sin(hs)), cell, params, state, xs
        )[1]

    mesh = make_mesh(kind)
    with jax.set_mesh(mesh):
        args = [
            jax.device_put(tree, NamedSharding(mesh, spec))
            for tree, spec in zip(case[:3], SPECS, strict=True)
        ]
        got = jax.jit(loss_of)(*args)
    assert_close(got, jax.jit(loss_of)(*case[:3]))


@LSTM_FIRST
def test_adjoints_in_shard_map(cell):
    case = problem(cell, SIZE, BATCH, dtype=jnp.float32)

    def loss_of(params, xs):
        return jaxrnn.adjoints(
            lambda last, hs: jnp.sum(jnp.sin(hs)), cell, params, None, xs
        )[1]

    mapped = jax.shard_map(
        loss_of,
        mesh=make_mesh(AxisType.Auto),
        in_specs=(P(), TIME_BATCH),
        out_specs=TIME_BATCH,
    )
    assert_close(
        jax.jit(mapped)(case.params, case.xs), jax.jit(loss_of)(case.params, case.xs)
    )
