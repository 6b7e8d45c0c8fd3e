"""A long run costs no more at its end than after its first evaluations."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A process of its own trains a network of two weights, saves every half second, and
# looks at itself at each evaluation, when no step is in flight.
CHILD = """
import json, os, resource, sys
from pathlib import Path
import jax
import jax.numpy as jnp
from tests.experiments.training.test_loop import experiment, toy, train

programs, seen = [], []

def listen(event, seconds, **about):
    if "backend_compile" in event:
        programs.append(about["fun_name"])

jax.monitoring.register_event_duration_secs_listener(listen)

def look(params):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    seen.append({
        "bytes": pages * resource.getpagesize(),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "programs": len(programs),
    })
    return {"w": float(params["w"][0])}

def loss_fn(params, state, x):
    return jnp.sum((params["w"] - x) ** 2), state + 1

def batch(number):
    return None if number else jnp.zeros(()), jnp.float32(number % 7)

steps = int(sys.argv[2])
config = experiment(steps, evaluations=10, save_minutes=0.01)
run, _, _ = train(Path(sys.argv[1]), config, toy(loss_fn, batch, look))
characters = sum(map(len, run.lines))
print(json.dumps({"seen": seen, "programs": programs, "characters": characters}))
"""
# A run holds its metrics, and some copies of them while it saves. The rest is what the
# allocator may keep: a leak of 200 bytes per step is found in 10,000 steps.
COPIES, KEPT = 8, 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "steps", [10_000, pytest.param(100_000, marks=pytest.mark.slow)]
)
def test_memory_files_threads_and_programs_stay_as_they_are(tmp_path, steps):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), str(steps)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["programs"].count("jit(compiled)") == 1, "the step"
    # By the third evaluation all is compiled and every thread is there.
    _, _, early, *later = found["seen"]
    most = early.pop("bytes") + KEPT + COPIES * found["characters"]
    for look in later:
        assert look.pop("bytes") < most
        assert look == early
