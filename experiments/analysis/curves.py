"""How a loss falls in the runs of a sweep, beside what is known of it exactly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.analysis.figures import figure
from experiments.analysis.grid import load_sweep
from experiments.analysis.tables import write_csv
from experiments.config.load import ConfigError, load_config
from experiments.runs import folder as folders
from experiments.tasks import Config


class Curve(NamedTuple):
    """A result along a run."""

    place: tuple[str, ...]
    """The first value on each axis but the seed's."""
    steps: np.ndarray
    """Steps of training before each evaluation, `[N]`."""
    values: np.ndarray
    """`[N]`."""


class Found(NamedTuple):
    """The curves of a sweep."""

    keys: list[str]
    """The first key of each axis but the seed's."""
    curves: list[Curve]
    levels: Mapping[str, float]
    """Losses that are known exactly, as a config of the sweep gives them."""


def read(folder: Path, result: str) -> Found:
    """Returns the curves of the runs that ended well.

    Raises:
      ConfigError: if it is not a sweep's folder, has more than two axes beside the
        seed, or no run in it has this result.
    """
    swept, curves, levels = load_sweep(folder), [], {}
    swept.check_can_be_drawn()
    for place, points in swept.places().items():
        for point in points:
            if result not in point.results:
                continue
            run = folder / point.folder
            text = (run / folders.METRICS).read_text(encoding="utf-8")
            lines = [json.loads(line) for line in text.splitlines()]
            pairs = [(x["step"], x[result]) for x in lines if x.get(result) is not None]
            curves.append(Curve(place, *np.array(pairs, float).reshape(-1, 2).T))
            levels = load_config(Config, run / folders.CONFIG).levels()
    if not curves:
        raise ConfigError(f"no run in {folder} that ended well has `{result}`.")
    return Found(swept.keys, curves, levels)


def plot(found: Found, result: str, path: Path) -> None:
    """Draws a panel for each second value of a place, and a color for each first.

    There is a line for each run, and a dotted one for each level.
    """
    firsts = list(dict.fromkeys(curve.place[:1] for curve in found.curves))
    seconds = list(dict.fromkeys(curve.place[1:2] for curve in found.curves))
    size = (max(6.5, 3.6 * len(seconds) + 1), 4.0)
    with figure(path, len(seconds), size) as panels:
        # Draw the runs, and keep a line of each color for the legend.
        lines: dict[str, Any] = {}
        for curve in found.curves:
            first, second = curve.place[:1], curve.place[1:2]
            (line,) = panels[seconds.index(second)].plot(
                curve.steps, curve.values, color=f"C{firsts.index(first)}"
            )
            lines[" ".join(first)] = line

        # Draw the levels, and give all panels one scale.
        limits = [axes.get_ylim() for axes in panels]
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
        for second, axes in zip(seconds, panels, strict=True):
            for name, level in found.levels.items():
                axes.axhline(level, color="grey", linestyle=":", linewidth=1)
                at = (1, level)
                axes.annotate(
                    name, at, (3, 0), xycoords=axes.get_yaxis_transform(),
                    textcoords="offset points", va="center", color="grey",
                    fontsize="small",
                )  # fmt: skip
            title = f"{found.keys[1]} {second[0]}" if second else ""
            axes.set(title=title, xlabel="step", ylim=(low, high))
        panels[0].set(ylabel=result.replace("_", " "))
        if found.keys:
            beside = {"loc": "center left", "bbox_to_anchor": (1.12, 0.5)}
            named = lines.values(), lines.keys()
            panels[-1].legend(*named, **beside, fontsize="small", title=found.keys[0])


def write(found: Found, result: str, path: Path) -> None:
    """Writes all curves as CSV."""
    rows = []
    for number, curve in enumerate(found.curves):
        pairs = zip(curve.steps.astype(int), curve.values, strict=True)
        rows += [(*curve.place, number, step, value) for step, value in pairs]
    write_csv(path, [*found.keys, "run", "step", result], rows)
