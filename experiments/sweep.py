"""Runs a config over a grid of settings, one after the other, and tells the results in a table.

    python -m experiments.sweep configs/recall_lstm.toml --over lag="6 12" --over window="8 16"
    python -m experiments.sweep configs/windows_lstm.toml \\
        --over window,optimizer.batch_size="5,320 25,64 100,16 400,4" --over seed="0 1 2"

Settings of one `--over` move together, those of several make a product. Seeds are averaged over:
the table gives the mean over them and, behind ±, their standard deviation. With two settings beside
the seed, the last one makes the columns.
"""

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import run

SEED = "seed"


class Axis(NamedTuple):
    """Keys of the config that move together, and the values that they take."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


class Outcome(NamedTuple):
    """A run: its settings, one `key=value, …` for each axis but the seed's, and its results."""

    place: tuple[str, ...]
    results: dict[str, float]


def parse_axis(text: str) -> Axis:
    """`"a,b=1,2 3,4"` is a = 1, b = 2, and then a = 3, b = 4.

    Raises:
      ArgumentTypeError: if it is not of that form.
    """
    names, equals, choices = text.partition("=")
    keys = tuple(key.strip() for key in names.split(","))
    values = tuple(tuple(choice.split(",")) for choice in choices.split())
    if not equals or not all(keys) or not values or {len(v) for v in values} != {len(keys)}:
        raise argparse.ArgumentTypeError(
            f'must be as in "seed=0 1" or "window,optimizer.batch_size=5,320 25,64", not {text!r}'
        )
    return Axis(keys, values)


def table(axes: Sequence[Axis], outcomes: Sequence[Outcome], name: str) -> str:
    """One result, by its name, as a table in Markdown."""
    cells: dict[tuple[str, ...], list[float]] = {}
    for outcome in outcomes:
        cells.setdefault(outcome.place, []).append(outcome.results[name])
    head = [" ".join(axis.keys[:1]) for axis in axes]
    if len(axes) == 2:
        rows, columns = (list(dict.fromkeys(places)) for places in zip(*cells, strict=True))
        lines = [[f"{head[0]}, by {head[1]}", *(_first(c) for c in columns)]]
        lines += [[_first(r), *(_said(cells.get((r, c), [])) for c in columns)] for r in rows]
    else:
        lines = [[*head, name], *([*map(_first, place), _said(v)] for place, v in cells.items())]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _first(place: str) -> str:
    """`"window=5, optimizer.batch_size=320"` goes by its first value."""
    return place.split(", ")[0].partition("=")[2]


def _said(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or what the first run that failed returned."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a TOML file, see configs/")
    parser.add_argument(
        "--over", metavar="KEY=VALUES", type=parse_axis, action="append", default=[]
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args(argv)
    shown = [axis for axis in given.over if axis.keys != (SEED,)]
    outcomes = []
    for choice in itertools.product(*(axis.values for axis in given.over)):
        places = [
            [f"{key}={value}" for key, value in zip(axis.keys, values, strict=True)]
            for axis, values in zip(given.over, choice, strict=True)
        ]
        settings = [*given.set, *itertools.chain(*places)]
        arguments = itertools.chain(*(["--set", setting] for setting in settings))
        before = set(given.runs.glob("*/results.json"))
        if code := run.main([given.config, *arguments, "--runs", str(given.runs)]):
            return code
        (file,) = set(given.runs.glob("*/results.json")) - before
        place = tuple(
            ", ".join(p) for axis, p in zip(given.over, places, strict=True) if axis in shown
        )
        outcomes.append(Outcome(place, json.loads(file.read_text())))
    for name in outcomes[0].results:
        print(f"\n{name}\n\n{table(shown, outcomes, name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
