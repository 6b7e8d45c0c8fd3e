"""A batch split over the devices of a host: one device's results, and no hanging."""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxrnn
from jaxrnn import devices, losses, train
from tests.cases import once, problem, steps

ROOT = Path(jaxrnn.__file__).parents[1]
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2))

# There are two devices here, so a batch of an even number of sequences is split.


def mean_of_squares(params, state, xs):
    """No recurrence, quick to compile; the state `[B, I]` goes on."""
    state = None if state is None else state + xs.sum(0)
    return jnp.mean((xs * params["w"] - 1) ** 2), state


def lies_on(tree):
    """The ids of the devices that hold all leaves."""
    (ids,) = {
        frozenset(d.id for d in a.sharding.device_set) for a in jax.tree.leaves(tree)
    }
    return sorted(ids)


def run(step, params, state, batches):
    """All results of steps over these; nothing of the arguments is given away."""
    learner, metrics = train.init_learner(params, OPTIMIZER), []
    for batch in batches:
        learner, state, found = step(learner, state, batch)
        metrics.append(found)
    return learner, state, metrics


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


@functools.cache
def split_case(name, batch=4):
    """A cell, a problem, four batches; the last two sequences are mostly masked out."""
    cell = getattr(jaxrnn, name)
    case = problem(cell, 6, batch=(batch,), dtype=jnp.float32)
    mask = np.array(steps(0.9, 6, (batch,)))
    mask[2:, batch // 2 :] = False
    batches = [
        (np.roll(case.xs, n, 0), np.roll(case.on_hs, n, 0), mask) for n in range(4)
    ]
    return cell, case, batches


def squared(hs, targets):
    return jnp.sum((hs - targets) ** 2, axis=-1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("lstm", "mean"), ("gru", "mean"), ("lstm", "windows"), ("gru", "no state")],
)
def test_a_split_batch_gives_what_one_device_gives(name, kind):
    cell, case, batches = split_case(name)
    reduction = losses.masked_sum if kind == "windows" else losses.masked_mean

    def loss_fn(params, state, batch):
        xs, targets, mask = batch
        last, hs = jaxrnn.unroll(cell, params, state, xs, mask=mask, chunk=2)
        return reduction(squared, hs, targets, mask), None if state is None else last

    fn = jax.value_and_grad(loss_fn, has_aux=True)
    fn = jaxrnn.truncated_value_and_grad(loss_fn, 4) if kind == "windows" else fn
    state = None if kind == "no state" else case.state
    # One program each: a step's results are placed as its arguments were.
    one = train.make_step(once(fn), OPTIMIZER, jax.devices()[:1])
    two = train.make_step(once(fn), OPTIMIZER)
    expected = run(one, case.params, state, batches)
    got = run(two, case.params, state, batches)
    chex.assert_trees_all_close(as_numpy(got), as_numpy(expected), rtol=1e-6, atol=1e-6)
    assert lies_on(expected) == [0] and lies_on(got) == [0, 1]
    learner, last, metrics = got
    assert all(a.is_fully_replicated for a in jax.tree.leaves((learner, metrics)))
    assert all(
        a.addressable_shards[1].data.shape == (2, 5) for a in jax.tree.leaves(last)
    )
    if kind == "mean":
        # The mean of the halves' means, a `pmean`, is another number, where masks are
        # uneven.
        halves = [
            jax.tree.map(lambda a, h=h: a[:, h], batches[0]) for h in np.s_[:2, 2:]
        ]
        states = [jax.tree.map(lambda a, h=h: a[h], state) for h in np.s_[:2, 2:]]
        means = [
            jax.jit(loss_fn)(case.params, *half)[0]
            for half in zip(states, halves, strict=True)
        ]
        assert abs(np.mean(means) - metrics[0].loss) > 0.01 * metrics[0].loss


def outputs(params, xs):
    return jaxrnn.unroll(jaxrnn.lstm, params, None, xs)[1]


