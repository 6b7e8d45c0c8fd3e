"""What the program looks like: one product inside each loop, no weights carried,
bounded memory.

These hold the library to what makes it worth having. Nothing is timed: the jaxpr is
read, and the bytes are those that XLA plans for.
"""

import re
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

import jaxrnn
from jaxrnn.plan import make_plan
from tests.cases import CELLS, FIELD, each_once

STORES = ("states", "residuals", "boundaries")
GATES = {"elman": 1, "lstm": 4, "gru": 3}

# Every axis is told by its number, also times the gates: no shape below is another's by
# chance.
INPUTS, HIDDEN, BATCH, CHUNK, SIZE = 3, 5, 7, 11, 33

each_store = pytest.mark.parametrize("store", STORES)
each_cell = pytest.mark.parametrize("name", CELLS)

# Products in the loop over steps, where it is not one. A second one waits for the
# first: the gate's before the candidate's, and the memory's before the output's
# projection. A diagonal recursion has none.
PRODUCTS = {
    **dict.fromkeys(("reset_before_gru", "mgu", "projected_lstm", "every_lstm"), 2),
    **dict.fromkeys(("indrnn", "lru", "min_gru", "min_lstm"), 0),
}
AT_ONCE = [name for name in FIELD if name.startswith("parallel")]
ONE_BY_ONE = [name for name in CELLS | FIELD if name not in AT_ONCE]


def arguments(cell, inputs, hidden, batch, size):
    """Parameters, initial state and inputs, as shapes: nothing here is ever run."""

    def make():
        params = cell.init(jax.random.key(0), inputs, hidden)
        return (
            params,
            cell.initial_state(params, (batch,)),
            jnp.zeros((size, batch, inputs)),
        )

    return jax.eval_shape(make)


def jaxprs_in(value):
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from jaxprs_in(item)


def equations(jaxpr):
    """All equations, those of the bodies of loops and calls included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in(list(equation.params.values())):
            yield from equations(inner)


def scans(jaxpr):
    return [
        equation for equation in equations(jaxpr) if equation.primitive.name == "scan"
    ]


def body(scan):
    return scan.params["jaxpr"].jaxpr


def step_loops(jaxpr):
    """The innermost scans: those over the steps of a chunk."""
    return [scan for scan in scans(jaxpr) if not scans(body(scan))]


def count(jaxpr, name):
    return sum(equation.primitive.name == name for equation in equations(jaxpr))


def carried(scan):
    """The shapes of a scan's carry."""
    first = scan.params["num_consts"]
    return [v.aval.shape for v in scan.invars[first : first + scan.params["num_carry"]]]


def traced(name, store, differentiate, unroll=jaxrnn.unroll):
    """The jaxpr of a loss of every output and of the last state, or of its gradient by
    all."""
    cell = (CELLS | FIELD)[name]
    hidden = HIDDEN + 1 if "lru" in name else HIDDEN  # even
    params, state, xs = arguments(cell, INPUTS, hidden, BATCH, SIZE)

    def loss(params, state, xs):
        last, hs = unroll(cell, params, state, xs, store=store, chunk=CHUNK)
        return jnp.sum(jnp.sin(hs)) + sum(jnp.sum(jnp.cos(leaf)) for leaf in last)

    run = jax.grad(loss, (0, 1, 2)) if differentiate else loss
    return jax.make_jaxpr(run)(params, state, xs).jaxpr


@each_store
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_the_loop_over_steps_holds_one_product(name, store):
    """Or as many as `PRODUCTS` names, each way."""
    products = PRODUCTS.get(name, 1)
    (only,) = step_loops(traced(name, store, differentiate=False))
    assert only.params["length"] == CHUNK
    assert count(body(only), "dot_general") == products

    loops = step_loops(traced(name, store, differentiate=True))
    # Forward and back; "boundaries" runs each chunk forward a second time.
    runs = [False, False, True] if store == "boundaries" else [False, True]
    assert [loop.params["reverse"] for loop in loops] == runs
    in_loops = [count(body(loop), "dot_general") for loop in loops]
    assert in_loops == [products] * len(loops)
    # Residuals take the memory of the drives of all steps: one loop runs forward.
    forward = SIZE if store == "residuals" else CHUNK
    lengths = [forward, *[CHUNK] * (len(loops) - 1)]
    assert [loop.params["length"] for loop in loops] == lengths


