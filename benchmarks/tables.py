"""Tables of results: a head and rows of words, for the terminal and for Markdown."""

import statistics
from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table

from benchmarks.results import (
    COMPARISONS,
    Comparison,
    Point,
    cases,
    ratio,
    ratios,
    value,
)

Words = list[str]


def number(figure: float | None, form: str) -> str:
    """Formats a figure; a missing one is empty."""
    return "" if figure is None else format(figure, form)


def cells_in(points: Iterable[Point]) -> Words:
    """Returns the cells, each once, in their order."""
    return list(dict.fromkeys(point["cell"] for point in points))


def summary(
    points: Sequence[Point], comparisons: Sequence[Comparison] = COMPARISONS
) -> tuple[Words, list[Words]]:
    """Returns the geometric means of our figures divided by theirs."""
    cells, rows = cells_in(points), []
    for comparison, kind in cases(comparisons):
        if not (found := ratios(points, comparison, kind)):
            continue
        every = [*found.values()]
        means = [statistics.geometric_mean(every), min(every), max(every)]
        row = [comparison.label, kind, *(number(mean, ".2f") for mean in means)]
        for cell in cells:
            of_cell = [r for (other, _), r in found.items() if other == cell]
            mean = statistics.geometric_mean(of_cell) if of_cell else None
            row.append(number(mean, ".2f"))
        rows.append([*row, str(len(every))])
    return ["against", "", "all", "best", "worst", *cells, "points"], rows


def shapes(
    points: Sequence[Point],
    cell: str,
    comparisons: Sequence[Comparison] = COMPARISONS,
) -> tuple[Words, list[Words]]:
    """Returns a row for each shape of a cell: our times, and the ratios."""
    of_cell = [point for point in points if point["cell"] == cell]
    used = [
        (comparison, kind)
        for comparison, kind in cases(comparisons)
        if comparison.label != "onnxruntime" and ratios(of_cell, comparison, kind)
    ]
    head = [
        "T B I H",
        "gradient ms, ours",
        "all cores",
        "% of peak",
        "forward ms, ours",
    ]
    head += [f"{kind} / {comparison.label}" for comparison, kind in used]
    rows = []
    for point in of_cell:
        row = [
            " ".join(map(str, point["shape"])),
            number(value(point, "jaxrnn", "gradient"), ".3g"),
            number(value(point, "jaxrnn-cores", "gradient"), ".3g"),
            number(value(point, "jaxrnn", "gradient", "share"), ".0%"),
            number(value(point, "jaxrnn", "forward"), ".3g"),
        ]
        figures = [ratio(point, comparison, kind) for comparison, kind in used]
        rows.append(row + [number(figure, ".2f") for figure in figures])
    return head, rows


def contestants(point: Point) -> Table:
    """Returns a point's table: medians, quartiles, ratios to jaxrnn, memory, notes."""
    main, *others = point["peak_gflops"]
    long = main == "parameters"
    unit, scale = ("µs a step", 1e3 / point["shape"][0]) if long else ("ms", 1.0)
    head = ["", f"{main} {unit}", "quartiles", "×", "of peak"]
    rows, notes = [], []
    for name, record in point["contestants"].items():
        found = record.get(main, {})
        times = [f"{scale * ms:.2f}" for ms in found.get("ms") or ()] or [""] * 3
        size = found.get("temporary_bytes")
        row = [name + " *" * bool(record["unlike"]), times[1], " … ".join(times[::2])]
        row += [_times(point, name, main), number(found.get("share"), ".0%")]
        for kind in others:
            row += [number(value(point, name, kind), ".2f"), _times(point, name, kind)]
        row += [number(size and size / 2**20, ",.2f")]
        rows.append([*row, number(found.get("compile_seconds"), ".1f")])
        if record["unlike"]:
            notes.append(f"* {name}: {record['unlike']}")
        if "cosine" in record:
            errors = f"{record['cosine']:.6f}, relative error {record['error']:.1e}"
            notes.append(f"{name}: dR̂/dx against float32's: cosine {errors}")
    notes += [f"{name} is missing: {why}" for name, why in point["failed"].items()]
    for kind, peak in point["peak_gflops"].items():
        notes.append(f"peak, {kind}: a matrix product's {peak:.0f} GFLOP/s")
    head += [f"{kind} {unit}" for kind in others for unit in ("ms", "×")]
    title = f"{point['cell']}, T B I H = {' '.join(map(str, point['shape']))}"
    return terminal(title, [*head, "MiB", "compile s"], rows, "\n".join(notes))


def _times(point: Point, name: str, kind: str) -> str:
    """How many times as long as jaxrnn."""
    theirs, ours = value(point, name, kind), value(point, "jaxrnn", kind)
    return f"{theirs / ours:.2f}" if theirs and ours else ""


def terminal(
    title: str, head: Words, rows: Iterable[Words], caption: str | None = None
) -> Table:
    """Returns a table for the terminal."""
    table = Table(*head, title=title, caption=caption, title_justify="left")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    return table


def markdown(head: Words, rows: Iterable[Words]) -> Iterator[str]:
    """Yields the lines of a table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"
