"""TensorBoard shows the lines of metrics.jsonl, and none that were taken back."""

import json
import math
import struct
import sys

import msgspec
import pytest

from experiments import run
from experiments.runs import tensorboard
from experiments.runs.folder import Run
from tests.experiments.conftest import TINY, settings, stop_after


class Config(msgspec.Struct):
    pass


def events_of(file):
    """The events of a file, in order.

    Each is preceded by its length and a checksum of that, and followed by one of its
    own.
    """
    from tensorboardX.proto.event_pb2 import Event

    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def lines_of(folder):
    """The values as TensorBoard reads them, in the form of lines of metrics.jsonl.

    It reads the files by name. At the start of a session, it forgets what it has of
    the session's step and later ones.
    """
    lines = []
    for file in sorted((folder / "tensorboard").iterdir()):
        first, *events = events_of(file)
        assert first.file_version == "brain.Event:2"
        for event in events:
            if event.session_log.status == event.session_log.START:
                lines = [line for line in lines if line["step"] < event.step]
            else:
                values = {v.tag: v.simple_value for v in event.summary.value}
                lines.append({"step": event.step} | values)
    return lines


@pytest.fixture
def shown(tmp_path):
    made = Run.create(tmp_path, "toy", Config())
    made.board = tensorboard.Board(made.folder)
    yield made
    made.close()


def test_lines_are_there_at_once_and_those_taken_back_are_gone(shown):
    shown.log(1, loss=0.5, bits=0.25)
    shown.log(2, loss=0.125)
    assert lines_of(shown.folder) == shown.metrics()
    shown.rewind(shown.lines[:1])
    assert lines_of(shown.folder) == shown.metrics() and len(shown.metrics()) == 1
    shown.log(2, loss=math.inf)
    *_, last = lines_of(shown.folder)
    assert last["step"] == 2 and math.isnan(last["loss"])


def test_what_cannot_be_written_is_warned_of_once_and_written_later(shown, capsys):
    blocked = shown.folder / "tensorboard"
    blocked.touch()
    shown.log(1, loss=0.5)
    shown.log(2, loss=0.25)
    assert capsys.readouterr().err == f"warning: {blocked}: File exists\n"
    blocked.unlink()
    shown.log(3, loss=0.125)
    assert lines_of(shown.folder) == shown.metrics() and len(shown.metrics()) == 3


def test_a_run_that_goes_on(tmp_path, monkeypatch):
    command = ["configs/recall/gru.toml", *settings(*TINY, "lag=4"), "--tensorboard"]
    command += ["--runs", str(tmp_path), "--resume", "auto"]
    stop_after(monkeypatch, 15)
    assert run.main(command) == 75
    stop_after(monkeypatch, -1)
    assert run.main(command) == 0
    (folder,) = tmp_path.iterdir()
    text = (folder / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {name for line in lines for name in line} > {"loss", "accuracy"}
    rounded = [
        {name: struct.unpack("f", struct.pack("f", x))[0] for name, x in line.items()}
        for line in lines
    ]
    assert lines_of(folder) == rounded


def test_without_the_package_nothing_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    root = tmp_path / "runs"
    command = ["configs/recall/gru.toml", "--tensorboard", "--runs", str(root)]
    assert run.main(command) == 2
    assert "pip install --editable '.[tensorboard]'" in capsys.readouterr().err
    assert not root.exists()
