"""Tables: CSV for programs, Markdown for readers."""

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes the head, and below it a line for every row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Returns a table whose first line is the head."""
    head, *rows = lines
    ruled = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)


def by_place(
    keys: Sequence[str], values: dict[tuple[str, ...], list[float]], name: str = ""
) -> str:
    """Returns a table of a result by place in a grid, over the values of all seeds.

    With two keys, the second makes the columns.
    """
    cells = {place: summary(found) for place, found in values.items()}
    if len(keys) != 2:
        rows = [[*place, cell] for place, cell in cells.items()]
        return markdown([[*keys, name], *rows])
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    lines = [[f"{keys[0]}, by {keys[1]}", *columns]]
    for row in rows:
        lines.append([row, *(cells.get((row, column), "") for column in columns)])
    return markdown(lines)


def summary(values: Sequence[float]) -> str:
    """Returns mean, standard deviation (if there are several) and failures."""
    finite = [value for value in values if math.isfinite(value)]
    failed = ""
    if len(finite) < len(values):
        failed = f"{len(values) - len(finite)} of {len(values)} failed"
    if not finite:
        return failed
    mean = statistics.fmean(finite)
    digits = 3
    if mean != 0 and abs(mean) < 0.1:
        digits = 2 - math.floor(math.log10(abs(mean)))
    text = f"{mean:.{digits}f}"
    if len(finite) > 1:
        text += f" ± {statistics.stdev(finite):.{digits}f}"
    return f"{text}, {failed}" if failed else text
