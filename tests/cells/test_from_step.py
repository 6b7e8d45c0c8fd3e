"""Cells made of a forward step: against autodiff, and against hand-written cells."""

import functools
import pickle
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jaxrnn
from jaxrnn.ops import folding, programs
from tests.cases import CELLS, each_once, loss, problem, steps, value_and_grads
from tests.cells.test_own_cell import LeakyState, leaky
from tests.test_structure import (
    BATCH,
    CHUNK,
    HIDDEN,
    INPUTS,
    SIZE,
    STORES,
    arguments,
    body,
    carried,
    count,
    scans,
    step_loops,
)


def elman_step(params, state, x):
    z = x @ params.w_ih + state.h @ params.w_hh + params.b
    return jaxrnn.ElmanState(jnp.tanh(z))


def lstm_step(params, state, x):
    """As in a textbook."""
    z = x @ params.w_ih + state.h @ params.w_hh + params.b
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jaxrnn.LSTMState(jax.nn.sigmoid(o) * jnp.tanh(c), c)


def gru_step(params, state, x):
    u_r, u_z, u_n = jnp.split(x @ params.w_ih + params.b, 3, axis=-1)
    q_r, q_z, q_n = jnp.split(state.h @ params.w_hh, 3, axis=-1)
    r, z = jax.nn.sigmoid(u_r + q_r), jax.nn.sigmoid(u_z + q_z)
    n = jnp.tanh(u_n + r * (q_n + params.b_hn))
    return jaxrnn.GRUState((1 - z) * n + z * state.h)


def like(cell, step):
    return jaxrnn.cell_from_step(cell.init, cell.initial_state, step)


STEPS = {"elman": elman_step, "lstm": lstm_step, "gru": gru_step}
DERIVED = {name: like(CELLS[name], step) for name, step in STEPS.items()}

each_cell = pytest.mark.parametrize("name", DERIVED)


def assert_equals_autodiff(cell, reference=None, size=5, store=None, **options):
    case = problem(reference or cell, size)
    expected = value_and_grads(
        jaxrnn.unroll_autodiff, reference or cell, case, **options
    )
    got = value_and_grads(jaxrnn.unroll, cell, case, store=store, chunk=2, **options)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
@each_once(("name", "store"), {n: n for n in DERIVED}, {s: s for s in STORES})
def test_equals_the_hand_written_cell(name, store):
    options = {"mask": steps(0.7, 5, seed=1), "reset": steps(0.3, 5, seed=2)}
    assert_equals_autodiff(DERIVED[name], CELLS[name], store=store, **options)


# Steps of all kinds, with the parameters of an Elman network.
def activity_of_a_leaky_cell(params, state, x):
    """A function of the parameters alone, σ(a), which no step may store."""
    r = jnp.tanh(state.h @ params.w_hh + x @ params.w_ih + params.b)
    rate = jax.nn.sigmoid(params.a)
    return LeakyState((1 - rate) * state.h + rate * r)


def on_the_left(params, state, x):
    z = params.w_hh.T @ state.h + params.w_ih.T @ x + params.b
    return jaxrnn.ElmanState(jnp.tanh(z))


def joined(params, state, x):
    matrix = jnp.concatenate([params.w_ih, params.w_hh])
    return jaxrnn.ElmanState(
        jnp.tanh(jnp.concatenate([x, state.h]) @ matrix + params.b)
    )


def without_inputs(params, state, x):
    return jaxrnn.ElmanState(jnp.tanh(state.h @ params.w_hh + params.b))


def without_a_state(params, state, x):
    return jaxrnn.ElmanState(jnp.tanh(x @ params.w_ih))


def of_a_number(params, state, x):
    gate = jax.nn.sigmoid(x[0])
    h = gate * jnp.tanh(state.h @ params.w_hh) + (1 - gate) * state.h * jnp.sum(x)
    return jaxrnn.ElmanState(h)


def of_matrices_in_other_ways(params, state, x):
    """A quadratic form, distances, and a row that the state selects."""
    matrix = params.w_hh * params.w_hh.T
    z = jnp.einsum("i,ij,j->j", state.h, matrix, state.h)
    distances = jnp.sum((state.h[:, None] - matrix) ** 2, axis=0)
    z = z + jax.nn.relu(x @ params.w_ih) * jnp.exp(-distances)
    return jaxrnn.ElmanState(jnp.sin(z) * params.w_hh[jnp.argmax(state.h)])


