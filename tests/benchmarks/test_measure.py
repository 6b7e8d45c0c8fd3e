"""The harness' own logic, without peers: order, medians, means, ratios, resuming,
flops."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import contest, measure, problem, report, results, run, tables
from benchmarks.peers import ours
from benchmarks.profile import operations

KINDS = (*contest.KINDS, "parameters")


class Clock:
    """Time that passes only while a contestant works."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def contestant(self, name, *seconds):
        """Takes these seconds in turn, the last again and again."""
        left = list(seconds)

        def call():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call

    def __call__(self):
        return self.now


def test_contestants_take_turns():
    clock = Clock()
    both = {name: clock.contestant(name, 1.0) for name in "ab"}
    measure.interleaved(both, rounds=3, clock=clock)
    assert "".join(clock.order) == "ab" + 3 * "ab"


def test_a_fast_contestant_is_called_often_in_its_turn():
    clock = Clock()
    both = {
        "slow": clock.contestant("s", 1.0),
        "fast": clock.contestant("f", measure.TURN / 4),
    }
    timings = measure.interleaved(both, rounds=2, clock=clock)
    assert "".join(clock.order) == "sff" + 2 * "sffff"
    assert timings["fast"].median == pytest.approx(1e3 * measure.TURN / 4)


def test_the_median_ignores_the_warm_up_and_one_bad_round():
    clock = Clock()
    timing = measure.interleaved(
        {"": clock.contestant("", 9.0, 1.0, 2.0, 50.0, 3.0, 2.5)}, rounds=5, clock=clock
    )[""]
    assert timing.median == pytest.approx(2500)
    assert timing.low < timing.median < timing.high


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 5), (6.5, 7), (math.inf, 9)])
def test_a_cap_in_seconds_leaves_at_least_five_rounds(seconds, rounds):
    clock = Clock()
    measure.interleaved({"": clock.contestant("", 1.0)}, 9, seconds, clock=clock)
    assert len(clock.order) == 1 + rounds


@pytest.mark.parametrize("cell", problem.CELLS)
def test_flops_count_every_product_once(cell):
    """Forward, each weight takes one multiplication and one sum per step and sequence;
    so does each going back, for its gradient and for that of its input, if it has one.
    """
    one = problem.make(cell, problem.Shape(7, 3, 4, 5))
    w_ih, w_hh = one.params.w_ih.size, one.params.w_hh.size
    count = {kind: problem.flops(one, kind) / (2 * 7 * 3) for kind in KINDS}
    assert count["forward"] == w_ih + w_hh
    assert count["gradient"] == 3 * (w_ih + w_hh)
    assert count["parameters"] == 2 * w_ih + 3 * w_hh


def test_lengths_and_resets(monkeypatch):
    """Lengths are spread evenly, and resets come every √T steps on average."""
    monkeypatch.setattr(ours, "unrolled", lambda problem, unlike, **options: options)
    shape = problem.Shape(100, 32, 1, 1)
    masked = problem.Problem("elman", shape, None, jnp.zeros(shape[:3]))
    lengths = np.sum(ours.ragged(masked)["mask"], axis=0)
    assert (lengths.min(), lengths.max()) == (4, 100)
    assert lengths.mean() == pytest.approx(50, abs=3)
    assert ours.resets(masked)["reset"].mean() == pytest.approx(0.1, abs=0.02)


def point(cell="lstm", shape=(7, 3, 4, 5), **milliseconds):
    """One point, the contestants' gradients taking these."""
    return {
        "cell": cell,
        "shape": shape,
        "failed": {},
        "contestants": {
            name.replace("_", "-"): {
                "unlike": "",
                "gradient": {"ms": (ms - 1, ms, ms + 1), "temporary_bytes": 0},
            }
            for name, ms in milliseconds.items()
        },
    }


def test_ratios_are_to_the_best_of_the_others():
    points = [
        point(jaxrnn=10, scan=40, flax_nnx=20),
        point(cell="gru", jaxrnn=10, scan=5),
        point(cell="elman", jaxrnn=10, pytorch=1),  # no JAX peer: no ratio
    ]
    head, (row, *_) = tables.summary(points)
    assert dict(zip(head, row, strict=True)) == {
        **{"against": "best JAX peer", "": "gradient", "points": "2"},
        **{"all": "1.00", "best": "0.50", "worst": "2.00"},
        **{"lstm": "0.50", "gru": "2.00", "elman": ""},
    }


def test_a_mean_of_ratios_is_the_inverse_of_the_inverse_ratios_mean():
    there = [point(shape=(t, 1, 1, 1), jaxrnn=t, scan=10) for t in (3, 20, 70)]
    back = [point(shape=(t, 1, 1, 1), jaxrnn=10, scan=t) for t in (3, 20, 70)]
    means = [float(tables.summary(points)[1][0][2]) for points in (there, back)]
    assert math.prod(means) == pytest.approx(1, abs=0.02)  # of two decimals each


def test_contestants_that_solve_another_equation_do_not_count():
    one = point(jaxrnn=10, jaxrnn_bfloat16=5, scan=40, haiku=1, pytorch_bfloat16=20)
    for name in ("haiku", "jaxrnn-bfloat16", "pytorch-bfloat16"):
        one["contestants"][name]["unlike"] = "something else"
    by_label = {comparison.label: comparison for comparison in results.COMPARISONS}
    ratio = results.ratio(one, by_label["best JAX peer"], "gradient")
    assert ratio == pytest.approx(10 / 40)
    ratio = results.ratio(one, by_label["PyTorch, both in bfloat16"], "gradient")
    assert ratio == pytest.approx(5 / 20)


