"""The curves of a sweep: those of its runs, beside the levels of its task."""

import csv
import json
import math

import pytest

from experiments import curves
from experiments.analysis import curves as drawn
from experiments.analysis.grid import Point, Sweep
from experiments.config.load import dump_config, load_config
from experiments.tasks import Config


@pytest.fixture
def sweep(tmp_path):
    """Two rules and two seeds, and a run that failed."""
    config = load_config(Config, "configs/online/dependencies.toml")
    points = []
    for number, rule in enumerate(("rtrl", "rtrl", "uoro", "rflo")):
        run = tmp_path / str(number)
        run.mkdir()
        (run / "config.json").write_text(dump_config(config))
        lines = [
            {"step": 0, "test_loss": 0.7},
            {"step": 5, "loss": 0.6},
            {"step": 9, "test_loss": 0.5 + number},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "metrics.jsonl").write_text(text)
        results = {} if rule == "rflo" else {"test_loss": 0.5 + number}
        points.append(Point((f"rule={rule}", "every=4"), results, str(number)))
    Sweep(["rule", "every"], points).save(tmp_path)
    return tmp_path


def test_the_curves_are_those_of_the_runs(sweep, capsys):
    assert curves.main([str(sweep)]) == 0
    printed = capsys.readouterr().out
    # P(y = 1) is 5/8 for an answer that knows nothing.
    none = -(5 * math.log(5 / 8) + 3 * math.log(3 / 8)) / 8
    assert f"none: {none:.4f}\n" in printed and "both: " in printed
    with (sweep / "curves.csv").open() as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        (rule, "4", str(run), str(step), str(value))
        for run, rule in enumerate(("rtrl", "rtrl", "uoro"))
        for step, value in ((0, 0.7), (9, 0.5 + run))
    ]
    assert (sweep / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_color_has_one_label(sweep, tmp_path):
    found = drawn.read(sweep, "test_loss")
    drawn.plot(found, "test_loss", tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert text.count(">rtrl<") == text.count(">uoro<") == 1
    assert all(f">{name}<" in text for name in ("none", "first", "both", "every 4"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--result", "accuracy"], "that ended well has `accuracy`"),
        ([], "cannot read"),
    ],
)
def test_what_cannot_be_drawn(sweep, tmp_path, capsys, arguments, words):
    folder = sweep if arguments else tmp_path / "nowhere"
    assert curves.main([str(folder), *arguments]) == 2
    assert words in capsys.readouterr().err
