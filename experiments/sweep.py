"""Runs configs over a grid of settings, one after the other, and tells the results in a table.

    python -m experiments.sweep configs/recall_lstm.toml --over lag="6 12" --over window="8 16"
    python -m experiments.sweep configs/recall/*.toml --over lag="10 20 40" --over seed="0 1 2"
    python -m experiments.sweep configs/windows_lstm.toml \\
        --over window,optimizer.batch_size="5,320 25,64 100,16 400,4" --over seed="0 1 2"

Settings of one `--over` move together, those of several make a product; several configs are the
first of them. Seeds are averaged over: the table gives the mean over them and, behind ±, their
standard deviation. With two settings beside the seed, the last one makes the columns.

The sweep's folder holds the runs, `sweep.json` that tells where each of them is in the grid, and
for every result that columns of numbers make a curve of, that curve, as RESULT.png.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import config, figures, run, schema
from experiments.record import new_folder

SEED, CONFIG = "seed", "config"
INDEX = "sweep.json"


class Axis(NamedTuple):
    """Keys of the config that move together, and the values that they take."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


class Outcome(NamedTuple):
    """A run: its settings, one `key=value, …` for each axis but the seed's, and its results."""

    place: tuple[str, ...]
    results: dict[str, float | None]
    """Empty if the run failed; None for what is not finite."""
    folder: str = ""
    """Of the run, in that of the sweep."""

    def value(self, name: str) -> float:
        """A result; NaN if there is none."""
        value = self.results.get(name)
        return math.nan if value is None else value


class Sweep(NamedTuple):
    """All runs of a sweep."""

    keys: list[str]
    """The first key of each axis but the seed's."""
    outcomes: list[Outcome]

    def places(self) -> dict[tuple[str, ...], list[Outcome]]:
        """The outcomes of all seeds, by the first value of each axis."""
        groups: dict[tuple[str, ...], list[Outcome]] = {}
        for outcome in self.outcomes:
            # `"window=5, optimizer.batch_size=320"` goes by its first value.
            firsts = (
                settings.split(", ")[0].partition("=")[2] for settings in outcome.place
            )
            groups.setdefault(tuple(firsts), []).append(outcome)
        return groups


def load(folder: Path) -> Sweep:
    """Reads a sweep's folder.

    Raises:
      OSError, ValueError: if it is none.
    """
    keys, outcomes = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return Sweep(keys, [Outcome(tuple(place), *rest) for place, *rest in outcomes])


def parse_axis(text: str) -> Axis:
    """`"a,b=1,2 3,4"` is a = 1, b = 2, and then a = 3, b = 4.

    Raises:
      ArgumentTypeError: if it is not of that form.
    """
    names, equals, choices = text.partition("=")
    keys = tuple(key.strip() for key in names.split(","))
    values = tuple(tuple(choice.split(",")) for choice in choices.split())
    if (
        not equals
        or not all(keys)
        or not values
        or {len(v) for v in values} != {len(keys)}
    ):
        raise argparse.ArgumentTypeError(
            f'must be as in "seed=0 1" or "window,optimizer.batch_size=5,320 25,64", not {text!r}'
        )
    return Axis(keys, values)


def table(
    keys: Sequence[str], values: dict[tuple[str, ...], list[float]], name: str = ""
) -> str:
    """A result by place, its values those of all seeds, as a table in Markdown."""
    said = {place: tell(of) for place, of in values.items()}
    if len(keys) == 2:
        rows, columns = (
            list(dict.fromkeys(firsts)) for firsts in zip(*said, strict=True)
        )
        lines = [[f"{keys[0]}, by {keys[1]}", *columns]]
        lines += [
            [row, *(said.get((row, column), "") for column in columns)] for row in rows
        ]
    else:
        lines = [[*keys, name], *([*place, value] for place, value in said.items())]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tell(values: Sequence[float]) -> str:
    """The mean and, if there are several, their standard deviation; how many are no number."""
    there = [value for value in values if math.isfinite(value)]
    failed = (
        f"{len(values) - len(there)} of {len(values)} failed"
        if len(there) < len(values)
        else ""
    )
    if not there:
        return failed
    mean = statistics.fmean(there)
    digits = (
        3 if abs(mean) >= 0.1 or mean == 0 else 2 - math.floor(math.log10(abs(mean)))
    )
    said = f"{mean:.{digits}f}"
    if len(there) > 1:
        said += f" ± {statistics.stdev(there):.{digits}f}"
    return f"{said}, {failed}" if failed else said


