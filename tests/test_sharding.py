"""Hidden-sharded cells: on any mesh the results are those of one device, and every loop
over steps holds the one collective that the docs name."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import jaxrnn
from jaxrnn import cells, layers, sharding
from tests.cases import CELLS, FIELD, each_once, factors, loss, problem, steps
from tests.test_structure import equations, jaxprs_in

SIZE, BATCH, INPUTS, HIDDEN, CHUNK = 7, 4, 3, 8, 3

SPLIT = {
    **CELLS,
    "peephole_lstm": cells.CELLS["peephole_lstm"],
    "coupled_lstm": cells.CELLS["coupled_lstm"],
    "softsign_gru": FIELD["softsign_gru"],
    "leaky": jaxrnn.leaky,
    "slstm": jaxrnn.slstm,
}
WHOLE = {name: cell for name, cell in FIELD.items() if name not in SPLIT}
WHOLE.pop("fixed_leaky")  # one time constant for all units: it can be split
WHOLE["a constant for each unit"] = jaxrnn.make_leaky(time_constant=(2.0,) * HIDDEN)

STORES = ("residuals", "states", "boundaries")


def options(name):
    """What may stand at each step; made in the test, where x64 is on."""
    lengths = jaxrnn.lengths_to_mask(jnp.array([2, 0, 4, 3]), SIZE)
    return {
        "plain": {},
        "ragged": {"mask": lengths},  # a chunk without a step is skipped
        "everything": {
            "mask": steps(0.7, SIZE, (BATCH,), seed=1),
            "reset": steps(0.3, SIZE, (BATCH,), seed=2),
            "gamma": jnp.asarray(factors(SIZE, (BATCH,))),
            "truncate": 5,
            "reverse": True,
        },
    }[name]


def make_mesh(kind):
    """Two devices, or, in a process of four: all of them, or two rows of two."""
    devices = np.array(jax.devices())
    if kind == "2 × 2":
        return Mesh(devices.reshape(2, 2), ("data", "model")), "data"
    return Mesh(devices[: int(kind)], ("model",)), None


def one(tree):
    return jax.tree.map(np.asarray, jax.device_get(tree))


def check_equality(cell, kind, given, **more):
    """Values and all gradients, in double precision; returns the sharded gradients."""
    mesh, batch_axis = make_mesh(kind)
    split = sharding.hidden_sharded(cell, mesh, "model", batch_axis=batch_axis)
    case = problem(cell, SIZE, (BATCH,), INPUTS, HIDDEN)

    def run(cell, params):
        def loss_of(params, state, reset_state, xs):
            starts = {"reset_state": reset_state} if "reset" in given else {}
            return loss(
                jaxrnn.unroll, cell, case, params, state, xs, **starts, **given, **more
            )

        start = jax.tree.map(lambda s: 0.5 + 0 * s, case.state)
        by = jax.value_and_grad(loss_of, (0, 1, 2, 3))
        return jax.jit(by)(params, case.state, start, case.xs)

    expected, got = (
        run(cell, case.params),
        run(split, sharding.shard_params(split, case.params)),
    )
    value, (dparams, *others) = got
    whole = value, (sharding.whole_params(dparams), *others)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
        one(whole),
        one(expected),
    )
    return dparams


# The first three stand for the rest, which is behind `slow`.
ALWAYS = ("elman-plain", "gru-ragged", "lstm-everything")
PAIRS = [
    pytest.param(SPLIT[cell], given, id=name, marks=() if always else pytest.mark.slow)
    for cell in SPLIT
    for given in ("plain", "ragged", "everything")
    for name in [f"{cell}-{given}"]
    for always in [name in ALWAYS]
]


@pytest.mark.lowest
@pytest.mark.parametrize(("cell", "given"), PAIRS)
def test_two_devices_compute_what_one_does(cell, given, x64):
    dparams = check_equality(cell, "2", options(given), chunk=CHUNK)
    for leaf in jax.tree.leaves(dparams):
        part = (*leaf.shape[:-1], HIDDEN // 2)
        assert {shard.data.shape for shard in leaf.addressable_shards} == {part}


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("cell", SPLIT.values(), ids=SPLIT)
def test_every_store(cell, store, x64):
    check_equality(cell, "2", options("everything"), store=store)


# In a process of its own, which has four devices.
FOUR = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
from tests import test_sharding as tests
with jax.enable_x64(True):
    for cell, kind, given in {cases}:
        print(cell, kind, given)
        tests.check_equality(tests.SPLIT[cell], kind, tests.options(given), chunk=3)
tests.check_two_by_two()
"""