def with_a_loop(params, state, x):
    def over_row(h, row):
        return jnp.tanh(h * row + x[0]), None

    return jaxrnn.ElmanState(jax.lax.scan(over_row, state.h, params.w_hh)[0])


@jax.custom_vjp
def spike(z):
    return (z > 0).astype(z.dtype)


spike.defvjp(lambda z: (spike(z), z), lambda z, g: (g / (1 + jnp.abs(z)) ** 2,))


def spiking(params, state, x):
    """A derivative that the user gives, of a function that has none."""
    z = 0.9 * state.h + x @ params.w_ih + jax.nn.softplus(params.b)
    return jaxrnn.ElmanState(z - spike(z @ params.w_hh))


OF_ELMAN = (
    on_the_left,
    joined,
    without_inputs,
    without_a_state,
    of_a_number,
    of_matrices_in_other_ways,
    with_a_loop,
    spiking,
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("step", OF_ELMAN, ids=lambda step: step.__name__)
def test_every_kind_of_step(step):
    options = {"mask": steps(0.7, 5, seed=1), "reset": steps(0.3, 5, seed=2)}
    assert_equals_autodiff(like(jaxrnn.elman, step), **options)


@pytest.mark.usefixtures("x64")
def test_a_step_that_is_known_in_two_ways():
    """The hand-written cell is the reference, not the derived one's own forward run."""
    assert_equals_autodiff(like(leaky, activity_of_a_leaky_cell), leaky)
    assert_equals_autodiff(like(jaxrnn.elman, on_the_left), jaxrnn.elman)
    assert_equals_autodiff(like(jaxrnn.elman, joined), jaxrnn.elman)


@pytest.mark.usefixtures("x64")
def test_ids():
    """One row of `w_ih` is read for each id, and its gradient is added there."""

    def step(params, state, x):
        z = params.w_ih[x] + state.h @ params.w_hh + params.b
        return jaxrnn.ElmanState(jnp.tanh(z))

    case = problem(jaxrnn.elman, 5)
    ids = np.random.default_rng(0).integers(0, 4, (5, 3))
    case = case._replace(xs=jnp.asarray(ids))
    chex.assert_trees_all_close(
        value_and_grads(jaxrnn.unroll, like(jaxrnn.elman, step), case),
        value_and_grads(jaxrnn.unroll, jaxrnn.elman, case),
        rtol=1e-10,
    )


@pytest.mark.usefixtures("x64")
@each_once(("name", "store"), {"gru": "gru", "lstm": "lstm"}, {s: s for s in STORES})
def test_second_order(name, store):
    cell = DERIVED[name]
    case = problem(cell, size=4, batch=(2,), inputs=2, hidden=3)

    @jax.jit
    def loss_of(*given):
        options = {"store": store, "chunk": 2, "mask": steps(0.8, 4, (2,), seed=5)}
        return loss(jaxrnn.unroll, cell, case, *given, **options)

    check_grads(loss_of, case[:3], order=2, modes=["rev"])


@pytest.mark.usefixtures("x64")
def test_vmap_and_one_trace():
    """An ensemble of parameters, and a second cell of the same functions."""
    case = problem(jaxrnn.gru, 5, batch=())
    ensemble = jax.tree.map(lambda p: jnp.stack([p, 0.9 * p, p + 0.1]), case.params)
    traced = []

    def gru_step_once(params, state, x):
        traced.append(True)
        return gru_step(params, state, x)

    def gradients(cell):
        def loss_of(params, state, xs):
            return loss(jaxrnn.unroll, cell(), case, params, state, xs)

        run = jax.jit(jax.vmap(jax.grad(loss_of), (0, None, None)))
        return run(ensemble, *case[1:3])

    got = gradients(lambda: like(jaxrnn.gru, gru_step_once))
    expected = gradients(lambda: jaxrnn.gru)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)
    assert len(traced) == 1
    gradients(lambda: like(jaxrnn.gru, gru_step_once))
    assert len(traced) == 1


def test_the_same_functions_give_the_same_cell():
    cell = like(jaxrnn.lstm, lstm_step)
    assert cell is DERIVED["lstm"]
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert hash(cell) == hash(DERIVED["lstm"])


