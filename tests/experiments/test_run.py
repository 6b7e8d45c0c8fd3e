"""The command that trains: what it leaves, and how it fails."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import run
from experiments.runs import checkpoint
from experiments.runs import folder as folders
from experiments.training import loop
from tests.experiments.conftest import (
    TEXT,
    TINY,
    TINY_LANGUAGE,
    make_run,
    settings,
    skip_without_registry,
)

ROOT = Path(__file__).parents[2]
SHAKESPEARE = "configs/shakespeare/shakespeare_lstm.toml"


def test_a_language_model_learns_and_leaves_everything_in_its_folder(language_run):
    text = (language_run / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    evaluated = [line for line in lines if "valid_bits" in line]
    assert [line["step"] for line in evaluated] == [0, 20, 40, 60]
    assert checkpoint.steps(language_run) == [0, 20, 40, 60]
    bits = [line["valid_bits"] for line in evaluated]
    assert bits[-1] < min(0.1, bits[0])  # log₂ 4 = 2 bits to begin with
    results = json.loads((language_run / "results.json").read_text())
    assert results["valid_bits"] == bits[-1] and results["seconds"] > 0
    logged = [line for line in lines if "loss" in line]
    assert all(np.isclose(x["bits"], x["loss"] / np.log(2)) for x in logged)
    assert all(x["grad_norm"] > 0 for x in logged)
    text = (language_run / "times.jsonl").read_text()
    times = [json.loads(line) for line in text.splitlines()]
    assert [x["step"] for x in times] == [x["step"] for x in logged]
    assert all(x["characters_per_second"] > 0 for x in times[1:])
    assert (language_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    (entry,) = json.loads((language_run / "provenance.json").read_text())
    assert entry["versions"]["jax"] == jax.__version__
    assert entry["machine"]["devices"] == jax.device_count()
    assert len(entry["data"]["sha256"]) == 64
    config = json.loads((language_run / "config.json").read_text())
    assert config["model"]["hidden_size"] == 16
    sample = (language_run / "sample.txt").read_text()
    assert len(sample) == 40 and sample in TEXT
    assert not (language_run / "failed.json").exists()


def test_a_run_makes_one_device_per_core(tmp_path):
    """After the config is found good, for which no JAX is needed, and before JAX is
    used."""
    script = """
import os, sys
from experiments import run
os.sched_getaffinity = lambda _: range(3)
config = ["configs/shakespeare/shakespeare_lstm.toml", "--runs", sys.argv[1], "--set"]
assert run.main([*config, "optimizer.stepz=3"]) == 2 and "jax" not in sys.modules
assert run.main([*config, "data.path=/nowhere/at/all"]) == 1
import jax
assert jax.device_count() == 3, jax.devices()
"""
    asked = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    inherited = {name: value for name, value in os.environ.items() if name not in asked}
    process = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=inherited | {"JAX_PLATFORMS": "cpu"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def test_a_run_that_diverges_is_marked_as_failed(tmp_path, text, capsys):
    """The first update is not finite."""
    wild = "optimizer.learning_rate=1e38", "optimizer.warmup=0.0", "evaluations=1"
    pairs = [*TINY_LANGUAGE, f"data.path={text}", *wild]
    assert run.main([SHAKESPEARE, *settings(*pairs), "--runs", str(tmp_path)]) == 3
    assert "step 1: the update is not finite, with batch 0" in capsys.readouterr().err
    (folder,) = tmp_path.iterdir()
    assert checkpoint.steps(folder) == [0]
    assert "is not finite" in json.loads((folder / "failed.json").read_text())["error"]
    assert not (folder / "results.json").exists()


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, capsys):
    runs = ["--runs", str(tmp_path / "runs")]
    for pair, words, code in (
        ("model.cell=lstn", "`model.cell` must be one of", 2),
        ("model.hidden_size=1000000", "of memory, but this machine has", 2),
        ("data.path=/nowhere/at/all", "/nowhere/at/all", 1),
    ):
        assert run.main([SHAKESPEARE, *settings(pair), *runs]) == code
        assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


CONFIGS = sorted(str(path) for path in Path("configs").rglob("*.toml"))
# Tasks whose data are drawn. Those of all others are fetched.
DRAWN = {
    "adding",
    "copying",
    "dependencies",
    "recall",
    "recall_stream",
    "temporal_order",
}


def test_every_config_is_found_good_without_compiling():
    """At its full size."""
    script = """
import sys
import jax
from experiments import run
compiled = []
def listen(event, seconds, **about):
    compiled.extend([about] * ("backend_compile" in event))
jax.monitoring.register_event_duration_secs_listener(listen)
assert run.main(["check", *sys.argv[1:]]) == 0
assert not compiled, compiled
jax.block_until_ready(jax.jit(lambda x: x + 1)(1))
assert compiled, "the listener hears a program"
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *CONFIGS],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(": good.")[0] for line in lines] == CONFIGS


def with_marks(path):
    """A config, which needs a registry if its data are fetched."""
    task = tomllib.loads(Path(path).read_text())["task"]
    marks = [] if task in DRAWN else pytest.mark.network
    return pytest.param(path, marks=marks, id=Path(path).stem)


