"""Sweeps over configs and settings, their tables and curves."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import checkpoint, run, sweep

TINY = [
    "evaluations=1",
    "optimizer.batch_size=16",
    "optimizer.steps=400",
    "model.hidden_size=16",
]


def test_the_lag_decides(tmp_path, capsys):
    """Through a window of 8, what was 3 steps ago is learnt, and what was 8 steps ago is not."""
    overrides = [argument for setting in TINY for argument in ("--set", setting)]
    axes = ["--over", "lag=3 8", "--over", "window=8", "--over", "seed=0 1"]
    arguments = ["configs/recall_lstm.toml", *overrides, *axes, "--runs", str(tmp_path)]
    assert sweep.main(arguments) == 0
    accuracies = {3: [], 8: []}
    (sweeps,) = tmp_path.iterdir()
    for folder in sweeps.glob("*/*"):
        settings = json.loads((folder / "config.json").read_text())
        results = json.loads((folder / "results.json").read_text())
        accuracies[settings["lag"]].append(results["accuracy"])
    assert len(accuracies[3]) == len(accuracies[8]) == 2
    assert min(accuracies[3]) > 0.95
    assert max(accuracies[8]) < 0.6  # a guess is right once in 4
    lines = capsys.readouterr().out.split("\naccuracy\n\n")[1].splitlines()
    mean = np.mean(accuracies[3])
    assert lines[:2] == ["| lag, by window | 8 |", "| --- | --- |"]
    assert lines[2].startswith(f"| 3 | {mean:.3f} ± ") and lines[3].startswith(
        "| 8 | 0."
    )
    read = sweep.load(sweeps)
    assert read.keys == ["lag", "window"] and len(read.outcomes) == 4
    assert all((sweeps / o.folder / "config.json").is_file() for o in read.outcomes)
    for (lag, _), outcomes in read.places().items():
        assert sorted(accuracies[int(lag)]) == sorted(
            o.results["accuracy"] for o in outcomes
        )


def test_several_configs_are_the_first_axis(tmp_path, capsys):
    """No steps are trained: what is told is how the models begin."""
    lags = ["--over", "lag=3 5", "--set", "optimizer.steps=0", "--runs", str(tmp_path)]
    recalled = [
        "configs/recall/gru.toml",
        str(Path("configs/recall/irnn.toml").resolve()),
    ]
    assert sweep.main([*recalled, *lags]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("recall-sweep-")
    places = sweep.load(folder).places()
    assert list(places) == [("gru", "3"), ("gru", "5"), ("irnn", "3"), ("irnn", "5")]
    assert "\n| config, by lag | 3 | 5 |\n" in capsys.readouterr().out
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


CONFIGS = sorted(
    str(p)
    for folder in ("recall", "classical")
    for p in Path("configs", folder).glob("*")
)
ONE_OF_EACH = (
    "elman_omega",
    "adding_100_irnn",
    "copying_100_lstm_chrono",
    "temporal_order_gru",
)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path, marks=[] if Path(path).stem in ONE_OF_EACH else pytest.mark.slow
        )
        for path in CONFIGS
    ],
)
def test_a_quick_form_of_every_row(tmp_path, path):
    """Twenty steps: no loss is lost, the last checkpoint is another than the first."""
    assert run.main([path, "--quick", "--runs", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert all(np.isfinite(list(results.values())))
    assert checkpoint.steps(folder) == [0, 20]
    first, last = (checkpoint.digest_file(folder, step).read_text() for step in (0, 20))
    assert first != last


def test_configs_of_several_tasks_have_a_table_for_each_result(tmp_path, capsys):
    names = ["configs/decay.toml", "configs/classical/adding_100_elman.toml"]
    assert (
        sweep.main([*names, "--set", "optimizer.steps=0", "--runs", str(tmp_path)]) == 0
    )
    said = capsys.readouterr().out
    assert said.count("| decay | ") == said.count("| adding_100_elman | ") == 2
    assert "| config | accuracy |" in said and "| config | test_error |" in said


def test_a_table_of_outcomes():
    place = sweep.Outcome(("window=5, optimizer.batch_size=320",), {"bits": 3.0})
    assert list(sweep.Sweep(["window"], [place]).places()) == [("5",)]
    values = {("5",): [3.0], ("25",): [2.0, 2.5, np.nan], ("50",): [0.00012345]}
    assert sweep.table(["window"], values, "bits").splitlines() == [
        "| window | bits |",
        "| --- | --- |",
        "| 5 | 3.000 |",
        "| 25 | 2.250 ± 0.354, 1 of 3 failed |",
        "| 50 | 0.000123 |",
    ]


@pytest.mark.parametrize("keys", [[], ["cell"], ["lag"], ["a", "b", "lag"]])
def test_what_makes_no_curve_is_not_drawn(tmp_path, keys):
    """Nothing, names, a single number, more than two axes."""
    places = {"cell": [("gru",), ("lstm",)], "lag": [("3",)]}
    values = {
        place: [1.0]
        for place in places.get(" ".join(keys), [tuple("12345"[: len(keys)])])
    }
    assert not sweep.plot(keys, values, tmp_path / "x.png") and not list(
        tmp_path.iterdir()
    )


@pytest.mark.parametrize("text", ["window", "=5", "a,b=1", "a=", "a,b=1,2 3"])
def test_an_axis_that_is_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be as in"):
        sweep.parse_axis(text)


def test_nothing_is_run_if_one_config_is_wrong(tmp_path, capsys):
    arguments = [
        "configs/recall_lstm.toml",
        "--over",
        "lag=3 -8",
        "--runs",
        str(tmp_path),
    ]
    assert sweep.main(arguments) == 2
    assert "`lag` must be" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        sweep.main([*arguments, "--over", "window,lag=3,4"])
    assert "must name each key once" in capsys.readouterr().err
    for alike in (
        ["--over", "lag=3 3"],
        ["--over", "lag,window=3,4 3,5"],
        ["configs/../" + arguments[0]],
    ):
        with pytest.raises(SystemExit):
            sweep.main([arguments[0], *alike, "--runs", str(tmp_path)])
        assert "must differ" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [1, run.INTERRUPTED])
def test_a_sweep_goes_on_after_a_run_that_failed(tmp_path, capsys, monkeypatch, code):
    """And stops at Ctrl-C, telling what there is."""
    codes = iter([0, code, 0])

    def main(arguments):
        folder = Path(arguments[-1]) / "run"
        folder.mkdir(parents=True)
        if (now := next(codes)) == 0:
            (folder / "results.json").write_text('{"accuracy": 0.5, "loss": null}')
        return now

    monkeypatch.setattr(run, "main", main)
    over = ["--over", "lag=3 8 9"]
    assert sweep.main(["configs/recall_lstm.toml", *over, "--runs", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "\n| 3 | 0.500 |\n" in said and "\n| 3 | 1 of 1 failed |\n" in said
    assert ("\n| 8 | 1 of 1 failed |\n| 9 | 0.500 |\n" in said) == (code == 1)
    assert len(sweep.load(next(tmp_path.iterdir())).outcomes) == (3 if code == 1 else 1)
