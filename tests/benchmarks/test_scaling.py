"""The arithmetic of the page *Scaling*, and the command that measures its points."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import arithmetic, scaling

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
MACHINE = arithmetic.Machine(flops=50e12, memory=2e12, link=100e9, latency=1e-5)


def test_the_page_shows_what_the_command_prints(capsys):
    assert arithmetic.main([]) == 0
    parts = capsys.readouterr().out.strip().split("\n\n")
    assert len(parts) == 4
    for part in parts:
        assert part in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("devices", [2, 8])
def test_at_break_even_both_take_as_long(devices):
    """By the operations and the bytes themselves, for a network of any size."""
    rows = arithmetic.break_even(MACHINE, devices)
    for units in (10, 1000):
        size = arithmetic.weights(units)
        computed = 6 * size * rows / MACHINE.flops
        summed = arithmetic.all_reduce(MACHINE._replace(latency=0), 4 * size, devices)
        assert computed == pytest.approx(summed)


@pytest.mark.parametrize("devices", [2, 8])
def test_from_the_least_units_on_a_split_step_is_faster(devices):
    units = arithmetic.least_units(MACHINE, devices)
    for times, faster in ((0.9, False), (1.1, True)):
        size = round(times * units)
        alone = arithmetic.recurrent(MACHINE, size, rows=0)
        assert (arithmetic.recurrent(MACHINE, size, 0, devices) < alone) == faster


def test_weights_are_the_cell_s():
    given = scaling.problem.make("lstm", scaling.Shape(1, 1, 5, 5))
    sizes = [np.size(p) for p in given.params]
    assert arithmetic.weights(5) == sum(sizes)


@pytest.mark.usefixtures("as_users_see_it")
def test_a_point_and_its_table(tmp_path, capsys):
    out, page = tmp_path / "scaling.json", tmp_path / "scaling.md"
    given = ["--cell", "gru", "--points", "5,4,3,6", "--rounds", "2"]
    assert scaling.main([*given, "--out", str(out)]) == 0
    assert "units split" in capsys.readouterr().out
    (point,) = json.loads(out.read_text())["points"]
    assert point["devices"] == 2 and set(point["contestants"]) == {*scaling.WAYS}
    assert scaling.main(["--table", str(out), str(page)]) == 0
    row = page.read_text().splitlines()[-1]
    assert row.startswith("| gru | 5 4 3 6 | 2 |") and row.count(" to ") == 3