def bfloat16_step(params, state, x):
    z = jaxrnn.ops.matmul(x, params.w_ih) + jaxrnn.ops.matmul(state.h, params.w_hh)
    return jaxrnn.ElmanState(jnp.tanh(z + params.b))


@pytest.mark.parametrize("option", ["parameters", "products"])
def test_bfloat16(option):
    """With the products of `jaxrnn.ops`, exactly as the hand-written cell rounds."""
    dtype = jnp.bfloat16 if option == "parameters" else jnp.float32
    compute_dtype = jnp.bfloat16 if option == "products" else None
    case = problem(jaxrnn.elman, 7, dtype=dtype)
    got, expected = (
        value_and_grads(jaxrnn.unroll, cell, case, compute_dtype=compute_dtype)
        for cell in (like(jaxrnn.elman, bfloat16_step), jaxrnn.elman)
    )
    chex.assert_trees_all_equal_dtypes(got, expected)
    wide = [jax.tree.map(lambda a: a.astype(jnp.float32), t) for t in (got, expected)]
    chex.assert_trees_all_close(*wide, rtol=0.02, atol=0.05)


def traced(name, store):
    """The jaxpr of the gradient of a loss by parameters, state and inputs."""
    params, state, xs = arguments(CELLS[name], INPUTS, HIDDEN, BATCH, SIZE)

    def loss_of(params, state, xs):
        options = {"store": store, "chunk": CHUNK}
        last, hs = jaxrnn.unroll(DERIVED[name], params, state, xs, **options)
        return jnp.sum(jnp.sin(hs)) + sum(jnp.sum(jnp.cos(leaf)) for leaf in last)

    return jax.make_jaxpr(jax.grad(loss_of, (0, 1, 2)))(params, state, xs).jaxpr


@pytest.mark.parametrize("store", STORES)
@each_cell
def test_the_loops_are_those_of_a_hand_written_cell(name, store):
    """One product in each loop over steps, no weight in a carry, and as many products
    outside as a hand-written cell has: dW_ih, dW_hh, dx, and what is recomputed."""
    jaxpr = traced(name, store)
    loops = step_loops(jaxpr)
    assert [count(body(loop), "dot_general") for loop in loops] == [1] * len(loops)
    (back,) = (s for s in loops if s.params["reverse"])
    assert set(carried(back)) == {(BATCH, HIDDEN)}
    (chunks,) = (s for s in scans(jaxpr) if s.params["reverse"] and scans(body(s)))
    inside = sum(count(body(s), "dot_general") for s in step_loops(body(chunks)))
    outside = {"residuals": 3, "boundaries": 4, "states": 5}[store]
    assert count(body(chunks), "dot_general") - inside == outside


# Floats per unit and step, as the hand-written cells have them: what is kept of a step
# beside its state, and the coefficients.
KEPT = {"elman": 0, "lstm": 4, "gru": 4}
COEFFICIENTS = {"elman": 1, "lstm": 6, "gru": 5}


@each_cell
def test_no_more_is_kept_than_by_a_hand_written_cell(name):
    params, state, xs = arguments(CELLS[name], INPUTS, HIDDEN, BATCH, SIZE)
    cell = DERIVED[name]

    def kept(params, state, xs):
        after, res = cell.step(params, state, cell.drive(params, xs[0]))
        return res, cell.linearize(params, state, after, res)

    res, lin = jax.eval_shape(kept, params, state, xs)
    sizes = [sum(a.size for a in jax.tree.leaves(tree)) for tree in (res, lin)]
    unit = BATCH * HIDDEN
    assert sizes == [KEPT[name] * unit, COEFFICIENTS[name] * unit]


