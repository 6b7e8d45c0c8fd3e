"""LRU and minGRU by the textbook, one by one or in parallel, differentiated by JAX."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.contest import Contestant, Maker, from_outputs
from benchmarks.networks import LINEAR, NETWORKS
from benchmarks.problem import Problem


def coefficients(cell: str, params: Any, xs: Array) -> tuple[Array, Array]:
    """Returns a and v of s[t] = a[t] ⊙ s[t-1] + v[t], of all steps at once."""
    u = xs @ params.w_ih
    if cell == "min_gru":
        z, n = jnp.split(u + params.b, 2, axis=-1)
        z = jax.nn.sigmoid(z)
        return 1 - z, z * n
    v = jnp.exp(params.g) * lax.complex(*jnp.split(u, 2, axis=-1))
    a = jnp.exp(lax.complex(-jnp.exp(params.nu), jnp.exp(params.theta)))
    return jnp.broadcast_to(a, (len(xs), 1, *a.shape)), v


def one_by_one(a: Array, v: Array) -> Array:
    """Returns all s from a scan over the steps."""

    def over_step(s, coefficients):
        a, v = coefficients
        s = a * s + v
        return s, s

    return lax.scan(over_step, jnp.zeros_like(v[0]), (a, v))[1]


def in_parallel(a: Array, v: Array) -> Array:
    """Returns all s from an associative scan."""

    def compose(earlier, later):
        (a1, v1), (a2, v2) = earlier, later
        return a2 * a1, a2 * v1 + v2

    return lax.associative_scan(compose, (a, v))[1]


def recursion(
    problem: Problem, run: Callable[[Array, Array], Array]
) -> Contestant | None:
    """A linear recursion that starts from zero."""
    cell = NETWORKS[problem.cell].cell
    if cell not in LINEAR:
        return None
    (params,), *_ = problem.params

    def outputs(params, xs):
        s = run(*coefficients(cell, params, xs))
        return jnp.concatenate([s.real, s.imag], axis=-1) if cell == "lru" else s

    return from_outputs(outputs, params, problem.xs)


CONTESTANTS: Mapping[str, Maker] = {
    "scan": partial(recursion, run=one_by_one),
    "associative-scan": partial(recursion, run=in_parallel),
}
