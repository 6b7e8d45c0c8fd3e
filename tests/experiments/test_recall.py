"""Delayed recall, and sweeps over its settings."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import recall, run, sweep

TINY = ["evaluations=1", "optimizer.batch_size=16", "optimizer.steps=400", "model.hidden_size=16"]


@pytest.mark.parametrize("window", [1, 4, 50])
def test_a_stream_of_episodes(window):
    """However it is cut: the label at a question is the symbol `lag` steps before."""
    lag, symbols, batch, size = 3, 4, 5, 200
    cut = recall.stream(np.random.default_rng(0), batch, window, lag, symbols)
    xs, labels, mask = (
        np.concatenate(parts)
        for parts in zip(*(next(cut) for _ in range(size // window)), strict=True)
    )
    question = xs[..., -1] == 1
    np.testing.assert_array_equal(xs[..., :-1].sum(-1), 1 - question)  # one symbol, or a question
    shown = xs[..., :symbols].any(-1)
    for b in range(batch):
        asked = np.flatnonzero(question[:, b])
        assert (np.diff(asked) == lag + 1).all() and asked[0] <= lag
        known = asked[asked >= lag]
        np.testing.assert_array_equal(np.flatnonzero(shown[:, b])[: len(known)], known - lag)
        np.testing.assert_array_equal(np.flatnonzero(mask[:, b]), known)
        np.testing.assert_array_equal(labels[known, b], xs[known - lag, b, :symbols].argmax(-1))
    assert len({tuple(q) for q in question.T}) > 1  # sequences begin at places of their own


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
    assert lines[2].startswith(f"| 3 | {mean:.3f} ± ") and lines[3].startswith("| 8 | 0.")


def test_a_table_of_outcomes():
    axes = [sweep.parse_axis("window,optimizer.batch_size=5,320 25,64")]
    outcomes = [
        sweep.Outcome(("window=5, optimizer.batch_size=320",), {"bits": 3.0}),
        sweep.Outcome(("window=25, optimizer.batch_size=64",), {"bits": 2.0}),
        sweep.Outcome(("window=25, optimizer.batch_size=64",), {"bits": 2.5}),
    ]
    assert sweep.table(axes, outcomes, "bits").splitlines() == [
        "| window | bits |",
        "| --- | --- |",
        "| 5 | 3.000 |",
        "| 25 | 2.250 ± 0.354 |",
    ]


@pytest.mark.parametrize("text", ["window", "=5", "a,b=1", "a=", "a,b=1,2 3"])
def test_an_axis_that_is_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be as in"):
        sweep.parse_axis(text)


def test_nothing_is_run_if_one_config_is_wrong(tmp_path, capsys):
    arguments = ["configs/recall_lstm.toml", "--over", "lag=3 -8", "--runs", str(tmp_path)]
    assert sweep.main(arguments) == 2
    assert "`lag` must be" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        sweep.main([*arguments, "--over", "window,lag=3,4"])
    assert "must name each key once" in capsys.readouterr().err


def test_a_sweep_that_stops_tells_what_there_is(tmp_path, capsys, monkeypatch):
    """The second run fails."""
    codes = iter([0, 1])

    def main(arguments):
        folder = Path(arguments[-1]) / "run"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text('{"accuracy": 0.5}')
        return next(codes)

    monkeypatch.setattr(run, "main", main)
    arguments = ["configs/recall_lstm.toml", "--over", "lag=3 8 9", "--runs", str(tmp_path)]
    assert sweep.main(arguments) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "| 3 | 0.500 |"
