"""Text from a language model: it goes on from the prompt, on any number of devices."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import generate
from tests.experiments.conftest import TEXT

ROOT = Path(__file__).parents[2]
COLD = ["--temperature", "0.2"]


def test_generation_goes_on_from_the_prompt(language_run, capsys):
    arguments = [str(language_run), "--prompt", "cdab", *COLD]
    for length in (0, 3, 64, 150):  # none, part of a piece, a piece, more
        assert generate.main([*arguments, "--length", str(length)]) == 0
        assert capsys.readouterr().out == "cdab" + TEXT[2 : 2 + length] + "\n"


def test_the_newest_finished_run_is_taken_and_a_prompt_that_it_knows(
    language_run, capsys
):
    arguments = ["--runs", str(language_run.parent), "--length", "5", *COLD]
    assert generate.main(arguments) == 0
    assert capsys.readouterr().out == "a" + TEXT[1:6] + "\n"


@pytest.mark.parametrize(
    "options", [("--top-k", "1"), ("--top-p", "1e-6"), ("--temperature", "0")], ids=str
)
def test_options_reach_the_sampler(language_run, capsys, options):
    """However hot, what leaves one character to draw gives the likeliest."""
    arguments = [str(language_run), "--length", "20", "--temperature", "1e4"]
    assert generate.main([*arguments, *options]) == 0
    assert capsys.readouterr().out == "a" + TEXT[1:21] + "\n"


@pytest.mark.parametrize("devices", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_a_run_on_two_devices_is_read_on_as_many_as_there_are(language_run, devices):
    """The run's batches of 8 were split over the tests' two devices."""
    arguments = [str(language_run), "--prompt", "cdab", "--length", "9", *COLD]
    command = [sys.executable, "-W", "error::UserWarning", "-m", "experiments.generate"]
    process = subprocess.run(
        [*command, *arguments],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": devices, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.stdout == "cdabcdabcdabc\n", process.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "abX"], "It knows b'abcd'"),
        (["--prompt", "ab\udcff"], r"not trained on, b'\xff'"),
        (["--prompt", ""], "at least one character"),
    ],
)
def test_a_prompt_that_cannot_be_read(language_run, capsys, arguments, words):
    assert generate.main([str(language_run), *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and not captured.out


def test_a_run_that_failed_is_used_with_a_note_or_refused(
    language_run, tmp_path, capsys
):
    run = shutil.copytree(language_run, tmp_path / "run")
    (run / "failed.json").write_text(json.dumps({"error": "the loss is nan"}))
    assert generate.main([str(run), "--length", "1"]) == 0
    assert "did not end well (the loss is nan). Its last" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints")
    (run / "vocabulary.json").unlink()
    assert generate.main([str(run)]) == 2
    assert f"the run {run} failed: the loss is nan" in capsys.readouterr().err