def test_the_smallest_cut_is_the_smallest():
    """Against all sets of variables, of a program that narrows, widens and branches."""

    def function(a, w):
        narrow = jnp.tanh(a @ w)  # of 2 numbers, from 6
        wide = jnp.concatenate([narrow, narrow * 2, narrow + 1])
        return [jnp.sin(wide), jnp.cos(wide[:3]), a * 2]

    kinds = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((6,), (6, 2))]
    program = programs.trace(function, kinds)
    a, w = program.inputs
    moving = programs.dependents(program.equations, [a])
    cut = programs.smallest_cut(program.equations, program.outputs, [a], moving, set())

    def separates(chosen):
        """Whether the outputs follow from these without a product and without a."""
        equations = programs.needed(program, program.outputs, {*chosen, w})
        read = {v for e in equations for v in programs.variables(e.invars)}
        costly = any(e.primitive.name in programs.COSTLY for e in equations)
        return not costly and (a not in read or a in chosen)

    every = [a, *(v for e in program.equations for v in e.outvars)]
    sets = [
        [v for n, v in enumerate(every) if number >> n & 1]
        for number in range(2 ** len(every))
    ]
    size = functools.partial(functools.reduce, lambda total, v: total + v.aval.size)
    least = min(size(chosen, 0) for chosen in sets if separates(chosen))
    assert separates(cut)
    assert size(cut, 0) == least


def test_folding_multiplies_out():
    """(v a) b + ((v a) b) a is one product, in a concatenation too."""

    def function(a, b, v):
        scaled = (v * a) * b
        joined = jnp.concatenate([scaled + scaled * a, -v, v])
        return [joined * jnp.concatenate([b, a, a]), v - scaled]

    kinds = [jax.ShapeDtypeStruct((3,), jnp.float32)] * 3
    program = programs.trace(function, kinds)
    folded = folding.folded(program, 2)
    given = [jnp.arange(1.0, 4.0) + n for n in range(3)]
    results = [
        programs.run(
            p, p.equations, p.outputs, dict(zip(p.inputs, given, strict=True)), {}, ()
        )
        for p in (program, folded)
    ]
    chex.assert_trees_all_close(*results, rtol=1e-6)
    late = programs.dependents(folded.equations, folded.inputs[2:])
    names = [e.primitive.name for e in folded.equations if late & set(e.outvars)]
    assert sorted(names) == ["concatenate", *["mul"] * 4]


@pytest.mark.usefixtures("as_users_see_it")
class TestErrors:
    class State(NamedTuple):
        h: jax.Array

    @staticmethod
    def call(step):
        params = jaxrnn.elman.init(jax.random.key(0), 2, 3)
        return jaxrnn.unroll(like(jaxrnn.elman, step), params, None, jnp.ones((4, 2)))

    def test_what_is_no_function(self):
        with pytest.raises(TypeError, match="`step` must be a function `"):
            jaxrnn.cell_from_step(jaxrnn.elman.init, jaxrnn.elman.initial_state, None)

    def test_another_signature(self):
        with pytest.raises(TypeError, match=r"`step` must take \(params, state, x\)"):
            self.call(lambda params, state: state)

    def test_another_state(self):
        with pytest.raises(
            TypeError, match=r"`step` must return a state, a NamedTuple"
        ):
            self.call(lambda params, state, x: state.h)

    def test_another_shape(self):
        with pytest.raises(
            ValueError, match=r"`step` must return `h` of shape \(3,\), but .* \(2,\)"
        ):
            self.call(lambda params, state, x: jaxrnn.ElmanState(x))

    def test_a_traced_constant(self):
        def outer(scale):
            return self.call(
                lambda params, state, x: jaxrnn.ElmanState(state.h * scale)
            )

        with pytest.raises(TypeError, match="must not close over an array that is tr"):
            jax.jit(outer)(jnp.ones(3))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_on_a_mesh(kind):
    """Inside `shard_map`, and with explicit axes, as the hand-written cell."""
    case = problem(jaxrnn.gru, 6, (4,), dtype=jnp.float32)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))

    def gradient(cell):
        def loss_of(params, xs):
            total = jnp.sum(jaxrnn.unroll(cell, params, None, xs)[1] ** 2)
            return jax.lax.psum(total, "data") if kind is AxisType.Auto else total

        run = jax.grad(loss_of)
        if kind is AxisType.Auto:
            specs = P(), P(None, "data")
            run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P())
        return jax.jit(run)

    with jax.set_mesh(mesh):
        xs = jax.device_put(case.xs, NamedSharding(mesh, P(None, "data")))
        params = jax.device_put(case.params, NamedSharding(mesh, P()))
        got, expected = (
            gradient(cell)(params, xs) for cell in (DERIVED["gru"], jaxrnn.gru)
        )
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)
