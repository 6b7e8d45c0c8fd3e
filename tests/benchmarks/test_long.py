"""The comparison of long sequences, on short ones."""

import json

import pytest

from benchmarks import long

WITHOUT_EQUINOX = [name for name in long.CONTESTANTS if "equinox" not in name]


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_everyone_computes_the_same_gradient(cell, tmp_path, capsys):
    """`compare` refuses to go on with one that does not."""
    out = tmp_path / "long.json"
    lengths = "12,30" if cell == "lstm" else "12"
    sizes = ["--lengths", lengths, "--inputs", "2", "--hidden", "3", "--rounds", "2"]
    names = ["--contestants", ",".join(WITHOUT_EQUINOX), "--out", str(out)]
    assert long.main(["--cell", cell, *sizes, *names]) == 0
    assert capsys.readouterr().out.count(" T = ") == len(lengths.split(","))
    points = json.loads(out.read_text())["points"]
    assert ",".join(str(point["shape"][0]) for point in points) == lengths
    for point in points:
        assert list(point["contestants"]) == WITHOUT_EQUINOX
        for one in point["contestants"].values():
            assert one["temporary_bytes"] > 0 and all(ms > 0 for ms in one["ms"])


def test_who_takes_too_much_is_not_run(tmp_path):
    out = tmp_path / "long.json"
    names = ["--contestants", "jaxrnn-checkpointed,scan", "--out", str(out)]
    limit = ["--limit", str(30_000 / 2**30)]
    assert (
        long.main(
            ["--lengths", "4096", "--inputs", "2", "--hidden", "3", *limit, *names]
        )
        == 0
    )
    (point,) = json.loads(out.read_text())["points"]
    assert point["contestants"]["scan"]["ms"] is None
    assert point["contestants"]["jaxrnn-checkpointed"]["ms"]


@pytest.mark.parametrize("off", [1e-2, float("nan")])
def test_a_contestant_that_computes_something_else(monkeypatch, tmp_path, off):
    def other(of):
        return lambda params, xs: long.CONTESTANTS["scan"](of)(params, xs + off)

    monkeypatch.setitem(long.CONTESTANTS, "other", other)
    arguments = [
        "--lengths",
        "12",
        "--contestants",
        "scan,other",
        "--out",
        str(tmp_path / "x"),
    ]
    with pytest.raises(ValueError, match="other computes"):
        long.main(["--inputs", "2", "--hidden", "3", *arguments])


def test_a_contestant_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        long.main(["--contestants", "scan,flax"])
    assert "unknown: flax; there are jaxrnn-checkpointed" in capsys.readouterr().err


def test_windows_divide_the_sequence():
    assert {size: long._window(size) for size in (1, 100, 1000, 10**6)} == {
        **{1: 1, 100: 10, 10**6: 1000},
        1000: 25,  # or 40, as near
    }