def both_cells():
    """The results of a run of two cells."""
    points = [
        point(cell=cell, jaxrnn=10, scan=40, pytorch=30) for cell in ("lstm", "gru")
    ]
    facts = {"cores": 2, "processor": "P", "python": "3", "versions": {"jax": "1.0"}}
    return {"machine": facts, "points": [p | {"rounds": 9} for p in points]}


def test_the_report_has_a_row_per_point():
    text = "\n".join(report.lines(both_cells(), "make bench"))
    assert text.count("| 7 3 4 5 | 10 |  |  |  | 0.25 | 0.33 |") == 2
    for part in ("## lstm", "## gru", "jax 1.0", "`make bench`"):
        assert part in text


def test_the_pictures_show_every_cell():
    titles = [axes.get_title() for axes in report.draw(both_cells()).axes]
    assert titles[:2] == ["lstm: whole gradient", "gru: whole gradient"]
    axes = report.draw_memory(both_cells()["points"]).axes
    assert [panel.get_title() for panel in axes] == ["lstm", "gru"]


def test_the_report_writes_both(tmp_path):
    results.write(tmp_path / "run.json", both_cells())
    assert report.main([str(tmp_path / "run.json"), str(tmp_path / "grid")]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run.json", "grid.md", "grid.png", "grid_memory.png"}


@pytest.mark.parametrize("content", [None, "no JSON", "[1]", "{}"])
def test_a_report_of_a_file_without_results(content, tmp_path, capsys):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    assert report.main([str(path), str(tmp_path / "grid")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(path) in line
    assert not list(tmp_path.glob("grid*"))


def test_a_program_s_time_by_operation():
    made = ours.unrolled(problem.make("elman", problem.Shape(50, 2, 3, 4)))
    program = jax.jit(made.functions["gradient"]).lower(*made.arguments).compile()
    found = operations.operations(program, *made.arguments)
    # The drive of all steps, then two chunks, each with dW_ih, dW_hh and dx.
    products = [o for o in found if "dot_general" in o.source]
    assert sorted(o.runs for o in products) == [1, 2, 2, 2]
    assert all(o.milliseconds > 0 for o in products)


def test_an_interruption_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a" / "run.json"
    results.write(path, both_cells())
    with pytest.raises(TypeError):
        results.write(path, {"machine": object(), "points": []})
    assert len(results.read(path)["points"]) == 2
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_a_contestant_that_computes_something_else_is_not_timed():
    def wrong(_):
        return contest.Contestant({"forward": lambda: np.zeros((3, 2, 4))})

    def broken(_):
        raise RuntimeError("no such cell")

    one = problem.make("elman", problem.Shape(3, 2, 2, 4))
    makers = {"jaxrnn": ours.unrolled, "wrong": wrong, "broken": broken}
    found = contest.compare(one, makers, contest.KINDS, rounds=2)
    assert list(found["contestants"]) == ["jaxrnn"]
    words = "ArithmeticError: forward is off the first one's by"
    assert found["failed"]["wrong"].startswith(words)
    assert found["failed"]["broken"] == "RuntimeError: no such cell"
    record = found["contestants"]["jaxrnn"]
    assert set(record) == {"difference", "unlike", *contest.KINDS}
    json.dumps(found)  # can be written


def test_what_rounding_costs_is_measured():
    """A contestant in bfloat16 is not compared; its gradient's error is recorded."""
    one = problem.make("elman", problem.Shape(3, 2, 2, 4))
    names = ("jaxrnn", "jaxrnn-bfloat16")
    makers = {name: ours.CONTESTANTS[name] for name in names}
    found = contest.compare(one, makers, ["gradient"], rounds=2)
    record = found["contestants"]["jaxrnn-bfloat16"]
    assert record["difference"] is None and found["failed"] == {}
    assert 0 < record["error"] < 0.05 and 0.99 < record["cosine"] < 1


def test_options():
    chosen = run.parse(["--full", "--points", "9,2,3,4 5,1,1,2", "--cell", "gru"])
    assert chosen.points == [problem.Shape(9, 2, 3, 4), problem.Shape(5, 1, 1, 2)]
    assert chosen.cell == ["gru"]
    assert chosen.contestants[0] == "jaxrnn"
    for other in ("bfloat16", "ragged", "resets"):
        assert not any(other in name for name in chosen.contestants)
    assert run.parse([]).points == problem.QUICK


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "-3"], "a number, at least 0, but got '-3'"),
        (["--rounds", "many"], "a whole number, at least 2, but got 'many'"),
        (["--points", "1,2"], "shapes T,B,I,H, each at least 1, such as"),
        (["--points", "0,1,1,1"], "shapes T,B,I,H, each at least 1, such as"),
        (["--points", ""], "shapes T,B,I,H, each at least 1, such as"),
        (["--cell", "rnn"], "of elman, lstm, gru, but got 'rnn'"),
    ],
)
def test_arguments_that_make_no_sense(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith(f"error: argument {arguments[0]}: must be ")
    assert words in line


def test_a_file_that_cannot_be_written_stops_a_run_at_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run.main(["--out", str(tmp_path / "file" / "run.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "file" in line
