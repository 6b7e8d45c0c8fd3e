"""Checkpoints: orbax writes them, atomically; a digest beside them says that they are whole.

Orbax neither notices a flipped bit in an array nor refuses to restore one in another dtype, so
the SHA-256 of every name, dtype, shape and byte is kept beside it and compared on the way back.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.data.fetch import digest

FOLDER, DIGEST = "checkpoint", "checkpoint.sha256"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or not of the kind that is asked for."""


def save(run: Path, tree: Any) -> None:
    """Writes a tree of arrays into the run's folder, in the place of an earlier checkpoint.

    The digest goes first and comes back last: a run that is killed in between leaves a folder
    that says it is damaged, never one that lies.
    """
    run = run.resolve()
    (run / DIGEST).unlink(missing_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(run / FOLDER, tree, force=True)
    (run / DIGEST).write_text(_digest(tree) + "\n")


def restore(run: Path, like: Any) -> Any:
    """Reads a tree of arrays back.

    Args:
      run: the run's folder.
      like: a tree of the same structure, of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      CheckpointError: there is none, it does not fit `like`, or its digest is another.
    """
    run = run.resolve()
    if not (run / FOLDER).is_dir():
        raise CheckpointError(f"there is no checkpoint in {run}: give the folder of a run.")
    if not (run / DIGEST).is_file():
        raise CheckpointError(f"the checkpoint in {run} has no {DIGEST}: it was not finished.")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(run / FOLDER, like)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint in {run} does not fit: {error}") from error
    if _digest(tree) != (run / DIGEST).read_text().strip():
        raise CheckpointError(
            f"the checkpoint in {run} is damaged, or was written with other shapes or dtypes: its "
            f"SHA-256 is not that of {DIGEST}."
        )
    return tree


def _digest(tree: Any) -> str:
    leaves = jax.tree.leaves_with_path(tree)
    return digest({jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
