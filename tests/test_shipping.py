"""Programs in files: they compute what the network computes, without the library."""

import functools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import layers
from tests.cases import LSTM_FIRST, problem, steps

KEY = jax.random.key(0)
T, B = 7, 3
LSTM = problem(jaxrnn.lstm, T, (B,), dtype=jnp.float32)
READER = layers.stack(
    layers.embedding(6, 4),
    layers.recurrent(layers.zoneout(jaxrnn.gru, 0.2), 5),
    layers.dense(2),
)
LEARNER = layers.recurrent(jaxrnn.lstm, 5, learn_initial_state=True)
TAGGER = layers.stack(
    layers.bidirectional(layers.recurrent(jaxrnn.elman, 3)), layers.layer_norm()
)
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 6, (T, B)), jnp.int32)


def reloaded(program):
    return jax.export.deserialize(program.serialize())


@functools.cache
def trained(layer, input_size=None):
    """Parameters that differ from one another: none is zero."""
    params = layer.init(KEY, input_size)
    leaves, structure = jax.tree.flatten(params)
    draws = np.random.default_rng(0)
    noisy = [a + 0.3 * draws.standard_normal(a.shape).astype("f4") for a in leaves]
    return jax.tree.unflatten(structure, noisy)


def in_steps(step, state, *sequences):
    """The outputs of a program, one step after the other."""
    ys = []
    for inputs in zip(*sequences, strict=True):
        *state, y = step(*state, *inputs)
        ys.append(y)
    return state, jnp.stack(ys)


@LSTM_FIRST
def test_a_cell_of_any_batch_and_length(cell):
    case = problem(cell, T, (B,), dtype=jnp.float32)
    step = reloaded(jaxrnn.export_step(cell, case.params, 4))
    unroll = reloaded(jaxrnn.export_unroll(cell, case.params, 4))
    assert unroll.platforms == ("cpu", "cuda", "tpu")
    assert str(unroll.in_avals[-1].shape) == "(t, b, 4)"
    for size, batch in ((T, B), (2, 1)):
        xs = case.xs[:size, :batch]
        state = jax.tree.map(lambda s, batch=batch: s[:batch], case.state)
        last, hs = jaxrnn.unroll(cell, case.params, state, xs)
        *got, ys = unroll.call(*state, xs)
        chex.assert_trees_all_close((got, ys), (list(last), hs), rtol=1e-5, atol=1e-6)
        got, ys = in_steps(step.call, state, xs)
        chex.assert_trees_all_close((got, ys), (list(last), hs), rtol=1e-5, atol=1e-6)


def test_ids_masks_resets_and_parameters_that_are_given():
    """A stack whose state has a part of its own for each layer."""
    params = trained(READER)
    mask, reset = steps(0.7, T, (B,)), steps(0.3, T, (B,), seed=1)
    asked = {"mask": True, "reset": True, "frozen": False}
    shapes = jax.eval_shape(lambda: params)
    leaves = jax.tree.leaves(params)
    state = READER.initial_state(params, (B,))
    last, ys = READER.unroll(params, state, IDS, mask=mask, reset=reset)
    expected = [*jax.tree.leaves(last), ys]

    unroll = reloaded(jaxrnn.export_unroll(READER, shapes, None, **asked))
    got = unroll.call(*leaves, *jax.tree.leaves(state), IDS, mask, reset)
    chex.assert_trees_all_close(list(got), expected, rtol=1e-5, atol=1e-6)

    step = reloaded(jaxrnn.export_step(READER, shapes, None, **asked))
    assert len(step.in_avals) == len(leaves) + len(jax.tree.leaves(state)) + 3
    assert [str(a.dtype) for a in step.in_avals[-3:]] == ["int32", "bool", "bool"]
    call = functools.partial(step.call, *leaves)
    got, ys = in_steps(call, jax.tree.leaves(state), IDS, mask, reset)
    chex.assert_trees_all_close([*got, ys], expected, rtol=1e-5, atol=1e-6)


def test_a_reset_makes_the_initial_state_whatever_is_given():
    params = trained(LEARNER, 4)
    step = reloaded(jaxrnn.export_step(LEARNER, params, 4, reset=True))
    x, given = LSTM.xs[0], [jnp.full((B, 5), 9.0)] * 2
    anew = jnp.array([True, False, True])
    *_, got = step.call(*given, x, anew)
    _, fresh = LEARNER.step(params, None, x)
    _, old = LEARNER.step(params, jaxrnn.LSTMState(*given), x)
    expected = jnp.where(anew[:, None], fresh, old)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


