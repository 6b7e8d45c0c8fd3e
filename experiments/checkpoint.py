"""Checkpoints along a run: orbax writes them, atomically; a digest beside each says it is whole.

`checkpoints/STEP` and `checkpoints/STEP.sha256` in the run's folder. Orbax neither notices a
flipped bit in an array nor refuses to restore one in another dtype, so the SHA-256 of every name,
dtype, shape and byte is kept beside it and compared on the way back.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.data.fetch import digest

FOLDER = "checkpoints"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or not of the kind that is asked for."""


def digest_file(run: Path, step: int) -> Path:
    """Of the checkpoint after this step."""
    return run / FOLDER / f"{step}.sha256"


def save(run: Path, step: int, tree: Any) -> None:
    """Writes a tree of arrays into the run's folder, in the place of an earlier one of this step.

    The digest goes first and comes back last: a run that is killed in between leaves a folder
    without one, never one that lies.
    """
    run = run.resolve()
    digest_file(run, step).unlink(missing_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(run / FOLDER / str(step), tree, force=True)
    digest_file(run, step).write_text(_digest(tree) + "\n")


def steps(run: Path) -> list[int]:
    """After which steps there are checkpoints that were written to their end, in order."""
    return sorted(int(path.stem) for path in (run / FOLDER).glob("*.sha256"))


def restore(run: Path, like: Any, step: int | None = None) -> Any:
    """Reads a tree of arrays back.

    Args:
      run: the run's folder.
      like: a tree of the same structure, of arrays or of `jax.ShapeDtypeStruct`.
      step: after which it was saved; None: the last.

    Raises:
      CheckpointError: there is none, it does not fit `like`, or its digest is another.
    """
    run, there = run.resolve(), steps(run)
    if not there or step not in (None, *there):
        after = "" if step is None else f" after step {step}, but after {there}"
        raise CheckpointError(
            f"there is no whole checkpoint in {run}{after}: give the folder of a run."
        )
    step = there[-1] if step is None else step
    path = run / FOLDER / str(step)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(path, like)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint {path} does not fit: {error}") from error
    if _digest(tree) != digest_file(run, step).read_text().strip():
        raise CheckpointError(
            f"the checkpoint {path} is damaged, or was written with other shapes or dtypes: its "
            f"SHA-256 is not that of {digest_file(run, step).name}."
        )
    return tree


def _digest(tree: Any) -> str:
    leaves = jax.tree.leaves_with_path(tree)
    return digest(
        {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    )
