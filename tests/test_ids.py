"""Ids as inputs: the results and the gradients are those of one-hot vectors."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from allpairspy import AllPairs
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxrnn
from jaxrnn import flow, train
from jaxrnn.cells import weights
from tests.cases import CELLS, LSTM_FIRST, factors, loss, problem, steps
from tests.cases import value_and_grads as by_cases

RTOL, ATOL = 1e-12, 1e-13
SIZE, INPUTS = 7, 4
# The cheapest one where all cells run the same lines.
ELMAN_FIRST = pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=() if name == "elman" else pytest.mark.slow)
        for name, cell in CELLS.items()
    ],
)


def drawn(size=SIZE, batch=(3,), seed=3, dtype=np.int32):
    """Ids `[T, *B]`, some just outside 0 … I - 1."""
    random = np.random.default_rng(seed)
    return jnp.asarray(random.integers(-1, INPUTS + 1, (size, *batch)), dtype)


def twins(cell, size=SIZE, batch=(3,), mask=None, dtype=jnp.float64):
    """A problem with ids, far out of range where they are masked, and with vectors."""
    case, ids = problem(cell, size, batch, INPUTS, dtype=dtype), drawn(size, batch)
    vectors = jax.nn.one_hot(ids, INPUTS, dtype=dtype)
    if mask is not None:
        ids = jnp.where(mask, ids, jnp.where(ids % 2 == 0, -7, 10**6))
    return case._replace(xs=ids), case._replace(xs=vectors)


def value_and_grads(unroll, cell, case, **options):
    """By the parameters and the state alone."""
    value, grads = by_cases(unroll, cell, case, **options)
    return value, grads[:2]


AXES = {
    "store": ("states", "residuals", "boundaries"),
    "chunk": (3, None, 1),
    "batch": ((3,), (), (2, 3)),
    "mask": (True, False),
    "reset": (True, False),
    "reverse": (False, True),
    "gamma": (True, False),
    "dtype": (np.int32, np.int8, np.uint32),
}


SHARED = ((3,), True, True, False, True, np.int32)
REVERSED = ((2, 3), False, True, True, False, np.int8)


def cases():
    """Each cell and each store, behind `slow` each pair of options with each cell."""
    quick = [
        *(("lstm", (store, 3, *SHARED)) for store in AXES["store"]),
        ("elman", ("residuals", None, *REVERSED)),
        ("gru", ("boundaries", 3, *SHARED)),
    ]
    yield from quick
    for case in itertools.product(CELLS, map(tuple, AllPairs([*AXES.values()]))):
        if case not in quick:
            yield pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "options"), list(cases()))
def test_equal_one_hot_vectors(name, options):
    """Values and all gradients, whatever stands in a masked step; by the oracle too."""
    cell, options = CELLS[name], dict(zip(AXES, options, strict=True))
    batch, dtype = options.pop("batch"), options.pop("dtype")
    mask = steps(0.7, SIZE, batch, seed=1)
    arrays = {
        "mask": mask,
        "reset": steps(0.3, SIZE, batch, seed=2),
        "gamma": factors(SIZE, batch),
    }
    given = {k: arrays[k] for k in arrays if options.pop(k)}
    given |= {"reverse": options.pop("reverse"), "truncate": 3}
    small = dtype != np.int32 or "mask" not in given
    ids, vectors = twins(cell, SIZE, batch, None if small else mask)
    ids = ids._replace(xs=ids.xs.astype(dtype))
    got = value_and_grads(jaxrnn.unroll, cell, ids, **options, **given)
    expected = value_and_grads(jaxrnn.unroll_autodiff, cell, vectors, **given)
    chex.assert_trees_all_close(got, expected, rtol=RTOL, atol=ATOL)
    if options["store"] == "states":
        oracle = value_and_grads(jaxrnn.unroll_autodiff, cell, ids, **given)
        chex.assert_trees_all_close(oracle, expected, rtol=RTOL, atol=ATOL)


DTYPES = ("int8", "uint8", "int16", "int32", "uint32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("params_dtype", [jnp.float32, jnp.bfloat16])
def test_the_drive_and_its_adjoint(params_dtype, dtype):
    """More rows than small dtypes have numbers; sums in float32, as with vectors."""
    size = 300
    ids = jnp.arange(-3, 321, 4).reshape(9, 9).astype(dtype)
    key, last = jax.random.split(jax.random.key(0))
    w = jax.random.normal(key, (size, 6), params_dtype)
    delta = jax.random.normal(last, (9, 9, 6))
    number = np.asarray(ids, np.int64)
    vectors = jnp.asarray(number[..., None] == np.arange(size), jnp.float32)
    got, expected = (weights.drive(xs, w, jnp.float32) for xs in (ids, vectors))
    chex.assert_trees_all_equal(got, expected)
    got, expected = (weights.drive_vjp(xs, w.T, delta) for xs in (ids, vectors))
    chex.assert_trees_all_close(got[0], expected[0], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal_dtypes(got[0], expected[0])
    assert got[1] is None
    # An id of no row stands for zeros, and negative ones do not count from the end.
    beyond = (number < 0) | (number >= size)
    assert beyond.any() == (dtype != "uint8")
    assert (weights.drive(ids, w, jnp.float32)[beyond] == 0).all()


def both(case, vectors, function):
    """`function(params, state, xs)` of ids and of vectors, compiled."""
    compiled = jax.jit(function)
    return compiled(*case[:3]), compiled(*vectors[:3])


def sum_of_sines(unroll, cell):
    return lambda *given: jnp.sum(jnp.sin(unroll(cell, *given)[1]))


@pytest.mark.usefixtures("x64")
@ELMAN_FIRST
def test_second_order_and_vmap(cell):
    """Forward mode over the gradient, mapped over ids."""
    ids, vectors = twins(cell, 5)

    def curvature(params, state, xs):
        def loss_of(params, state):
            return loss(jaxrnn.unroll, cell, ids, params, state, xs, chunk=2)

        ones = jax.tree.map(jnp.ones_like, (params, state))
        grads = jax.grad(loss_of, (0, 1))
        return jax.jvp(grads, (params, state), ones)[1]

    def of_each(params, state, xs):
        mapped = jax.vmap(curvature, (None, None, 0))
        return mapped(params, state, jnp.stack([xs, xs[::-1]]))

    got, expected = both(ids, vectors, of_each)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
def test_what_goes_back(cell):
    """Adjoints, contributions by lag, and exponents are those of one-hot vectors."""
    ids, vectors = twins(cell, 5, (2,))

    def measured(params, state, xs):
        def last_output(_, hs):
            return jnp.sum(jnp.sin(hs[-1]))

        given = cell, params, state, xs
        one = jax.tree.map(lambda s: s[0], state), xs[:, 0]
        return (
            jaxrnn.adjoints(last_output, *given),
            flow.lag_gradients(last_output, *given),
            flow.vanishing_regularizer(last_output, *given),
            flow.lyapunov_spectrum(cell, params, *one, 2),
        )

    got, expected = both(ids, vectors, measured)
    chex.assert_trees_all_close(got, expected, rtol=1e-9, atol=1e-11)


@LSTM_FIRST
def test_steps_are_unroll(cell):
    """One at a time, of one sequence too, with a mask, and in any integer dtype."""
    case, mask = twins(cell, batch=(), dtype=jnp.float32)[0], steps(0.6, batch=())
    last, hs = jaxrnn.unroll(cell, case.params, None, case.xs, mask=mask)
    run = jax.jit(functools.partial(jaxrnn.step, cell, case.params))
    state = cell.initial_state(case.params, ())
    for x, is_step, h in zip(case.xs.astype(jnp.int8), mask, hs, strict=True):
        state, got = run(state, jnp.where(is_step, x, 99), mask=is_step)
        np.testing.assert_allclose(got, h, rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_close(state, last, rtol=1e-6, atol=1e-7)
    state, _ = jaxrnn.step(cell, case.params, None, jnp.asarray(3))
    assert state.h.shape == hs.shape[1:]


def test_ids_have_no_gradient():
    case, _ = twins(jaxrnn.elman, dtype=jnp.float32)
    summed = sum_of_sines(jaxrnn.unroll, jaxrnn.elman)
    grads = jax.grad(summed, (0, 2), allow_int=True)(*case[:3])
    assert grads[1].dtype == jax.dtypes.float0
    with pytest.raises(TypeError, match="real- or complex-valued inputs"):
        jax.grad(summed, 2)(*case[:3])


def test_products_in_bfloat16():
    """Rows and sums are rounded as in products with one-hot vectors."""
    cell = jaxrnn.elman
    case, vectors = twins(cell, dtype=jnp.float32)
    options = {"compute_dtype": jnp.bfloat16, "store": "residuals"}
    got, expected = (
        value_and_grads(jaxrnn.unroll, cell, c, **options) for c in (case, vectors)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


def window_loss(params, state, batch):
    xs, weights = batch
    state, hs = jaxrnn.unroll(jaxrnn.elman, params, state, xs)
    return jnp.sum(weights * jnp.sin(hs)), state


def updated(make, params, state, batch):
    """The learner's parameters, the state and the metrics after a step."""
    step = make(optax.sgd(0.1))
    learner = train.init_learner(params, optax.sgd(0.1))
    learner, state, metrics = step(learner, state, batch)
    return jax.device_get((learner.params, state, metrics))


