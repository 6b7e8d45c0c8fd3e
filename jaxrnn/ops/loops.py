"""Loops over the steps of a chunk, which know how XLA:CPU compiles them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from jaxrnn.ops import programs

# What XLA computes once and stores, however many results depend on it. All else it may
# compute again in the loop of each result, and read its inputs there again.
STORED = frozenset(
    "dot_general tanh logistic exp log log1p sqrt rsqrt pow sin cos".split()
)


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
    the array and a pass over it. Where the carry may read the drive again, XLA would
    copy the whole array at every step, so nothing is written in place.
    """
    buffers, tree_of_us = jax.tree.flatten(us)
    of_a_step = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (us, steps)
    )
    outputs, tree_of_ys = jax.tree.flatten(jax.eval_shape(body, carry, *of_a_step)[1])
    places, size = _places(outputs, buffers), buffers[0].shape[0]
    if places and _reads_again(body, carry, *of_a_step):
        places = {}
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


def _reads_again(body: Callable[..., Any], carry: Any, u: Any, step: Any) -> bool:
    """Returns whether the next carry depends on the drive other than through `STORED`.

    Of the arguments, those of `body`, only the shapes are used.
    """
    kinds, tree = jax.tree.flatten((carry, u, step))
    first = len(jax.tree.leaves(carry))
    drives = range(first, first + len(jax.tree.leaves(u)))

    def next_carry(*given: Any) -> list[Any]:
        return jax.tree.leaves(body(*jax.tree.unflatten(tree, given))[0])

    program = jax.make_jaxpr(next_carry)(*kinds).jaxpr
    return any(_depend(program, [n in drives for n in range(len(kinds))]))


def _depend(program: Any, on: list[bool]) -> list[bool]:
    """Returns which outputs depend on these inputs other than through `STORED`."""
    found = {v for v, given in zip(program.invars, on, strict=True) if given}
    for equation in program.eqns:
        reached = [not programs.is_literal(v) and v in found for v in equation.invars]
        if equation.primitive.name in STORED or not any(reached):
            continue
        results = [True] * len(equation.outvars)
        if equation.primitive.name in ("jit", "pjit"):
            results = _depend(equation.params["jaxpr"].jaxpr, reached)
        found |= {v for v, r in zip(equation.outvars, results, strict=True) if r}
    return [not programs.is_literal(v) and v in found for v in program.outvars]
