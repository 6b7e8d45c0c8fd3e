"""How to compare: contestants in turn, many rounds, medians and their spread."""

import contextlib
import math
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import devices

# A turn lasts about this long, in as many calls as fit, so that a tick of the clock and
# the previous contestant's threads, which spin on for a moment, hardly count.
TURN = 0.02  # seconds
PAUSE = 0.002  # seconds between turns, in which those threads go to sleep
LEAST = 5  # rounds that no limit in seconds cuts off

# A result of 8 MB stays in the cache; larger ones lose half their speed to page faults.
PRODUCT = (1024, 512, 2048)

PACKAGES = "jax jaxlib numpy optax flax dm-haiku equinox keras torch onnxruntime"
VECTORS = "avx2 avx512f avx512_bf16 amx_bf16"

Call = Callable[[], Any]


class Timing(NamedTuple):
    """Milliseconds per call: first quartile over the rounds, median, third quartile."""

    low: float
    median: float
    high: float

    def gflops(self, flops: float) -> float:
        return flops / (1e6 * self.median)


def interleaved(
    contestants: Mapping[str, Call],
    rounds: int = 9,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Runs each contestant once per round, so that load affects all of them alike.

    The first call of each does not count, nor does the second of a fast one.

    Args:
      contestants: functions that return their results, all of which are waited for.
      rounds: how many, at least 2.
      seconds: no round begins later than this, except the first `LEAST`.
      clock: returns seconds.
    """
    calls = {}
    for name, contestant in contestants.items():
        took = _turn(contestant, 1, clock)
        took = _turn(contestant, 1, clock) if took < TURN else took
        calls[name] = max(1, min(50, round(TURN / max(took, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    began = clock()
    for number in range(rounds):
        if number >= LEAST and clock() - began > seconds:
            break
        for name, contestant in contestants.items():
            time.sleep(PAUSE)
            times[name].append(1e3 * _turn(contestant, calls[name], clock))
    return {
        name: Timing(*statistics.quantiles(ms, n=4, method="inclusive"))
        for name, ms in times.items()
    }


def _turn(contestant: Call, calls: int, clock: Callable[[], float]) -> float:
    """Returns seconds per call."""
    began = clock()
    for _ in range(calls):
        # Two programs in flight would deadlock where they span devices: wait for each.
        jax.block_until_ready(contestant())
    return (clock() - began) / calls


def product() -> tuple[Call, int]:
    """Returns the matrix product whose speed is the peak, and its operations."""
    m, k, n = PRODUCT
    a, b = jnp.ones((m, k)), jnp.ones((k, n))
    multiply = jax.jit(jnp.matmul).lower(a, b).compile()
    return lambda: multiply(a, b), 2 * m * k * n


def machine() -> dict[str, Any]:
    """Returns what the figures depend on: the hardware and the versions."""
    versions = {}
    for package in PACKAGES.split():
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    facts = {"processor": _processor(), "cores": devices.cores()}
    return facts | {"python": platform.python_version(), "versions": versions}


def _processor() -> str:
    """Returns the processor's name and the vector instructions behind its speed."""
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"model name\s*: (.*)", facts)
    vectors = [flag for flag in VECTORS.split() if flag in facts.split()]
    return " ".join([model[1] if model else platform.machine(), *vectors])
