"""Series in the `.ts` format are parsed strictly, and padded time first."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import data
from experiments.data import vowels

TRAIN = """# a comment: é
@problemName toy
@timeStamps false
@dimensions 2
@classLabel true no yes

@data
1,2,3:4,5,6:yes
7:-8e-1: no
# in between
1,2:3,4:no
"""
TEST = "@classLabel true no yes\n@data\n1,2,3,4:5,6,7,8:no"


@pytest.fixture
def write(tmp_path: Path):
    def write(train: str = TRAIN, test: str = TEST) -> str:
        (tmp_path / "toy_TRAIN.ts").write_text(train, encoding="latin-1")
        (tmp_path / "toy_TEST.ts").write_text(test, encoding="latin-1")
        return str(tmp_path)

    return write


@pytest.mark.parametrize("file", ["", "/toy_TRAIN.ts"])
def test_series_are_padded_time_first(write, file):
    train, test, classes, source = data.load_vowels(write() + file)
    assert classes == ("no", "yes")
    assert train.xs.shape == (4, 3, 2) and test.xs.shape == (4, 1, 2)
    assert train.xs.dtype == np.float32
    assert train.lengths.dtype == train.labels.dtype == np.int32
    np.testing.assert_array_equal(train.lengths, [3, 1, 2])
    np.testing.assert_array_equal(train.labels, [1, 0, 0])
    np.testing.assert_array_equal(train.xs[:, 0], [[1, 4], [2, 5], [3, 6], [0, 0]])
    np.testing.assert_array_equal(
        train.xs[:2, 1], np.array([[7, -0.8], [0, 0]], np.float32)
    )
    np.testing.assert_array_equal(test.xs[:, 0], [[1, 5], [2, 6], [3, 7], [4, 8]])
    assert "3 series to train on, 1 to test with, 2 classes" in source


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "@timeStamps false",
            "@timeStamps true",
            "line 3: must read .* got `@timeStamps true`",
        ),
        ("@dimensions 2", "@dimensions two", "line 4: must read"),
        ("@dimensions 2", "@dimensions 3", "line 8: must have 3 channels, but got 2"),
        ("@classLabel true no yes", "@classLabel false", "line 5: must read"),
        ("@classLabel true no yes", "@classLabel true no no", "line 5: must read"),
        ("@classLabel true no yes", "", "line 7: `@classLabel true` must come before"),
        ("@problemName", "problemName", "line 2: a header line must start with `@`"),
        ("@data", "#@data", "line 8: a header line must start with `@`"),
        ("6:yes", "6:maybe", "line 8: the label must be one of .*, but got 'maybe'"),
        ("4,5,6:yes", "4,5,6", "line 8: must have 2 channels, but got 1"),
        (
            "4,5,6",
            "4,5",
            r"line 8: channels must be of the same length, but got \[2, 3\]",
        ),
        ("-8e-1", "", "line 9: could not convert"),
        ("-8e-1", "?", "line 9: could not convert string to float"),
        ("-8e-1", "nan", "line 9: every value must be finite"),
        ("-8e-1", "1e300", "line 9: every value must be finite"),
        ("1,2:3,4:no", "no", "line 11: must have 2 channels, but got 0"),
        (TRAIN[TRAIN.index("1,2,3") :], "", "must have a series after `@data`"),
        (TRAIN[TRAIN.index("@data") :], "", "must have a line `@data`, but has none"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(write, old, new, message):
    with pytest.raises(ValueError, match=f"toy_TRAIN.ts.*{message}"):
        data.load_vowels(write(TRAIN.replace(old, new)))


PIECES = ["@classLabel true a b", "@data", "@dimensions 1", "@", "#", "\n", ":", ","]
PIECES += ["1", "a", "b", "nan", "1e39", "1_0", "?", " ", "\x1b", "é", "٣", "@data\n"]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=20).map("".join)
    | st.text(max_size=30)
    | st.tuples(st.integers(0, len(TRAIN)), st.text(max_size=3)).map(
        lambda change: TRAIN[: change[0]] + change[1] + TRAIN[change[0] + 1 :]
    )
)
def test_any_file_is_read_or_refused(content):
    try:
        series, labels, classes = vowels._parse(content.encode(), "toy_TRAIN.ts")
    except ValueError as error:
        assert "toy_TRAIN.ts" in str(error)
        return
    assert series and len(series) == len(labels)
    assert all(0 <= label < len(classes) for label in labels)
    assert all(xs.ndim == 2 and len(xs) and np.isfinite(xs).all() for xs in series)
    assert len({xs.shape[1] for xs in series}) == 1


def test_a_label_alone_is_no_series(write):
    with pytest.raises(
        ValueError, match=r"toy_TEST.ts, line 3: must have 1 channels, but got 0"
    ):
        data.load_vowels(write(test="@classLabel true no yes\n@data\nno"))


def test_train_and_test_must_agree(write):
    with pytest.raises(ValueError, match="must have the same classes"):
        data.load_vowels(write(test=TEST.replace("no yes", "yes no")))
    with pytest.raises(
        ValueError, match="must have the same channels, but got 2 and 1"
    ):
        data.load_vowels(write(test=TEST.replace("1,2,3,4:", "")))


def test_files_that_are_not_there(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"no `\*_TRAIN.ts` at"):
        data.load_vowels(str(tmp_path))
    path = Path(write())
    with pytest.raises(ValueError, match=r"must be that of a `\*_TRAIN.ts`"):
        data.load_vowels(str(path / "toy_TEST.ts"))
    (path / "other_TRAIN.ts").touch()
    with pytest.raises(
        ValueError, match=r"must hold one .*, but has other_TRAIN.ts, toy_TRAIN.ts"
    ):
        data.load_vowels(str(path))
    with pytest.raises(FileNotFoundError, match=r"other_TEST.ts is not"):
        data.load_vowels(str(path / "other_TRAIN.ts"))


@pytest.mark.network
def test_japanese_vowels_are_what_they_were(load_or_skip):
    load_or_skip(vowels.JAPANESE_VOWELS)
    train, test, classes, _ = data.load_vowels()
    assert train.xs.shape == (29, 270, 12) and test.xs.shape == (29, 370, 12)
    assert classes == tuple("123456789")
    np.testing.assert_array_equal(np.bincount(train.labels), 9 * [30])
    for part in [train, test]:
        assert part.lengths.min() == 7
        padding = np.arange(29)[:, None] >= part.lengths
        assert not part.xs[padding].any()
        assert part.xs[~padding].any(axis=-1).all()