@pytest.mark.parametrize("name", [n for n in ONE_BY_ONE if n not in CELLS])
def test_the_reverse_loops_of_the_field_carry_no_weight(name):
    """Every array of the carry, and every one left per step, has the batch axis."""
    loops = step_loops(traced(name, "states", differentiate=True))
    (back,) = (s for s in loops if s.params["reverse"])
    assert {shape[0] for shape in carried(back)} == {BATCH}
    left = back.outvars[back.params["num_carry"] :]
    assert {v.aval.shape[:2] for v in left} == {(CHUNK, BATCH)}


@each_store
@pytest.mark.parametrize("name", AT_ONCE)
def test_an_associative_scan_has_no_loop_over_steps(name, store):
    """All loops are over chunks, and their bodies hold no loop. The arrays of an
    associative scan shrink by half, so their number grows by the logarithm of K."""
    loops = scans(traced(name, store, differentiate=True))
    assert all(not scans(body(loop)) for loop in loops)
    assert {loop.params["length"] for loop in loops} == {SIZE // CHUNK}


@each_cell
def test_residuals_are_written_over_the_drives(name):
    """The forward loop carries the drives of all steps, and leaves no array of their
    shapes that it would have to fill with zeros first."""
    shapes = {
        "elman": {(SIZE, BATCH, HIDDEN)},
        "lstm": {(SIZE, BATCH, 4 * HIDDEN)},
        "gru": {(SIZE, BATCH, 2 * HIDDEN), (SIZE, BATCH, HIDDEN)},
    }
    loops = step_loops(traced(name, "residuals", differentiate=True))
    (forward,) = (s for s in loops if not s.params["reverse"])
    in_place = {shape for shape in carried(forward) if shape[0] == SIZE}
    assert in_place == shapes[name]
    left = forward.outvars[forward.params["num_carry"] :]
    # h; c of the LSTM; q_n of the GRU. The Elman network's h is written over u.
    arrays = {"elman": 0, "lstm": 2, "gru": 2}[name]
    assert [v.aval.shape for v in left] == [(SIZE, BATCH, HIDDEN)] * arrays


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_no_loop_over_steps_copies_an_array_of_all_steps(name):
    """XLA copies one at every step where it is read after it was written."""
    cell = (CELLS | FIELD)[name]
    hidden = HIDDEN + 1 if "lru" in name else HIDDEN  # even
    params, state, xs = arguments(cell, INPUTS, hidden, BATCH, SIZE)

    def loss(params, state, xs):
        hs = jaxrnn.unroll(cell, params, state, xs, store="residuals")[1]
        return jnp.sum(hs**2)

    program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(params, state, xs).compile()
    computation, copied = "", []
    for line in program.as_text().splitlines():
        if line.startswith(("%", "ENTRY")):
            computation = line
        elif found := re.match(rf"\s+%copy[.\d]* = f32\[{SIZE},{BATCH},", line):
            copied += [found[0]] * computation.startswith(("%region", "%wide"))
    assert not copied


@each_store
@each_cell
def test_the_reverse_loop_over_steps_carries_no_weight(name, store):
    """Its carry is the adjoint and the sum for the initial state, `[B, H]` each, and so
    is what it leaves per step: the adjoints."""
    (back,) = (s for s in step_loops(traced(name, store, True)) if s.params["reverse"])
    assert set(carried(back)) == {(BATCH, HIDDEN)}
    assert {v.aval.shape for v in back.outvars} == {
        (BATCH, HIDDEN),
        (CHUNK, BATCH, HIDDEN),
    }

    # The measure is fit to find one: JAX's own transpose of a scan does carry the
    # weights' sums.
    autodiff = scans(traced(name, store, True, jaxrnn.unroll_autodiff))
    (back,) = (s for s in autodiff if s.params["reverse"])
    assert (HIDDEN, GATES[name] * HIDDEN) in carried(back)


@each_store
@each_cell
def test_the_program_does_not_grow_with_the_sequence(name, store):
    """So neither does the time to compile it."""
    cell = CELLS[name]

    def operations(size):
        params, _, xs = arguments(cell, INPUTS, HIDDEN, BATCH, size)

        def loss(params, xs):
            return jaxrnn.unroll(cell, params, None, xs, store=store, chunk=CHUNK)[
                1
            ].sum()

        return len(list(equations(jax.make_jaxpr(jax.grad(loss))(params, xs).jaxpr)))

    assert operations(10 * CHUNK) == operations(10_000 * CHUNK)


@each_cell
def test_a_chunk_without_a_step_holds_no_product(name):
    """`lax.cond` around a chunk, forward and back, where there is a mask and nothing
    else can move the state."""

    def conds(**options):
        cell = CELLS[name]
        params, state, xs = arguments(cell, INPUTS, HIDDEN, BATCH, SIZE)
        steps = jax.ShapeDtypeStruct((SIZE, BATCH), bool)

        def loss(params, state, xs, steps):
            given = {option: steps for option in options}
            return jaxrnn.unroll(cell, params, state, xs, chunk=CHUNK, **given)[1].sum()

        jaxpr = jax.make_jaxpr(jax.grad(loss))(params, state, xs, steps).jaxpr
        return [e for e in equations(jaxpr) if e.primitive.name == "cond"]

    forward, back = conds(mask=True)
    for cond in (forward, back):
        skip, run = cond.params["branches"]
        assert count(skip.jaxpr, "dot_general") == 0 < count(run.jaxpr, "dot_general")
    assert conds() == conds(reset=True) == conds(mask=True, reset=True) == []


@pytest.mark.parametrize(
    ("hidden", "batch", "left"),
    [(64, 16, False), (800, 16, False), (1500, 16, True), (1500, 128, False)],
    ids=["small", "medium", "large", "large, many rows"],
)
def test_matrices_are_stored_as_the_loops_multiply_fastest(hidden, batch, left):
    """In the program that XLA makes, the sums of both loops' products run down the
    columns of a right operand, or along the rows of a left one: XLA folds the transpose
    in the loop's body into the product."""
    params, state, xs = arguments(jaxrnn.elman, INPUTS, hidden, batch, SIZE)

    def loss(params, state, xs):
        return jaxrnn.unroll(jaxrnn.elman, params, state, xs, chunk=CHUNK)[1].sum()

    program = jax.jit(jax.grad(loss)).lower(params, state, xs).compile().as_text()
    product = (
        r"= f32\[(\d+),(\d+)\]\{1,0\} dot\(.*lhs_contracting_dims={(\d)}"
        r".*rhs_contracting_dims={(\d)}"
    )
    found = [tuple(map(int, numbers)) for numbers in re.findall(product, program)]
    in_loops = [f for f in found if sorted(f[:2]) == sorted((hidden, batch))]
    expected = (hidden, batch, 1, 1) if left else (batch, hidden, 1, 0)
    assert in_loops == [expected] * 2


def test_the_gradient_with_large_matrices():
    """The way of storing is seen by no result."""
    cell = jaxrnn.elman
    params = cell.init(jax.random.key(0), INPUTS, 1500)
    xs = jax.random.normal(jax.random.key(1), (3, 2, INPUTS))

    def gradient(unroll):
        def loss(params, xs):
            return (unroll(cell, params, None, xs, chunk=2)[1] ** 2).sum()

        return jax.jit(jax.grad(loss, (0, 1)))(params, xs)

    expected = gradient(jaxrnn.unroll_autodiff)
    chex.assert_trees_all_close(gradient(jaxrnn.unroll), expected, rtol=1e-4, atol=1e-4)


@each_cell
def test_the_gates_are_recomputed_only_where_asked(name):
    """Products of a chunk's backward pass outside the loops over steps: dW_ih, dW_hh
    and dx; with "boundaries" the drive once more, with "states" the drive and h W_hh,
    for all steps at once. The GRU's drive is two products."""
    drives = 2 if name == "gru" else 1
    expected = {"residuals": 3, "boundaries": 3 + drives, "states": 4 + drives}
    for store in STORES:
        jaxpr = traced(name, store, differentiate=True)
        (back,) = (s for s in scans(jaxpr) if s.params["reverse"] and scans(body(s)))
        inside = sum(count(body(s), "dot_general") for s in step_loops(body(back)))
        assert count(body(back), "dot_general") - inside == expected[store]


# Memory. In units of B·H floats, the gradient of a function of the last state by the
# parameters needs per step of the sequence, whatever the chunk:
#
#   states       the state: 1 (elman, gru: h) or 2 (lstm: h and c)
#   residuals    the state and `step`'s: elman nothing, gru r z n q_n, lstm i f g o
#   boundaries   s / K for a state of s units and chunks of K steps
#
# and a working set that belongs to one chunk. Neither xs nor hs counts: xs is an
# argument, and hs, of which the loss takes nothing, is not written. The LSTM's working
# set, per step of a chunk: the drive 4, the gates 4, `LSTMLin` 6, the adjoints 2, δ and
# κ 5, the states and those before them 4, g 1: 26. Plain autodiff has no chunk and
# keeps, for every t, at least what enters a product with λ: 4 gates, the slopes of 4
# gates and of tanh c, tanh c itself, and h and c: 12.
STATE = {"elman": 1, "lstm": 2, "gru": 1}
RESIDUALS = {"elman": 0, "lstm": 4, "gru": 4}
WORKING_SET_LSTM = 26
AUTODIFF_LSTM = 12

WIDE_BATCH, WIDE_HIDDEN = 4, 16
UNIT = 4 * WIDE_BATCH * WIDE_HIDDEN  # bytes
# Per step: each chunk's first state too, 2/128 at most; and where XLA copies xs, 3/16.
SLACK = 0.25


def planned(name, size, store, unroll=jaxrnn.unroll, chunk=None):
    """The temporaries of a gradient, in units of B·H floats."""
    cell = CELLS[name]
    params, _, xs = arguments(cell, INPUTS, WIDE_HIDDEN, WIDE_BATCH, size)

    def loss(params, xs):
        last, _ = unroll(cell, params, None, xs, store=store, chunk=chunk)
        return last.h.sum()

    program = jax.jit(jax.grad(loss)).lower(params, xs).compile()
    return program.memory_analysis().temp_size_in_bytes / UNIT


@pytest.mark.parametrize(
    ("name", "store"),
    [
        ("elman", "states"),
        ("lstm", "states"),
        ("gru", "residuals"),
        pytest.param("gru", "states", marks=pytest.mark.slow),
        pytest.param("lstm", "residuals", marks=pytest.mark.slow),
    ],
)
def test_memory_grows_by_what_is_stored(name, store):
    """Twice the steps: what is stored for each of the 256 more, and no more; the
    working set is that of a chunk, of 128 steps here, whatever T."""
    per_step = STATE[name] + (RESIDUALS[name] if store == "residuals" else 0)
    twice, once = (planned(name, size, store, chunk=128) for size in (512, 256))
    growth = (twice - once) / 256
    # And no less than the states, without which there is no gradient: the measure
    # measures.
    assert STATE[name] <= growth <= per_step + SLACK


def test_memory_of_the_stores():
    size, chunk = 256, 16  # √T, the default of "boundaries"
    by = {store: planned("lstm", size, store, chunk=chunk) for store in STORES}
    assert by["boundaries"] < by["states"] < by["residuals"]
    # "boundaries" with K = √T: 4 times the steps is 2 times the memory, and 4 times
    # were it linear.
    assert planned("lstm", 4 * size, "boundaries") < 3 * by["boundaries"]


@each_cell
def test_residuals_are_kept_while_they_are_small(name):
    """Up to 256 MiB: 4 floats per unit and step of an LSTM or a GRU, none of an Elman
    network. One chunk of symbolic length holds them all anyway."""
    cell, stored = CELLS[name], []

    def plan(params, state, xs):
        options = {"chunk": None, "store": None, "compute_dtype": None}
        stored.append(make_plan(cell, params, state, xs, **options).store)

    most = 2**28 // (4 * 4 * 64 * 64)
    sizes = [(most, 64), (most + 1, 64), jax.export.symbolic_shape("t, b")]
    for size, batch in sizes:
        jax.eval_shape(plan, *arguments(cell, 3, 64, batch, size))
    beyond = "residuals" if name == "elman" else "states"
    assert stored == ["residuals", beyond, "residuals"]


def test_memory_against_autodiff():
    """With chunks of K = 32: 2 T + 26 K for "states", 2 T/K + 26 K for "boundaries",
    and 12 T at the least for autodiff."""
    size, chunk = 1024, 32
    working_set = WORKING_SET_LSTM * chunk
    states = planned("lstm", size, "states", chunk=chunk)
    boundaries = planned("lstm", size, "boundaries", chunk=chunk)
    autodiff = planned("lstm", size, "states", jaxrnn.unroll_autodiff)
    assert states <= STATE["lstm"] * size + working_set
    assert boundaries <= STATE["lstm"] * size / chunk + working_set
    assert autodiff >= AUTODIFF_LSTM * size
    assert boundaries < autodiff / 10  # 12 · 1024 / (2 · 1024/32 + 26 · 32) = 13.7


# Flax NNX 0.12 plans 14 T·B·H floats for the LSTM and 11 for the GRU, and the weights':
# `python -m benchmarks.run --full --contestants jaxrnn,flax-nnx`, bytes of "flax-nnx".
FLAX = {"lstm": 14, "gru": 11}


# T, B, I, H: the shapes that `python -m benchmarks.run --full` measures.
GRID = (
    *((128, 32, 128, 256), (784, 64, 1, 128), (512, 16, 64, 64), (128, 64, 512, 512)),
    *((64, 32, 1024, 1024), (25, 16, 512, 512), (25, 64, 1024, 1024)),
    *((150, 16, 256, 256), (1000, 1, 64, 64), (100, 128, 64, 128)),
)


SHAPES = {str(shape): shape for shape in GRID}
LONG = {name: shape for name, shape in SHAPES.items() if shape[0] >= 128}


def gradient_bytes(name, shape, outputs):
    """The temporaries of the gradient of Σ hs² by parameters and inputs."""
    size, batch, inputs, hidden = shape
    params, state, xs = arguments(CELLS[name], inputs, hidden, batch, size)

    def loss(params, xs):
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)
        return jnp.sum(outputs(CELLS[name], params, start, xs) ** 2)

    program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, xs).compile()
    return program.memory_analysis().temp_size_in_bytes


