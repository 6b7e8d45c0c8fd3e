"""Writes a run's tables in Markdown, and its ratios, point by point, as a picture.

    python -m benchmarks.report benchmarks/results/grid.json docs/grid

writes docs/grid.md and docs/grid.png, and docs/grid_memory.png: time against memory.
With `--layers benchmarks/results/layers.json` the page ends with the second grid, drawn
in docs/grid_layers.png.
"""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
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
ACROSS = "time of jaxrnn / time of the other, log scale"
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")


LAYERS = """
## Networks of layers

![Ratios of times, point by point]({})

Every library builds a network of its own layers, with the same weights and inputs.
Dropout, at a rate of 0.2, is off while results are compared and on while they are
timed, in the forward pass too. The peers have no layer of LRU or minGRU: a plain scan
and a plain associative scan, differentiated by JAX, stand in for one. "In parallel" is
`make_lru(parallel=True)` or `make_min_gru(parallel=True)`.
"""


def lines(
    found: dict[str, Any],
    made_by: str,
    comparisons: Sequence[results.Comparison] = results.COMPARISONS,
    heading: str = "##",
) -> Iterator[str]:
    """Yields what was measured and how, the summary, a table per cell."""
    facts, points = found["machine"], found["points"]
    versions = [f"{name} {version}" for name, version in facts["versions"].items()]
    rounds = " or ".join(map(str, sorted({point["rounds"] for point in points})))
    machine = f"{facts['cores']} cores of {facts['processor']}"
    yield f"Made by `{made_by}` and `python -m benchmarks.report` on {machine},"
    yield ", ".join([f"Python {facts['python']}", *versions]) + "."
    yield f"Medians over at most {rounds} rounds, all contestants in turn in"
    yield "one process, float32. A ratio is ours by theirs: below 1, ours is better."
    yield ""
    yield from tables.markdown(*tables.summary(points, comparisons))
    for cell in tables.cells_in(points):
        yield from ("", f"{heading} {cell}", "")
        yield from tables.markdown(*tables.shapes(points, cell, comparisons))


def draw(found: dict[str, Any]) -> Figure:
    """Draws a panel per cell and kind, a row per shape; left of 1, ours is faster."""
    points, cells = found["points"], tables.cells_in(found["points"])
    shapes = list(dict.fromkeys(tuple(point["shape"]) for point in points))
    height = 2 * (0.32 * len(shapes) + 1.2) + 0.6
    figure = Figure(figsize=(4 * len(cells) + 2, height), layout="constrained")
    panels = figure.subplots(
        len(contest.KINDS), len(cells), squeeze=False, sharey=True, sharex="row"
    )
    legend = {}
    for row, kind in zip(panels, contest.KINDS, strict=True):
        for panel, cell in zip(row, cells, strict=True):
            rows = [(cell, shape) for shape in shapes]
            legend |= _ratios(panel, points, rows, kind, results.COMPARISONS)
            panel.set_title(f"{cell}: {TITLES[kind]}")
        row[0].set_yticks(range(len(shapes)), [" ".join(map(str, s)) for s in shapes])
        row[0].set_ylabel("T B I H")
        row[len(row) // 2].set_xlabel(ACROSS)
    _legend(figure, legend, found["machine"])
    return figure


def draw_layers(found: dict[str, Any]) -> Figure:
    """Draws a panel per kind, a row per network and shape; as `draw` otherwise."""
    points = found["points"]
    rows = [(point["cell"], tuple(point["shape"])) for point in points]
    size = 13, 0.32 * len(rows) + 2
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(contest.KINDS), sharey=True)
    legend = {}
    for panel, kind in zip(panels, contest.KINDS, strict=True):
        legend |= _ratios(panel, points, rows, kind, results.OF_LAYERS)
        panel.set(title=TITLES[kind], xlabel=ACROSS)
    words = [f"{name}  {' '.join(map(str, shape))}" for name, shape in rows]
    panels[0].set_yticks(range(len(rows)), words)
    panels[0].set_ylabel("network, T B I H")
    panels[0].invert_yaxis()
    _legend(figure, legend, found["machine"])
    return figure


def _ratios(
    panel: Axes,
    points: Sequence[results.Point],
    rows: Sequence[tuple[str, tuple[int, ...]]],
    kind: str,
    comparisons: Sequence[results.Comparison],
) -> dict[str, Any]:
    """Draws ratios of times, the i-th row at height i. Returns the marks by label."""
    legend = {}
    timed = [comparison for comparison in comparisons if comparison.field == "ms"]
    for number, comparison in enumerate(timed):
        found = results.ratios(points, comparison, kind)
        drawn = {rows.index(at): found[at] for at in found if at in rows}
        if kind in comparison.kinds and drawn:
            (marks,) = panel.plot([*drawn.values()], [*drawn], linestyle="", alpha=0.8)
            marks.set(color=f"C{number}", marker=MARKS[number])
            legend[comparison.label] = marks
    panel.axvline(1, color="black", linewidth=1)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    panel.grid(alpha=0.3)
    return legend


def _legend(figure: Figure, legend: dict[str, Any], facts: dict[str, Any]) -> None:
    """Draws one legend for all panels, and the machine above them."""
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4)
    machine = f"{facts['processor']}, {facts['cores']} cores, float32"
    figure.suptitle(f"jaxrnn against … ({machine})")


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
    parser.add_argument("--layers", type=Path, help="what benchmarks.layers wrote")
    options = parser.parse_args(argv)
    found = results.read(options.results)
    page = [*lines(found, options.command)]
    if options.layers:
        networks = results.read(options.layers)
        picture = options.out.with_name(f"{options.out.name}_layers.png")
        draw_layers(networks).savefig(picture, dpi=150)
        page += LAYERS.format(picture.name).splitlines()
        made_by = "make bench-layers"
        page += ["", *lines(networks, made_by, results.OF_LAYERS, "###")]
    text = "\n".join(page) + "\n"
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    draw(found).savefig(options.out.with_suffix(".png"), dpi=150)
    memory = options.out.with_name(f"{options.out.name}_memory.png")
    draw_memory(found["points"]).savefig(memory, dpi=150)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