KINDS = {
    "a second batch axis": lambda params, xs: outputs(
        params, jnp.stack([xs, 2 * xs], axis=2)
    ),
    "another batch": lambda params, xs: outputs(params, xs[:, :3]),
    "no batch axis": lambda params, xs: outputs(params, xs[:, 0]),
    "each sequence by vmap": lambda params, xs: jax.vmap(outputs, (None, 1), 1)(
        params, xs
    ),
    "an ensemble": lambda params, xs: jax.vmap(outputs, (0, None))(
        jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), params), xs
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_loss_calls_in_a_split_batch(kind):
    """A run that is not over the split sequences is not taken for one."""

    def loss_fn(params, state, batch):
        return jnp.sum(KINDS[kind](params, batch[0]) ** 2), state

    _, case, batches = split_case("lstm")
    fn = jax.value_and_grad(loss_fn, has_aux=True)
    one, two = (
        train.make_step(fn, OPTIMIZER, over) for over in (jax.devices()[:1], None)
    )
    expected, got = (run(step, case.params, None, batches[:2]) for step in (one, two))
    chex.assert_trees_all_close(as_numpy(got), as_numpy(expected), rtol=1e-6, atol=1e-6)


def test_the_weights_gradients_are_added_up_once():
    """In the optimized program no loop holds a sum over devices."""
    _, case, batches = split_case("lstm")
    placed = devices.split((case.params, case.state, batches[0]), jax.devices())

    def program(over):
        def gradient(params, state, batch):
            def loss(params):
                _, hs = jaxrnn.unroll(jaxrnn.lstm, params, state, batch[0], chunk=2)
                return jnp.sum(hs**2)

            with devices.tracing(over):
                return jax.grad(loss)(params)

        text = jax.jit(gradient).lower(*placed).compile().as_text()
        loops, entry = text.split("ENTRY")
        return loops.count(" all-reduce("), entry.count(" all-reduce(")

    in_loops, outside = program(devices.split_of(placed))
    assert in_loops == 0 < outside
    # Without the context the compiler adds after every chunk: the measure measures.
    assert program(None)[0] > 0


def test_a_label_per_sequence():
    """Many-to-one, from numpy: `[B]` labels are split with the sequences."""

    def loss_fn(params, state, batch):
        xs, labels = batch
        last, _ = jaxrnn.unroll(jaxrnn.lstm, params, None, xs)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return jnp.mean(cross_entropy(last.h, labels)), state

    _, case, batches = split_case("lstm")
    batches = [(xs, np.array([0, 4, 2, 1])) for xs, _, _ in batches[:2]]
    fn = jax.value_and_grad(loss_fn, has_aux=True)
    one, two = (
        train.make_step(fn, OPTIMIZER, over) for over in (jax.devices()[:1], None)
    )
    expected, got = (run(step, case.params, None, batches) for step in (one, two))
    chex.assert_trees_all_close(as_numpy(got), as_numpy(expected), rtol=1e-6, atol=1e-6)
    assert lies_on(expected) == [0] and lies_on(got) == [0, 1]


def test_what_is_split_and_what_is_not():
    """B is the state's, or else that of the leaf with most axes; a key has none."""
    learner = train.init_learner({"w": jnp.ones((4, 4))}, OPTIMIZER)
    batch = {
        "xs": np.ones((3, 4, 2)),
        "ids": np.ones((3, 4)),
        "labels": np.ones(4),
        "one hot": np.ones((4, 9)),
        "weights": np.ones(9),
        "scale": 0.5,
        "nothing": None,
        "T = B": np.eye(4),
    }
    by_state = {"h": jnp.ones((4, 5)), "count": jnp.ones(4), "key": jax.random.key(0)}
    for state in (by_state, None):
        learner, state, placed = devices.split((learner, state, batch), jax.devices())
        axes = {
            name: tuple(a.sharding.spec) for name, a in placed.items() if a is not None
        }
        first, second = (devices.AXIS,), (None, devices.AXIS)
        assert axes == {
            "xs": second,
            "ids": second,
            "labels": first,
            "one hot": first,
            "weights": (),
            "scale": (),
            "T = B": second,
        }
        if state:
            axes = {name: tuple(a.sharding.spec) for name, a in state.items()}
            assert axes == {"h": first, "count": first, "key": ()}
        assert all(a.is_fully_replicated for a in jax.tree.leaves(learner))


@pytest.mark.parametrize(
    ("state", "batch"),
    [
        (None, None),
        (None, np.float32(1)),
        (None, np.ones((4, 3))),  # three sequences
        (jnp.ones((3, 4)), np.ones((4, 4, 4))),
        (jnp.ones(4), np.ones((6, 4))),  # one sequence, no batch
    ],
    ids=["nothing", "a scalar", "odd", "an odd state", "one sequence"],
)
def test_what_cannot_be_split_stays_where_it_is(state, batch):
    given = train.init_learner({"w": jnp.ones(4)}, OPTIMIZER), state, batch
    assert devices.split(given, jax.devices()) is given