def with_store(store):
    def outputs(cell, params, _, xs):
        return jaxrnn.unroll(cell, params, None, xs, store=store)[1]

    return outputs


def checkpointed_steps(cell, params, state, xs):
    """The textbook's step under `jax.checkpoint` in a scan, as one would write it."""

    @jax.checkpoint
    def over_step(state, x):
        state = textbook(cell, params, state, x @ params.w_ih + params.b)
        return state, state.h

    return jax.lax.scan(over_step, state, xs)[1]


def textbook(cell, params, state, u):
    """One step with the drive u."""
    sigmoid = jax.nn.sigmoid
    if cell is jaxrnn.elman:
        return state._replace(h=jnp.tanh(u + state.h @ params.w_hh))
    if cell is jaxrnn.lstm:
        i, f, g, o = jnp.split(u + state.h @ params.w_hh, 4, axis=-1)
        c = sigmoid(f) * state.c + sigmoid(i) * jnp.tanh(g)
        return state._replace(h=sigmoid(o) * jnp.tanh(c), c=c)
    u_r, u_z, u_n = jnp.split(u, 3, axis=-1)
    q_r, q_z, q_n = jnp.split(state.h @ params.w_hh, 3, axis=-1)
    r, z = sigmoid(u_r + q_r), sigmoid(u_z + q_z)
    n = jnp.tanh(u_n + r * (q_n + params.b_hn))
    return state._replace(h=(1 - z) * n + z * state.h)


