"""A run's folder: its config and versions, metrics as JSON lines, curves, results."""

import csv
import importlib.metadata
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from experiments import config, figures

PACKAGES = ("jaxrnn", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")


class Run:
    """A new folder `<root>/<name>-<date>-<time>`, and what is written into it.

    It holds `config.json`, `versions.json`, `metrics.jsonl` (one object per line, each with its
    step and the seconds since the start), `curves.png`, and what the task adds.
    """

    def __init__(self, root: Path, name: str, settings: msgspec.Struct) -> None:
        self.folder = new_folder(root / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
        self.started = time.monotonic()
        self.write("config.json", config.dump_json(settings))
        versions = {
            package: importlib.metadata.version(package) for package in PACKAGES
        }
        versions |= {
            "python": platform.python_version(),
            "arguments": shlex.join(sys.argv[1:]),
        }
        self.write_json("versions.json", versions)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2) + "\n")

    def write_results(self, results: dict[str, float]) -> None:
        """Leaves `results.json`, the seconds that the run took among them; null as in `log`."""
        self.write_json(
            "results.json", _finite(results | {"seconds": round(self.seconds, 1)})
        )

    def log(self, step: int, **metrics: float) -> None:
        """Appends a line to `metrics.jsonl`, at once: what happened before a crash is on disk.

        What is not finite is null: JSON has no NaN.
        """
        line = {"step": step, "seconds": round(self.seconds, 3)}
        line |= _finite(metrics)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines so far: none, before the first one is written."""
        file = self.folder / "metrics.jsonl"
        return (
            [json.loads(x) for x in file.read_text().splitlines()]
            if file.exists()
            else []
        )

    def plot(self, unit: str, *names: str) -> None:
        """Draws the metrics of these names against the step, as `curves.png`."""
        lines = self.metrics()
        with figures.figure(self.folder / "curves.png") as (axes,):
            for name in names:
                points = [
                    (m["step"], m[name]) for m in lines if m.get(name) is not None
                ]
                if points:
                    style = "-" if len(points) > 50 else "o-"
                    axes.plot(
                        *zip(*points, strict=True), style, markersize=4, label=name
                    )
            axes.set(xlabel="step", ylabel=unit, title=self.folder.name)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A line for every row, below the head."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in metrics.items()}


def new_folder(path: Path) -> Path:
    """Makes `path`, or `path-2`, `path-3`, … where it is taken: no run writes over another."""
    number = 1
    while True:
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
