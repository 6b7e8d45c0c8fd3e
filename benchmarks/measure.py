"""How to compare: contestants in turn, many rounds, medians and their spread."""

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrnn import devices

# One turn of a contestant lasts about as long, in as many calls as fit: a clock's tick and the
# threads of the contestant before, which spin on for a moment, then weigh little.
TURN = 0.02  # seconds
PAUSE = 0.002  # seconds between turns, for those threads to go to sleep

# A result of 8 MB stays in the cache; larger ones lose half their speed to page faults.
PRODUCT = (1024, 512, 2048)

PACKAGES = (
    "jax jaxlib numpy optax flax dm-haiku equinox keras torch onnxruntime".split()
)


class Timing(NamedTuple):
    """Milliseconds per call: the first quartile over the rounds, the median, the third."""

    low: float
    median: float
    high: float


def interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int = 9,
    seconds: float = math.inf,
    least: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Gives every contestant its turn once per round, so that a machine's moods hit all alike.

    Each is called once beforehand, and a fast one twice, which does not count.

    Args:
      contestants: functions that return their results; all of these are waited for.
      rounds: how many, at least 2.
      seconds: no new round begins after these, once there were `least`.
      least: rounds there are in any case.
      clock: in seconds.
    """
    calls = {}
    for name, contestant in contestants.items():
        took = _turn(contestant, 1, clock)
        took = _turn(contestant, 1, clock) if took < TURN else took
        calls[name] = max(1, min(50, round(TURN / max(took, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    began = clock()
    for number in range(rounds):
        if number >= least and clock() - began > seconds:
            break
        for name, contestant in contestants.items():
            time.sleep(PAUSE)
            times[name].append(1e3 * _turn(contestant, calls[name], clock))
    return {
        name: Timing(*statistics.quantiles(ms, n=4, method="inclusive"))
        for name, ms in times.items()
    }


def _turn(
    contestant: Callable[[], Any], calls: int, clock: Callable[[], float]
) -> float:
    """Seconds per call."""
    began = clock()
    for _ in range(calls):
        # One after the other: more than one in flight deadlocks where a program spans devices.
        jax.block_until_ready(contestant())
    return (clock() - began) / calls


def product() -> Callable[[], Any]:
    """The matrix product whose speed is the peak: a contestant like the others."""
    m, k, n = PRODUCT
    a, b = jnp.ones((m, k)), jnp.ones((k, n))
    multiply = jax.jit(jnp.matmul).lower(a, b).compile()
    return lambda: multiply(a, b)


def gflops(flops: float, milliseconds: float) -> float:
    """GFLOP/s."""
    return flops / (1e6 * milliseconds)


def product_flops() -> int:
    """The floating-point operations of `product`."""
    return 2 * math.prod(PRODUCT)


def geometric_mean(ratios: Iterable[float]) -> float:
    """The mean of ratios: that of the inverse ratios is its inverse. NaN if there are none."""
    ratios = list(ratios)
    return statistics.geometric_mean(ratios) if ratios else math.nan


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    return {
        "processor": _processor(),
        "cores": devices.cores(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name and the vector instructions that decide its speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {
        key.strip(): fact.strip()
        for key, _, fact in (line.partition(":") for line in lines)
    }
    flags = facts.get("flags", "").split()
    vectors = [
        flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags
    ]
    return " ".join([facts.get("model name", platform.machine()), *vectors])
