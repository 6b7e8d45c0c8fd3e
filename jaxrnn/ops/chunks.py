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


def scan_ahead(
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: PyTree,
    us: PyTree,
    steps: PyTree,
) -> tuple[Any, Any]:
    """Scans `body(carry, u, step)`, with each u read one step ahead and carried.

    The results are those of `lax.scan` over `(us, steps)`, leaves `[K, ...]`. XLA:CPU
    fuses the read of a step's input with the elementwise work that follows. Where that
    work is a chain with slices in it, as in the GRU, the fused loop is not vectorized;
    an input in the carry is a plain buffer.
    """
    size = jax.tree.leaves(us)[0].shape[0]

    def over_step(carry, inputs):
        (carry, u), (t, step) = carry, inputs
        carry, y = body(carry, u, step)
        return (carry, _read(us, jnp.minimum(t + 1, size - 1))), y

    inputs = jnp.arange(size), steps
    (carry, _), ys = lax.scan(over_step, (carry, _read(us, 0)), inputs)
    return carry, ys


def scan_in_place(
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: PyTree,
    us: PyTree,
    steps: PyTree,
) -> tuple[Any, Any]:
    """Scans `body(carry, u, step) -> (carry, y)`, and writes ys over us.

    The results are those of `lax.scan` over `(us, steps)`, leaves `[K, ...]`. A scan
    fills a new array with zeros for every output, and then writes it step by step. Here
    an output of the shape of a drive is written where that drive was read, which saves
    the array and a pass over it.
    """
    buffers, tree_of_us = jax.tree.flatten(us)
    of_a_step = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (us, steps)
    )
    outputs, tree_of_ys = jax.tree.flatten(jax.eval_shape(body, carry, *of_a_step)[1])
    places, size = _places(outputs, buffers), buffers[0].shape[0]
    if not places or (isinstance(size, int) and size == 0):
        return lax.scan(lambda carry, x: body(carry, *x), carry, (us, steps))

    def over_step(carry, inputs):
        (carry, written), (t, scanned, step) = carry, inputs
        us = [
            _value_of(_read(written[n], t), u) if n in written else u
            for n, u in enumerate(scanned)
        ]
        carry, y = body(carry, jax.tree.unflatten(tree_of_us, us), step)
        ys, written = jax.tree.leaves(y), dict(written)
        for output, n in places.items():
            written[n] = lax.dynamic_update_index_in_dim(written[n], ys[output], t, 0)
            ys[output] = None
        return (carry, written), ys

    written = {n: buffers[n] for n in places.values()}
    inputs = jnp.arange(size), buffers, steps
    (carry, written), ys = lax.scan(over_step, (carry, written), inputs)
    for output, n in places.items():
        ys[output] = written[n]
    return carry, jax.tree.unflatten(tree_of_ys, ys)


@jax.custom_jvp
def _value_of(read: Array, scanned: Array) -> Array:
    """Returns `read`, whose derivative is that of `scanned`, an equal array.

    The derivative of a read from the carry would be an array of all steps at every
    step. XLA removes the scanned array, which nothing else uses.
    """
    return read


@_value_of.defjvp
def _value_of_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _value_of(*primals), tangents[1]


def _places(outputs: list[Any], buffers: list[Any]) -> dict[int, int]:
    """Returns which output `[...]` is written over which buffer `[K, ...]`."""
    free, places = dict(enumerate(buffers)), {}
    for number, output in enumerate(outputs):
        kind = output.shape, output.dtype
        fits = (n for n, b in free.items() if (b.shape[1:], b.dtype) == kind)
        if (place := next(fits, None)) is not None:
            places[number] = place
            del free[place]
    return places


def _read(tree: PyTree, t: Any) -> Any:
    """Returns step t of every leaf `[K, ...]`."""
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, t, keepdims=False), tree)
