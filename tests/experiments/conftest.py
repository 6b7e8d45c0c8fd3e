"""Tiny runs that many tests look at: each is trained once per process."""

import contextlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import microscope, run
from experiments.config.schema import Model
from experiments.models import language_model
from experiments.training import loop


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Compiles a program once per session: the runs of a sweep differ in their data."""
    base = tmp_path_factory.getbasetemp()
    # The workers of a session share the folder above theirs.
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    cached = {
        "jax_compilation_cache_dir": str(session / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in cached}
    for name, value in cached.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


TEXT = "abcd" * 500  # what comes next is certain: a model that learns goes to 0 bits


def settings(*pairs):
    """The arguments that set these keys."""
    return [word for pair in pairs for word in ("--set", pair)]


# pip's words where it finds no registry. A build that fails, say, is a failing test.
NO_REGISTRY = ("no matching distribution", "connection", "network", "timed out")


def skip_without_registry(error):
    """Skips the test if this error is that pip cannot reach one."""
    if any(sign in error.lower() for sign in NO_REGISTRY):
        pytest.skip(f"pip cannot reach the registry: {error}")


class Made(NamedTuple):
    """A run, as a command made it."""

    folder: Path
    printed: str


def make_run(root, config, *pairs):
    arguments = [f"configs/{config}.toml", *settings(*pairs), "--runs", str(root)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run.main(arguments) == 0
    (folder,) = root.iterdir()
    return Made(folder, printed.getvalue())


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A file of the user's own."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


TINY_LANGUAGE = (
    "model.hidden_size=16",
    "optimizer.steps=60",
    "optimizer.batch_size=8",
    "window=16",
    "optimizer.learning_rate=0.02",
    "evaluations=3",
    "sample_length=40",
    "data.held_out=0.3",
)


@pytest.fixture(scope="session")
def language_run(tmp_path_factory, text):
    """A language model, finished. Do not write to its folder: copy it."""
    root = tmp_path_factory.mktemp("language")
    path = f"data.path={text}"
    return make_run(root, "shakespeare/shakespeare_lstm", *TINY_LANGUAGE, path).folder


TINY = (
    "model.hidden_size=8",
    "optimizer.batch_size=8",
    "optimizer.steps=20",
    "evaluations=2",
)


@pytest.fixture(scope="session")
def recall_run(tmp_path_factory):
    """An LSTM that recalls, under the microscope."""
    root = tmp_path_factory.mktemp("recall")
    made = make_run(root, "recall/lstm", *TINY, "lag=12").folder
    assert microscope.main([str(made)]) == 0
    return made


@pytest.fixture(scope="session")
def tiny_language_model():
    """The recurrent layers and parameters, for ids below 5."""
    model = Model(cell="gru", hidden_size=8)
    network = language_model.make_network(model, 5, 3)
    return network.body, network.init(jax.random.key(0))


def stop_after(monkeypatch, count):
    """From now on a signal comes after so many more questions for one."""
    asked = iter(range(10**6))

    class Signals:
        def __enter__(self):
            return lambda: "SIGTERM" if next(asked) == count else ""

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(loop, "interrupts", Signals)
