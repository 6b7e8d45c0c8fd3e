"""Checkpoints come back as they were saved, or not at all."""

import json
import os
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.runs import checkpoint
from experiments.runs.checkpoint import CheckpointError, DamagedError

PARAMS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0,))}
PARAMS = jax.tree.map(lambda a: a.astype(np.float32), PARAMS)
OPT_STATE = jax.tree.map(np.asarray, optax.adam(1e-3).init(PARAMS))
TREES = {"params": PARAMS, "opt_state": OPT_STATE, "state": None}


def save(run, step, add=0, **about):
    trees = TREES | {"params": jax.tree.map(lambda a: a + add, PARAMS)}
    checkpoint.save(run, step, trees, {"step": step, "config": {}} | about)


def test_a_checkpoint_comes_back(tmp_path):
    save(tmp_path, 7, lines=["{}"])
    assert checkpoint.steps(tmp_path) == [7]
    assert checkpoint.read_about(tmp_path, 7)["lines"] == ["{}"]
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    for name, like in (("params", shapes), ("opt_state", OPT_STATE)):
        chex.assert_trees_all_equal(
            checkpoint.restore(tmp_path, name, like, 7), TREES[name]
        )
    files = {path.name for path in (tmp_path / "checkpoints" / "7").iterdir()}
    assert files == {"params.safetensors", "opt_state.safetensors", "manifest.json"}
    with pytest.raises(CheckpointError, match=r"after step 8, but after \[7\]"):
        checkpoint.restore(tmp_path, "params", PARAMS, 8)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoint.last_step(tmp_path / "elsewhere")


def test_a_later_one_of_the_same_step_replaces_it(tmp_path):
    save(tmp_path, 7)
    save(tmp_path, 7, add=1)
    found = checkpoint.restore(tmp_path, "params", PARAMS, 7)
    np.testing.assert_array_equal(found["w"], PARAMS["w"] + 1)
    assert os.listdir(tmp_path / "checkpoints") == ["7"]


@pytest.mark.parametrize("name", ["v[2]", "a\\b", "*?", "$x$", "ü", "a b", "-x"])
def test_any_name_of_a_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    save(tmp_path / name, 1)
    chex.assert_trees_all_equal(
        checkpoint.restore(tmp_path / name, "params", PARAMS, 1), PARAMS
    )
    assert os.listdir(tmp_path) == [name]


def test_another_network_than_was_saved_is_refused_array_by_array(tmp_path):
    save(tmp_path, 3)
    wider = {**PARAMS, "w": jax.ShapeDtypeStruct((2, 4), jnp.float32)}
    half = {**PARAMS, "w": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)}
    sgd = optax.sgd(1e-3, momentum=0.9).init(PARAMS)
    for name, like, words in (
        ("params", wider, r"'w' is float32 \(2, 3\), and float32 \(2, 4\)"),
        ("params", half, r"'w' is float32 \(2, 3\), and bfloat16"),
        ("params", {**PARAMS, "more": PARAMS["w"]}, "'more' is missing"),
        ("params", {"w": PARAMS["w"]}, "'b' is unknown"),
        ("opt_state", sgd, "ScaleByAdamState in the file, and TraceState"),
    ):
        with pytest.raises(CheckpointError, match=words):
            checkpoint.restore(tmp_path, name, like, 3)


