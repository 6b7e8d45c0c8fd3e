"""Scans over chunks of steps, for any number of steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree


def chunk_length(size: int, aim: int) -> int:
    """Returns a chunk of about `aim` steps, K ≥ 1, for a sequence of `size` steps.

    It is a divisor of `size` if there is one within a factor of 2, because a tail costs
    a copy and a second compilation of the loop.
    """
    aim = max(1, min(aim, size))
    candidates = range(-(-aim // 2), min(2 * aim, size) + 1)
    near = [k for k in candidates if size % k == 0]
    return min(near, key=lambda k: (abs(k - aim), -k), default=aim)


def scan(
    body: Callable[[Any, Any, Any], tuple[Any, Any, Any]],
    chunk: int | Any,
    carry: PyTree,
    per_chunk: PyTree,
    per_step: PyTree,
    reverse: bool = False,
) -> tuple[Any, Any, Any]:
    """Runs `body(carry, per_chunk, per_step)` over chunks of K steps, for any T.

    `per_step` leaves are `[T, ...]`, of which `body` gets `[K, ...]`; `per_chunk`
    leaves are `[⌈T/K⌉, ...]`. If K does not divide T, the tail is one more chunk,
    outside the loop. If K = T there is no loop; only then may K be symbolic, under
    `jax.export`. Returns the carry, and both kinds of output in the same layout.
    """
    # How many chunks are whole, and what is left over.
    size = jax.tree.leaves(per_step)[0].shape[0]
    count, tail = (0, size) if size == chunk else divmod(size, chunk)
    whole = size - tail

    # The loop over whole chunks, and the tail after it.
    def run_whole(carry):
        chunks = jax.tree.map(
            lambda a: a[:whole].reshape(count, chunk, *a.shape[1:]), per_step
        )
        firsts = jax.tree.map(lambda a: a[:count], per_chunk)

        def over_chunk(carry, inputs):
            carry, once, ys = body(carry, *inputs)
            return carry, (once, ys)

        carry, (once, ys) = lax.scan(
            over_chunk, carry, (firsts, chunks), reverse=reverse
        )
        return carry, (once, jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), ys))

    def run_tail(carry):
        rest = jax.tree.map(lambda a: a[whole:], per_step)
        carry, once, ys = body(carry, jax.tree.map(lambda a: a[-1], per_chunk), rest)
        return carry, (jax.tree.map(lambda a: a[None], once), _vmapped_first(ys))

    # Both in the order of the run; the outputs in the order of time.
    if not tail or not count:
        carry, outputs = run_tail(carry) if tail else run_whole(carry)
    elif reverse:
        carry, end = run_tail(carry)
        carry, start = run_whole(carry)
        outputs = _concatenated(start, end)
    else:
        carry, start = run_whole(carry)
        carry, end = run_tail(carry)
        outputs = _concatenated(start, end)
    once, ys = outputs
    return carry, once, ys


def numbers(size: int | Any, chunk: int | Any) -> Array:
    """Returns the numbers 0, 1, … of the chunks of `scan`, `[⌈T/K⌉]`."""
    return jnp.arange(1 if size == chunk else -(-size // chunk))


def before(number: Array, chunk: int | Any, initial: PyTree, states: PyTree) -> Any:
    """Returns the state before a chunk, counted from 0, out of all states `[T, ...]`.

    It is the last state of the chunk before, and the initial state `[...]` at first.
    """

    def of(initial: Array, states: Array) -> Array:
        if chunk == states.shape[0] or states.size == 0:
            return initial  # there is one chunk, or none
        last = jnp.maximum(number * chunk - 1, 0)
        last = lax.dynamic_index_in_dim(states, last, keepdims=False)
        return jnp.where(number == 0, initial, last)

    return jax.tree.map(of, initial, states)


def _vmapped_first(tree: PyTree) -> Any:
    """Returns the tree with the axes of `vmap` before all others, which is no copy.

    JAX takes the axes of a hand-written forward pass for those of the function itself,
    but loops in the one and in the other may leave them elsewhere.
    """
    return jax.tree.map(lambda a: lax.squeeze(lax.expand_dims(a, (0,)), (0,)), tree)


def _concatenated(start, end):
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), start, end)
