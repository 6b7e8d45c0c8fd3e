"""How errors fade in the runs of a sweep, before training and after it."""

import csv
import json

import numpy as np

from experiments import profiles, sweep
from experiments.analysis import grid
from experiments.analysis.snapshots import snapshots
from experiments.runs.open import open_run
from tests.experiments.conftest import settings


def rows_of(folder):
    with (folder / "profiles.csv").open() as file:
        return list(csv.DictReader(file))


def test_profiles_of_a_sweep(tmp_path, capsys):
    """A linear network of a known radius multiplies the error by it at every step."""
    untrained = settings(
        "model.activation=identity",
        "lag=12",
        "optimizer.steps=0",
        "model.hidden_size=8",
        "optimizer.batch_size=8",
    )
    over = ["--over", "model.spectral_radius=0.5 1.5", "--over", "seed=0 1"]
    arguments = ["configs/recall/elman_tanh.toml", *over, *untrained]
    assert sweep.main([*arguments, "--runs", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    capsys.readouterr()
    assert profiles.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "| 0.5 | 0.500 ± 0.000 |" in printed and "| 1.5 | 1.500 ± 0.000 |" in printed
    assert "| 0.5 | 7.000 ± 0.000 |" in printed  # 2⁻⁷ < 1 %
    assert (folder / "profiles.png").read_bytes().startswith(b"\x89PNG")
    rows = rows_of(folder)
    assert len(rows) == 2 * 2 * 13
    assert {row["checkpoint"] for row in rows} == {"before training"}


def test_profiles_before_training_and_after_it(recall_run, tmp_path, capsys):
    """Each against the snapshots of that checkpoint; a run that failed is left out."""
    where = str(recall_run)
    points = [grid.Point((), {"accuracy": 0.5}, where), grid.Point((), {}, "none")]
    grid.Sweep([], points).save(tmp_path)
    assert profiles.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    run = open_run(recall_run)
    params = run.checkpoints()
    taken = snapshots(run.task(), {step: params[step] for step in (0, 20)})
    for when, snapshot in zip(("before", "after"), taken, strict=True):
        line = f"factor per step, {when} training |\n| --- |\n"
        assert f"{line}| {snapshot.horizon.rate:.3f} |" in printed
    rows = rows_of(tmp_path)
    assert [row["checkpoint"] for row in rows] == [
        *["before training"] * 13, *["after training"] * 13
    ]  # fmt: skip
    norms = [float(row["norm"]) for row in rows]
    np.testing.assert_allclose(norms, np.concatenate([s.profile for s in taken]))


def test_what_is_no_sweep(tmp_path, capsys):
    assert profiles.main([str(tmp_path)]) == 2
    assert "sweep.json" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text(json.dumps([[], [[[], {}, ""]]]))
    assert profiles.main([str(tmp_path)]) == 2
    assert f"no run in {tmp_path} ended well" in capsys.readouterr().err
    for content in (
        "null", "3", '{"a": 1}', '[["a"]]', "[" * 100_000, "\0" * 1000, "9" * 5000,
        '[["a", "b"], [[["a=1"], {"x": 1.0}, "0"]]]',  # no place on an axis
    ):  # fmt: skip
        (tmp_path / "sweep.json").write_text(content)
        assert profiles.main([str(tmp_path)]) == 2
        captured = capsys.readouterr().err
        assert captured.startswith(f"error: cannot read {tmp_path}/sweep.json")
    (tmp_path / "sweep.json").write_text('[[], [[[], {"x": 1.0}, "nowhere"]]]')
    assert profiles.main([str(tmp_path)]) == 2
    assert "cannot read the config" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text(json.dumps([["a", "b", "c"], []]))
    assert profiles.main([str(tmp_path)]) == 2
    assert "must have at most two axes" in capsys.readouterr().err
