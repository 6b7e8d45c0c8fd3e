"""Draws a run's ratios, point by point: `python -m benchmarks.plot FILE.json [FILE.png]`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
from matplotlib.figure import Figure

from benchmarks import contest, results

TITLES = {"gradient": "whole gradient", "forward": "forward alone"}
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")


def draw(found: dict[str, Any]) -> Figure:
    """One panel per cell and kind, one row per shape; left of the line, ours is faster."""
    points = found["points"]
    cells = list(dict.fromkeys(point["cell"] for point in points))
    shapes = list(dict.fromkeys(tuple(point["shape"]) for point in points))
    comparisons = [c for c in results.COMPARISONS if c.field == "ms"]
    colours = dict(zip(comparisons, matplotlib.color_sequences["tab10"], strict=False))
    figure = Figure(
        figsize=(4 * len(cells) + 2, 2 * (0.32 * len(shapes) + 1.2) + 0.6),
        layout="constrained",
    )
    panels = figure.subplots(
        len(contest.KINDS), len(cells), squeeze=False, sharey=True, sharex="row"
    )
    for row, kind in zip(panels, contest.KINDS, strict=True):
        for panel, cell in zip(row, cells, strict=True):
            of_cell = [point for point in points if point["cell"] == cell]
            for comparison, mark in zip(comparisons, MARKS, strict=True):
                drawn = results.ratios(of_cell, comparison, kind)
                if kind in comparison.kinds and drawn:
                    panel.plot(
                        list(drawn.values()),
                        [shapes.index(shape) for _, shape in drawn],
                        mark,
                        color=colours[comparison],
                        alpha=0.8,
                        label=comparison.label,
                    )
            panel.axvline(1, color="black", linewidth=1)
            panel.set(title=f"{cell}: {TITLES[kind]}", xscale="log")
            panel.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
            panel.grid(alpha=0.3)
        row[0].set_yticks(
            range(len(shapes)), [" ".join(map(str, shape)) for shape in shapes]
        )
        row[0].set_ylabel("T B I H")
        row[0].invert_yaxis()
        row[len(row) // 2].set_xlabel("time of jaxrnn / time of the other, log scale")
    legend = {}
    for panel in panels.flat:
        legend |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=4)
    facts = found["machine"]
    figure.suptitle(
        f"jaxrnn against … ({facts['processor']}, {facts['cores']} cores, float32)"
    )
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plot", description=__doc__
    )
    parser.add_argument("results", type=Path, help="what `benchmarks.run` wrote")
    parser.add_argument(
        "image", type=Path, nargs="?", help="default: beside it, as PNG"
    )
    arguments = parser.parse_args(argv)
    image = arguments.image or arguments.results.with_suffix(".png")
    draw(json.loads(arguments.results.read_text())).savefig(image, dpi=150)
    print(image)


if __name__ == "__main__":
    main()
