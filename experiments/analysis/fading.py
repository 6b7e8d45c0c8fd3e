"""How errors fade in all runs of a sweep, before training and after it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.analysis.figures import figure
from experiments.analysis.grid import load_sweep
from experiments.analysis.snapshots import SHARE, Snapshot, snapshots
from experiments.analysis.tables import write_csv
from experiments.config.load import ConfigError
from experiments.models.readout import check_one_layer
from experiments.runs.open import open_run

BEFORE, AFTER = "before training", "after training"


class Profiled(NamedTuple):
    """A run of the sweep: its place in the grid, its first and its last checkpoint."""

    place: tuple[str, ...]
    """The first value on each axis but the seed's."""
    snapshots: dict[str, Snapshot]
    """By BEFORE and AFTER. BEFORE alone, if no steps were trained."""

    def results(self) -> dict[str, float]:
        """Returns the numbers of each profile, by name."""
        found = {}
        for when, snapshot in self.snapshots.items():
            found[f"factor per step, {when}"] = snapshot.horizon.rate
            reach = float(snapshot.reach)
            found[f"lag where {SHARE:.0%} is left, or all lags, {when}"] = reach
        return found


def measure(folder: Path) -> tuple[list[str], list[Profiled]]:
    """Returns the first key of each axis of a sweep, and its runs but the failed ones.

    Raises:
      ConfigError: if it is not a sweep's folder, or has no run that ended well.
      CheckpointError, ValueError, OSError: if a run is damaged, or its data are
      missing.
    """
    swept, runs = load_sweep(folder), []
    swept.check_can_be_drawn()
    for place, points in swept.places().items():
        for point in points:
            if not point.results:
                continue
            run = open_run(folder / point.folder)
            check_one_layer(run.config.model, "the comparison of profiles")
            task, params = run.task(), run.checkpoints()
            ends = {step: params[step] for step in (min(params), max(params))}
            taken = snapshots(task, ends)
            named = {AFTER if s.step > 0 else BEFORE: s for s in taken}
            runs.append(Profiled(place, named))
    if not runs:
        raise ConfigError(f"no run in {folder} ended well.")
    return swept.keys, runs


def relative(taken: Sequence[Snapshot]) -> np.ndarray:
    """Returns the share of the error left at every lag `[T]`, in the geometric mean.

    It is 0 where one of the snapshots has none left.
    """
    with np.errstate(divide="ignore"):
        logs = [np.log(s.profile) - np.log(s.profile[0]) for s in taken]
    return np.exp(np.mean(logs, axis=0))


def plot(keys: Sequence[str], runs: Sequence[Profiled], path: Path) -> None:
    """Draws a panel for each first value of a place and a line for each second."""
    # Group the seeds.
    name = keys[1].rpartition(".")[2] if len(keys) > 1 else ""
    firsts = list(dict.fromkeys(run.place[:1] for run in runs))
    seconds = list(dict.fromkeys(run.place[1:2] for run in runs))
    groups: dict[tuple, list[Snapshot]] = {}
    for run in runs:
        for when, snapshot in run.snapshots.items():
            group = run.place[:1], run.place[1:2], when
            groups.setdefault(group, []).append(snapshot)
    untrained = all(AFTER not in run.snapshots for run in runs)

    # Draw a line for each group, dotted before training.
    with figure(path, len(firsts), (max(5.0, 3.2 * len(firsts)), 3.6)) as panels:
        for axes in panels:
            axes.set_yscale("log")
        for (first, second, when), group in groups.items():
            solid = when == AFTER or untrained
            label = None if second else when
            if second and solid:
                label = " ".join((name, *second))
            left = relative(group)
            panels[firsts.index(first)].plot(
                np.where((left > 0) & np.isfinite(left), left, np.nan),
                "-" if solid else ":",
                color=f"C{seconds.index(second)}",
                label=label,
            )

        # Give all panels one scale.
        limits = [axes.get_ylim() for axes in panels]
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
        for first, axes in zip(firsts, panels, strict=True):
            axes.axhline(SHARE, color="grey", linestyle=":", linewidth=1)
            axes.set(title=" ".join(first), xlabel="lag", ylim=(max(low, 1e-12), high))
        panels[0].set(ylabel="norm of the adjoint, relative")


def write(keys: Sequence[str], runs: Sequence[Profiled], path: Path) -> None:
    """Writes all profiles as CSV."""
    rows = []
    for number, run in enumerate(runs):
        for when, snapshot in run.snapshots.items():
            place = *run.place, number, when
            rows += [(*place, lag, norm) for lag, norm in enumerate(snapshot.profile)]
    write_csv(path, [*keys, "run", "checkpoint", "lag", "norm"], rows)


def by_result(
    runs: Sequence[Profiled],
) -> dict[str, dict[tuple[str, ...], list[float]]]:
    """Returns the numbers of all seeds, by the result's name and by place."""
    found: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for name in dict.fromkeys(name for run in runs for name in run.results()):
        found[name] = {}
        for run in runs:
            value = run.results().get(name, np.nan)
            found[name].setdefault(run.place, []).append(value)
    return found
