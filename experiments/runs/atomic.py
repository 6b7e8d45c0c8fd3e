"""Files that are there whole, or not at all.

`jaxrnn.save` writes its file in the same way, for more than this needs: links, modes,
several processes at one file. It imports JAX, without which configs are checked.
"""

import os
from pathlib import Path


def write(path: Path, content: bytes | str) -> None:
    """Writes a file under a temporary name, and moves it to its own when it is on disk.

    A process that is killed at any moment, or a disk that fills up, leaves the earlier
    file as it was.

    Raises:
      OSError: if it cannot be written.
    """
    content = content.encode() if isinstance(content, str) else content
    # One process writes to a run's folder (`folder.Run`), so no other has this name.
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on disk. Only POSIX opens folders."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