def step_on_two_devices(*given):
    value_and_grad = jax.value_and_grad(window_loss, has_aux=True)
    return updated(lambda o: train.make_step(value_and_grad, o), *given)


def step_in_windows(*given):
    return updated(lambda o: train.make_truncated_step(window_loss, o, 3), *given)


def measured_truncation(*given):
    return tuple(jaxrnn.adaptive_truncation(window_loss, 0.1)(*given)[1:])


WINDOWS = {
    "truncated": jax.jit(jaxrnn.truncated_value_and_grad(window_loss, 3, 5)),
    "checkpointed": jax.jit(jaxrnn.checkpointed_value_and_grad(window_loss, 3)),
    "measured": measured_truncation,
    "make_step": step_on_two_devices,
    "make_truncated_step": step_in_windows,
}


@pytest.mark.parametrize("function", WINDOWS.values(), ids=WINDOWS)
def test_windows_and_training_steps(function):
    case, vectors = twins(jaxrnn.elman, batch=(2,), dtype=jnp.float32)
    got, expected = (
        function(c.params, c.state, (c.xs, c.on_hs)) for c in (case, vectors)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


def test_randomized_truncation():
    """γ is in the dtype of the parameters, and not in one that ids promote to."""
    case, vectors = twins(jaxrnn.elman, dtype=jnp.float32)
    gamma = jaxrnn.randomized_truncation(jax.random.key(0), SIZE, 3.0)
    got, expected = (
        value_and_grads(jaxrnn.unroll, jaxrnn.elman, c, gamma=gamma)
        for c in (case, vectors)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.lowest
@ELMAN_FIRST
def test_on_meshes(cell):
    """Of activations nothing is gathered: the one sum over devices is of gradients."""
    case, vectors = twins(cell, batch=(4,), dtype=jnp.float32)
    gradient = jax.jit(jax.grad(sum_of_sines(jaxrnn.unroll, cell)))
    expected = gradient(*vectors[:3])
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-4, atol=1e-5)

    def placed(kind):
        mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
        specs = P(), P("data"), P(None, "data")
        args = [
            jax.device_put(tree, NamedSharding(mesh, spec))
            for tree, spec in zip(case[:3], specs, strict=True)
        ]
        return mesh, specs, args

    mesh, specs, args = placed(AxisType.Auto)
    program = gradient.lower(*args).compile()
    close(jax.device_get(program(*args)), expected)
    text = program.as_text()
    assert "all-reduce(" in text
    for other in ("all-gather", "all-to-all", "collective-permute"):
        assert other not in text

    mapped = jax.shard_map(
        jax.grad(sum_of_sines(jaxrnn.unroll, cell)),
        mesh=mesh,
        in_specs=specs,
        out_specs=P(),
    )
    close(jax.device_get(jax.jit(mapped)(*case[:3])), expected)

    mesh, _, args = placed(AxisType.Explicit)
    with jax.set_mesh(mesh):
        grads = gradient(*args)
    close(jax.device_get(grads), expected)


@ELMAN_FIRST
def test_exported(cell):
    """For any T and B, and every platform; it can be differentiated when reloaded."""
    case, vectors = twins(cell, 6, (2,), dtype=jnp.float32)

    def loss_of(params, xs):
        return jnp.sum(jnp.sin(jaxrnn.unroll(cell, params, None, xs)[1]))

    shape = jax.ShapeDtypeStruct(export.symbolic_shape("T, B"), jnp.int32)
    platforms = ("cpu", "cuda", "tpu")
    exported = export.export(jax.jit(loss_of), platforms=platforms)
    given = jax.eval_shape(lambda: case.params), shape
    reloaded = export.deserialize(exported(*given).serialize(vjp_order=1))
    got = jax.jit(jax.grad(reloaded.call))(case.params, case.xs)
    expected = jax.jit(jax.grad(loss_of))(case.params, vectors.xs)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_multiplied_by_ids():
    """Of the six products, forward W_hh and backward W_hhᵀ and dW_hh are left."""
    cell = jaxrnn.lstm

    def products(case):
        summed = sum_of_sines(functools.partial(jaxrnn.unroll, store="residuals"), cell)
        return str(jax.make_jaxpr(jax.grad(summed))(*case[:3])).count(" dot_general[")

    assert [*map(products, twins(cell, dtype=jnp.float32))] == [3, 6]
