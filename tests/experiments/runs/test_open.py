"""A run's folder is opened as its run left it, or refused with what has changed."""

import json
import shutil

import numpy as np
import pytest

from experiments.config.load import ConfigError
from experiments.runs.checkpoint import CheckpointError
from experiments.runs.open import open_asked, open_run
from experiments.tasks.recall import Recall
from tests.experiments.conftest import TEXT


@pytest.fixture
def copied(language_run, tmp_path):
    return shutil.copytree(language_run, tmp_path / "run")


def edit(run, key, value):
    config = json.loads((run / "config.json").read_text())
    table = config
    *tables, name = key.split(".")
    for part in tables:
        table = table[part]
    table[name] = value
    (run / "config.json").write_text(json.dumps(config))


def test_all_checkpoints_are_there(language_run):
    run = open_run(language_run)
    params = run.checkpoints()
    assert list(params) == [0, 20, 40, 60]
    assert params[60].cell.w_hh.shape == (16, 64)
    np.testing.assert_array_equal(run.params().cell.b, params[60].cell.b)


def test_damaged_checkpoints_are_left_out_with_a_note(copied, capsys):
    (copied / "checkpoints" / "60" / "opt_state.safetensors").write_bytes(b"")
    run = open_run(copied)
    assert list(run.checkpoints()) == [0, 20, 40]
    np.testing.assert_array_equal(run.params().cell.b, run.checkpoints()[40].cell.b)
    assert "checkpoints/60 is damaged" in capsys.readouterr().err


def test_another_text_than_the_run_s_is_refused(copied, tmp_path):
    """As many characters, but other ones: shapes and digests would fit."""
    (tmp_path / "text.txt").write_text("efgh" * 1000)
    edit(copied, "data.path", str(tmp_path / "text.txt"))
    with pytest.raises(CheckpointError, match="Were they changed since"):
        open_run(copied).task()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.hidden_size", 8, "`model.hidden_size` was 16 and is 8. Restore it"),
        ("model.cell", "gru", "`model.cell` was 'lstm' and is 'gru'"),
        ("model.chrono", 9.0, "`model.chrono` was None and is 9.0"),
        ("embedding_size", 3, "`embedding_size` was 32 and is 3"),
    ],
)
def test_an_edited_config_is_refused_field_by_field(copied, key, value, words):
    edit(copied, key, value)
    with pytest.raises(CheckpointError, match=rf"was edited since the run: .*{words}"):
        open_run(copied)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read .*vocabulary.json"),
        ("", "cannot read .*vocabulary.json"),
        ('"abc"', "vocabulary.json in .* is damaged: it must be an ascending list"),
        ("[1, 2, 300]", "vocabulary.json in .* is damaged"),
        ("[98, 97]", "vocabulary.json in .* is damaged"),
        ("3", "vocabulary.json in .* is damaged"),
        ("10000000000", "vocabulary.json in .* is damaged"),
        ("[[1]]", "vocabulary.json in .* is damaged"),
        ("[null]", "vocabulary.json in .* is damaged"),
        ("[]", "vocabulary.json in .* is damaged"),
        ("[Infinity]", "vocabulary.json in .* is damaged"),
        ("[" * 100_000, "cannot read .*vocabulary.json: it is nested too deeply"),
        ("9" * 5000, "cannot read .*vocabulary.json: Exceeds the limit"),
    ],
)
def test_a_broken_vocabulary_is_refused(copied, content, words):
    (copied / "vocabulary.json").unlink()
    if content is not None:
        (copied / "vocabulary.json").write_text(content)
    with pytest.raises(CheckpointError, match=words):
        open_run(copied)


def test_a_text_of_the_same_characters_is_another(copied, tmp_path):
    """Nothing but the hash of the data tells."""
    (tmp_path / "text.txt").write_text("abdc" * 500)
    edit(copied, "data.path", str(tmp_path / "text.txt"))
    opened = open_run(copied)
    with pytest.raises(CheckpointError, match="the data are not those that"):
        opened.task()
    (tmp_path / "text.txt").write_text(TEXT)  # moved, and the same
    assert opened.task().data["sha256"] == opened.about["data"]["sha256"]


def test_a_run_that_has_not_ended_is_opened_with_a_note(copied, capsys):
    open_asked(copied, copied.parent)
    assert capsys.readouterr().err == ""
    (copied / "results.json").unlink()
    open_asked(copied, copied.parent)
    words = "has not ended. Its last checkpoint is the one after step 60."
    assert words in capsys.readouterr().err


def test_a_failed_run_is_reported_as_such(copied):
    (copied / "failed.json").write_text('{"error": "the loss is nan"}')
    open_run(copied)  # its checkpoints are still good
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(CheckpointError, match=r"the run .* failed: the loss is nan"):
        open_run(copied)


def test_a_run_of_another_task_and_no_run(language_run, tmp_path):
    with pytest.raises(ConfigError, match="must be a run of the task `recall`, but is"):
        open_run(language_run, Recall)
    with pytest.raises(ConfigError, match=r"cannot read the config .*config.json"):
        open_run(tmp_path)