def test_a_batch_that_not_all_processes_could_share_is_refused():
    """Six sequences and four devices: two would be used, of one process."""
    ours = [SimpleNamespace(process_index=rank) for rank in (0, 0, 1, 1)]
    words = "B must be a multiple of the 4 devices of all processes, but got B = 6"
    with pytest.raises(ValueError, match=words):
        devices.split((None, None, np.zeros((3, 6, 1))), ours)


def test_batches_of_changing_size():
    """The last batch is smaller: the learner moves to one device, and back."""
    fn = jax.value_and_grad(mean_of_squares, has_aux=True)
    batches = [
        np.full((2, size, 3), 0.1 * size, np.float32) for size in (4, 3, 4, 1, 6, 0)
    ]
    one, two = (
        train.make_step(fn, OPTIMIZER, over) for over in (jax.devices()[:1], None)
    )
    params = {"w": jnp.ones(3)}
    expected, got = (run(step, params, None, batches) for step in (one, two))
    chex.assert_trees_all_close(as_numpy(got), as_numpy(expected), rtol=1e-6, atol=1e-6)
    assert [len(lies_on(m)) for m in got[2][:5]] == [2, 1, 2, 1, 2]


@pytest.mark.parametrize("batch", [3, 4])
def test_a_step_that_is_not_finite_changes_nothing(batch):
    """B = 4 is split, the bad number is in one half of it; B = 3 is not."""
    step = train.make_step(jax.value_and_grad(mean_of_squares, has_aux=True), OPTIMIZER)
    learner, state = (
        train.init_learner({"w": jnp.ones(3)}, OPTIMIZER),
        jnp.zeros((batch, 3)),
    )
    learner, state, _ = step(learner, state, np.ones((2, batch, 3), np.float32))
    before = jax.tree.map(np.array, (learner, state))
    xs = np.ones((2, batch, 3), np.float32)
    xs[1, 0, 0] = np.nan
    learner, state, metrics = step(learner, state, xs)
    assert not jnp.isfinite(metrics.loss) and not jnp.isfinite(metrics.grad_norm)
    chex.assert_trees_all_equal(jax.tree.map(np.array, (learner, state)), before)


def test_donation_on_two_devices():
    step = train.make_step(jax.value_and_grad(mean_of_squares, has_aux=True), OPTIMIZER)
    learner, state = (
        train.init_learner({"w": jnp.ones(3)}, OPTIMIZER),
        jnp.zeros((4, 3)),
    )
    xs = jnp.ones((2, 4, 3))
    for _ in range(2):  # from one device, then from both
        given, before = learner, state
        learner, state, _ = step(learner, state, xs)
        assert all(a.is_deleted() for a in jax.tree.leaves(given))
        assert not before.is_deleted()
    assert not xs.is_deleted()


def test_an_error_on_the_way_takes_nothing():
    step = train.make_step(jax.value_and_grad(mean_of_squares, has_aux=True), OPTIMIZER)
    learner, xs = (
        train.init_learner({"w": jnp.ones(3)}, OPTIMIZER),
        np.ones((2, 4, 3), np.float32),
    )
    with pytest.raises(ValueError, match="must have shape"):
        step(learner, jnp.zeros((4, 1)), xs)
    step(learner, None, xs)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_what_the_caller_has_placed_stays_there(kind):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    xs = jax.device_put(
        jnp.ones((2, 4, 3)), NamedSharding(mesh, P("data"))
    )  # over time
    learner = train.init_learner({"w": jnp.ones(3)}, OPTIMIZER)
    learner = jax.device_put(learner, NamedSharding(mesh, P()))
    step = train.make_step(jax.value_and_grad(mean_of_squares, has_aux=True), OPTIMIZER)
    with jax.set_mesh(mesh):
        learner, _, metrics = step(learner, None, xs)
    assert learner.params["w"].sharding.mesh.axis_names == ("data",)
    assert lies_on(learner) == [0, 1] and metrics.loss == 0


