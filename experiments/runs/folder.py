"""A run's folder: its config, provenance, metrics, and its results or its failure."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import msgspec

from experiments import reading
from experiments.config.load import ConfigError, dump_config
from experiments.runs import atomic
from experiments.runs.tensorboard import Board

PACKAGES = ("jaxrnn", "jax", "jaxlib", "numpy", "optax", "safetensors")
CONFIG, RESULTS, FAILED = "config.json", "results.json", "failed.json"
METRICS, TIMES, PROVENANCE = "metrics.jsonl", "times.jsonl", "provenance.json"
# The process that writes to the folder holds LOCK, and OWNER names it.
LOCK, OWNER = ".lock", ".owner.json"


class Outcome(NamedTuple):
    """How a run ended."""

    folder: Path | None
    """None if the run could not begin."""
    results: dict[str, float | None]
    """Empty if the run failed. None for what is not finite."""
    error: str = ""
    """Why the run failed."""
    code: int = 0
    """The exit code of the command."""


class Run:
    """A folder `<root>/<name>-<date>-<time>`, and what is written into it.

    It holds `config.json`; `provenance.json`, with an entry for each process that
    worked on the run; `metrics.jsonl`, one object per line, each with its step;
    `times.jsonl`, with the seconds of the same steps, which no two runs share; and what
    the task adds. In the end there is `results.json`, or `failed.json` with the reason.

    One process at a time writes to a folder. When it has gone, however it ended, the
    next one may. Processes that train together have one that writes: `Followed`.
    """

    def __init__(self, folder: Path, config: msgspec.Struct) -> None:
        """Takes the folder.

        Raises:
          ConfigError: if another process works in it, or it cannot be written to.
        """
        self.folder, self.config = folder, config
        self.started = time.monotonic()
        self.lines: list[str] = []
        self.board: Board | None = None
        """Shows the metrics too, if there is one."""
        self._whole = True  # whether all lines are in the file
        self._lock = filelock.FileLock(folder / LOCK, timeout=0)
        try:
            self._lock.acquire()
            owner = {"process": os.getpid(), "host": socket.gethostname()}
            self.write_json(OWNER, owner)
        except filelock.Timeout:
            raise ConfigError(
                f"{_owner(folder)} is working in {folder}. Wait for it, or begin a run "
                "of its own with `--resume never`."
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot write to {folder}: {_reason(error)}.") from None

    @classmethod
    def create(cls, root: Path, name: str, config: msgspec.Struct) -> "Run":
        """Makes the folder of a new run.

        Raises:
          ConfigError: if no folder can be made there.
        """
        date = time.strftime("%Y%m%d-%H%M%S")
        run = cls(new_folder(root, f"{name}-{date}"), config)
        run.write(CONFIG, dump_config(config))
        return run

    def close(self) -> None:
        """Lets another process have the folder."""
        if self.board is not None:
            self.board.close()
        (self.folder / OWNER).unlink(missing_ok=True)
        self._lock.release()

    @property
    def seconds(self) -> float:
        """Seconds since this process began to work on the run."""
        return time.monotonic() - self.started

    def write(self, name: str, text: str) -> None:
        atomic.write(self.folder / name, text)

    def append(self, name: str, line: str) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as opened:
            opened.write(f"{line}\n")

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, json.dumps(value, indent=2) + "\n")

    def write_provenance(self, data: Mapping[str, str], machine: dict[str, Any]) -> str:
        """Adds an entry: versions, arguments, the hash of the data, the machine.

        Returns:
          What differs from the last entry and can change results, in words.
        """
        entries = self._provenance()
        decides = {"versions": versions(), "machine": machine, "data": dict(data)}
        about = {
            "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
            "host": socket.gethostname(),
            "arguments": shlex.join(sys.argv[1:]),
        }
        before = entries[-1] if entries else decides
        # Other data are refused before (`saving.restore`).
        then, now = (
            {key: entry.get(key) for key in ("versions", "machine")}
            for entry in (before, decides)
        )
        self.write_json(PROVENANCE, [*entries, decides | about])
        return ", ".join(differences(then, now))

    def _provenance(self) -> list[dict[str, Any]]:
        try:
            entries = reading.read_json(self.folder / PROVENANCE)
        except (OSError, ValueError):
            return []
        is_right = isinstance(entries, list) and all(
            isinstance(e, dict) for e in entries
        )
        return entries if is_right else []

    def write_results(self, results: dict[str, float]) -> dict[str, float | None]:
        """Writes `results.json`, with the seconds of the run. Returns what it holds."""
        written = _finite(results | {"seconds": round(self.seconds, 1)})
        self.write_json(RESULTS, written)
        self.clear_failure()
        return written

    def write_failure(self, reason: str) -> None:
        """Marks the run as failed."""
        self.write_json(FAILED, {"error": reason})

    def clear_failure(self) -> None:
        """Takes the mark away: the run goes on."""
        (self.folder / FAILED).unlink(missing_ok=True)

    def log(self, step: int, **metrics: float) -> None:
        """Appends a line to `metrics.jsonl`, at once, so that it survives a crash.

        A value that is not finite becomes null, because JSON has no NaN. A line that
        cannot be written, because the disk is full, is written with a later one.
        """
        line = json.dumps({"step": step} | _finite(metrics))
        self.lines.append(line)
        try:
            if self._whole:
                self.append(METRICS, line)
            else:
                self.rewind(self.lines)
        except OSError:
            self._whole = False
        if self.board is not None:
            self.board.show(self.lines)

    def log_times(self, step: int, **times: float) -> None:
        """Appends a line to `times.jsonl`, unless the disk is full."""
        seconds = {"seconds": round(self.seconds, 3)}
        with contextlib.suppress(OSError):
            line = json.dumps({"step": step} | seconds | _finite(times))
            self.append(TIMES, line)

    def rewind(self, lines: Sequence[str]) -> None:
        """Replaces `metrics.jsonl` by the lines that it had at a checkpoint."""
        self.lines = list(lines)
        self.write(METRICS, "".join(f"{line}\n" for line in lines))
        self._whole = True
        if self.board is not None:
            self.board.close()
            self.board.show(self.lines)

    def metrics(self) -> list[dict[str, Any]]:
        """Returns all lines so far."""
        return [json.loads(line) for line in self.lines]


class Followed(Run):
    """A run as the processes beside the one that writes have it: nothing is written."""

    def __init__(self, folder: Path, config: msgspec.Struct) -> None:
        """Leaves the folder to its process, which may be on another host."""
        self.folder, self.config = folder, config
        self.started = time.monotonic()
        self.lines = []
        self.board = None
        self._whole = True

    def close(self) -> None:
        pass

    def write(self, name: str, text: str) -> None:
        pass

    def append(self, name: str, line: str) -> None:
        pass

    def clear_failure(self) -> None:
        pass


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
        raise ConfigError(
            f"cannot make the folder {root / name}: {_reason(error)}. Give another "
            "with --runs."
        ) from None


def failure(folder: Path) -> str:
    """Returns why a run failed, or nothing."""
    try:
        reason = reading.read_json(folder / FAILED)["error"]
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


def results(folder: Path) -> dict[str, float | None]:
    """Returns the results of a run, or nothing if it did not end well.

    Raises:
      ConfigError: if they are there, but cannot be read.
    """
    file = folder / RESULTS
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, float | None])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file}: {_reason(error)}.") from None


def newest(
    root: Path,
    name: str,
    file: str = CONFIG,
    among: Callable[[Path], bool] = lambda _: True,
) -> Path | None:
    """Returns the newest folder in `root` of this name and a date that has the file.

    `among` says which folders count.
    """
    begun = re.compile(re.escape(name) + r"-\d{8}-\d{6}(-\d+)?")
    found = [
        path
        for path in root.glob(f"*/{file}")
        if begun.fullmatch(path.parent.name) and among(path.parent)
    ]
    made = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if made is None else made.parent


def unfinished(root: Path, name: str) -> Path | None:
    """Returns the newest run of this name, unless it ended well or there is none.

    Folders without a checkpoint do not count: their process was killed as it started.
    """
    from experiments.runs.checkpoint import steps  # needs JAX, and this module does not

    run = newest(root, name, among=lambda folder: bool(steps(folder)))
    return None if run is None or (run / RESULTS).exists() else run


def versions() -> dict[str, str]:
    """Returns the versions on which results depend."""
    packages = {name: _version(name) for name in PACKAGES}
    return packages | {"python": platform.python_version()}


def hash_alone(data: Mapping[str, str]) -> dict[str, str]:
    """Returns the hash of the data without their source: a file may have moved."""
    return {name: value for name, value in data.items() if name == "sha256"}


def differences(
    then: Any, now: Any, form: str = "`{}` was {!r} and is {!r}"
) -> list[str]:
    """Returns the form, filled in, for each value of nested tables that differs."""
    before, after = _flat(then), _flat(now)
    return [
        form.format(key, before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def _flat(table: Any, key: str = "") -> dict[str, Any]:
    """Returns the values of nested tables by dotted keys."""
    if not isinstance(table, dict):
        return {key: table}
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{key}.{name}" if key else name)
    return flat


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # imported from where it lies
        return "not installed"


def _owner(folder: Path) -> str:
    try:
        owner = reading.read_json(folder / OWNER)
        return f"process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in metrics.items()}
