"""Grids of configs: the axes of a sweep, its trials, and the index of its folder."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from experiments import reading
from experiments.analysis.figures import figure
from experiments.config.load import ConfigError, load_config
from experiments.config.schema import Experiment
from experiments.runs import atomic

SEED, CONFIG = "seed", "config"
INDEX = "sweep.json"


class Axis(NamedTuple):
    """Keys of the config that move together, and the values that they take."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


class Trial(NamedTuple):
    """A run to come."""

    name: str
    place: tuple[str, ...]
    """`key=value, …` for each axis but the seed's."""
    config: Experiment


class Point(NamedTuple):
    """A run that has been made."""

    place: tuple[str, ...]
    """`key=value, …` for each axis but the seed's."""
    results: dict[str, float | None]
    """Empty if the run failed. None for what is not finite."""
    folder: str = ""
    """The run's folder, within that of the sweep. Empty if the run could not begin."""

    def value(self, name: str) -> float:
        """Returns a result, or NaN if there is none."""
        value = self.results.get(name)
        return math.nan if value is None else value


class Sweep(NamedTuple):
    """The runs of a sweep."""

    keys: list[str]
    """The first key of each axis but the seed's."""
    points: list[Point]
    """Those that have been run, in order."""
    planned: int = 0
    """The number of all runs."""

    @property
    def has_ended(self) -> bool:
        """Whether all runs ended well."""
        whole = len(self.points) == self.planned
        return whole and all(point.results for point in self.points)

    def check_can_be_drawn(self) -> None:
        """Raises `ConfigError` if there are more axes than a figure has room for."""
        if len(self.keys) > 2:
            raise ConfigError(
                "a sweep must have at most two axes beside the seed, but this one has "
                f"{self.keys}. Sweep over fewer."
            )

    def places(self) -> dict[tuple[str, ...], list[Point]]:
        """Returns the points of all seeds, by the first value of each axis."""
        groups: dict[tuple[str, ...], list[Point]] = {}
        for point in self.points:
            # `"window=5, optimizer.batch_size=320"` goes by its first value.
            firsts = (moved.split(", ")[0].partition("=")[2] for moved in point.place)
            groups.setdefault(tuple(firsts), []).append(point)
        return groups

    def results(self) -> dict[str, dict[tuple[str, ...], list[float]]]:
        """Returns the values of all seeds, by the result's name and by place."""
        names = dict.fromkeys(name for point in self.points for name in point.results)
        found: dict[str, dict[tuple[str, ...], list[float]]] = {}
        for name in names:
            found[name] = {}
            for place, points in self.places().items():
                # Other tasks have other results. A failed run would have had these.
                if any(name in point.results or not point.results for point in points):
                    found[name][place] = [point.value(name) for point in points]
        return found

    def save(self, folder: Path) -> None:
        """Writes the index."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        atomic.write(folder / INDEX, text)


def load_sweep(folder: Path) -> Sweep:
    """Reads a sweep's folder.

    Raises:
      ConfigError: if it is not one, or its index is damaged.
    """
    try:
        sweep = msgspec.json.decode(reading.read_bytes(folder / INDEX), type=Sweep)
        for number, point in enumerate(sweep.points):
            if len(point.place) != len(sweep.keys):
                raise ValueError(f"run {number} must have a place on every axis")
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {folder / INDEX}: {error}") from None
    return sweep


def parse_axis(text: str) -> Axis:
    """Returns an axis: `"a,b=1,2 3,4"` is a = 1, b = 2, and then a = 3, b = 4.

    Raises:
      ConfigError: if the text is not of that form.
    """
    names, equals, choices = text.partition("=")
    keys = tuple(key.strip() for key in names.split(","))
    values = tuple(tuple(choice.split(",")) for choice in choices.split())
    complete = equals and values and all(keys)
    if not complete or {len(value) for value in values} != {len(keys)}:
        raise ConfigError(
            '`--over` must be as in "seed=0 1" or "window,optimizer.batch_size=5,320 '
            f'25,64", but got {text!r}'
        )
    return Axis(keys, values)


def check_distinct(paths: Sequence[str], axes: Sequence[Axis]) -> None:
    """Raises if two places would look alike: they would be averaged over like seeds.

    Raises:
      ConfigError: with what is alike.
    """
    keys = [key for axis in axes for key in axis.keys]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"`--over` must name each key once, but got {keys}")
    firsts = [[value[0] for value in axis.values] for axis in axes]
    for names in ([Path(path).stem for path in paths], *firsts):
        if len(set(names)) < len(names):
            raise ConfigError(
                "the names of configs, and the first values of each `--over`, must "
                f"differ, but got {names}"
            )


def trials(
    cls: Any, paths: Sequence[str], axes: Sequence[Axis], overrides: Sequence[str]
) -> Iterator[Trial]:
    """Yields all runs of a sweep. Their configs have been read.

    Raises:
      ConfigError: if one of them is wrong.
    """
    for path, choice in itertools.product(
        paths, itertools.product(*(axis.values for axis in axes))
    ):
        name = Path(path).stem
        places, mine = [f"{CONFIG}={name}"] if len(paths) > 1 else [], [*overrides]
        for axis, values in zip(axes, choice, strict=True):
            moved = [f"{k}={v}" for k, v in zip(axis.keys, values, strict=True)]
            mine += moved
            if axis.keys != (SEED,):
                places.append(", ".join(moved))
        yield Trial(name, tuple(places), load_config(cls, path, mine))


def plot(
    keys: Sequence[str], values: dict[tuple[str, ...], list[float]], path: Path
) -> bool:
    """Draws a result against the last axis. Returns False if that has no numbers.

    There is a line for each place on the first axis, through the means over seeds, and
    a dot for each run.
    """
    # Find the numbers.
    try:
        numbers = {place: float(place[-1]) for place in values}
    except (ValueError, IndexError):
        return False
    if len(set(numbers.values())) < 2 or len(keys) > 2:
        return False
    lines = list(dict.fromkeys(place[:-1] for place in values))

    # Draw lines and dots.
    with figure(path, size=(8.0, 4.0)) as (axes,):
        for number, line in enumerate(lines):
            mine, color = [p for p in values if p[:-1] == line], f"C{number}"
            xs = [numbers[place] for place in mine]
            means = [_mean(values[place]) for place in mine]
            # Thinner and thinner, so that lines that lie on one another are all seen.
            width = 1.2 + 0.8 * (len(lines) - 1 - number)
            label = " ".join(line) or None
            axes.plot(xs, means, linewidth=width, color=color, label=label)
            for x, place in zip(xs, mine, strict=True):
                dots = values[place]
                axes.plot([x] * len(dots), dots, "o", markersize=4, color=color)

        # Name the ticks and the lines.
        ticks = sorted(set(numbers.values()))
        if ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
            axes.set_xscale("log")
            axes.set_xticks([], minor=True)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set(xlabel=keys[-1], ylabel=path.stem.replace("_", " "))
        if len(lines) > 1:
            beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            axes.legend(**beside, fontsize="small", title=keys[0])
    return True


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan
