"""A run's folder: never written over, honest about failures."""

import importlib.metadata
import json
import os

import jax.numpy as jnp
import pytest

from experiments.config.load import ConfigError
from experiments.runs import checkpoint, folder
from experiments.tasks.vowels import Series


def make(root, name="x"):
    run = folder.Run.create(root, name, Series())
    run.close()
    return run


def test_runs_never_write_over_each_other(tmp_path):
    assert len({make(tmp_path).folder for _ in range(3)}) == 3


def test_metrics_that_are_not_finite_are_null(tmp_path):
    run = make(tmp_path)
    assert run.metrics() == []
    run.log(1, loss=float("nan"), bits=2.0)
    assert run.metrics()[0]["loss"] is None and run.metrics()[0]["bits"] == 2.0
    written = run.write_results({"loss": float("inf"), "bits": 2.0})
    assert written == json.loads((run.folder / "results.json").read_text())
    assert written["loss"] is None and written["seconds"] >= 0


ROOTS = ["file", "file/below", "/proc/x", "/dev/null", "dangling", "loop", "n" * 300]


@pytest.mark.parametrize("root", [*ROOTS, "a\0b"])
def test_a_place_where_no_folder_can_be_made(tmp_path, root):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("/nowhere/at/all/x")
    with pytest.raises(ConfigError, match=r"cannot make the folder .*with --runs"):
        make(tmp_path / root)


def test_a_file_of_metrics_that_cannot_be_written_costs_nothing(tmp_path):
    """What somebody put in its place is gone later; then all lines are written."""
    run = make(tmp_path)
    file = run.folder / "metrics.jsonl"
    file.mkdir()
    run.log(1, loss=1.0)
    run.log_times(1)
    file.rmdir()
    run.log(2, loss=2.0)
    assert [line["step"] for line in run.metrics()] == [1, 2]
    assert file.read_text() == "".join(f"{line}\n" for line in run.lines)


def test_a_package_that_is_not_installed(tmp_path, monkeypatch):
    """As in a checkout without `pip install`."""

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    run = make(tmp_path)
    run.write_provenance({}, {})
    (entry,) = json.loads((run.folder / "provenance.json").read_text())
    assert entry["versions"]["jaxrnn"] == "not installed"


def test_the_newest_run_that_ended_well(tmp_path):
    with pytest.raises(ConfigError, match="no finished run"):
        folder.latest(tmp_path / "nowhere")
    runs = [make(tmp_path, name) for name in ("b", "a", "failed", "running")]
    for age, run in enumerate(runs[:2]):
        run.write_results({})
        os.utime(run.folder / "results.json", (age, age))
    runs[2].write_failure("the loss is nan")
    assert folder.latest(tmp_path) == runs[1].folder
    assert folder.failure(runs[2].folder) == "the loss is nan"
    assert folder.failure(runs[0].folder) == ""
    (runs[2].folder / "failed.json").write_text("{")
    assert folder.failure(runs[2].folder) == "failed.json cannot be read"
    with pytest.raises(ConfigError, match="no finished run of the kind"):
        folder.latest(tmp_path, "vocabulary.json")
    (runs[0].folder / "vocabulary.json").touch()
    assert folder.latest(tmp_path, "vocabulary.json") == runs[0].folder


def test_a_run_goes_on_only_from_a_checkpoint(tmp_path):
    """One that was killed before its first checkpoint is begun anew."""
    assert folder.unfinished(tmp_path, "x") is None
    run = make(tmp_path)
    assert folder.unfinished(tmp_path, "x") is None
    checkpoint.save(run.folder, 0, {"params": {"w": jnp.ones(2)}}, {})
    assert folder.unfinished(tmp_path, "x") == run.folder
    run.write_results({"loss": 1.0})
    assert folder.unfinished(tmp_path, "x") is None
