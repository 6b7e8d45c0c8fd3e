"""The task that docs/own_task.md adds: its code and its config run as they stand."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from experiments.config.load import ConfigError, load_config
from experiments.run import run

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "own_task.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def echo():
    """The page's config class."""
    names: dict = {"__name__": "experiments.tasks.echo"}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(code, names)
    return names["Echo"]


@pytest.fixture
def path(tmp_path):
    (config,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    path = tmp_path / "echo.toml"
    path.write_text(config, encoding="utf-8")
    return path


def test_it_is_learned(echo, path, tmp_path):
    """Guessing gives 0.25."""
    settings = ["evaluations=1", "optimizer.steps=200"]
    config = load_config(echo, path, settings)
    outcome = run(config, tmp_path, "echo", Console(quiet=True))
    assert not outcome.error
    assert outcome.results["accuracy"] > 0.95


def test_a_wrong_config_is_refused(echo, path):
    with pytest.raises(ConfigError, match="`length` must be above `delay` = 30"):
        load_config(echo, path, ["delay=30"])