def plot(
    keys: Sequence[str], values: dict[tuple[str, ...], list[float]], path: Path
) -> bool:
    """Draws a result against the last axis, if it is one of numbers: is it?

    A line for each place on the first axis, through the means over seeds, and a point for each run.
    """
    try:
        numbers = {place: float(place[-1]) for place in values}
    except (ValueError, IndexError):
        return False
    if len(set(numbers.values())) < 2 or len(keys) > 2:
        return False
    lines = list(dict.fromkeys(place[:-1] for place in values))
    with figures.figure(path, size=(8.0, 4.0)) as (axes,):
        for number, line in enumerate(lines):
            mine, colour = (
                [place for place in values if place[:-1] == line],
                f"C{number}",
            )
            there = [[v for v in values[place] if math.isfinite(v)] for place in mine]
            means = [statistics.fmean(of) if of else math.nan for of in there]
            # Thinner and thinner, so that lines that lie on one another are all seen.
            width = {
                "linewidth": 1.2 + 0.8 * (len(lines) - 1 - number),
                "color": colour,
            }
            axes.plot(
                [numbers[p] for p in mine], means, **width, label=" ".join(line) or None
            )
            points = [
                (numbers[place], value) for place in mine for value in values[place]
            ]
            axes.plot(*zip(*points, strict=True), "o", markersize=4, color=colour)
        ticks = sorted(set(numbers.values()))
        if ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
            axes.set_xscale("log")
            axes.set_xticks([], minor=True)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(xlabel=keys[-1], ylabel=path.stem.replace("_", " "))
        if len(lines) > 1:
            beside = {
                "loc": "center left",
                "bbox_to_anchor": (1, 0.5),
                "fontsize": "small",
            }
            axes.legend(**beside, title=keys[0])
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 1 if a run failed or was interrupted; 2 if no run can be."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", nargs="+", help="TOML files, see configs/")
    parser.add_argument(
        "--over",
        metavar="KEYS=VALUES",
        type=parse_axis,
        action="append",
        default=[],
        help="keys of the config, and all that they are set to; may be given more than once",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="the same for all runs",
    )
    parser.add_argument(
        "--quick", action="store_true", help="as in experiments.run, of all runs"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="where the sweep's folder is made: runs/",
    )
    given = parser.parse_args(argv)
    keys = [key for axis in given.over for key in axis.keys]
    if len(set(keys)) < len(keys):
        parser.error("--over must name each key once.")
    # A table's place goes by these; what is alike would be averaged over as if it were seeds.
    firsts = [[value[0] for value in axis.values] for axis in given.over]
    for alike in ([Path(path).stem for path in given.configs], *firsts):
        if len(set(alike)) < len(alike):
            parser.error(
                f"configs, and the first values of --over, must differ: {alike}."
            )
    try:  # all that can be wrong with any of them, before the first
        first = run.QUICK if given.quick else ()
        trials = list(_trials(given.configs, given.over, [*first, *given.set]))
    except config.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    what = Path(
        os.path.commonpath([os.path.abspath(path) for path in given.configs])
    ).stem
    folder = new_folder(given.runs / f"{what}-sweep-{time.strftime('%Y%m%d-%H%M%S')}")
    keys = [axis.keys[0] for axis in given.over if axis.keys != (SEED,)]
    sweep = Sweep([CONFIG] * (len(given.configs) > 1) + keys, [])
    for number, (path, place, settings) in enumerate(trials):
        arguments = itertools.chain(*(["--set", setting] for setting in settings))
        code = run.main([path, *arguments, "--runs", str(folder / str(number))])
        if code == run.INTERRUPTED:
            break
        (mine,) = (folder / str(number)).iterdir()
        file, results = mine / "results.json", {}
        if not code:
            results = json.loads(file.read_text(encoding="utf-8"))
        sweep.outcomes.append(Outcome(place, results, str(mine.relative_to(folder))))
        (folder / INDEX).write_text(json.dumps(sweep, indent=1), encoding="utf-8")
    for name in dict.fromkeys(
        name for outcome in sweep.outcomes for name in outcome.results
    ):
        values = {
            place: [outcome.value(name) for outcome in of]
            for place, of in sweep.places().items()
            # Other tasks have other results; a run that failed had been going to have these.
            if any(name in outcome.results or not outcome.results for outcome in of)
        }
        print(f"\n{name}\n\n{table(sweep.keys, values, name)}")
        plot(sweep.keys, values, folder / f"{name}.png")
    print(f"\nAll of it is in {folder}")
    return (
        0
        if len(sweep.outcomes) == len(trials) and all(o.results for o in sweep.outcomes)
        else 1
    )


def _trials(
    paths: Sequence[str], axes: Sequence[Axis], settings: Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """Each run's config, its place in the grid, and its settings, which are found to be good."""
    for path, choice in itertools.product(
        paths, itertools.product(*(a.values for a in axes))
    ):
        places = {(CONFIG,): [f"{CONFIG}={Path(path).stem}"]} if len(paths) > 1 else {}
        chosen = {
            axis.keys: [
                f"{key}={value}" for key, value in zip(axis.keys, values, strict=True)
            ]
            for axis, values in zip(axes, choice, strict=True)
        }
        mine = [*settings, *itertools.chain(*chosen.values())]
        config.load(schema.Config, path, mine)
        places |= chosen
        yield (
            path,
            tuple(", ".join(p) for keys, p in places.items() if keys != (SEED,)),
            mine,
        )


if __name__ == "__main__":
    sys.exit(main())
