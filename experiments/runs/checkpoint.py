"""Checkpoints along a run: plain files, and a manifest with the SHA-256 of each.

    checkpoints/STEP/params.safetensors     what `jaxrnn.load` reads
                     opt_state.safetensors
                     state.safetensors      the carried state, if there is one
                     manifest.json          the files' hashes, the config, the position

All are written into a folder of another name, put on disk, read back and compared; then
the folder gets its own name. A process that is killed at any moment leaves the earlier
checkpoints, and this one whole or not at all. The manifest has a hash of its own, so
whatever is changed in a checkpoint, or taken from another one, is found.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

import jaxrnn
from experiments import reading, screen
from experiments.runs import atomic

FOLDER, MANIFEST = "checkpoints", "manifest.json"
PARAMS = "params"
# The newest checkpoints are kept for those that turn out to be damaged; those of
# evaluations for the microscope, which needs no more than this many of them.
NEWEST, EVALUATED = 3, 20
# Checkpoints, and what a process that was killed in a save left of one.
OURS = re.compile(r"\d+|\.\d+\.(part|old)")

T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another network."""


class DamagedError(CheckpointError):
    """A checkpoint of which a file was lost or changed."""


def save(run: Path, step: int, trees: Mapping[str, Any], about: dict[str, Any]) -> None:
    """Writes a checkpoint into the run's folder, over an earlier one of this step.

    Args:
      run: the run's folder.
      step: the number of steps that were done.
      trees: trees of arrays, by the name of their file. None is not written.
      about: what else is needed, as JSON: the config, the position in the data.

    Raises:
      OSError: if it cannot be written. Earlier checkpoints are as they were.
      DamagedError: if it cannot be read back as it was written.
    """
    folder = run / FOLDER
    draft, old = folder / f".{step}.part", folder / f".{step}.old"
    try:
        _clear(draft, old)
        folder.mkdir(exist_ok=True)  # in the run's folder, which must be there
        draft.mkdir()
        # Write all files, and read them back.
        for name, tree in trees.items():
            if tree is not None:
                jaxrnn.save(draft / f"{name}.safetensors", tree)
        hashes = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
        body = json.dumps({"files": hashes, "about": about}, sort_keys=True)
        manifest = {"sha256": _hash(body.encode()), "body": body}
        atomic.write(draft / MANIFEST, json.dumps(manifest))
        for name, tree in trees.items():
            if tree is not None:
                _check_equal(draft / f"{name}.safetensors", tree)
        # Give the folder its name.
        target = folder / str(step)
        if target.exists():
            target.replace(old)
        draft.replace(target)
        atomic.sync_folder(folder)
    finally:
        with contextlib.suppress(OSError):
            _clear(draft, old)


def steps(run: Path) -> list[int]:
    """Returns the steps after which complete checkpoints were written, in order."""
    names = (path.parent.name for path in (run / FOLDER).glob(f"*/{MANIFEST}"))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def last_step(run: Path) -> int:
    """Returns the step of the last complete checkpoint.

    Raises:
      CheckpointError: if there is none.
    """
    there = steps(run)
    if not there:
        raise CheckpointError(
            f"there is no complete checkpoint in {run}. Give the folder of a run."
        )
    return there[-1]


def read_about(run: Path, step: int) -> dict[str, Any]:
    """Returns what was saved about the checkpoint after this step.

    Raises:
      DamagedError: if the manifest or another file of the checkpoint is damaged.
    """
    folder = run / FOLDER / str(step)
    try:
        manifest = reading.read_json(folder / MANIFEST)
        body = manifest["body"]
        if _hash(body.encode()) != manifest["sha256"]:
            raise ValueError("its SHA-256 is another")
        found = json.loads(body)
        for name, expected in found["files"].items():
            if _sha256(folder / name) != expected:
                raise ValueError(f"the SHA-256 of {name} is another")
        if found["about"]["step"] != step:
            raise ValueError(f"it is that of step {found['about']['step']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DamagedError(f"the checkpoint {folder} is damaged: {reason}.") from None
    return found["about"]


def restore(run: Path, name: str, like: Any, step: int) -> Any:
    """Returns a tree of the checkpoint after this step.

    Args:
      run: the run's folder.
      name: that of the tree, such as "params".
      like: a tree of the same structure, of arrays or of `jax.ShapeDtypeStruct`.
      step: one of `steps(run)`.

    Raises:
      DamagedError: if the checkpoint is damaged.
      CheckpointError: if there is none, or it does not fit `like`.
    """
    if step not in steps(run):
        raise CheckpointError(
            f"there is no complete checkpoint in {run} after step {step}, but after "
            f"{steps(run)}."
        )
    read_about(run, step)
    try:
        return jaxrnn.load(run / FOLDER / str(step) / f"{name}.safetensors", like)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"the config asks for another network: {error}") from None


def each_whole(run: Path, read: Callable[[int], T], newest_first: bool) -> Iterator[T]:
    """Yields what `read` returns for each step that has a whole checkpoint.

    A note on stderr names the damaged ones.

    Raises:
      CheckpointError: if none is whole.
    """
    there = steps(run)
    found = False
    for step in reversed(there) if newest_first else there:
        try:
            value = read(step)
        except DamagedError as error:
            screen.tell("note", f"{error} It is left out.")
            continue
        found = True
        yield value
    if not found:
        which = "whole" if there else "complete"
        raise CheckpointError(
            f"there is no {which} checkpoint in {run}. Give the folder of a run."
        )


def thin(run: Path, evaluated: Container[int]) -> None:
    """Deletes checkpoints that are no longer needed.

    The newest three stay, the newest at an evaluation, and of the other evaluations the
    first and every k-th, with the least k that leaves at most twenty.
    """
    there = steps(run)
    at_evaluations = [step for step in there if step in evaluated]
    stride = -(-len(at_evaluations) // EVALUATED) or 1
    kept = {*there[-NEWEST:], *at_evaluations[::stride], *at_evaluations[-1:]}
    for folder in (run / FOLDER).iterdir():
        if OURS.fullmatch(folder.name) and folder.name not in map(str, kept):
            # The manifest first: a folder without one is no checkpoint. What a killed
            # process left goes too.
            with contextlib.suppress(OSError):
                (folder / MANIFEST).unlink(missing_ok=True)
                _clear(folder)


def _check_equal(path: Path, tree: Any) -> None:
    """Raises unless a file holds the arrays of a tree, bit for bit."""
    try:
        found = jaxrnn.load(path, tree)
    except (ValueError, OSError) as error:
        raise DamagedError(f"{path} cannot be read back: {error}") from None
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True)
    if any(np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in pairs):
        raise DamagedError(f"{path} was read back as other numbers.")


def _clear(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
        else:  # somebody put a file there
            folder.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    return _hash(reading.read_bytes(path))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
