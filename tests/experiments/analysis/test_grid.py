"""Grids: axes, places, the index on disk, and which results make a curve."""

import numpy as np
import pytest

from experiments.analysis import grid
from experiments.config.load import ConfigError
from experiments.tasks import Config

RECALL = "configs/recall/gru.toml"


@pytest.mark.parametrize("text", ["window", "=5", "a,b=1", "a=", "a,b=1,2 3"])
def test_an_axis_that_is_none(text):
    with pytest.raises(ConfigError, match=r"must be as in .*, but got"):
        grid.parse_axis(text)


def test_keys_of_one_axis_move_together_and_axes_make_a_product():
    axes = [grid.parse_axis(text) for text in ("lag,seed=3,1 5,2", "evaluations=1 2")]
    trials = list(grid.trials(Config, [RECALL], axes, ["model.hidden_size=8"]))
    settings = [(t.config.lag, t.config.seed, t.config.evaluations) for t in trials]
    assert settings == [(3, 1, 1), (3, 1, 2), (5, 2, 1), (5, 2, 2)]
    assert trials[0].place == ("lag=3, seed=1", "evaluations=1")
    assert {t.config.model.hidden_size for t in trials} == {8}


def test_several_configs_are_the_first_axis():
    paths = [RECALL, "configs/recall/irnn.toml"]
    axes = [grid.parse_axis("lag=3 5"), grid.parse_axis("seed=0 1")]
    trials = list(grid.trials(Config, paths, axes, []))
    places = [("gru", "3"), ("gru", "5"), ("irnn", "3"), ("irnn", "5")]
    points = [grid.Point(trial.place, {"accuracy": 0.5}) for trial in trials]
    assert list(grid.Sweep(["config", "lag"], points).places()) == places
    assert [t.name for t in trials] == ["gru"] * 4 + ["irnn"] * 4


def test_a_place_goes_by_its_first_value_and_a_failure_counts_for_every_result():
    sizes = ("window=5, optimizer.batch_size=320", "window=25, optimizer.batch_size=64")
    points = [
        grid.Point((sizes[0],), {"bits": 3.0}),
        grid.Point((sizes[0],), {}),
        grid.Point((sizes[1],), {"other": None}),
    ]
    results = grid.Sweep(["window"], points).results()
    np.testing.assert_equal(results["bits"], {("5",): [3.0, np.nan]})
    expected = {("5",): [np.nan, np.nan], ("25",): [np.nan]}
    np.testing.assert_equal(results["other"], expected)


def test_the_index_is_read_back_and_a_broken_one_is_refused(tmp_path):
    sweep = grid.Sweep(["lag"], [grid.Point(("lag=3",), {"a": None, "b": 1.5}, "0/x")])
    sweep.save(tmp_path)
    assert grid.load_sweep(tmp_path) == sweep
    for broken in (b"", b"3", b"{}", b"[[], [1]]", b"\xff"):
        (tmp_path / grid.INDEX).write_bytes(broken)
        with pytest.raises(ConfigError, match=r"cannot read .*sweep.json"):
            grid.load_sweep(tmp_path)


@pytest.mark.parametrize("keys", [[], ["cell"], ["lag"], ["a", "b", "lag"]])
def test_what_makes_no_curve_is_not_drawn(tmp_path, keys):
    """Nothing, names, a single number, more than two axes."""
    places = {"cell": [("gru",), ("lstm",)], "lag": [("3",)]}
    default = [tuple("12345"[: len(keys)])]
    values = {place: [1.0] for place in places.get(" ".join(keys), default)}
    assert not grid.plot(keys, values, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_lines_by_the_first_axis_are_drawn(tmp_path):
    """Powers of two, on a logarithmic axis; a run that failed leaves a gap."""
    values = {("gru", "4"): [1.0, 0.5], ("gru", "32"): [np.nan], ("lstm", "4"): [0.2]}
    assert grid.plot(["cell", "lag"], values, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
