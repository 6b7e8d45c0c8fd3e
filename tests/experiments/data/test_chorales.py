"""Pieces as the keys that sound at each quarter note."""

import numpy as np
import pytest

from experiments import data
from experiments.data import chorales
from tests.experiments.data.test_musicxml import DIVISIONS, GOOD, note, packed, score


def write(folder, **files):
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return str(folder)


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    high = score([DIVISIONS + note("C", 4, 8)])
    path = write(tmp_path, b_mxl=packed(GOOD), a_musicxml=high, c_txt=b"no music")
    keys, lengths, source = data.load_chorales(path)
    assert keys.dtype == np.uint8 and keys.shape == (1 + 3, 88)
    np.testing.assert_array_equal(lengths, [1, 3])
    # The highest key, then middle C, and then an A of one and a half steps.
    assert [np.flatnonzero(step).tolist() for step in keys] == [[87], [39], [48], [48]]
    assert source.endswith("2 pieces, 4 quarter notes.")
    alone = data.load_chorales(str(tmp_path / "b.mxl"))
    np.testing.assert_array_equal(alone.keys, keys[1:])


def test_what_begins_between_two_steps_is_not_there(tmp_path):
    """A step shows what sounds at its start."""
    short = score([DIVISIONS + note("C", 2) + note("D", 1) + note("E", 5)])
    keys, *_ = data.load_chorales(write(tmp_path, a_xml=short))
    assert [np.flatnonzero(step).tolist() for step in keys] == [[39], [43]]


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "must have files .mxl, .musicxml, .xml, but has none"),
        ({"a_xml": GOOD, "b_xml": b"<a/>"}, "b.xml must be a `score-partwise`"),
        ({"a_xml": score([DIVISIONS + note("", 4)])}, "a.xml must have notes"),
        ({"a_xml": score([DIVISIONS + note("C", 4, 0)])}, "21 to 108, but has 12"),
    ],
)
def test_files_that_cannot_be_played(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        data.load_chorales(write(tmp_path, **files))


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(chorales.musicxml, "LARGEST", 100)
    with pytest.raises(ValueError, match="must have at most 100 bytes, but has"):
        data.load_chorales(write(tmp_path, a_xml=GOOD))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.load_chorales(str(tmp_path / "none.mxl"))


@pytest.mark.network
def test_the_chorales_are_what_they_were(load_or_skip):
    load_or_skip(chorales.BACH)
    keys, lengths, _ = data.load_chorales()
    assert len(lengths) == 362 and lengths.sum() == len(keys) == 19714
    # Four voices, two of which may sing the same.
    voices = keys.sum(1)
    assert voices.max() == 4 and (voices >= 3).mean() > 0.95
    sounding = np.flatnonzero(keys.any(0)) + chorales.LOWEST
    assert (sounding[0], sounding[-1]) == (36, 81)
