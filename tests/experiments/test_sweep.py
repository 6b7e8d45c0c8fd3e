"""Sweeps over configs and settings: tables, failures, and what is refused at the
start."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import sweep
from experiments.analysis import grid
from experiments.runs.folder import Outcome
from tests.experiments.conftest import settings, stop_after

STREAM = "configs/truncation/recall_stream_lstm.toml"


def test_the_lag_decides(tmp_path, capsys):
    """Through a window of 8, what was 3 steps ago is learned; 8 steps ago is not."""
    pairs = (
        "evaluations=1",
        "optimizer.batch_size=16",
        "optimizer.steps=200",
        "model.hidden_size=16",
        "optimizer.learning_rate=0.02",
    )
    axes = ["--over", "lag=3 8", "--over", "window=8", "--over", "seed=0 1"]
    arguments = [STREAM, *settings(*pairs), *axes, "--runs", str(tmp_path)]
    assert sweep.main(arguments) == 0
    accuracies = {3: [], 8: []}
    (sweeps,) = tmp_path.iterdir()
    for folder in sweeps.glob("*/*"):
        config = json.loads((folder / "config.json").read_text())
        results = json.loads((folder / "results.json").read_text())
        accuracies[config["lag"]].append(results["accuracy"])
    assert len(accuracies[3]) == len(accuracies[8]) == 2
    assert min(accuracies[3]) > 0.95
    assert max(accuracies[8]) < 0.6  # a guess is right once in 4
    lines = capsys.readouterr().out.split("\naccuracy\n\n")[1].splitlines()
    mean = np.mean(accuracies[3])
    assert lines[:2] == ["| lag, by window | 8 |", "| --- | --- |"]
    assert lines[2].startswith(f"| 3 | {mean:.3f} ± ")
    assert lines[3].startswith("| 8 | 0.")
    read = grid.load_sweep(sweeps)
    assert read.keys == ["lag", "window"] and len(read.points) == 4
    assert all((sweeps / p.folder / "config.json").is_file() for p in read.points)
    for (lag, _), points in read.places().items():
        found = sorted(p.results["accuracy"] for p in points)
        assert sorted(accuracies[int(lag)]) == found


RESULTS = "accuracy", "test_error", "seconds"


def test_configs_of_several_tasks_have_a_table_for_each_result(tmp_path, capsys):
    """Untrained, with absolute and relative paths; curves over the numbers of an
    axis."""
    names = ["configs/recall/gru.toml", str(Path("configs/recall/irnn.toml").resolve())]
    names.append("configs/classical/adding_100_elman.toml")
    untrained = settings("optimizer.steps=0", "model.hidden_size=8")
    over = ["--over", "evaluations=1 2"]
    assert sweep.main([*names, *over, *untrained, "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("configs-sweep-")
    head = "\n\n| config, by evaluations | 1 | 2 |\n"
    tables = {name: printed.split(f"\n{name}{head}")[1] for name in RESULTS}
    rows = {
        name: text.split("\n\n")[0].splitlines()[1:] for name, text in tables.items()
    }
    names = {name: [row.split(" | ")[0] for row in rows[name]] for name in RESULTS}
    assert names["accuracy"] == ["| gru", "| irnn"]
    assert names["test_error"] == ["| adding_100_elman"]
    assert names["seconds"] == ["| gru", "| irnn", "| adding_100_elman"]
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--over", "lag=3 -8"], "`lag` must be"),
        (["--over", "model.cell=gru lstn"], "did you mean `lstm`"),
        (["--over", "model.hidden_size=8 1000000"], "Lower `model.hidden_size`"),
        (["--over", "lag=3 8", "--over", "window,lag=3,4"], "must name each key once"),
        (["--over", "lag=3 3"], "must differ, but got ['3', '3']"),
        (["--over", "lag,window=3,4 3,5"], "must differ"),
        (["configs/../" + STREAM], "must differ"),
        (["--over", "lag"], 'must be as in "seed=0 1"'),
    ],
)
def test_nothing_is_run_if_anything_is_wrong(tmp_path, capsys, arguments, words):
    assert sweep.main([STREAM, *arguments, "--runs", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_sweep_goes_on_after_a_run_that_failed(
    tmp_path, capsys, monkeypatch, interrupted
):
    """And stops at Ctrl-C, with the tables so far."""
    lags = []

    def run(config, root, name, console, resume):
        lags.append(config.lag)
        if config.lag != 8:
            return Outcome(root / "x", {"accuracy": 0.5, "loss": None})
        if interrupted:
            raise KeyboardInterrupt
        return Outcome(None, {}, "no data")

    monkeypatch.setattr(sweep, "run", run)
    over = ["--over", "lag=3 8 9"]
    assert sweep.main([STREAM, *over, "--runs", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "\n| 3 | 0.500 |\n" in captured.out
    assert "\n| 3 | 1 of 1 failed |\n" in captured.out
    failed = "\n| 8 | 1 of 1 failed |\n| 9 | 0.500 |\n"
    assert (failed in captured.out) != interrupted
    assert ("error: no data" in captured.err) != interrupted
    assert lags == ([3, 8] if interrupted else [3, 8, 9])
    assert (
        len(grid.load_sweep(next(tmp_path.iterdir())).points) == len(lags) - interrupted
    )


STEPS = 4
TINY = settings(f"optimizer.steps={STEPS}", "optimizer.batch_size=4", "evaluations=1")
TINY += settings("model.hidden_size=4", "lag=3", "window=8")
SEEDS = ["--over", "seed=0 1 2"]


def left(folder):
    """What must be equal, to the bit: parameters, optimizer, state, metrics."""
    files = [*folder.rglob(f"checkpoints/{STEPS}/*.safetensors")]
    files += folder.rglob("metrics.jsonl")
    # By the number of the run. The name of a run's folder has its date.
    return {
        (file.relative_to(folder).parts[0], file.name): file.read_bytes()
        for file in files
    }


def points(folder):
    """Places and results, without their seconds."""
    read = grid.load_sweep(folder)
    assert read.has_ended
    return [(p.place, p.results | {"seconds": 0.0}) for p in read.points]


def test_a_sweep_that_was_stopped_goes_on_to_the_bit(tmp_path, monkeypatch, capsys):
    """Stopped in its second run; of the third, no more than the config is there."""
    command = [STREAM, *TINY, *SEEDS, "--runs"]
    assert sweep.main([*command, str(tmp_path / "whole")]) == 0
    (whole,) = (tmp_path / "whole").iterdir()
    root = tmp_path / "stopped"
    stop_after(monkeypatch, STEPS + 2)
    assert sweep.main([*command, str(root)]) == 75
    stop_after(monkeypatch, -1)
    (folder,) = root.iterdir()
    assert len(grid.load_sweep(folder).points) == 1
    (third,) = (whole / "2").iterdir()
    (folder / "2" / third.name).mkdir(parents=True)
    shutil.copy(third / "config.json", folder / "2" / third.name)
    (ended,) = folder.glob("0/*/results.json")
    before = ended.stat().st_mtime_ns

    # Other runs are refused, and then the same ones go on.
    for change, words in (
        (["--set", "lag=4"], "run 0: `lag` was 3 and is 4; run 1: `lag` was"),
        (["--over", "window=8 4"], "it has 3 runs, not 6"),
    ):
        resumed = [*command, str(root), *change, "--resume", "auto"]
        assert sweep.main(resumed) == 2 and words in capsys.readouterr().err
    assert sweep.main([*command, str(root), "--resume", "auto"]) == 0
    assert [*root.iterdir()] == [folder]
    assert left(folder) == left(whole) and len(left(folder)) == 3 * 4
    assert points(folder) == points(whole)
    assert ended.stat().st_mtime_ns == before, "a run that has ended is not run again"

    # A sweep that has ended is shown if it is named; otherwise a new one begins.
    capsys.readouterr()
    assert sweep.main([*command, str(root), "--resume", str(folder)]) == 0
    assert "\naccuracy\n" in capsys.readouterr().out
    assert [*root.iterdir()] == [folder]
    untrained = [STREAM, *settings("optimizer.steps=0", "lag=4"), "--runs", str(root)]
    assert sweep.main([*untrained, "--resume", "auto"]) == 0
    assert len([*root.iterdir()]) == 2


def test_what_is_no_sweep_cannot_go_on(tmp_path, capsys):
    assert sweep.main([STREAM, "--resume", str(tmp_path)]) == 2
    assert f"cannot read {tmp_path / 'sweep.json'}" in capsys.readouterr().err
