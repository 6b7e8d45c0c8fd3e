"""What every test runs under: jaxtyping and beartype on all annotated functions of the
library."""

import itertools
from pathlib import Path

import jax
import jaxtyping
import pytest

# Two virtual devices for the tests of meshes; all others use the first one.
jax.config.update("jax_num_cpu_devices", 2)


def pytest_configure(config):
    # jaxtyping's own pytest hook, put here so that plain `pytest` and an editor use it
    # too.
    packages = ["jaxrnn", "experiments"]
    config.stash[HOOK] = jaxtyping.install_import_hook(packages, "beartype.beartype")


HOOK = pytest.StashKey[object]()

# Programs that XLA:CPU compiles map memory: a test of gradients, 400 to 700 times under
# `make test-slow`. Linux lets a process have 65,530 maps, and XLA aborts beyond them.
# So a process that has half of them forgets its programs. It looks after 20 tests.
MAPS, MOST_MAPS = Path("/proc/self/maps"), 32_000
COUNT = itertools.count(1)


def pytest_runtest_teardown():
    if next(COUNT) % 20 or not MAPS.exists():
        return
    if MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision, for comparing derivatives to rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def as_users_see_it():
    """No shape checks by annotations: a user meets the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