@each_cell
def test_the_textbook_s_step_is_the_cell_s(name):
    """So the rival below computes the same."""
    cell = CELLS[name]
    params, state, xs = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(a.size), a.shape),
        arguments(cell, INPUTS, HIDDEN, BATCH, CHUNK),
    )
    expected = jaxrnn.unroll_autodiff(cell, params, state, xs)[1]
    found = checkpointed_steps(cell, params, state, xs)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)


@each_once(("name", "shape"), {name: name for name in FLAX}, LONG)
def test_memory_is_at_most_a_share_of_flax(name, shape):
    size, batch, _, hidden = shape
    flax = 4 * FLAX[name] * size * batch * hidden
    assert gradient_bytes(name, shape, with_store(None)) <= 0.65 * flax
    assert gradient_bytes(name, shape, with_store("states")) <= 0.35 * flax


@each_once(("name", "shape"), {name: name for name in CELLS}, SHAPES)
def test_boundaries_take_less_than_checkpointed_steps(name, shape):
    ours = gradient_bytes(name, shape, with_store("boundaries"))
    assert ours < gradient_bytes(name, shape, checkpointed_steps)


@each_cell
def test_one_trace_per_shape(name):
    """Training goes on in the program of its first step: the state and the parameters
    that come out are of the very type of those that went in. A new shape is a new
    trace."""
    chex.clear_trace_counter()  # chex counts by source text, so over the cells too
    cell = CELLS[name]

    def loss(params, state, xs):
        state, hs = jaxrnn.unroll(cell, params, state, xs)
        return hs.sum(), state

    run = jax.jit(jax.value_and_grad(chex.assert_max_traces(loss, n=1), has_aux=True))
    params = cell.init(jax.random.key(0), 2, 3)
    state = cell.initial_state(params, ())
    for seed in range(3):
        xs = jax.random.normal(jax.random.key(seed), (4, 2))
        (_, state), grads = run(params, state, xs)
        params = jax.tree.map(jnp.add, params, grads)
    with pytest.raises(AssertionError, match="traced"):
        run(params, state, jnp.ones((6, 2)))


