"""The adjoint's profile in all runs of a sweep, before training and after it, side by side.

    python -m experiments.profiles SWEEP_DIR

A panel for each place on the sweep's first axis, a line for each on the second, dotted before
training: how much of the error is left at every lag, in the (geometric) mean over seeds. They are
`profiles.png` and `profiles.csv` in the sweep's folder. The tables tell the factor by which the
error changes per step in the long run, and the lag at which 1 % of it is left.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import sweep, trained
from experiments.figures import figure
from experiments.microscope import SHARE, Snapshot, snapshots
from experiments.record import write_csv

WHEN = "before training", "after training"


class Run(NamedTuple):
    """A run of the sweep: where it is in the grid, and its first and its last checkpoint."""

    place: tuple[str, ...]
    """The first value on each axis but the seed's."""
    snapshots: dict[str, Snapshot]
    """By when; before training alone, where there was none."""

    def results(self) -> dict[str, float]:
        """What of a profile is a number."""
        found = {}
        for when, snapshot in self.snapshots.items():
            found[f"factor per step, {when}"] = snapshot.horizon.rate
            found[f"lag where {SHARE:.0%} is left, or all of them, {when}"] = float(
                snapshot.reach
            )
        return found


def measure(folder: Path) -> tuple[list[str], list[Run]]:
    """The first key of each axis of a sweep, and what its runs show.

    Raises:
      OSError, ValueError: if it is no sweep's folder, or a run of it is not finished.
    """
    swept, runs = sweep.load(folder), []
    if len(swept.keys) > 2:
        raise ValueError(
            f"a sweep must have two axes at most beside the seed, not {swept.keys}."
        )
    for place, outcomes in swept.places().items():
        for outcome in outcomes:
            if not outcome.results:
                continue  # the run failed
            _, task, params = trained.load(folder / outcome.folder)
            ends = {step: params[step] for step in (min(params), max(params))}
            runs.append(
                Run(place, {WHEN[s.step > 0]: s for s in snapshots(task, ends)})
            )
    if not runs:
        raise ValueError(f"no run in {folder} came to its end.")
    return swept.keys, runs


def relative(of: Sequence[Snapshot]) -> np.ndarray:
    """What is left of the error at every lag `[T]`, in the geometric mean; 0 where one has none."""
    with np.errstate(divide="ignore"):
        logs = [np.log(s.profile) - np.log(s.profile[0]) for s in of]
    return np.exp(np.mean(logs, axis=0))


def plot(keys: Sequence[str], runs: Sequence[Run], path: Path) -> None:
    """A panel for each first value of a place, a line for each second; all of one scale."""
    name = keys[1].rpartition(".")[2] if len(keys) > 1 else ""
    firsts, seconds = (
        list(dict.fromkeys(run.place[i : i + 1] for run in runs)) for i in (0, 1)
    )
    groups: dict[tuple, list[Snapshot]] = {}
    for run in runs:
        for when, snapshot in run.snapshots.items():
            groups.setdefault((run.place[:1], run.place[1:2], when), []).append(
                snapshot
            )
    untrained = all(WHEN[1] not in run.snapshots for run in runs)
    with figure(path, len(firsts), (max(5.0, 3.2 * len(firsts)), 3.6)) as panels:
        for axes in panels:
            axes.set_yscale("log")
        for (first, second, when), group in groups.items():
            left = relative(group)
            solid = when == WHEN[1] or untrained
            panels[firsts.index(first)].plot(
                np.where((left > 0) & np.isfinite(left), left, np.nan),
                "-" if solid else ":",
                color=f"C{seconds.index(second)}",
                label=" ".join((name, *second))
                if second and solid
                else None
                if second
                else when,
            )
        low, high = zip(*(axes.get_ylim() for axes in panels), strict=True)
        for first, axes in zip(firsts, panels, strict=True):
            axes.axhline(SHARE, color="grey", linestyle=":", linewidth=1)
            axes.set(
                title=" ".join(first),
                xlabel="lag",
                ylim=(max(min(low), 1e-12), max(high)),
            )
        panels[0].set(ylabel="norm of the adjoint, relative")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.profiles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", type=Path, help="the folder of a sweep")
    given = parser.parse_args(argv)
    try:
        keys, runs = measure(given.sweep)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plot(keys, runs, given.sweep / "profiles.png")
    write_csv(
        given.sweep / "profiles.csv",
        [*keys, "run", "checkpoint", "lag", "norm"],
        (
            (*run.place, number, when, lag, norm)
            for number, run in enumerate(runs)
            for when, snapshot in run.snapshots.items()
            for lag, norm in enumerate(snapshot.profile)
        ),
    )
    places: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for run in runs:
        places.setdefault(run.place, []).append(run.results())
    for name in dict.fromkeys(name for run in runs for name in run.results()):
        values = {
            place: [r.get(name, np.nan) for r in of] for place, of in places.items()
        }
        print(f"\n{name}\n\n{sweep.table(keys, values, name)}")
    print(f"\nAll of it is in {given.sweep}/profiles.png and .csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
