"""How to compare: contestants in turn, many rounds, medians and their spread."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Timing(NamedTuple):
    """Milliseconds: the median over the rounds, and the first and third quartile."""

    median: float
    low: float
    high: float


def interleaved(
    contestants: Mapping[str, Callable[[], Any]], rounds: int = 9, warm_up: int = 2
) -> dict[str, Timing]:
    """Times every contestant once per round, in turn, so that a machine's moods hit all alike.

    Args:
      contestants: functions that return their results; all of these are waited for.
      rounds: at least 2.
      warm_up: calls beforehand that do not count: compilation, and the caches.
    """
    for contestant in contestants.values():
        for _ in range(warm_up):
            jax.block_until_ready(contestant())
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            began = time.perf_counter()
            jax.block_until_ready(contestant())
            times[name].append(1e3 * (time.perf_counter() - began))
    timings = {}
    for name, measured in times.items():
        low, median, high = statistics.quantiles(measured, n=4)
        timings[name] = Timing(median, low, high)
    return timings


def matmul_peak(size: int = 1024) -> float:
    """GFLOP/s of a float32 matrix product whose result fits the cache."""
    a, b = jnp.ones((size, size)), jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    timing = interleaved({"product": lambda: product(a, b)}, rounds=15)["product"]
    return 2 * size**3 / (1e6 * timing.median)


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
