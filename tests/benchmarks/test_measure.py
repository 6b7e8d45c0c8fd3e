"""The harness' own logic, without peers: order, medians, means, ratios, resuming, flops."""

import json
import math

import numpy as np
import pytest

from benchmarks import (
    contest,
    measure,
    operations,
    ours,
    plot,
    problem,
    report,
    results,
    run,
)


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


def test_the_geometric_mean_of_inverse_ratios_is_the_inverse():
    values = [0.25, 0.5, 8.0]
    assert measure.geometric_mean(values) == pytest.approx(1.0)
    assert measure.geometric_mean(1 / v for v in values) == pytest.approx(1.0)
    assert math.isnan(measure.geometric_mean([]))


@pytest.mark.parametrize("cell", problem.CELLS)
def test_flops_count_every_product_once(cell):
    """Forward: each weight, in each step of each sequence, takes one multiplication and one sum."""
    shape = problem.Shape(7, 3, 4, 5)
    params = problem.make(cell, shape).params
    weights = params.w_ih.size + params.w_hh.size
    assert problem.flops(cell, shape, "forward") == 2 * 7 * 3 * weights
    assert problem.flops(cell, shape, "gradient") == 3 * problem.flops(
        cell, shape, "forward"
    )


def test_lengths_and_resets():
    shape = problem.Shape(100, 32, 1, 1)
    lengths = problem.ragged(shape)
    assert (lengths.min(), lengths.max()) == (4, 100)
    assert lengths.mean() == pytest.approx(50, abs=3)
    assert problem.resets(shape).mean() == pytest.approx(0.1, abs=0.02)


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
    summary = next(results.summaries(points))
    assert summary.comparison.label == "best JAX peer"
    assert (summary.best, summary.worst, summary.points) == (0.5, 2.0, 2)
    assert summary.mean == pytest.approx(1.0)
    assert summary.by_cell == pytest.approx({"lstm": 0.5, "gru": 2.0})


def test_who_solves_another_equation_is_no_measure():
    one = point(jaxrnn=10, jaxrnn_bfloat16=5, scan=40, haiku=1, pytorch_bfloat16=20)
    for name in ("haiku", "jaxrnn-bfloat16", "pytorch-bfloat16"):
        one["contestants"][name]["unlike"] = "something else"
    found = {s.comparison.label: s.mean for s in results.summaries([one])}
    assert found["best JAX peer"] == pytest.approx(10 / 40)
    assert found["PyTorch, both in bfloat16"] == pytest.approx(5 / 20)


def test_the_report_has_a_row_per_point():
    points = [
        point(cell=cell, jaxrnn=10, scan=40, pytorch=30) for cell in ("lstm", "gru")
    ]
    facts = {"cores": 2, "processor": "P", "python": "3", "versions": {"jax": "1.0"}}
    found = {"machine": facts, "points": [p | {"rounds": 9} for p in points]}
    text = "\n".join(report.lines(found, "make bench"))
    assert text.count("| 7 3 4 5 | 10 |  |  |  | 0.25 | 0.33 |") == 2
    assert (
        "## lstm" in text
        and "## gru" in text
        and "jax 1.0" in text
        and "`make bench`" in text
    )


def test_a_program_s_time_by_operation():
    of = problem.make("elman", problem.Shape(50, 2, 3, 4))
    program = ours.make(of).programs["gradient"]
    found = operations.operations(program.call, program.text)
    products = [o for o in found if "dot_general" in o.source]
    assert [o.runs for o in products] == [
        2
    ] * 4  # two chunks: the drive, dW_ih, dW_hh and dx
    assert all(o.milliseconds > 0 for o in products)


def test_a_run_goes_on_where_it_was_interrupted(tmp_path):
    path, facts = tmp_path / "a" / "run.json", {"cores": 2}
    found = results.start(path, facts, "", resume=False)
    found["points"].append(point(jaxrnn=1))
    results.write(path, found)
    again = results.start(path, facts, "", resume=True)
    assert results.done(again, "lstm", problem.Shape(7, 3, 4, 5))
    assert not results.done(again, "gru", problem.Shape(7, 3, 4, 5))
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]
    with pytest.raises(ValueError, match="same machine"):
        results.start(path, {"cores": 4}, "", resume=True)
    with pytest.raises(ValueError, match="same variant"):
        results.start(path, facts, "ragged", resume=True)


def test_a_contestant_that_computes_something_else_is_not_timed(monkeypatch):
    of = problem.make("elman", problem.Shape(3, 2, 2, 4))
    wrong = contest.Contestant(
        {"forward": contest.Program(lambda: np.zeros((3, 2, 4)))}
    )

    def broken(_):
        raise RuntimeError("no such cell")

    monkeypatch.setattr(
        ours, "CONTESTANTS", {"wrong": lambda _: wrong, "broken": broken}
    )
    found = run.compare(of, ["jaxrnn", "wrong", "broken"], rounds=2, seconds=0)
    assert list(found["contestants"]) == ["jaxrnn"]
    assert found["failed"]["wrong"].startswith("differs from jaxrnn by")
    assert found["failed"]["broken"] == "RuntimeError: no such cell"
    assert set(found["contestants"]["jaxrnn"]) == {
        "difference",
        "unlike",
        *contest.KINDS,
    }
    json.dumps(found)  # can be written


def test_the_plot_shows_every_cell():
    points = [
        point(cell=cell, jaxrnn=10, scan=40, pytorch=30) for cell in ("lstm", "gru")
    ]
    figure = plot.draw({"machine": {"processor": "P", "cores": 2}, "points": points})
    assert [axes.get_title() for axes in figure.axes][:2] == [
        "lstm: whole gradient",
        "gru: whole gradient",
    ]


def test_options():
    chosen = run.parse(["--full", "--points", "9,2,3,4 5,1,1,2", "--cell", "gru"])
    assert chosen.points == [problem.Shape(9, 2, 3, 4), problem.Shape(5, 1, 1, 2)]
    assert chosen.cell == ["gru"]
    assert run.parse(["--ragged"]).contestants == ["jaxrnn", "jaxrnn-ragged"]
    mixed = run.parse(["--bfloat16"])
    assert mixed.contestants == [
        "jaxrnn",
        "pytorch",
        "jaxrnn-bfloat16",
        "pytorch-bfloat16",
    ]
    assert not any("bfloat16" in name for name in chosen.contestants)
    with pytest.raises(SystemExit):
        run.parse(["--ragged", "--resets"])
