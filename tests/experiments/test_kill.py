"""Processes that are killed at the worst moments of a save lose nothing.

A child process trains a network of one weight and kills itself, without any cleaning
up, in the middle of its third checkpoint. The next one goes on and ends as one that was
never killed.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runs import checkpoint

ROOT = Path(__file__).parents[2]

CHILD = """
import os, shutil, signal, sys
from pathlib import Path
import jax.numpy as jnp
import jaxrnn
from rich.console import Console
from experiments.config.schema import Experiment, Model, Optimizer
from experiments.runs import atomic, checkpoint
from experiments.runs.folder import Run, unfinished
from experiments.tasks.base import Task
from experiments.training import loop, progress, saving

root, place, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def die():
    os.kill(os.getpid(), number)
    signal.pause()

def killed_in(owner, name, before):
    whole = getattr(owner, name)

    def patched(*arguments, **options):
        # In the checkpoint after step 2 alone; the folder is renamed, and files in it.
        of_step = [str(a) for a in arguments if ".2.part" in str(a)]
        mine = bool(of_step) and (name != "replace" or of_step[0].endswith(".2.part"))
        mine |= name == "rmtree" and not str(arguments[0]).endswith((".part", ".old"))
        if mine and before:
            die()
        result = whole(*arguments, **options)
        if mine:
            die()
        return result

    setattr(owner, name, patched)


places = {
    "before any file": (checkpoint.jaxrnn, "save", True),
    "after the first file": (checkpoint.jaxrnn, "save", False),
    "before the manifest": (checkpoint.atomic, "write", True),
    "before it is read back": (checkpoint, "_check_equal", True),
    "before the rename": (checkpoint.Path, "replace", True),
    "after the rename": (checkpoint.Path, "replace", False),
    "while old ones are deleted": (checkpoint.shutil, "rmtree", False),
}
if place in places:
    killed_in(*places[place])
if place == "while old ones are deleted":
    checkpoint.NEWEST, checkpoint.EVALUATED = 1, 1

def loss_fn(params, state, x):
    return jnp.sum((params["w"] - x) ** 2), state

task = Task(
    cell=jaxrnn.elman, init=lambda key: {"w": jnp.ones(3)}, loss_fn=loss_fn,
    batch=lambda number: (None, jnp.float32(number)),
    evaluate=lambda params: {"w": float(params["w"][0])}, probe=None,
    per_step=1, unit="numbers",
)
model = Model(cell="elman", hidden_size=1)
optimizer = Optimizer(steps=5, batch_size=1, learning_rate=0.1)
config = Experiment(model=model, optimizer=optimizer, evaluations=5)
folder = unfinished(root, "toy")
run = Run.create(root, "toy", config) if folder is None else Run(folder, config)
begins = progress.start(config, task)
first = begins if folder is None else saving.restore(run, config, task)
trained = loop.train(config, task, run, Console(quiet=True), first)
run.write_results(trained.results)
run.close()
"""
PLACES = [
    "before any file",
    "after the first file",
    "before the manifest",
    "before it is read back",
    "before the rename",
    "after the rename",
    "while old ones are deleted",
]


def child(root, place="", number=signal.SIGKILL):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(root), place, str(int(number))],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def left(root):
    (folder,) = root.iterdir()
    last = folder / "checkpoints" / "5"
    files = {path.name: path.read_bytes() for path in last.glob("*.safetensors")}
    return files, (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    root = tmp_path_factory.mktemp("never")
    done = child(root)
    assert done.returncode == 0, done.stderr
    return left(root)


# Nothing handles SIGUSR1.
FAST = ("before the rename", signal.SIGKILL)
CASES = [*((place, signal.SIGKILL) for place in PLACES), (FAST[0], signal.SIGUSR1)]


@pytest.mark.parametrize(
    ("place", "number"),
    [
        pytest.param(*case, marks=() if case == FAST else pytest.mark.slow)
        for case in CASES
    ],
)
def test_killed_in_a_save(tmp_path, never_killed, place, number):
    assert child(tmp_path, place, number).returncode == -number
    (folder,) = tmp_path.iterdir()
    assert not (folder / "results.json").exists()
    assert checkpoint.steps(folder), "an earlier checkpoint is whole"
    done = child(tmp_path)
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == never_killed
    assert not [p for p in (folder / "checkpoints").iterdir() if p.name[0] == "."]
