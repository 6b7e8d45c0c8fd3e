"""Writes a run's tables in Markdown, and its ratios, point by point, as a picture.

    python -m benchmarks.report benchmarks/results/grid.json docs/grid

writes docs/grid.md and docs/grid.png, and docs/grid_memory.png: time against memory.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from benchmarks import command, contest, results, tables

TITLES = {"gradient": "whole gradient", "forward": "forward alone"}
MEMORY = (
    "jaxrnn",
    "jaxrnn-states",
    "jaxrnn-boundaries",
    "flax-nnx",
    "checkpoint",
    "scan",
)
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")


def lines(found: dict[str, Any], made_by: str) -> Iterator[str]:
    """Yields the page: what was measured and how, the summary, a table per cell."""
    facts, points = found["machine"], found["points"]
    versions = [f"{name} {version}" for name, version in facts["versions"].items()]
    rounds = " or ".join(map(str, sorted({point["rounds"] for point in points})))
    machine = f"{facts['cores']} cores of {facts['processor']}"
    yield f"Made by `{made_by}` and `python -m benchmarks.report` on {machine},"
    yield ", ".join([f"Python {facts['python']}", *versions]) + "."
    yield f"Medians over at most {rounds} rounds, all contestants in turn in"
    yield "one process, float32. A ratio is ours by theirs: below 1, ours is better."
    yield ""
    yield from _markdown(*tables.summary(points))
    for cell in tables.cells_in(points):
        yield from ("", f"## {cell}", "")
        yield from _markdown(*tables.shapes(points, cell))


def _markdown(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def draw(found: dict[str, Any]) -> Figure:
    """Draws a panel per cell and kind, a row per shape; left of 1, ours is faster."""
    points, facts = found["points"], found["machine"]
    cells = tables.cells_in(points)
    shapes = list(dict.fromkeys(tuple(point["shape"]) for point in points))
    timed = [c for c in results.COMPARISONS if c.field == "ms"]
    height = 2 * (0.32 * len(shapes) + 1.2) + 0.6
    figure = Figure(figsize=(4 * len(cells) + 2, height), layout="constrained")
    panels = figure.subplots(
        len(contest.KINDS), len(cells), squeeze=False, sharey=True, sharex="row"
    )
    # Points, a color and a mark for each comparison.
    legend = {}
    for row, kind in zip(panels, contest.KINDS, strict=True):
        for panel, cell in zip(row, cells, strict=True):
            of_cell = [point for point in points if point["cell"] == cell]
            for number, comparison in enumerate(timed):
                drawn = results.ratios(of_cell, comparison, kind)
                if kind in comparison.kinds and drawn:
                    at = [shapes.index(shape) for _, shape in drawn]
                    style = {"color": f"C{number}", "marker": MARKS[number]}
                    (marks,) = panel.plot(
                        [*drawn.values()], at, linestyle="", alpha=0.8, **style
                    )
                    legend[comparison.label] = marks
            # Axes.
            panel.axvline(1, color="black", linewidth=1)
            panel.set(title=f"{cell}: {TITLES[kind]}", xscale="log")
            panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
            panel.grid(alpha=0.3)
        row[0].set_yticks(range(len(shapes)), [" ".join(map(str, s)) for s in shapes])
        row[0].set_ylabel("T B I H")
        row[len(row) // 2].set_xlabel("time of jaxrnn / time of the other, log scale")
    # One legend for all panels.
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4)
    machine = f"{facts['processor']}, {facts['cores']} cores, float32"
    figure.suptitle(f"jaxrnn against … ({machine})")
    return figure


def draw_memory(points: Sequence[results.Point]) -> Figure:
    """Draws a panel per cell: geometric means of time and memory, Flax NNX's = 1."""
    cells = tables.cells_in(points)
    figure = Figure(figsize=(4 * len(cells) + 2, 4.5), layout="constrained")
    panels = figure.subplots(1, len(cells), squeeze=False, sharey=True)[0]
    for panel, cell in zip(panels, cells, strict=True):
        of_cell = [point for point in points if point["cell"] == cell]
        for number, name in enumerate(MEMORY):
            means = []
            for field in ("temporary_bytes", "ms"):
                by_flax = results.Comparison("", name, ("flax-nnx",), field=field)
                found = results.ratios(of_cell, by_flax, "gradient").values()
                means.append(statistics.geometric_mean(found) if found else None)
            if None in means:
                continue
            style = {"color": f"C{number}", "marker": MARKS[number]}
            panel.plot(*means, linestyle="", label=name, **style)
        panel.set(title=cell, xlabel="temporary memory / Flax NNX's", xlim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("time of the whole gradient / Flax NNX's")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4)
    return figure


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = command.Parser("report", __doc__)
    parser.add_argument("results", type=Path, help="the file that benchmarks.run wrote")
    parser.add_argument("out", type=Path, help="without .md or .png")
    parser.add_argument("--command", default="make bench BENCH=--full", help="to quote")
    options = parser.parse_args(argv)
    found = results.read(options.results)
    page = "\n".join(lines(found, options.command)) + "\n"
    options.out.with_suffix(".md").write_text(page, encoding="utf-8")
    draw(found).savefig(options.out.with_suffix(".png"), dpi=150)
    memory = options.out.with_name(f"{options.out.name}_memory.png")
    draw_memory(found["points"]).savefig(memory, dpi=150)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
