"""Images in CSV files are parsed strictly."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import data
from experiments.data import mnist

PIXELS = np.random.default_rng(0).integers(256, size=(3, 784))
LABELS = [7, 0, 9]
LINES = [",".join(map(str, [*p, d])) for p, d in zip(PIXELS, LABELS, strict=True)]
GOOD = "\n".join(LINES).encode()


@pytest.mark.parametrize("name", ["toy.csv", "toy.csv.gz"])
def test_images_are_read_row_by_row(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(GOOD) if name.endswith(".gz") else GOOD)
    images = data.load_mnist(str(path))
    assert images.pixels.dtype == np.uint8 and images.labels.dtype == np.int32
    np.testing.assert_array_equal(images.labels, LABELS)
    np.testing.assert_array_equal(images.pixels[:, 1, 2], PIXELS[:, 28 + 2])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "must hold an image a line, but is empty"),
        (GOOD + b"\n1,2", "line 4: must have 785 numbers.* but got 2"),
        (GOOD + b"\n\n" + GOOD, "line 4: must be whole numbers"),
        (b"label,1,2\n" + GOOD, "line 1: must be whole numbers .* got b'label,1,2'"),
        (GOOD.replace(b",7\n", b",nan\n"), "line 1: must be whole numbers"),
        (GOOD.replace(b",7\n", b",10\n"), "line 1: every digit must be at most 9"),
        (b"256" + GOOD[GOOD.index(b",") :], "line 1: every pixel .* 255, but got 256"),
        (b"-1" + GOOD[GOOD.index(b",") :], "line 1: must be whole numbers"),
        (b"1e2" + GOOD[GOOD.index(b",") :], "line 1: must be whole numbers"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "toy.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"toy.csv.* {message}"):
        data.load_mnist(str(tmp_path / "toy.csv"))


@pytest.mark.parametrize("packed", [b"", GOOD, gzip.compress(GOOD)[:-9]])
def test_a_file_that_is_not_packed_is_refused(tmp_path, packed):
    (tmp_path / "toy.csv.gz").write_bytes(packed)
    with pytest.raises(ValueError, match=r"toy.csv.gz"):
        data.load_mnist(str(tmp_path / "toy.csv.gz"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.load_mnist(str(tmp_path / "none.csv"))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3))
def test_a_damaged_file_is_read_or_refused(place, bytes_there):
    """Bytes in its midst that do not belong there: an image is never of half a line."""
    content = GOOD[:place] + bytes_there + GOOD[place + 1 :]
    try:
        arrays = mnist._parse(content, "toy.csv")
    except ValueError:
        return
    assert arrays["pixels"].shape[1:] == (28, 28)
    # At most one number was changed.
    assert (arrays["pixels"].reshape(-1, 784) != PIXELS).sum() <= 2


@pytest.mark.network
def test_the_images_are_what_they_were(load_or_skip):
    load_or_skip(mnist.MNIST_5K)
    images = data.load_mnist()
    np.testing.assert_array_equal(np.bincount(images.labels), 10 * [500])
    # Digits are centered, in a box of 20 by 20 pixels: the edge is empty.
    assert images.pixels[:, 10:18, 10:18].mean() > 60
    assert images.pixels[:, [0, -1]].mean() < 1