@pytest.mark.parametrize("path", [*map(with_marks, CONFIGS)])
def test_a_quick_form_of_every_config(tmp_path, capsys, path):
    """Twenty steps: no loss is lost, the last checkpoint is another than the first."""
    small = settings("model.hidden_size=8", "optimizer.batch_size=8")
    code = run.main([path, "--quick", *small, "--runs", str(tmp_path)])
    error = capsys.readouterr().err
    skip_without_registry(error)
    assert code == 0, error
    (folder,) = tmp_path.iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert all(np.isfinite(list(results.values())))
    assert checkpoint.steps(folder) == [0, 20]
    first, last = (
        (folder / "checkpoints" / str(step) / "params.safetensors").read_bytes()
        for step in (0, 20)
    )
    assert first != last and len(first) == len(last)


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [("vowels/vowels_gru", 0.95), ("digits/digits_bidirectional_gru", 0.8)],
)
def test_configs_reach_what_they_promise(name, least, tmp_path):
    folder = make_run(tmp_path, name).folder
    results = json.loads((folder / "results.json").read_text())
    assert results["test_accuracy"] >= least


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ("shakespeare/shakespeare_lstm", (*TINY_LANGUAGE, "window=16")),
        ("classical/adding_100_lstm", (*TINY, "length=10", "model.bidirectional=true")),
    ],
)
def test_several_layers_with_dropout(tmp_path, config, keys, text):
    """They train, are evaluated, and, of text, generate."""
    keys = *keys, "model.layers=2", "model.dropout=0.2", "optimizer.steps=4"
    if config.startswith("shakespeare"):
        keys = *keys, f"data.path={text}"
    made = make_run(tmp_path, config, *keys)
    sample = made.folder / "sample.txt"
    assert sample.exists() == config.startswith("shakespeare")
    assert not sample.exists() or len(sample.read_text()) == 40


SMALL = [*settings(*TINY, "lag=12", "optimizer.steps=2", "evaluations=1")]


def of_recall(root, *more):
    return ["configs/recall/lstm.toml", *SMALL, *more, "--runs", str(root)]


class Gone(io.StringIO):
    """A stream whose reader has left, or whose disk is full."""

    def write(self, text):
        raise BrokenPipeError


def test_nobody_needs_to_read_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    assert run.main(of_recall(tmp_path)) == 0
    (folder,) = tmp_path.iterdir()
    assert (folder / "results.json").exists() and (folder / "curves.png").exists()


def test_the_name_of_a_config_is_no_formula_and_controls_nothing(tmp_path, capsys):
    path = tmp_path / "$\\frac$ [2] \x1b[31m <b> \udcff.toml"
    path.write_bytes(Path("configs/recall/lstm.toml").read_bytes())
    arguments = [str(path), *SMALL, "--runs", str(tmp_path / "runs")]
    assert run.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "\x1b" not in captured.out
    assert "␛[31m" in captured.out
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "curves.png").exists()
    assert checkpoint.steps(folder) == [0, 2]


@pytest.mark.parametrize(
    "error", [RuntimeError("no font\nadvice"), KeyboardInterrupt()]
)
def test_results_do_not_wait_for_figures(tmp_path, monkeypatch, capsys, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(run, "_show", fails)
    stopped = isinstance(error, KeyboardInterrupt)
    assert run.main(of_recall(tmp_path)) == (130 if stopped else 0)
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "results.json").read_text())["seconds"] >= 0
    words = "" if stopped else "warning: the figures and texts of this run: no font\n"
    assert capsys.readouterr().err == words


def test_a_signal_that_comes_too_late_leaves_the_figures_out(
    tmp_path, monkeypatch, capsys
):
    trained = loop.train

    def late(*arguments):
        return trained(*arguments)._replace(signal="SIGINT")

    monkeypatch.setattr(loop, "train", late)
    assert run.main(of_recall(tmp_path)) == 0
    (folder,) = tmp_path.iterdir()
    assert (folder / "results.json").exists()
    assert not (folder / "curves.png").exists()
    assert "note: SIGINT came when the training had ended" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_made_again(tmp_path, monkeypatch, capsys):
    """The disk is full at the very end."""

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(folders.Run, "write_results", full)
        assert run.main(of_recall(tmp_path)) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert run.main(of_recall(tmp_path, "--resume", "auto")) == 0
    (folder,) = tmp_path.iterdir()
    assert (folder / "results.json").exists() and not (folder / "failed.json").exists()


def test_a_folder_that_is_deleted_under_a_run(tmp_path, monkeypatch, capsys):
    """It is not made again without its config: the run fails."""
    save = checkpoint.save

    def delete(folder, step, *arguments):
        shutil.rmtree(folder, ignore_errors=True)
        save(folder, step, *arguments)

    monkeypatch.setattr(checkpoint, "save", delete)
    assert run.main(of_recall(tmp_path, *settings("evaluations=2"))) == 1
    assert "No such file or directory. It was try 3 of 3" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_the_current_folder_is_deleted(tmp_path, monkeypatch, capsys):
    config = str(ROOT / "configs/recall/lstm.toml")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run.main([config, *SMALL]) == 2
    assert "cannot make the folder" in capsys.readouterr().err


def test_runs_in_two_threads(tmp_path):
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(run.main(of_recall(tmp_path))))
        for _ in "12"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert codes == [0, 0]
    first, second = sorted(tmp_path.iterdir())
    for folder in (first, second):
        assert checkpoint.steps(folder) == [0, 2]
    files = [f / "checkpoints" / "2" / "params.safetensors" for f in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_list_of_configs_prints_any_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.toml").write_bytes(b"# \xff")
    monkeypatch.setattr(run, "CONFIGS", tmp_path)
    assert run.main(["list"]) == 0 and "a.toml" in capsys.readouterr().out
    (tmp_path / "b.toml").symlink_to("nowhere")
    assert run.main(["list"]) == 2
    assert "cannot read the config" in capsys.readouterr().err
