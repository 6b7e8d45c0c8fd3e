"""Checkpoints along a run: orbax writes them, a manifest beside each proves them.

`checkpoints/STEP` and `checkpoints/STEP.json` in the run's folder. Orbax does not
notice a flipped bit, trips over a file that is cut, and restores an array in another
dtype. So the manifest holds the SHA-256 of the files and of the arrays, and the arrays'
names, dtypes and shapes, and all of them are compared on the way back.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.data.fetch import digest

FOLDER = "checkpoints"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another network."""


def manifest_file(run: Path, step: int) -> Path:
    """Returns the path of the manifest of the checkpoint after this step."""
    return run / FOLDER / f"{step}.json"


def save(run: Path, step: int, tree: Any, config: dict[str, Any] | None = None) -> None:
    """Writes a tree of arrays into the run's folder, over an earlier one of this step.

    The old manifest goes first and the new one comes last: a run that is killed in
    between leaves a folder without one, never one that is wrong. `config` is kept
    there.
    """
    run = run.resolve()
    manifest_file(run, step).unlink(missing_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(run / FOLDER / str(step), tree, force=True)
    manifest = {
        "files": _digest_of_files(run / FOLDER / str(step)),
        "sha256": _digest(tree),
        "arrays": _arrays(tree),
        "config": config,
    }
    manifest_file(run, step).write_text(json.dumps(manifest, indent=1) + "\n")


def steps(run: Path) -> list[int]:
    """Returns the steps after which complete checkpoints were written, in order."""
    names = (path.stem for path in (run / FOLDER).glob("*.json"))
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


def read_config(run: Path, step: int) -> Any:
    """Returns the config that was saved with the checkpoint after this step."""
    return _manifest(run, step).get("config")


def restore(run: Path, like: Any, step: int | None = None) -> Any:
    """Reads a tree of arrays back.

    Args:
      run: the run's folder.
      like: a tree of the same structure, of arrays or of `jax.ShapeDtypeStruct`.
      step: the step after which it was saved. None: the last.

    Raises:
      CheckpointError: if there is no checkpoint, it does not fit `like`, or it is
        damaged.
    """
    run = run.resolve()
    last = last_step(run)
    if step not in (None, *steps(run)):
        raise CheckpointError(
            f"there is no complete checkpoint in {run} after step {step}, but after "
            f"{steps(run)}."
        )
    step = last if step is None else step
    path, manifest = run / FOLDER / str(step), _manifest(run, step)
    _check_arrays(path, manifest.get("arrays"), _arrays(like))
    if _digest_of_files(path) != manifest.get("files"):
        raise CheckpointError(
            f"the checkpoint {path} is damaged or incomplete: the SHA-256 of its files "
            f"is not that of {manifest_file(run, step).name}."
        )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(path, like)
    except Exception as error:  # orbax raises whatever its parsers happen to trip over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint {path} is damaged or incomplete: {reason}"
        ) from error
    if _digest(tree) != manifest.get("sha256"):
        raise CheckpointError(
            f"the checkpoint {path} is damaged: its SHA-256 is not that of "
            f"{manifest_file(run, step).name}."
        )
    return tree


def _manifest(run: Path, step: int) -> dict[str, Any]:
    file = manifest_file(run, step)
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{file} must hold an object, but got {manifest!r}.")
    return manifest


def _check_arrays(path: Path, saved: Any, asked: dict[str, str]) -> None:
    """Raises if the arrays have other names, shapes or dtypes than asked."""
    if saved == asked:
        return
    saved = saved if isinstance(saved, dict) else {}
    differences = [
        f"`{name}` is {saved.get(name, 'missing')} there "
        f"and {asked.get(name, 'unknown')} here"
        for name in {**asked, **saved}
        if saved.get(name) != asked.get(name)
    ]
    raise CheckpointError(
        f"the checkpoint {path} was written with other shapes or dtypes than the "
        f"config asks for: {', '.join(differences[:4])}."
    )


def _arrays(tree: Any) -> dict[str, str]:
    """Returns each array's dtype and shape, by name."""
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _digest_of_files(folder: Path) -> str:
    """Returns the SHA-256 of all names and bytes in a folder."""
    sha256 = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        sha256.update(f"{path.relative_to(folder)} {len(content)}\n".encode())
        sha256.update(content)
    return sha256.hexdigest()


def _digest(tree: Any) -> str:
    leaves = jax.tree.leaves_with_path(tree)
    return digest(
        {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    )
