"""No command ends in a traceback, whatever the arguments, files and folders.

Each case is a command, its exit code, and words of its error, which names what is
wrong.
"""

import io
import os
import shutil
import sys

import pytest

from experiments import (
    commands,
    generate,
    microscope,
    profiles,
    run,
    sweep,
    truncation_bias,
)

LANGUAGE = "configs/shakespeare/shakespeare_lstm.toml"
RECALL = "configs/recall/gru.toml"


def refused(capsys, command, arguments, code, words):
    assert command.main([str(word) for word in arguments]) == code
    captured = capsys.readouterr()
    *notes, line = captured.err.splitlines()
    assert line.startswith("error: ") and words in line
    assert all(note.startswith("note: ") for note in notes)


@pytest.mark.parametrize(
    ("config", "setting", "words"),
    [
        (
            LANGUAGE,
            f"model.hidden_size={99999999999999999999}",
            "`model.hidden_size` must",
        ),
        (LANGUAGE, "window=1000000000000000", "`window` must be `int` <="),
        (RECALL, "lag=100000000", "Lower `optimizer.batch_size` or `lag`"),
        (RECALL, "symbols=1000000000", "Lower `symbols`"),
        (LANGUAGE, "model.hidden_size=1000000", "Lower `model.hidden_size`"),
        (LANGUAGE, "optimizer.batch_size=100000000", "Lower `optimizer.batch_size`"),
        (LANGUAGE, "data.path=\udcff", "`data.path` must be UTF-8 text"),
        (LANGUAGE, "model.cell=vanilla", "`model.cell` must be one of `elman`"),
        (RECALL, "sample_length=3", "unknown key `sample_length`"),
    ],
)
def test_settings(tmp_path, capsys, config, setting, words):
    arguments = [config, "--set", setting, "--runs", tmp_path / "runs"]
    refused(capsys, run, arguments, 2, words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [run, sweep])
@pytest.mark.parametrize("root", ["file", "/proc/x"])
def test_runs_that_is_no_folder(tmp_path, capsys, command, root):
    (tmp_path / "file").touch()
    small = ["--set", "lag=4", "--set", "optimizer.steps=0", "--runs", tmp_path / root]
    refused(capsys, command, [RECALL, *small], 2, "cannot make the folder")


@pytest.mark.parametrize(
    ("content", "setting", "words"),
    [
        (
            b"\x89PNG\r\n\x1a\n\0",
            "window=2",
            "text.txt must be text, but has the control",
        ),
        ("à propos".encode("latin-1"), "window=2", "text.txt must be text in UTF-8"),
        (b"abcd" * 3500, "window=1000000", "`window` must be at most 555"),
        (b"", "window=2", "must hold text, but is empty"),
        (None, "window=2", "no text at"),
        (b"abcd", "data.path=/dev/zero", "must be a file or a directory"),
        (b"abcd", "data.path=/proc/self/mem", "cannot read the text /proc/self/mem"),
    ],
)
def test_texts(tmp_path, capsys, content, setting, words):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    texts = ["--set", f"data.path={path}", "--set", setting]
    runs = tmp_path / "runs"
    refused(capsys, run, [LANGUAGE, *texts, "--runs", runs], 1, words)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("cut", "there is no whole checkpoint"),
        ("manifest", "there is no whole checkpoint"),
        ("vocabulary", "vocabulary.json in "),
        ("config", "`model.hidden_size` was 16 and is 32"),
        ("checkpoints", "there is no complete checkpoint"),
        ("folder", "cannot read the config"),
    ],
)
@pytest.mark.parametrize("command", [generate, microscope, truncation_bias])
def test_runs_that_are_broken(language_run, tmp_path, capsys, command, damage, words):
    folder = shutil.copytree(language_run, tmp_path / "run")
    (folder / "checkpoints" / "abc").mkdir()  # not one of ours
    if damage == "cut":
        for path in (folder / "checkpoints").rglob("params.safetensors"):
            path.write_bytes(path.read_bytes()[:100])
    elif damage == "manifest":
        for path in (folder / "checkpoints").rglob("manifest.json"):
            path.write_text("{")
    elif damage == "vocabulary":
        (folder / "vocabulary.json").write_text("[1, 2, 300]")
    elif damage == "config":
        text = (folder / "config.json").read_text()
        edited = text.replace('"hidden_size": 16', '"hidden_size": 32')
        (folder / "config.json").write_text(edited)
    else:
        shutil.rmtree(folder / "checkpoints" if damage == "checkpoints" else folder)
    short = ["--length", "16", "--sequences", "2", "--warm", "8"]
    arguments = [folder, *short] if command is truncation_bias else [folder]
    refused(capsys, command, arguments, 2, words)


@pytest.mark.parametrize("command", [generate, microscope, truncation_bias, profiles])
def test_what_is_no_run(tmp_path, capsys, command):
    file = "sweep.json" if command is profiles else "config.json"
    refused(capsys, command, [tmp_path], 2, file)
    assert not list(tmp_path.iterdir())
    if command is not profiles:
        refused(capsys, command, ["--runs", tmp_path], 2, "no finished run")


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (generate, ["x", "--temperature", "-1"], "--temperature and --length must be"),
        (generate, ["x", "--temperature", "nan"], "--temperature and --length must be"),
        (generate, ["x", "--top-k", "0"], "--top-k must be at least 1"),
        (generate, ["x", "--top-p", "1.5"], "--top-p must be above 0 and at most 1"),
        (generate, ["x", "--length", "ten"], "invalid int value"),
        (generate, ["x", "--seed", "-1"], "--seed must be in"),
        (truncation_bias, ["x", "--length", "3"], "--length at least 4"),
        (sweep, [], "the following arguments are required"),
        (run, [RECALL, "--sett", "lag=3"], "unrecognized arguments"),
    ],
)
def test_arguments(capsys, command, arguments, words):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError("Unable to allocate 8 PiB"), 1, "Lower `model.hidden_size`"),
        (OverflowError("int too large"), 1, "too large for this machine"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            1,
            "`optimizer.batch_size`",
        ),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (FloatingPointError(), 1, "FloatingPointError"),
        (commands.ConfigError("`x` must be 3"), 2, "`x` must be 3"),
    ],
)
def test_errors_become_a_line(capsys, error, code, words):
    def body():
        raise error

    assert commands.carry_out(body, commands.FAILED) == code
    assert words in capsys.readouterr().err


def test_ctrl_c_and_a_reader_that_left(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    def left():
        raise BrokenPipeError

    assert commands.carry_out(interrupted) == 130

    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    assert commands.carry_out(left) == 0
    assert sys.stdout.name == os.devnull  # the interpreter flushes it once more
    sys.stdout.close()


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(KeyError):
        commands.carry_out(lambda: {}["x"])