def test_a_step_inside_another_program():
    """In `lax.scan` over batches only the arguments of the outer program are placed."""
    step = train.make_step(jax.value_and_grad(mean_of_squares, has_aux=True), OPTIMIZER)
    xs = np.random.default_rng(0).normal(size=(3, 2, 4, 3)).astype(np.float32)
    learner = train.init_learner({"w": jnp.ones(3)}, OPTIMIZER)
    scanned, _ = jax.jit(
        lambda learner: jax.lax.scan(
            lambda now, x: (step(now, None, x)[0], None), learner, xs
        )
    )(learner)
    expected = run(step, {"w": jnp.ones(3)}, None, xs)[0]
    chex.assert_trees_all_close(
        as_numpy(scanned), as_numpy(expected), rtol=1e-6, atol=1e-6
    )
    # A learner that is a constant of the outer program is not its to give away.
    again = train.init_learner({"w": jnp.ones(3)}, OPTIMIZER)
    jax.jit(lambda x: step(again, None, x)[2])(xs[0])
    assert not again.params["w"].is_deleted()


@pytest.mark.parametrize(
    ("units", "gates", "count"),
    [(64, 4, 2), (362, 4, 2), (363, 4, 1), (418, 3, 2), (725, 1, 1)],
)
def test_large_matrices_stay_on_one_device(units, gates, count):
    """A table of many short rows, such as an embedding, is not large."""
    params = {
        "w_hh": np.ones((units, gates * units)),
        "table": np.ones((10**5, 3)),
        "b": np.ones(10**6),
    }
    assert devices.default_devices(params) == jax.devices()[:count]


def test_no_devices():
    with pytest.raises(ValueError, match="`devices` must have at least one device"):
        train.make_step(
            jax.value_and_grad(mean_of_squares, has_aux=True), OPTIMIZER, []
        )


def python(script, *arguments, timeout=120, **environment):
    """Runs a script in a process of its own, and returns its output.

    Only `environment` says how many devices there are.
    """
    asked = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    inherited = {name: value for name, value in os.environ.items() if name not in asked}
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env=inherited | {"JAX_PLATFORMS": "cpu"} | environment,
        cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize(
    ("before", "environment", "count"),
    [
        ("os.sched_getaffinity = lambda _: range(3)", {}, 3),
        ("vars(os).pop('sched_getaffinity', 0); os.cpu_count = lambda: 3", {}, 3),
        ("", {"JAX_NUM_CPU_DEVICES": "5"}, 5),
        ("", {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
        ("jax.config.update('jax_num_cpu_devices', 5)", {}, 5),
        ("os.sched_getaffinity = lambda _: range(1); jax.devices()", {}, 1),
        (
            "os.sched_getaffinity = lambda _: range(3); jax.devices()",
            {},
            "too late: JAX is in use, with 1 CPU device(s) for 3 cores. Call it "
            "before the first array is made, or set JAX_NUM_CPU_DEVICES=3. 1",
        ),
    ],
    ids=["cores", "no affinity", "variable", "flag", "config", "in vain", "too late"],
)
def test_one_device_per_core(before, environment, count):
    """A warning is printed if it comes too late, and would have changed the number."""
    script = f"""
        import os, warnings, jax
        from jaxrnn import devices
        {before}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            devices.one_per_core()
        words = [str(w.message).partition("came ")[2] for w in caught]
        print(*words, jax.device_count())
    """
    assert python(script, **environment) == str(count)


@pytest.mark.parametrize("number", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_step_hangs(number):
    """Two threads, in which only the steps wait: two programs in flight would hang."""
    script = """
        import sys, threading
        import jax, numpy as np, optax
        import jaxrnn
        from jaxrnn import train

        jax.config.update("jax_num_cpu_devices", 2)
        cell, optimizer = jaxrnn.lstm, optax.sgd(1e-3)
        xs = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)

        def loss_fn(params, state, xs):
            # A sum over devices at every step.
            state, hs = jaxrnn.unroll(cell, params, state, xs, chunk=1)
            return (hs**2).mean(), state

        def soak(steps):
            step = train.make_step(jax.value_and_grad(loss_fn, has_aux=True), optimizer)
            # 4 units do not hang in one thread.
            params = cell.init(jax.random.key(0), 3, 64)
            learner = train.init_learner(params, optimizer)
            state = cell.initial_state(params, (8,))
            for _ in range(steps):
                learner, state, metrics = step(learner, state, xs)
            assert len(metrics.loss.sharding.device_set) == 2
            losses.append(float(metrics.loss))

        losses, steps = [], int(sys.argv[1]) // 2
        threads = [threading.Thread(target=soak, args=(steps,)) for _ in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert losses[0] == losses[1]
        print("done")
    """
    assert python(script, str(number), timeout=120 + number / 20) == "done"
