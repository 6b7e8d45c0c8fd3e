"""A screen that may vanish: what cannot be shown must not cost a run its results."""

import contextlib
import sys
from typing import Any

from rich.console import Console


class _Patient:
    """A stream whose reader may leave, as in `| head`, or whose disk may be full."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_screen() -> Console:
    """Returns a console on standard output that never raises."""
    patient: Any = _Patient(sys.stdout)
    return Console(file=patient, soft_wrap=True)
