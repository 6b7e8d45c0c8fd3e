"""The comparison of long sequences, on short ones."""

import json

import pytest

from benchmarks import long, peers
from benchmarks.contest import Contestant
from benchmarks.peers import scans

WITHOUT_EQUINOX = [name for name in peers.LONG if "equinox" not in name]
SMALL = ["--inputs", "2", "--hidden", "3", "--rounds", "2"]


def compared(out, *arguments):
    """The exit code and the points of a command."""
    code = long.main([*SMALL, *arguments, "--out", str(out)])
    return code, json.loads(out.read_text())["points"]


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_everyone_computes_the_same_gradient(cell, tmp_path, capsys):
    lengths = "12,30" if cell == "lstm" else "12"
    names = ["--contestants", ",".join(WITHOUT_EQUINOX)]
    out = tmp_path / "long.json"
    code, points = compared(out, "--cell", cell, "--lengths", lengths, *names)
    assert code == 0
    assert capsys.readouterr().out.count(" T B I H = ") == len(lengths.split(","))
    assert ",".join(str(point["shape"][0]) for point in points) == lengths
    for point in points:
        assert point["failed"] == {}
        assert list(point["contestants"]) == WITHOUT_EQUINOX
        for record in point["contestants"].values():
            assert record["difference"] is not None
            one = record["parameters"]
            assert one["temporary_bytes"] > 0 and all(ms > 0 for ms in one["ms"])


def test_contestants_that_need_too_much_memory_do_not_run(tmp_path):
    names = ["--contestants", "jaxrnn-checkpointed,scan", "--lengths", "4096"]
    limit = ["--limit", str(30_000 / 2**30)]
    code, (point,) = compared(tmp_path / "long.json", *names, *limit)
    assert code == 0
    assert point["contestants"]["scan"]["parameters"]["ms"] is None
    assert point["contestants"]["scan"]["parameters"]["temporary_bytes"] > 30_000
    assert point["contestants"]["jaxrnn-checkpointed"]["parameters"]["ms"]


@pytest.mark.parametrize("off", [1e-2, float("nan")])
def test_a_contestant_that_computes_something_else(monkeypatch, tmp_path, capsys, off):
    def other(problem):
        functions, (params, xs), *_ = scans.over_steps(problem)
        return Contestant(functions, (params, xs + off))

    monkeypatch.setitem(peers.LONG, "other", other)
    names = ["--lengths", "12", "--contestants", "scan,other"]
    code, (point,) = compared(tmp_path / "long.json", *names)
    assert code == 1
    assert list(point["contestants"]) == ["scan"]
    assert "parameters is off the first one's by" in point["failed"]["other"]
    assert "other is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "--lengths ten",
            "whole numbers, at least 1, such as 1000,10000, but got 'ten'",
        ),
        ("--lengths 0", "whole numbers, at least 1, such as 1000,10000, but got '0'"),
        ("--hidden 0", "a whole number, at least 1, but got '0'"),
        ("--rounds 1", "a whole number, at least 2, but got '1'"),
        ("--limit nan", "a number, at least 0, but got 'nan'"),
        ("--contestants scan,flax", "of jaxrnn-checkpointed, "),
    ],
)
def test_arguments_that_make_no_sense(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        long.main(arguments.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith(f"error: argument {arguments.split()[0]}: must be ")
    assert words in line


def test_windows_divide_the_sequence():
    assert {size: scans.window(size) for size in (1, 100, 1000, 10**6)} == {
        **{1: 1, 100: 10, 10**6: 1000},
        1000: 25,  # or 40, as near
    }
