"""Short multivariate series of different lengths, to be classified: Japanese Vowels.

Nine speakers say /ae/. Each utterance is a series of 7 to 29 steps of 12 LPC cepstrum
coefficients, and the task is to recognize the speaker. M. Kudo, J. Toyama and M.
Shimbo, "Multidimensional Curve Classification Using Passing-Through Regions", Pattern
Recognition Letters 20 (1999), 1103-1111.

Any other data set in the `.ts` format of the UEA archive loads as well. Such a file is
comments (#), header lines (@) up to `@data`, and then one series a line: channels
separated by `:`, a channel's values by `,`, and the label last.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import reading
from experiments.data import fetch
from experiments.data.sequences import Classification, Sequences, pad


class _Series(NamedTuple):
    series: list[np.ndarray]  # [T, C] each
    labels: list[int]
    classes: tuple[str, ...]


def load_vowels(path: str = "") -> Classification:
    """Loads Japanese Vowels, or a dataset of the user's own.

    Args:
      path: a directory that holds one `*_TRAIN.ts` and its `*_TEST.ts`, or such a
        `*_TRAIN.ts` itself. The empty string stands for Japanese Vowels: 270 and 370
        series.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is not in the format (with its line), or the two do not agree
        about channels and classes; there are several `*_TRAIN.ts`.
      fetch.FetchError, fetch.HashError: Japanese Vowels could not be fetched.
    """
    if path:
        train_path, test_path = _find(reading.user_path(path))
        arrays = _pad(_read(train_path), _read(test_path))
    else:
        arrays = fetch.load(JAPANESE_VOWELS)
    train = Sequences(
        arrays["train_xs"], arrays["train_lengths"], arrays["train_labels"]
    )
    test = Sequences(arrays["test_xs"], arrays["test_lengths"], arrays["test_labels"])
    classes = tuple(str(name) for name in arrays["classes"])
    extent = f"{len(train.labels)} series to train on, {len(test.labels)} to test with"
    source = f"{path or 'Japanese Vowels'}: {extent}, {len(classes)} classes."
    return Classification(train, test, classes, source)


def _find(path: Path) -> tuple[Path, Path]:
    trains = sorted(path.glob("*_TRAIN.ts")) if path.is_dir() else [path]
    if len(trains) > 1:
        names = ", ".join(train.name for train in trains)
        raise ValueError(
            f"{path} must hold one `*_TRAIN.ts`, but has {names}. Give one's path."
        )
    if not trains or not trains[0].is_file():
        raise FileNotFoundError(f"no `*_TRAIN.ts` at {path}")
    (train,) = trains
    if not train.name.endswith("_TRAIN.ts"):
        raise ValueError(f"the path must be that of a `*_TRAIN.ts`, but got {path}")
    test = train.with_name(train.name.removesuffix("_TRAIN.ts") + "_TEST.ts")
    if not test.is_file():
        raise FileNotFoundError(f"{train} is there, but {test} is not")
    return train, test


def _read(path: Path) -> _Series:
    return _parse(reading.read_bytes(path), str(path))


def _parse(content: bytes, name: str) -> _Series:
    """Parses a `.ts` file strictly: a line that is not understood is refused."""
    # Comments may be in any encoding. The rest is ASCII, or is refused below.
    numbered = enumerate(content.decode(errors="replace").splitlines(), start=1)
    stripped = ((f"{name}, line {number}", line.strip()) for number, line in numbered)
    lines = (
        (where, line) for where, line in stripped if line and not line.startswith("#")
    )
    classes, channels = _parse_header(name, lines)
    series, labels = [], []
    for where, line in lines:  # goes on where the header ended
        *columns, label = line.split(":")
        channels = channels or max(1, len(columns))
        if len(columns) != channels:
            raise ValueError(
                f"{where}: must have {channels} channels, but got {len(columns)}"
            )
        if label.strip() not in classes:
            raise ValueError(
                f"{where}: the label must be one of {classes}, but got {label!r}"
            )
        series.append(_parse_channels(where, columns))
        labels.append(classes.index(label.strip()))
    if not series:
        raise ValueError(f"{name} must have a series after `@data`, but ends there")
    return _Series(series, labels, classes)


def _parse_header(
    name: str, lines: Iterator[tuple[str, str]]
) -> tuple[tuple[str, ...], int]:
    """Returns the classes and the number of channels, 0 if the header has none."""
    classes: tuple[str, ...] = ()
    channels = 0
    for where, line in lines:
        # Lines that change the meaning of the series count. The others describe them.
        key, *rest = line.split()
        match [key.lower(), *rest]:
            case ["@data"] if classes:
                return classes, channels
            case ["@data"]:
                raise ValueError(
                    f"{where}: `@classLabel true` must come before it, with the names"
                )
            case ["@classlabel", "true", *names] if names and len({*names}) == len(
                names
            ):
                classes = tuple(names)
            case ["@dimensions", count] if count.isdecimal() and int(count) > 0:
                channels = int(count)
            case [("@timestamps" | "@missing"), "false"]:
                pass
            case [
                ("@data" | "@classlabel" | "@dimensions" | "@timestamps" | "@missing"),
                *_,
            ]:
                raise ValueError(
                    f"{where}: must read `@data`, `@classLabel true` with distinct "
                    "names, `@dimensions` with a number, `@timeStamps false` or "
                    f"`@missing false`, but got `{line}`"
                )
            case _ if not key.startswith("@"):
                raise ValueError(
                    f"{where}: a header line must start with `@`, but got `{line}`"
                )
    raise ValueError(f"{name} must have a line `@data`, but has none")


def _parse_channels(where: str, columns: list[str]) -> np.ndarray:
    try:
        values = [[float(value) for value in column.split(",")] for column in columns]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    lengths = sorted({len(column) for column in values})
    if len(lengths) > 1:
        raise ValueError(
            f"{where}: channels must be of the same length, but got {lengths}"
        )
    with np.errstate(over="ignore"):  # it is refused just below
        xs = np.array(values).T.astype(np.float32)
    if not np.isfinite(xs).all():
        raise ValueError(f"{where}: every value must be finite, as a float32")
    return xs


def _pad(train: _Series, test: _Series) -> fetch.Arrays:
    if train.classes != test.classes:
        raise ValueError(
            f"train and test must have the same classes, but got {train.classes} and "
            f"{test.classes}"
        )
    channels = train.series[0].shape[1]
    if test.series[0].shape[1] != channels:
        raise ValueError(
            f"train and test must have the same channels, but got {channels} and "
            f"{test.series[0].shape[1]}"
        )
    longest = max(len(xs) for xs in train.series + test.series)
    arrays: fetch.Arrays = {"classes": np.array(train.classes)}
    for part, (series, labels, _) in {"train": train, "test": test}.items():
        lengths = np.array([len(xs) for xs in series], np.int32)
        arrays[f"{part}_xs"] = pad(np.concatenate(series), lengths, longest)
        arrays[f"{part}_lengths"] = lengths
        arrays[f"{part}_labels"] = np.array(labels, np.int32)
    return arrays


def _convert(members: list[bytes]) -> fetch.Arrays:
    train, test = members
    return _pad(
        _parse(train, "JapaneseVowels_TRAIN.ts"), _parse(test, "JapaneseVowels_TEST.ts")
    )


JAPANESE_VOWELS = fetch.Archive(
    name="aeon",
    version="1.6.0",
    wheel=True,
    sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    members=(
        "aeon/datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts",
        "aeon/datasets/data/JapaneseVowels/JapaneseVowels_TEST.ts",
    ),
    convert=_convert,
    golden="4424a93ec4eab1cf9994c054662302f2352502326942d1d5ee971c17ce083eac",
)
"""From the UCI repository, as aeon (BSD-3) carries it."""
