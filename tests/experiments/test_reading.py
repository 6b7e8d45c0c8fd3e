"""Files of others: what is no file is not waited for, and may hold anything."""

import os
from pathlib import Path

import pytest

from experiments import data, reading
from experiments.config.load import ConfigError, load_config
from experiments.data.chorales import load_chorales
from experiments.data.mnist import load_mnist
from experiments.tasks import Config

READERS = {
    "text": data.load_texts,
    "vowels": data.load_vowels,
    "mnist": load_mnist,
    "chorales": load_chorales,
    "csv": lambda path: data.load_series("laser", path, ["x"]),
    "config": lambda path: load_config(Config, path),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_pipe_and_a_device_are_refused(tmp_path, read):
    """They may have no end, and a pipe may have nobody who writes into it."""
    os.mkfifo(tmp_path / "pipe_TRAIN.ts")
    for path in (tmp_path / "pipe_TRAIN.ts", Path("/dev/zero")):
        with pytest.raises((OSError, ValueError), match=str(path)):
            read(str(path))


@pytest.mark.parametrize("name", ["text", "vowels", "mnist", "chorales", "csv"])
def test_a_home_that_is_not_known(name):
    with pytest.raises(ValueError, match="begins with `~`, but no home"):
        READERS[name]("~no-such-user/x")


def test_json(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("\ufeff[1]", encoding="utf-8")
    assert reading.read_json(path) == [1]
    for content in (b"", b"\xff", b"[" * 100_000, b"9" * 5000, b"\0" * 1000):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            reading.read_json(path)
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(Config, "a\0b.toml")
