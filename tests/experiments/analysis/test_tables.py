"""Tables of results: rounding, failures, and two axes."""

import numpy as np

from experiments.analysis import tables


def test_a_result_by_place():
    values = {("5",): [3.0], ("25",): [2.0, 2.5, np.nan], ("50",): [0.00012345]}
    assert tables.by_place(["window"], values, "bits").splitlines() == [
        "| window | bits |",
        "| --- | --- |",
        "| 5 | 3.000 |",
        "| 25 | 2.250 ± 0.354, 1 of 3 failed |",
        "| 50 | 0.000123 |",
    ]


def test_a_second_axis_makes_the_columns():
    values = {("a", "1"): [0.0], ("b", "2"): [np.nan]}
    assert tables.by_place(["x", "y"], values).splitlines() == [
        "| x, by y | 1 | 2 |",
        "| --- | --- | --- |",
        "| a | 0.000 |  |",
        "| b |  | 1 of 1 failed |",
    ]


def test_csv(tmp_path):
    tables.write_csv(tmp_path / "x.csv", ["a", "b"], [(1, 2.5), ("ü", None)])
    text = (tmp_path / "x.csv").read_text(encoding="utf-8")
    assert text.splitlines() == ["a,b", "1,2.5", "ü,"]
