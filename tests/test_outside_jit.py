"""Calls outside `jit` compile once and keep nothing; and programs that are exported."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from jaxrnn import layers
from tests.cases import problem

CASE = problem(jaxrnn.lstm, 7, (3,), dtype=jnp.float32)


def unroll():
    return jaxrnn.unroll(jaxrnn.lstm, CASE.params, None, CASE.xs)


def step():
    return jaxrnn.step(jaxrnn.lstm, CASE.params, CASE.state, CASE.xs[0])


def gradient():
    def loss(params):
        return jaxrnn.unroll(jaxrnn.lstm, params, None, CASE.xs)[1].sum()

    return jax.grad(loss)(CASE.params)


@pytest.mark.parametrize("call", [unroll, step, gradient])
def test_fifty_calls_compile_nothing_and_keep_nothing(call):
    compiled = []

    def listen(event, *_, **__):
        if "backend_compile" in event:
            compiled.append(event)

    call()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        alive = len(jax.live_arrays())
        for _ in range(50):
            call()
        assert compiled == []
        assert len(jax.live_arrays()) <= alive
        jax.jit(lambda a: a + 1)(CASE.xs)  # the listener does hear
        assert compiled
    finally:
        jax.monitoring.clear_event_listeners()


# All that a process needs to run a program that this one has written.
LOAD = """
import sys
import jax
import jaxrnn

with open(sys.argv[1], "rb") as file:
    program = jax.export.deserialize(file.read())
print(len(program.in_avals))
print([name for name in jaxrnn.__all__ if not hasattr(jaxrnn, name)])
internal = {"bptt", "checks", "cells", "plan", "unrolling", "windows"}
print(sorted(internal & set(dir(jaxrnn))))
"""


def test_an_exported_step_is_loaded_after_importing_jaxrnn_alone(tmp_path):
    """Its states and parameters too; all public modules are there, and internal ones
    are not offered."""
    dense = layers.dense(2)
    readout = dense.init(jax.random.key(0), 5)

    def predict(params, readout, state, x):
        state, h = jaxrnn.step(jaxrnn.lstm, params, state, x)
        return state, dense.step(readout, (), h)[1]

    arguments = CASE.params, readout, CASE.state, CASE.xs[0]
    program = jax.export.export(jax.jit(predict))(*arguments)
    path = tmp_path / "step.bin"
    path.write_bytes(program.serialize())
    printed = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert printed == [str(len(jax.tree.leaves(arguments))), "[]", "[]"]


def test_a_fork_after_jax_was_used_warns():
    """The child has none of JAX's threads, and may wait for them for ever."""
    script = """
        import os, warnings
        import jax, jax.numpy as jnp
        jnp.ones(3).sum().block_until_ready()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            child = os.fork()
            if child == 0:
                os._exit(0)
        os.waitpid(child, 0)
        print(*{str(w.message) for w in caught})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "os.fork() is incompatible with multithreaded code" in done.stdout
