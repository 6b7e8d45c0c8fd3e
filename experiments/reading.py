"""Files that somebody else wrote: there may be anything in them, and in their place."""

import json
import stat
from pathlib import Path
from typing import Any


def read_bytes(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
      OSError: if it cannot be read, or is a device or a pipe, which may have no end.
      ValueError: if no file can have this name.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(f"{path} must be a file, but is a device or a pipe")
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """Returns what a JSON file holds.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is not JSON in UTF-8, or is nested too deeply.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def user_path(path: str) -> Path:
    """Returns a path, in which `~` stands for a user's home.

    Raises:
      ValueError: if there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{path} begins with `~`, but no home of that user is known. Write it out."
        ) from None