def test_both_directions_and_a_narrow_dtype():
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), trained(TAGGER, 4))
    unroll = reloaded(jaxrnn.export_unroll(TAGGER, params, 4, platforms=["cpu"]))
    assert {str(a.dtype) for a in unroll.in_avals} == {"bfloat16"}
    state, xs = TAGGER.initial_state(params, (B,)), LSTM.xs.astype(jnp.bfloat16)
    *_, got = unroll.call(*jax.tree.leaves(state), xs)
    _, expected = TAGGER.unroll(params, state, xs)
    chex.assert_trees_all_close(got, expected, rtol=2e-2, atol=2e-2)


# A process in which jaxrnn cannot be imported: the server of docs/shipping.md.
SERVER = """
import sys

sys.modules["jaxrnn"] = None

from pathlib import Path

import jax
import numpy as np

inputs = np.load(sys.argv[2])
program = jax.export.deserialize(Path(sys.argv[1]).read_bytes())
state = [np.zeros((3, *a.shape[1:]), a.dtype) for a in program.in_avals[:-1]]
step = jax.jit(program.call)
ys = []
for x in inputs:
    *state, y = step(*state, x)
    ys.append(y)
np.save(sys.argv[3], np.stack(ys))
print(sorted(name for name in sys.modules if "jaxrnn" in name))
"""


def test_jax_alone_runs_a_file(tmp_path):
    net = layers.stack(layers.recurrent(jaxrnn.lstm, 5), layers.dense(2))
    params = trained(net, 4)
    program = jaxrnn.export_step(net, params, 4)
    files = [tmp_path / name for name in ("step.bin", "xs.npy", "ys.npy")]
    files[0].write_bytes(program.serialize())
    np.save(files[1], LSTM.xs)
    done = subprocess.run(
        [sys.executable, "-c", SERVER, *map(str, files)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['jaxrnn']"  # the entry that blocks it
    _, expected = net.unroll(params, None, LSTM.xs)
    np.testing.assert_allclose(np.load(files[2]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0, 10])
def test_a_file_names_the_sources_unless_asked_not_to(limit):
    """The limit is JAX's option, and what is traced already keeps its sources."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.clear_caches()
    jax.config.update("jax_traceback_in_locations_limit", limit)
    try:
        content = jaxrnn.export_step(jaxrnn.lstm, LSTM.params, 4).serialize()
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
        jax.clear_caches()
    assert (b"unrolling.py" in content) == (limit > 0)


def export(model=jaxrnn.lstm, params=LSTM.params, input_size=4, **options):
    return jaxrnn.export_step(model, params, input_size, **options)


REFUSED = {
    "a name": (
        lambda: export("lstm"),
        "`model` must be a jaxrnn.Cell or a jaxrnn.layers.Layer, but got 'lstm'",
    ),
    "another cell": (
        lambda: export(jaxrnn.gru),
        "`params` must be the cell's own, GRUParams, .* but got a LSTMParams",
    ),
    "another input size": (
        lambda: export(input_size=3),
        "must be the input size I = 4 .* but they have 3 features",
    ),
    "no input size": (
        lambda: export(input_size=0),
        "`input_size` must be an integer ≥ 1, but got 0",
    ),
    "both directions": (
        lambda: export(TAGGER, trained(TAGGER, 4)),
        "a bidirectional layer has no `step`",
    ),
    "shapes": (
        lambda: export(params=jax.eval_shape(lambda: LSTM.params)),
        "`params.w_ih` must be an array, but got a shape without numbers",
    ),
    "under jit": (
        lambda: jax.jit(lambda params: export(params=params))(LSTM.params),
        "`params` must .* traced. `jaxrnn.export_step` runs on the host",
    ),
    "frozen=None": (lambda: export(frozen=None), "`frozen` must be True or False"),
    "mask an array": (
        lambda: export(mask=jnp.ones(3, bool)),
        "`mask` must be True or False, but got an array",
    ),
    "reset=1": (lambda: export(reset=1), "`reset` must be True or False, but got 1"),
    "a platform's name": (
        lambda: export(platforms="cpu"),
        "`platforms` must be a tuple of cpu, cuda, tpu, rocm, but got 'cpu'",
    ),
    "gpu": (
        lambda: export(platforms=["gpu"]),
        r"but got \['gpu'\]. NVIDIA's GPUs are cuda, AMD's rocm",
    ),
    "no platform": (lambda: export(platforms=()), r"but got \(\)"),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_in_our_words(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
