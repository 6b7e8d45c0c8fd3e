"""Forecasts, beside those that need no training, on the same values."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import data
from experiments.config.load import ConfigError, load_config
from experiments.data import FetchError
from experiments.tasks import Config, forecast
from tests.experiments.conftest import TINY, make_run

CONFIG = "configs/forecast/laser_gru.toml"
SMALL = (*TINY, "window=12", "leads=4", "period=6")


def config_of(*overrides, config=CONFIG):
    return load_config(Config, config, overrides)


@pytest.fixture
def path(tmp_path):
    """Two columns: a wave of period 6, some of it missing, and its double."""
    wave = np.sin(np.arange(200) * np.pi / 3)
    rows = [f"{x:.6f},{2 * x + 1:.6f}" for x in wave]
    for n in (13, 14, 40, 170, 171):
        rows[n] = "," + rows[n].split(",")[1]
    path = tmp_path / "waves.csv"
    path.write_text("\n".join(["a,b", *rows, ""]))
    return path


def task_of(path, *overrides):
    own = f"data.path={path}", "data.columns=['a', 'b']"
    return config_of(*SMALL, *own, *overrides).make(lambda sentence: None)


def test_a_network_that_adds_nothing_is_its_base(path):
    """With a readout of zeros, its errors are those of the simple forecast."""
    for base, name in (("last", "persistence"), ("period", "periodic")):
        task = task_of(path, f"base={base}")
        params = task.init(jax.random.key(0))
        zeros = jax.tree.map(np.zeros_like, params.readout)
        found = task.evaluate(params._replace(readout=zeros))
        for lead in (1, 4):
            expected = found[f"{name}_{lead}"]
            np.testing.assert_allclose(found[f"test_rmse_{lead}"], expected, rtol=1e-5)
    # The wave repeats itself, to the digits of the file.
    assert found["periodic_1"] < 1e-5 < 0.5 < found["persistence_1"]
    table = task.finish(params)["forecast.txt"].splitlines()
    assert table[1].split() == ["lead", "network", "persistence", "periodic", "of"]
    assert (
        len(table) == 2 + 2 * 4 and table[2].endswith("a") and table[-1].endswith("b")
    )


def test_the_mean_has_an_error_of_one_deviation(path):
    task = task_of(path)
    params = task.init(jax.random.key(0))
    zeros = jax.tree.map(np.zeros_like, params.readout)
    found = task.evaluate(params._replace(readout=zeros))
    np.testing.assert_allclose(found["test_rmse_1"], 1, rtol=0.1)


def test_errors_by_hand():
    """Of two columns and two leads, the last of which is known once."""
    nan = np.nan
    errors = {"network": np.array([[[3.0, 30], [1, nan]], [[4, 40], [nan, nan]]])}
    found = forecast.scores(errors, np.array([1.0, 10]))
    assert found == {"test_rmse_1": np.sqrt(12.5), "test_rmse_2": 1.0}
    lines = forecast.table(["a", "b"], errors).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["1", "3.536", "a"], ["2", "1", "a"], ["1", "35.36", "b"], ["2", "nan", "b"],
    ]  # fmt: skip


def test_it_learns_the_wave(tmp_path, path):
    own = f"data.path={path}", "data.columns=['a', 'b']", "optimizer.steps=60"
    config = "forecast/laser_gru"
    folder = make_run(tmp_path / "runs", config, *SMALL, *own).folder
    lines = (folder / "forecast.txt").read_text().splitlines()
    assert len(lines) == 10
    text = (folder / "scales.json").read_text()
    assert '"a"' in text and '"spread"' in text
    results = (folder / "results.json").read_text()
    assert "test_rmse_4" in results and "periodic_4" in results


@pytest.mark.parametrize(
    "setting, message",
    [
        ("data.path=a.csv", "`path` needs `columns`"),
        ("data.columns=['a']", "`path` needs `columns`"),
        ("base=period", "`base` can be `period` if `period` is set"),
        ("model.bidirectional=true", "`model.bidirectional` needs whole sequences"),
        ("leads=0", "`leads` must be `int` >= 1"),
        ("data.source=paris", "`data.source` must be one of `laser`"),
    ],
)
def test_settings_that_do_not_fit(setting, message):
    with pytest.raises(ConfigError, match=message):
        config_of(setting)
    twice = "data.path=a.csv", "data.columns=['a', 'a']"
    with pytest.raises(ConfigError, match="`columns` must differ"):
        config_of(*twice)


@pytest.mark.parametrize("setting", ["window=160", "leads=41", "data.held_out=0.0"])
def test_a_series_that_is_too_short(path, setting):
    with pytest.raises(ValueError, match="Lower `window` or `leads`"):
        task_of(path, setting)


def test_the_page_on_your_own_series(tmp_path):
    """Its file and its config fit each other."""
    page = Path("docs/own_series.md").read_text()
    (toml,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    lines = re.findall(r"^    (hour,.*|\d.*)$", page, re.MULTILINE)
    (tmp_path / "load.toml").write_text(toml)
    (tmp_path / "load.csv").write_text("\n".join(lines))
    config = load_config(Config, tmp_path / "load.toml")
    assert config.data.path == "load.csv"
    path, columns = str(tmp_path / "load.csv"), config.data.columns
    values = data.load_series("laser", path, columns).values
    assert values.shape == (3, 2) and np.isnan(values).sum() == 1
    for key in ("test_rmse_24", "persistence_1", "periodic_24"):
        assert f"`{key}`" in page


def test_a_series_that_cannot_be_fetched(monkeypatch):
    def refused(*_):
        raise FetchError("no registry")

    monkeypatch.setattr(forecast.data, "load_series", refused)
    with pytest.raises(FetchError, match="no registry"):
        config_of().make(lambda sentence: None)
