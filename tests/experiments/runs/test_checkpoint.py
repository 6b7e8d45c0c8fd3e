"""Checkpoints come back as they were saved, or not at all."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs import checkpoint
from experiments.runs.checkpoint import CheckpointError

TREE = {"params": [np.ones((2, 3), np.float32)], "ids": np.arange(3)}


def test_a_checkpoint_comes_back(tmp_path):
    later = jax.tree.map(lambda a: a + 1, TREE)
    like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, TREE))
    tree = jax.tree.map(jnp.asarray, TREE)
    checkpoint.save(tmp_path, 7, tree)
    jax.tree.map(
        np.testing.assert_array_equal, checkpoint.restore(tmp_path, like), tree
    )
    checkpoint.save(tmp_path, 7, jax.tree.map(jnp.asarray, later))  # over the first
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, like)["ids"], [1, 2, 3])
    checkpoint.save(tmp_path, 10, tree, {"a": 1})
    assert (
        checkpoint.steps(tmp_path) == [7, 10] and checkpoint.last_step(tmp_path) == 10
    )
    assert checkpoint.read_config(tmp_path, 10) == {"a": 1}
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, like)["ids"], [0, 1, 2])
    seventh = checkpoint.restore(tmp_path, like, 7)
    np.testing.assert_array_equal(seventh["ids"], [1, 2, 3])

    with pytest.raises(CheckpointError, match=r"after step 8, but after \[7, 10\]"):
        checkpoint.restore(tmp_path, like, 8)
    # As if it had been killed while it was saving.
    checkpoint.manifest_file(tmp_path, 10).unlink()
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, like)["ids"], [1, 2, 3])
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoint.restore(tmp_path / "elsewhere", like)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with one checkpoint, and what to restore it as."""
    run = tmp_path_factory.mktemp("run")
    tree = jax.tree.map(jnp.asarray, TREE)
    checkpoint.save(run, 3, tree)
    (run / "checkpoints" / "abc.json").touch()  # not one of ours
    return run, jax.eval_shape(lambda: tree)


def test_another_network_than_was_saved_is_refused_array_by_array(saved):
    run, like = saved
    other = {**like, "params": [jax.ShapeDtypeStruct((2, 4), jnp.float32)]}
    words = r"`\['params'\]\[0\]` is float32\[2, 3\] there and float32\[2, 4\] here"
    with pytest.raises(CheckpointError, match=words):
        checkpoint.restore(run, other)
    half = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), like)
    with pytest.raises(CheckpointError, match="other shapes or dtypes"):
        checkpoint.restore(run, half)
    with pytest.raises(CheckpointError, match=r"`\['more'\]` is missing there"):
        checkpoint.restore(run, {**like, "more": like["ids"]})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("manifest", "cannot read .*3.json"),
        ("list", "3.json must hold an object"),
        ("sha256", "is damaged: its SHA-256"),
        ("truncated", "is damaged or incomplete"),
        ("gone", "is damaged or incomplete"),
        ("metadata", "is damaged or incomplete"),
    ],
)
def test_a_damaged_checkpoint_is_refused(saved, damage, words):
    """Each file of it, cut or lost, in one sentence."""
    run, like = saved
    manifest = checkpoint.manifest_file(run, 3)
    data = run / "checkpoints" / "3"
    before = {p: p.read_bytes() for p in [manifest, *data.rglob("*")] if p.is_file()}
    assert checkpoint.steps(run) == [3]
    if damage == "manifest":
        manifest.write_text("{")
    elif damage == "list":
        manifest.write_text("[]")
    elif damage == "sha256":
        manifest.write_text(
            json.dumps(json.loads(manifest.read_text()) | {"sha256": 0})
        )
    elif damage == "truncated":
        for path, content in before.items():
            if path != manifest:
                path.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        for path in before:
            if path != manifest and path.name != "_METADATA":
                path.unlink()
    else:
        (data / "_METADATA").write_text("{")
    try:
        with pytest.raises(CheckpointError, match=words) as caught:
            checkpoint.restore(run, like)
        assert "\n" not in str(caught.value)
    finally:
        for path, content in before.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
