"""The tables of `benchmarks.online`."""

import pytest

from benchmarks import online, results

pytestmark = pytest.mark.usefixtures("as_users_see_it")


@pytest.mark.slow
def test_the_tables_have_a_row_for_each_rule(capsys, tmp_path):
    out = tmp_path / "online.json"
    sizes = ["--sizes", "4,8", "--dense", "4", "--draws", "8", "--out", str(out)]
    assert online.main(sizes) == 0
    found = results.read(out)
    assert len(found["points"]) == 2 * len(online.CASES) - 1  # one size of dense RTRL
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line[:1] == "|"]
    rows = [[word.strip() for word in row] for row in rows]
    names = [row[1] for row in rows if len(row) == 9][2:]
    assert names == [name for _, name, _ in online.CASES]
    errors = {row[0]: row for row in rows if len(row) == 4}
    assert errors["rtrl"][2] == "1.000"
    assert float(errors["uoro"][3]) > 0


def test_an_exponent_is_that_of_the_largest_sizes():
    points = [{"H": h, "operations": 3 * h**2 + (h == 2)} for h in (8, 2, 4)]
    assert online.exponent(points, "operations") == 2


def test_a_row_states_fitted_and_theory_side_by_side():
    points = [
        {"cell": c, "rule": n, "H": h, "operations": h**3, "bytes": h, "trace": h}
        for c, n, _ in online.CASES
        for h in (16, 32)
    ]
    head, rows = online.cost_rows(points)
    assert [row[:2] for row in rows] == [[c, n] for c, n, _ in online.CASES]
    assert all(len(row) == len(head) for row in rows)
    assert rows[0][2:5] == ["32", "3.28e+04", "3.00 (4)"]