def test_a_cell_made_inside_is_no_new_cell():
    """`make_elman` gives the same Cell each time: as a static argument, a key that
    `jit` finds."""
    chex.clear_trace_counter()

    def loss(cell, params, xs):
        _, hs = jaxrnn.unroll(cell, params, None, xs)
        return jaxrnn.unroll(jaxrnn.make_elman("relu"), params, None, hs)[1].sum()

    run = jax.jit(
        jax.grad(chex.assert_max_traces(loss, n=1), argnums=1), static_argnums=0
    )
    params = jaxrnn.make_elman("relu").init(jax.random.key(0), 2, 2)
    for _ in range(3):
        run(jaxrnn.make_elman("relu"), params, jnp.ones((4, 2)))


def test_importing_initializes_no_backend():
    """Or virtual devices and `jax.distributed.initialize` would stop working."""
    program = """
import jaxrnn, jaxrnn.layers, jaxrnn.losses, jaxrnn.train, jaxrnn.windows
import jax
jax.config.update("jax_num_cpu_devices", 2)
assert len(jax.devices()) == 2, jax.devices()
"""
    root = Path(jaxrnn.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def windowed_bytes(size, windows=None, outputs=1, **options):
    """The temporaries of an LSTM's checkpointed gradient: H = I = 64, B = 1, a loss
    per step."""

    def loss_fn(params, state, xs):
        params, readout = params
        state, hs = jaxrnn.unroll(jaxrnn.lstm, params, state, xs, **options)
        return jnp.sum(jnp.log(jnp.cosh(hs @ readout))), state

    params, state, xs = arguments(jaxrnn.lstm, 64, 64, 1, size)
    params = params, jax.ShapeDtypeStruct((64, outputs), jnp.float32)
    fn = jaxrnn.checkpointed_value_and_grad(loss_fn, windows=windows)
    return (
        jax.jit(fn)
        .lower(params, state, xs)
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
    )


@pytest.mark.parametrize("size", [10**6, 10**6 + 3])
@pytest.mark.parametrize("store", [None, "residuals"])
def test_a_million_steps_take_eight_mebibytes(size, store):
    """Beyond the inputs, which are not copied: 10⁶ + 3 is prime, and leaves a shorter
    window."""
    assert windowed_bytes(size, store=store) < 8 * 2**20


def test_checkpoints_take_the_root_of_the_length():
    """4 times the steps take 2 times the memory; with two levels, 8 times the steps
    do."""
    one = windowed_bytes(2**14, (2**7,))
    assert windowed_bytes(2**16, (2**8,)) < 2.5 * one
    two = windowed_bytes(2**15, (2**10, 2**5))
    assert (
        windowed_bytes(2**18, (2**12, 2**6))
        < 2.5 * two
        < windowed_bytes(2**18, (2**9,))
    )


def test_outputs_never_stand_there_for_all_steps():
    """12,288 steps more, of 1000 logits each, would be 49 MB; 192 windows' states are
    98 kB."""
    few, many = (windowed_bytes(size, (64,), outputs=1000) for size in (4096, 16384))
    states = (16384 - 4096) // 64 * STATE["lstm"] * 64 * 4
    assert few < many < few + 2 * states
