"""A run's metrics as TensorBoard reads them: event files in its folder.

The newest file has the lines of `metrics.jsonl` and nothing else. Where lines are taken
back, by a rollback or because a run goes on from a checkpoint, a new file begins with
all lines that stand, and tells TensorBoard to forget the files before it. These stay: a
TensorBoard that is reading a file waits for it forever once it is deleted.
"""

import contextlib
import importlib
import json
import math
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.config.load import ConfigError

FOLDER = "tensorboard"
# What TensorBoard knows an event file by, and the first event of each.
PREFIX, VERSION = "events.out.tfevents", "brain.Event:2"


def check_installed() -> None:
    """Raises if the package that writes the files is not installed.

    Raises:
      ConfigError: it names the extra that installs it.
    """
    try:
        importlib.import_module("tensorboardX")
    except ImportError:
        raise ConfigError(
            "`--tensorboard` needs the package tensorboardX, which is not installed. "
            "Install the extra: pip install --editable '.[tensorboard]'."
        ) from None


class Board:
    """The event files of one run."""

    def __init__(self, run: Path) -> None:
        """Takes the run's folder. Nothing is written yet."""
        # Imported by name, because type checkers must not need the package.
        self._record_writer = importlib.import_module("tensorboardX").RecordWriter
        self._messages: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self._folder = run / FOLDER
        self._file: Any = None
        self._shown = 0  # lines in the file
        self._warned = False

    def show(self, lines: Sequence[str]) -> None:
        """Writes the lines that are not in the file yet.

        If they cannot be written, because the disk is full, a later call begins anew,
        and a warning is printed once.
        """
        try:
            file = self._file or self._begin()
            for line in lines[self._shown :]:
                self._write(**_event_of(json.loads(line)))
                self._shown += 1
            file.flush()
        except OSError as error:
            self.close()
            if not self._warned:
                print(f"warning: {self._folder}: {error.strerror}", file=sys.stderr)
            self._warned = True

    def close(self) -> None:
        """Closes the file. The next one begins anew."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    def _begin(self) -> Any:
        """Opens a new file and returns it."""
        self._folder.mkdir(exist_ok=True)
        # Files are read in the order of their names.
        name = f"{PREFIX}.{time.time_ns()}.{socket.gethostname()}"
        self._file = self._record_writer(str(self._folder / name))
        self._shown = 0
        self._write(file_version=VERSION)
        # What the files before have of this step and later ones is forgotten.
        log = self._messages.SessionLog
        self._write(step=0, session_log=log(status=log.START))
        return self._file

    def _write(self, **event: Any) -> None:
        written = self._messages.Event(wall_time=time.time(), **event)
        self._file.write(written.SerializeToString())


def _event_of(line: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of metrics as fields of an event. A null was not finite."""
    step = line.pop("step")
    values = [
        {"tag": name, "simple_value": math.nan if value is None else value}
        for name, value in line.items()
    ]
    return {"step": step, "summary": {"value": values}}
