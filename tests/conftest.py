"""What every test runs under: jaxtyping and beartype on all annotated functions of the
library."""

import itertools

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

# Tests after which a process forgets its compiled programs. Each program maps memory,
# and Linux lets a process have 65,530 maps: XLA crashed after some 1,200 tests. With
# 400 it aborted under `make test-slow`, whose programs are larger; the cause is likely
# the same.
FORGET_AFTER = 150
COUNT = itertools.count(1)


def pytest_runtest_teardown():
    if next(COUNT) % FORGET_AFTER == 0:
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
