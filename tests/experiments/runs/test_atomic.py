"""A file is there whole, or as it was."""

import os

import pytest

from experiments.runs import atomic


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch, call):
    path = tmp_path / "x.json"
    atomic.write(path, "before")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os if call == "fsync" else atomic.Path, call, full)
        with pytest.raises(OSError, match="No space left"):
            atomic.write(path, "after" * 1000)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["x.json"]
    atomic.write(path, b"after")
    assert path.read_text() == "after"
