"""The bias of truncation: a table, a figure, and smaller errors for longer windows."""

import csv

from experiments import truncation_bias


def test_the_bias_of_truncation(language_run, capsys):
    arguments = ["--sequences", "2", "--length", "8", "--warm", "8"]
    assert truncation_bias.main([str(language_run), *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 4
    assert "trained: the adjoint of a loss shrinks by" in printed
    assert (language_run / "truncation_bias.png").read_bytes().startswith(b"\x89PNG")
    with (language_run / "truncation_bias.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 2 * 2  # windows 1, 2, 4, two models, two parts
    for line in lines:
        error, cosine = float(line["relative_error"]), float(line["cosine"])
        assert 0 <= error and abs(cosine) <= 1 + 1e-6
    first, *_, last = [
        x for x in lines if (x["model"], x["part"]) == ("untrained", "w_hh")
    ]
    assert float(last["relative_error"]) < float(first["relative_error"])


def test_a_text_that_is_too_short(language_run, capsys):
    too_long = ["--sequences", "2", "--length", "4000"]
    assert truncation_bias.main([str(language_run), *too_long]) == 2
    assert "are held out. Ask for fewer or shorter ones" in capsys.readouterr().err
