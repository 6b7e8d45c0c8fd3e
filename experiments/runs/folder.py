"""A run's folder: its config, versions, metrics, and its results or its failure."""

import importlib.metadata
import json
import math
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from experiments.config.load import ConfigError, dump_config

PACKAGES = ("jaxrnn", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")
CONFIG, RESULTS, FAILED = "config.json", "results.json", "failed.json"


class Outcome(NamedTuple):
    """How a run ended."""

    folder: Path | None
    """None if the run could not begin."""
    results: dict[str, float | None]
    """Empty if the run failed. None for what is not finite."""
    error: str = ""
    """Why the run failed."""


class Run:
    """A new folder `<root>/<name>-<date>-<time>`, and what is written into it.

    It holds `config.json`, `versions.json`, `metrics.jsonl` (one object per line, each
    with its step and the seconds since the start) and what the task adds; in the end
    `results.json`, or `failed.json` with the reason.
    """

    def __init__(self, root: Path, name: str, config: msgspec.Struct) -> None:
        self.folder = new_folder(root, f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
        self.started = time.monotonic()
        self.config = config
        self.write(CONFIG, dump_config(config))
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        versions["python"] = platform.python_version()
        versions["arguments"] = shlex.join(sys.argv[1:])
        self.write_json("versions.json", versions)

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2) + "\n")

    def write_results(self, results: dict[str, float]) -> dict[str, float | None]:
        """Writes `results.json`, with the seconds of the run. Returns what it holds."""
        written = _finite(results | {"seconds": round(self.seconds, 1)})
        self.write_json(RESULTS, written)
        return written

    def write_failure(self, reason: str) -> None:
        """Marks the run as failed."""
        self.write_json(FAILED, {"error": reason})

    def log(self, step: int, **metrics: float) -> None:
        """Appends a line to `metrics.jsonl`, at once, so that it survives a crash.

        A value that is not finite becomes null, because JSON has no NaN.
        """
        line = {"step": step, "seconds": round(self.seconds, 3)} | _finite(metrics)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Returns all lines so far."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]


def new_folder(root: Path, name: str) -> Path:
    """Makes `root/name`, or `name-2`, `name-3`, …: no run writes over another.

    Raises:
      ConfigError: if no folder can be made there.
    """
    number = 1
    try:
        root.mkdir(parents=True, exist_ok=True)
        while True:
            folder = root / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot make the folder {root / name}: {reason}. Give another with --runs."
        ) from None


def failure(folder: Path) -> str:
    """Returns why a run failed, or nothing."""
    try:
        reason = json.loads((folder / FAILED).read_text(encoding="utf-8"))["error"]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        return f"{FAILED} cannot be read"
    return str(reason)


def latest(root: Path, needs: str = "") -> Path:
    """Returns the newest run in `root` that ended well and left the file `needs`.

    Raises:
      ConfigError: if there is none.
    """
    done = [p.parent for p in root.glob(f"*/{RESULTS}") if (p.parent / needs).exists()]
    if not done:
        raise ConfigError(
            f"no finished run of the kind that is needed is in {root}. Give the folder "
            "of a run, or make one with `python -m experiments.run`."
        )
    return max(done, key=lambda folder: (folder / RESULTS).stat().st_mtime)


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in metrics.items()}
