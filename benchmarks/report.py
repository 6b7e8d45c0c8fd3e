"""Writes a run's table in Markdown: `python -m benchmarks.report FILE.json > docs/grid.md`."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results

OF_POINT = "gradient ms, ours | all cores | % of peak | forward ms, ours"
RATIOS = tuple(
    (comparison, kind)
    for comparison in results.COMPARISONS
    for kind in comparison.kinds
    if comparison.label != "onnxruntime"
)


def lines(found: dict[str, Any], command: str) -> Iterator[str]:
    """The page: what it was measured on and by what, the summary, a table per cell."""
    facts, points = found["machine"], found["points"]
    packages = ", ".join(
        f"{name} {version}" for name, version in facts["versions"].items()
    )
    rounds = sorted({point["rounds"] for point in points})
    yield f"Made by `{command}`, drawn by `python -m benchmarks.report` and `benchmarks.plot`, on"
    yield f"{facts['cores']} cores of {facts['processor']}, Python {facts['python']}, {packages}."
    yield f"Medians over {' or '.join(map(str, rounds))} rounds at most, everyone in turn in one"
    yield "process, float32. A ratio is ours divided by theirs: below 1, ours is better."
    yield ""
    cells = list(dict.fromkeys(point["cell"] for point in points))
    yield f"| against | | all | best | worst | {' | '.join(cells)} | points |"
    yield "|---|---|---|---|---|" + "---|" * len(cells) + "---|"
    for s in results.summaries(points):
        by_cell = [_ratio(s.by_cell.get(cell)) for cell in cells]
        numbers = [
            _ratio(s.mean),
            _ratio(s.best),
            _ratio(s.worst),
            *by_cell,
            str(s.points),
        ]
        yield f"| {s.comparison.label} | {s.kind} | {' | '.join(numbers)} |"
    used = [(c, kind) for c, kind in RATIOS if results.ratios(points, c, kind)]
    for cell in cells:
        yield ""
        yield f"## {cell}"
        yield ""
        labels = [f"{kind} / {c.label}" for c, kind in used]
        yield f"| T B I H | {OF_POINT} | {' | '.join(labels)} |"
        yield "|" + "---|" * (5 + len(labels))
        for point in points:
            if point["cell"] == cell:
                yield f"| {' | '.join([*_figures(point), *_ratios(point, used)])} |"


def _figures(point: dict[str, Any]) -> list[str]:
    times = [
        ("jaxrnn", "gradient"),
        ("jaxrnn-cores", "gradient"),
        ("jaxrnn", "forward"),
    ]
    gradient, cores, forward = (_time(results.value(point, *at)) for at in times)
    share = results.value(point, "jaxrnn", "gradient", "share")
    percent = "" if share is None else f"{share:.0%}"
    return [" ".join(map(str, point["shape"])), gradient, cores, percent, forward]


def _ratios(
    point: dict[str, Any], used: Sequence[tuple[results.Comparison, str]]
) -> list[str]:
    return [_ratio(results.ratio(point, comparison, kind)) for comparison, kind in used]


def _ratio(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _time(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.3g}"


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__
    )
    parser.add_argument("results", type=Path, help="what `benchmarks.run` wrote")
    parser.add_argument(
        "--command", default="make bench BENCH=--full", help="that made them"
    )
    arguments = parser.parse_args(argv)
    print(
        "\n".join(lines(json.loads(arguments.results.read_text()), arguments.command))
    )


if __name__ == "__main__":
    main()
