"""Texts are read as bytes, split, encoded, and cut into windows that lose nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import data
from experiments.data import FetchError, HashError, text

UNREACHABLE = """WARNING: Retrying
ERROR: Could not find a version
ERROR: No matching distribution"""
NOT_ASCII = (
    " Some characters are not ASCII and take several bytes each: what is reported "
    "per character is per byte."
)


def test_the_source_code_of_python_is_read_only_if_asked_for(pip_fails):
    pip_fails(UNREACHABLE)
    words = "data.path=FILE.*data.source=python.*Could not find a version"
    with pytest.raises(FetchError, match=words):
        data.load_texts()
    corpus = data.load_texts(source="python")
    names = [name for name, _ in corpus.texts]
    assert names == sorted(names) and "ast.py" in names
    assert sum(content.size for _, content in corpus.texts) > 1_000_000
    assert "source code of Python" in corpus.source


def test_a_python_without_files(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="is not in files"):
        data.load_texts(source="python")


def test_nothing_falls_back_from_a_wrong_hash(pip_fails):
    pip_fails(
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"
    )
    with pytest.raises(HashError, match="DO NOT MATCH"):
        data.load_texts()


def test_a_file_or_a_directory_of_the_users_own(tmp_path):
    for name, content in {
        "b.txt": b"bee",
        "a.md": b"caf\xc3\xa9",
        ".hidden": b"x",
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sub").mkdir()
    corpus = data.load_texts(str(tmp_path))
    assert [(n, content.tobytes()) for n, content in corpus.texts] == [
        ("a.md", b"caf\xc3\xa9"),
        ("b.txt", b"bee"),
    ]
    assert corpus.source == f"{tmp_path}: 2 texts, 8 bytes.{NOT_ASCII}"
    ((name, content),) = data.load_texts(str(tmp_path / "b.txt")).texts
    assert (name, content.tobytes(), content.dtype) == ("b.txt", b"bee", np.uint8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0", "x.txt must be text, but has the control byte"),
        (b"a\0b", r"control byte b'\\x00' at position 1"),
        (
            "caf\u00e9".encode("latin-1"),
            "UTF-8, but has b'.+xe9' at position 3. Convert",
        ),
        ("abc".encode("utf-16"), "x.txt must be text"),
    ],
)
def test_other_files_than_text_are_refused_by_name(tmp_path, content, words):
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        data.load_texts(str(tmp_path))


def test_a_text_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """An error of the disk has no name of its own."""
    (tmp_path / "a.txt").write_bytes(b"text")

    def fails(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(text.Path, "read_bytes", fails)
    with pytest.raises(OSError, match=r"cannot read the text .*a\.txt: Input/output"):
        data.load_texts(str(tmp_path))
    with pytest.raises(ValueError, match="must be a file or a directory"):
        data.load_texts("/dev/zero")


def test_a_path_without_text_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(FileNotFoundError, match=r"no text at .*missing"):
        data.load_texts(str(tmp_path / "missing"))
    for path in [tmp_path, tmp_path / "empty"]:
        with pytest.raises(ValueError, match="must hold text, but is empty"):
            data.load_texts(str(path))


def as_text(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def test_the_last_share_of_each_text_is_held_out():
    texts = [
        ("x", as_text(b"abcdefghij")),
        ("y", as_text(b"ABCDEFG")),
        ("z", as_text(b"z")),
    ]
    train, valid = data.split_texts(texts, 0.3)
    assert (train.tobytes(), valid.tobytes()) == (b"abcdefgABCDEz", b"hijFG")
    train, valid = data.split_texts(texts, 0.0)
    assert (train.tobytes(), valid.tobytes()) == (b"abcdefghijABCDEFGz", b"")


@pytest.mark.parametrize("held_out", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_outside_0_1_is_refused(held_out):
    with pytest.raises(ValueError, match=r"must be a share in \[0, 1\), but got"):
        data.split_texts([("x", as_text(b"abc"))], held_out)


def test_there_must_be_a_text_to_split():
    with pytest.raises(ValueError, match="must be a text"):
        data.split_texts([], 0.1)


def test_decode_inverts_encode():
    content = as_text(b"to be or not to be\xff\x00")
    vocabulary = data.make_vocabulary(content)
    assert vocabulary == bytes(sorted(set(content.tobytes())))
    ids = data.encode(vocabulary, content)
    assert ids.dtype == np.int32
    assert set(ids.tolist()) == set(range(len(vocabulary)))
    assert data.decode(vocabulary, ids).tobytes() == content.tobytes()


def test_what_is_not_in_the_vocabulary_is_refused():
    with pytest.raises(
        ValueError, match=r"one of the vocabulary's 2, but .* position 1 is b'c'"
    ):
        data.encode(b"ab", as_text(b"ac"))
    for wrong in [-1, 2]:
        with pytest.raises(
            ValueError, match=rf"\[0, 2\), but the one at position 1 is {wrong}"
        ):
            data.decode(b"ab", np.array([0, wrong]))


@pytest.mark.parametrize("n", [4, 5, 13, 24, 25, 26, 27, 28, 40])
@pytest.mark.parametrize(
    "batch_size, window", [(1, 1), (1, 7), (3, 4), (3, 8), (2, 100)]
)
def test_windows_continue_one_another_and_lose_nothing(n, batch_size, window):
    ids = np.arange(100, 100 + n)  # distinct, and none is the padding
    inputs, labels, mask = data.stream(ids, batch_size, window)
    assert inputs.shape == labels.shape == mask.shape
    assert inputs.shape[1:] == (window, batch_size)
    assert (inputs.dtype, labels.dtype, mask.dtype) == (np.int32, np.int32, np.bool_)

    # One row after the other, each read through all windows, is the text.
    def read(a):
        return np.concatenate(
            [a[:, :, b].ravel()[mask[:, :, b].ravel()] for b in range(batch_size)]
        )

    np.testing.assert_array_equal(read(inputs), ids[:-1])
    np.testing.assert_array_equal(read(labels), ids[1:])
    # Padding is zero, only in the last window, and only after all else.
    assert mask[:-1].all()
    assert (np.diff(mask[-1].astype(int), axis=0) <= 0).all()
    assert mask[-1].any()
    assert not inputs[~mask].any() and not labels[~mask].any()
    rows = mask.sum((0, 1))
    assert rows.max() - rows.min() <= 1


def test_a_text_too_short_to_stream_is_refused():
    with pytest.raises(
        ValueError, match="4 rows need a text of 5 ids or more, but got 4"
    ):
        data.stream(np.arange(4), 4, 2)
    with pytest.raises(ValueError, match="but got batch_size=0 and window=2"):
        data.stream(np.arange(4), 0, 2)
    with pytest.raises(ValueError, match="but got batch_size=2 and window=0"):
        data.stream(np.arange(4), 2, 0)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.floats(0, 0.99), st.integers(1, 5), st.integers(1, 9))
def test_any_text_is_cut_or_refused(content, held_out, size, window):
    """However few its bytes: what comes out of it is all there, and in range."""
    training, held = data.split_texts([("x", as_text(content))], held_out)
    assert training.tobytes() + held.tobytes() == content
    vocabulary = data.make_vocabulary(as_text(content))
    ids = data.encode(vocabulary, training)
    try:
        windows = data.stream(ids, size, window)
    except ValueError as error:
        assert len(ids) < size + 1 and "need a text of" in str(error)
        return
    assert windows.mask.sum() == len(ids) - 1
    assert windows.labels.max() < len(vocabulary)


@pytest.mark.network
def test_shakespeare_is_what_it_was(load_or_skip):
    load_or_skip(text.SHAKESPEARE)
    texts, source = data.load_texts()
    whole = np.concatenate([content for _, content in texts])
    assert (len(texts), whole.size, len(data.make_vocabulary(whole))) == (
        42,
        5_057_198,
        84,
    )
    assert source == "Shakespeare: 42 texts, 5,057,198 bytes."
    hamlet = dict(texts)["hamlet"].tobytes()
    assert b"To be, or not to be" in hamlet
    train, valid = data.split_texts(texts, 0.1)
    assert train.size + valid.size == whole.size