def damages(content):
    """Ways to spoil a file: cut, emptied, lengthened, and a bit flipped, anywhere."""
    places = np.linspace(0, len(content) - 1, 12).astype(int)
    flipped = [bytearray(content) for _ in places]
    for n, place in enumerate(places):
        flipped[n][place] ^= 1 << n % 8
    half = content[: len(content) // 2]
    return [b"", half, content[:-1], content + b"\0", bytes(len(content)), *flipped]


def test_every_damage_of_every_file_is_found(tmp_path):
    save(tmp_path, 3)
    folder, count = tmp_path / "checkpoints" / "3", 0
    for path in folder.iterdir():
        content = path.read_bytes()
        for damaged in map(bytes, damages(content)):
            path.write_bytes(damaged)
            with pytest.raises(DamagedError, match="checkpoints/3 is damaged"):
                checkpoint.restore(tmp_path, "params", PARAMS, 3)
            count += 1
        path.unlink()
        with pytest.raises(CheckpointError):
            checkpoint.restore(tmp_path, "params", PARAMS, 3)
        path.mkdir()
        with pytest.raises(CheckpointError):
            checkpoint.restore(tmp_path, "params", PARAMS, 3)
        path.rmdir()
        path.write_bytes(content)
    assert count == 3 * 17
    chex.assert_trees_all_equal(
        checkpoint.restore(tmp_path, "params", PARAMS, 3), PARAMS
    )


@pytest.mark.parametrize("content", ["{", "[]", "null", "[" * 10000, '{"body": 3}'])
def test_a_manifest_that_is_something_else(tmp_path, content):
    save(tmp_path, 3)
    (tmp_path / "checkpoints" / "3" / "manifest.json").write_text(content)
    with pytest.raises(DamagedError, match="is damaged"):
        checkpoint.read_about(tmp_path, 3)


def test_a_file_or_a_whole_checkpoint_of_another_step_is_found(tmp_path):
    save(tmp_path, 3)
    save(tmp_path, 4, add=1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "3", folder / "7777")
    with pytest.raises(DamagedError, match="it is that of step 3"):
        checkpoint.restore(tmp_path, "params", PARAMS, 7777)
    shutil.copy(folder / "3" / "params.safetensors", folder / "4")
    with pytest.raises(DamagedError, match=r"SHA-256 of params.safetensors"):
        checkpoint.restore(tmp_path, "params", PARAMS, 4)


def test_damaged_ones_are_named_and_older_ones_taken(tmp_path, capsys):
    for step in (1, 2, 3):
        save(tmp_path, step)
    for step in (1, 3):
        (tmp_path / "checkpoints" / str(step) / "params.safetensors").write_bytes(b"")

    def read(step):
        return step, checkpoint.read_about(tmp_path, step)

    assert [n for n, _ in checkpoint.each_whole(tmp_path, read, True)] == [2]
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2 and "checkpoints/3 is damaged" in notes[0]
    (tmp_path / "checkpoints" / "2" / "params.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        next(checkpoint.each_whole(tmp_path, read, True))


@pytest.mark.parametrize("call", ["save", "replace", "write"])
def test_a_save_that_fails_leaves_the_earlier_ones(tmp_path, monkeypatch, call):
    save(tmp_path, 3)

    def fails(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if call == "save":
            patched.setattr(checkpoint.jaxrnn, "save", fails)
        elif call == "write":
            patched.setattr(checkpoint.atomic, "write", fails)
        else:
            patched.setattr(checkpoint.Path, "replace", fails)
        for step in (3, 4):
            with pytest.raises(OSError, match="No space left"):
                save(tmp_path, step, add=1)
    assert checkpoint.steps(tmp_path) == [3]
    chex.assert_trees_all_equal(
        checkpoint.restore(tmp_path, "params", PARAMS, 3), PARAMS
    )
    save(tmp_path, 4)
    assert os.listdir(tmp_path / "checkpoints") in (["3", "4"], ["4", "3"])


def test_a_folder_that_was_deleted_or_moved_is_not_made_again(tmp_path):
    """A checkpoint without its run's config is one that nobody can read."""
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "gone", 3)
    assert not (tmp_path / "gone").exists()


def test_what_lies_in_the_way_of_a_checkpoint(tmp_path):
    """Files and folders of its names, as others may have left them."""
    folder = tmp_path / "checkpoints"
    save(tmp_path, 0)
    for name in ("1", ".2.part", ".3.old"):
        (folder / name).mkdir()
    for name in ("2", ".3.part", "4", "notes"):
        (folder / name).touch()
    for step in (1, 2, 3):
        save(tmp_path, step)
        checkpoint.thin(tmp_path, range(9))
        chex.assert_trees_all_equal(
            checkpoint.restore(tmp_path, "params", PARAMS, step), PARAMS
        )
    assert sorted(os.listdir(folder)) == ["0", "1", "2", "3", "4", "notes"]


def test_numbers_that_come_back_as_others_are_no_checkpoint(tmp_path, monkeypatch):
    other = jax.tree.map(lambda a: a + 1, PARAMS)
    monkeypatch.setattr(
        checkpoint.jaxrnn, "load", lambda path, like: other if "w" in like else like
    )
    with pytest.raises(DamagedError, match="was read back as other numbers"):
        save(tmp_path, 3)
    assert checkpoint.steps(tmp_path) == []


def test_old_ones_are_thinned(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVALUATED", 4)
    evaluated = range(0, 100, 10)
    for step in range(0, 100, 5):
        save(tmp_path, step)
        checkpoint.thin(tmp_path, evaluated)
        there = checkpoint.steps(tmp_path)
        assert there[0] == 0 and there[-1] == step
        of_evaluations = [s for s in there if s in evaluated]
        assert len(of_evaluations) <= 4 + checkpoint.NEWEST
        assert max(s for s in range(step + 1) if s in evaluated) in there
    assert there[-3:] == [85, 90, 95]
    assert json.loads((tmp_path / "checkpoints/95/manifest.json").read_text())
