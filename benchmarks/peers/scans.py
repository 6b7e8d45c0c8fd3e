"""The textbook's step in a plain `lax.scan`, differentiated by JAX in several ways."""
# pyright: reportMissingImports=false

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.contest import Contestant, Maker, from_loss, from_outputs
from benchmarks.problem import Problem


def textbook(cell: str, params: Any, state: Any, u: jax.Array) -> tuple[Any, Any]:
    """Returns the state after one step with the drive u, and h."""
    if cell == "lstm":
        h, c = state
        i, f, g, o = jnp.split(u + h @ params.w_hh, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h
    if cell == "gru":
        u_r, u_z, u_n = jnp.split(u, 3, axis=-1)
        q_r, q_z, q_n = jnp.split(state @ params.w_hh, 3, axis=-1)
        r, z = jax.nn.sigmoid(u_r + q_r), jax.nn.sigmoid(u_z + q_z)
        n = jnp.tanh(u_n + r * (q_n + params.b_hn))
        h = (1 - z) * n + z * state
    else:
        h = jnp.tanh(u + state @ params.w_hh)
    return h, h


def zeros(cell: str, batch: int, hidden: int) -> Any:
    """Returns the zero state: of the LSTM a pair, as in all these libraries."""
    zero = jnp.zeros((batch, hidden))
    return (zero, zero) if cell == "lstm" else zero


def unrolled(
    problem: Problem, params: Any, state: Any, xs: Any, hoisted: bool, scan: Any
) -> tuple[Any, Any]:
    """Scans the textbook's step; hoisted: with one product of all inputs beforehand."""

    def project(xs):
        return xs @ params.w_ih + params.b

    def over_step(state, x):
        return textbook(problem.cell, params, state, x if hoisted else project(x))

    return scan(over_step, state, project(xs) if hoisted else xs)


def checkpointed_scan(over_step: Any, state: Any, xs: Any) -> tuple[Any, Any]:
    """Computes each step again on the way back."""
    return lax.scan(jax.checkpoint(over_step), state, xs)


def over_steps(
    problem: Problem, hoisted: bool = False, scan: Any = lax.scan
) -> Contestant:
    """A scan over all steps."""

    def outputs(params, xs):
        return unrolled(
            problem,
            params,
            zeros(problem.cell, *problem.shape[1::2]),
            xs,
            hoisted,
            scan,
        )[1]

    forward = scan is lax.scan
    return from_outputs(outputs, problem.params, problem.xs, forward)


def in_windows(problem: Problem, hoisted: bool = False) -> Contestant:
    """A scan over windows of √T steps, each a scan under `jax.checkpoint`."""

    def loss(params, xs):
        @jax.checkpoint
        def over_window(state, xs):
            state, hs = unrolled(problem, params, state, xs, hoisted, lax.scan)
            return state, jnp.sum(hs**2)

        cut = xs.reshape(-1, window(len(xs)), *xs.shape[1:])
        return jnp.sum(
            lax.scan(over_window, zeros(problem.cell, *problem.shape[1::2]), cut)[1]
        )

    return from_loss(loss, problem.params, problem.xs)


def window(size: int) -> int:
    """Returns the divisor of T nearest to √T."""
    divisors = [k for k in range(1, size + 1) if size % k == 0]
    return min(divisors, key=lambda k: abs(math.log(k * k / size)))


def equinox_checkpointed(problem: Problem) -> Contestant:
    """Equinox's checkpointed scan, with the loss in it, so that no output is kept."""
    from equinox.internal import scan

    def scan_losses(over_step, state, xs):
        def over_loss(state, x):
            state, h = over_step(state, x)
            return state, jnp.sum(h**2)

        return scan(over_loss, state, xs, kind="checkpointed")

    def loss(params, xs):
        start = zeros(problem.cell, *problem.shape[1::2])
        return jnp.sum(unrolled(problem, params, start, xs, False, scan_losses)[1])

    return from_loss(loss, problem.params, problem.xs)


CONTESTANTS: Mapping[str, Maker] = {
    "scan": over_steps,
    "scan-hoisted": partial(over_steps, hoisted=True),
    "checkpoint": partial(over_steps, scan=checkpointed_scan),
    "checkpoint-hoisted": partial(over_steps, hoisted=True, scan=checkpointed_scan),
}
LONG: Mapping[str, Maker] = {
    "windows": in_windows,
    "windows-hoisted": partial(in_windows, hoisted=True),
    "equinox-checkpointed": equinox_checkpointed,
    "scan": CONTESTANTS["scan"],
    "checkpoint": CONTESTANTS["checkpoint"],
}