SOME = [("lstm", "4", "everything"), ("gru", "2 × 2", "ragged")]
SOME += [("elman", "2 × 2", "everything")]
EVERY = [*itertools.product(SPLIT, ("4", "2 × 2"), ("everything", "ragged"))]


@pytest.mark.lowest
@pytest.mark.parametrize(
    "cases", [SOME, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["some", "every"]
)
def test_four_devices(cases):
    done = subprocess.run(
        [sys.executable, "-c", FOUR.format(cases=cases)],
        cwd=Path(jaxrnn.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Communication. Every size is told by its number: none is another one's by chance.
T, B, I, H, K = 12, 6, 3, 10, 4  # noqa: E741


def compiled(name, store, kind):
    """The program of a gradient by all, as XLA makes it, and its parameters."""
    mesh, batch_axis = make_mesh(kind)
    cell = sharding.hidden_sharded(SPLIT[name], mesh, "model", batch_axis=batch_axis)
    params = cell.init(jax.random.key(0), I, H)
    state, xs = cell.initial_state(params, (B,)), jnp.ones((T, B, I))

    def loss_of(params, state, xs):
        hs = jaxrnn.unroll(cell, params, state, xs, chunk=K, store=store)[1]
        return jnp.sum(hs**2)

    run = jax.jit(jax.grad(loss_of, (0, 1, 2)))
    return run.lower(params, state, xs).compile().as_text(), params


OPERATION = re.compile(
    r"= (\(?[a-z0-9]+\[.*?) "
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def collectives(program):
    """Each collective: the trips of the loops around it, its kind, its floats."""
    computations, entry, name = {}, "", ""
    for line in program.splitlines():
        if header := re.match(r"(ENTRY )?(%\S+) \(.*{$", line):
            name = header[2]
            entry = name if header[1] else entry
            computations[name] = []
        elif name:
            computations[name].append(line)

    def walk(name, trips):
        for line in computations[name]:
            if operation := OPERATION.search(line):
                shapes = re.findall(r"f(?:32|64)\[([\d,]*)\]", operation[1])
                sizes = [[int(n) for n in s.split(",") if n] for s in shapes]
                yield trips, operation[2], int(sum(map(np.prod, sizes)))
            trip = re.search(r'known_trip_count":{"n":"(\d+)"', line)
            for called in re.findall(r"%[\w.\-]+", line.partition(", metadata=")[0]):
                if called in computations and called != name:
                    body = f"body={called}" in line
                    yield from walk(called, (*trips, int(trip[1])) if body else trips)

    return sorted(walk(entry, ()))


def in_loops(store, rows):
    """What the docs say: B·H floats each way per step, of a device's own sequences."""
    forward = (T,) if store == "residuals" else (T // K, K)
    found = [
        (forward, "all-gather", rows * H),  # (1)
        ((T // K, K), "reduce-scatter", rows * H // 2),  # (2): what is left of B·H
        ((T // K,), "all-gather", K * rows * H),  # (3)
    ]
    if store == "boundaries":  # runs each chunk forward again
        found.append(((T // K, K), "all-gather", rows * H))
    return sorted(found)


@pytest.mark.lowest
@each_once(("name", "store"), {name: name for name in CELLS}, {s: s for s in STORES})
def test_one_collective_a_step_each_way(name, store):
    program, _ = compiled(name, store, "2")
    found = collectives(program)
    assert [one for one in found if one[0]] == in_loops(store, B)
    assert [one for one in found if not one[0]] == [
        ((), "all-reduce", T * B * I)
    ]  # (4)


def check_two_by_two():
    """With a batch axis, the gradients of the weights are added up once, at the end."""
    program, params = compiled("lstm", "residuals", "2 × 2")
    found = collectives(program)
    assert [one for one in found if one[0]] == in_loops("residuals", B // 2)
    outside = [one for one in found if not one[0]]
    assert {kind for _, kind, _ in outside} == {"all-reduce"}
    weights = sum(p.size for p in jax.tree.leaves(params)) // 2
    assert sum(floats for *_, floats in outside) == weights + T * B // 2 * I


def test_the_reader_of_programs_reads():
    """An all-gather in two loops, of which the answer is known."""
    mesh, _ = make_mesh("2")

    def gathered(a):
        return jax.lax.all_gather(a, "model", tiled=True)

    def inner(carry, _):
        return carry + gathered(carry)[:3], None

    def outer(carry, _):
        return jax.lax.scan(inner, carry, length=5)[0], None

    def run(a):
        return jax.lax.scan(outer, a, length=7)[0]

    spec = jax.sharding.PartitionSpec("model")
    mapped = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)
    program = jax.jit(mapped).lower(jnp.ones(6)).compile().as_text()
    assert collectives(program) == [((7, 5), "all-gather", 6)]


def test_no_device_holds_all_units_of_all_steps():
    """States, residuals, coefficients and adjoints: H/n of each, and 4 H/n of gates."""
    mesh, _ = make_mesh("2")
    cell = sharding.hidden_sharded(jaxrnn.lstm, mesh, "model")
    params = cell.init(jax.random.key(0), I, H)

    def loss_of(params, xs):
        return jnp.sum(jaxrnn.unroll(cell, params, None, xs, chunk=K)[1] ** 2)

    jaxpr = jax.make_jaxpr(jax.grad(loss_of, (0, 1)))(params, jnp.ones((T, B, I))).jaxpr
    (mapped, *_) = [e for e in equations(jaxpr) if e.primitive.name == "shard_map"]
    arrays = [
        v.aval.shape
        for inner in jaxprs_in(list(mapped.params.values()))
        for e in equations(inner)
        for v in e.outvars
    ]
    of_all_steps = {shape[-1] for shape in arrays if shape[:2] == (T, B)}
    assert 4 * H // 2 in of_all_steps
    assert of_all_steps <= {I, H // 2, 4 * H // 2}


# What else takes a cell.
@pytest.fixture(scope="module")
def split_gru():
    mesh, _ = make_mesh("2")
    cell = sharding.hidden_sharded(jaxrnn.gru, mesh, "model")
    params = jaxrnn.gru.init(jax.random.key(0), INPUTS, HIDDEN)
    return cell, params, sharding.shard_params(cell, params)


def assert_close(got, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        one(got),
        one(expected),
    )


def test_init_draws_the_same_numbers(split_gru):
    cell, params, split = split_gru
    drawn = cell.init(jax.random.key(0), INPUTS, HIDDEN)
    assert_close(sharding.whole_params(drawn), params)
    assert jax.tree.map(lambda p: p.sharding, drawn) == jax.tree.map(
        lambda p: p.sharding, split
    )


def test_a_sequence_of_ids_and_a_stream(split_gru):
    cell, params, split = split_gru
    ids = jnp.array([[0, 2], [1, 9], [2, 0]])
    mask = jnp.array([[True, True], [False, True], [True, True]])
    last, hs = jaxrnn.unroll(cell, split, None, ids, mask=mask)
    assert_close((last, hs), jaxrnn.unroll(jaxrnn.gru, params, None, ids, mask=mask))
    assert_close(jaxrnn.unroll_autodiff(cell, split, None, ids, mask=mask), (last, hs))
    state = None
    for t in range(3):
        state, h = jaxrnn.step(cell, split, state, ids[t], mask=mask[t])
        assert_close(h, hs[t])
    assert_close(state, last)


def test_one_sequence_and_its_adjoints(split_gru):
    cell, params, split = split_gru
    xs = jax.random.normal(jax.random.key(1), (5, INPUTS))

    def of(cell, params):
        return jaxrnn.adjoints(
            lambda last, hs: jnp.sum(jnp.sin(hs)), cell, params, None, xs
        )

    assert_close(of(cell, split), of(jaxrnn.gru, params))


def test_an_ensemble(split_gru):
    cell, *_ = split_gru
    keys = jax.random.split(jax.random.key(0), 3)
    xs = jax.random.normal(jax.random.key(1), (5, INPUTS))

    def outputs(cell):
        def of_one(key):
            return jaxrnn.unroll(cell, cell.init(key, INPUTS, HIDDEN), None, xs)[1]

        return jax.vmap(of_one)(keys)

    assert_close(outputs(cell), outputs(jaxrnn.gru))


@pytest.mark.slow
def test_layers_of_it(split_gru):
    cell, *_ = split_gru
    xs = jax.random.normal(jax.random.key(1), (5, 2, INPUTS))

    def outputs(cell):
        layer = layers.bidirectional(layers.recurrent(cell, HIDDEN))
        net = layers.stack(layer, layers.recurrent(cell, HIDDEN), layers.dense(2))
        return net.unroll(net.init(jax.random.key(0), INPUTS), None, xs)[1]

    assert_close(outputs(cell), outputs(jaxrnn.gru))


@pytest.mark.slow
def test_bfloat16_is_gathered_in_bfloat16(split_gru):
    cell, params, split = split_gru
    xs = jax.random.normal(jax.random.key(1), (5, 2, INPUTS))

    def run(cell, params):
        return jaxrnn.unroll(cell, params, None, xs, compute_dtype=jnp.bfloat16)

    assert_close(run(cell, split), run(jaxrnn.gru, params))
    jaxpr = jax.make_jaxpr(lambda p: run(cell, p))(split).jaxpr
    gathers = [e for e in equations(jaxpr) if e.primitive.name == "all_gather"]
    assert {e.outvars[0].aval.dtype for e in gathers} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_second_order(split_gru, x64):
    cell, params, _ = split_gru
    xs = jax.random.normal(jax.random.key(1), (4, INPUTS))
    params = jax.tree.map(lambda p: p.astype(xs.dtype), params)

    def product(cell, params, cut):
        def loss_of(params):
            return jnp.sum(jnp.sin(jaxrnn.unroll(cell, params, None, xs)[1]))

        direction = cut(jax.tree.map(jnp.cos, params))
        run = jax.jit(lambda p, d: jax.jvp(jax.grad(loss_of), (p,), (d,))[1])
        return run(cut(params), direction)

    got = product(cell, params, lambda p: sharding.shard_params(cell, p))
    expected = product(jaxrnn.gru, params, lambda p: p)
    assert_close(sharding.whole_params(got), expected)


# Refusals.
@pytest.mark.parametrize("cell", WHOLE.values(), ids=WHOLE)
def test_other_cells_are_refused(cell):
    mesh, _ = make_mesh("2")
    with pytest.raises(ValueError, match="units meet in one matrix alone"):
        sharding.hidden_sharded(cell, mesh, "model")


class Sum(NamedTuple):
    """A step of the GRU whose units meet a second time: in a product of its own."""

    def __call__(self, params, state, u):
        state, res = jaxrnn.gru.step(params, state, u)
        return state._replace(h=state.h @ jnp.eye(HIDDEN)), res


@pytest.mark.usefixtures("as_users_see_it")
def test_a_cell_that_needs_other_units_is_refused_where_it_runs():
    mesh, _ = make_mesh("2")
    other = jaxrnn.gru._replace(step=Sum())
    split = sharding.hidden_sharded(other, mesh, "model")
    params = split.init(jax.random.key(0), INPUTS, HIDDEN)
    words = "cannot be split by units, because its `step`"
    with pytest.raises(ValueError, match=words):
        jaxrnn.unroll(split, params, None, jnp.ones((3, 2, INPUTS)))


@pytest.mark.usefixtures("as_users_see_it")
def test_refusals(split_gru):
    cell, params, split = split_gru
    mesh, _ = make_mesh("2")
    make = sharding.hidden_sharded
    with pytest.raises(ValueError, match="`axis` must be an axis of the mesh, 'model'"):
        make(jaxrnn.gru, mesh, "hidden")
    with pytest.raises(ValueError, match="`batch_axis` must be an axis of the mesh"):
        make(jaxrnn.gru, mesh, "model", batch_axis="data")
    with pytest.raises(ValueError, match="must differ, but both are 'model'"):
        make(jaxrnn.gru, mesh, "model", batch_axis="model")
    explicit = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match="must have automatic axes, but they are Expl"):
        make(jaxrnn.gru, explicit, "model")
    with pytest.raises(
        TypeError, match=r"`mesh` must be a jax\.sharding\.Mesh, but got 2"
    ):
        make(jaxrnn.gru, 2, "model")
    with pytest.raises(TypeError, match=r"`cell` must be a jaxrnn\.Cell"):
        make("gru", mesh, "model")
    with pytest.raises(TypeError, match="hidden_sharded` returns"):
        sharding.shard_params(jaxrnn.gru, params)
    xs = jnp.ones((3, 3, INPUTS))
    with pytest.raises(TypeError, match=r"own, ShardedParams, .* got a GRUParams"):
        jaxrnn.unroll(cell, params, None, xs)
    with pytest.raises(ValueError, match="must not be hidden-sharded"):
        jaxrnn.unroll_parallel_adjoint(cell, split, None, xs)
    lstm = make(jaxrnn.lstm, mesh, "model")
    with pytest.raises(ValueError, match="those of the cell that is sharded"):
        jaxrnn.unroll(lstm, split, None, xs)
    odd = jaxrnn.gru.init(jax.random.key(0), INPUTS, 5)
    size = "multiple of the 2 devices of the mesh axis 'model', but got H = 5. Choose 6"
    with pytest.raises(ValueError, match=size):
        sharding.shard_params(cell, odd)
    with pytest.raises(ValueError, match=size):
        params = cell.init(jax.random.key(0), INPUTS, 5)
        jaxrnn.unroll(cell, params, None, xs)
    both = Mesh(np.array(jax.devices()[:2]).reshape(1, 2), ("model", "data"))
    batched = make(jaxrnn.gru, both, "model", batch_axis="data")
    params = batched.init(jax.random.key(0), INPUTS, HIDDEN)
    with pytest.raises(
        ValueError, match=r"multiple of the 2 .*'data', but \*B is \(3,\)"
    ):
        jaxrnn.unroll(batched, params, None, xs)
