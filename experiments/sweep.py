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
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import config, run, schema

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
    """The command. Returns 0; what the first run that failed returned; 2 if no run can be."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a TOML file, see configs/")
    parser.add_argument(
        "--over",
        metavar="KEYS=VALUES",
        type=parse_axis,
        action="append",
        default=[],
        help="keys of the config, and all that they are set to; may be given more than once",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="the same for all runs"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where the sweep's folder is made: runs/"
    )
    given = parser.parse_args(argv)
    keys = [key for axis in given.over for key in axis.keys]
    if len(set(keys)) < len(keys):
        parser.error("--over must name each key once.")
    try:  # all that can be wrong with any of them, before the first
        trials = list(_trials(given.config, given.over, given.set))
    except config.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = f"{Path(given.config).stem}-sweep-{time.strftime('%Y%m%d-%H%M%S')}"
    outcomes, code = [], 0
    for number, (place, settings) in enumerate(trials):
        arguments = itertools.chain(*(["--set", setting] for setting in settings))
        folder = given.runs / name / str(number)
        if code := run.main([given.config, *arguments, "--runs", str(folder)]):
            break
        (file,) = folder.glob("*/results.json")
        outcomes.append(Outcome(place, json.loads(file.read_text())))
    shown = [axis for axis in given.over if axis.keys != (SEED,)]
    for result in outcomes[0].results if outcomes else ():
        print(f"\n{result}\n\n{table(shown, outcomes, result)}")
    return code


def _trials(
    path: str, axes: Sequence[Axis], settings: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Each run's place in the table, and its settings, which are found to be good."""
    for choice in itertools.product(*(axis.values for axis in axes)):
        places = {
            axis.keys: [f"{key}={value}" for key, value in zip(axis.keys, values, strict=True)]
            for axis, values in zip(axes, choice, strict=True)
        }
        mine = [*settings, *itertools.chain(*places.values())]
        config.load(schema.Config, path, mine)
        yield tuple(", ".join(p) for keys, p in places.items() if keys != (SEED,)), mine


if __name__ == "__main__":
    sys.exit(main())
