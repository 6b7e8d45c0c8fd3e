"""What the public functions ask of their arguments: the rule, what was got, the cure."""

import math
import numbers
import operator
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.cells.base import Cell, Shape
from jaxrnn.ops.products import accumulation_dtype

Given: TypeAlias = Any
"""An argument as the caller passed it, before it is checked."""


def sequence(
    cell: Any, params: Any, state: Any, xs: Any, mask: Any, reset: Any
) -> tuple[Any, Any, Array, Array | None, Array | None]:
    """All arguments but `cell`, as arrays that fit; the cell's initial state for None.

    Raises:
      TypeError: if `cell` is no Cell, or a dtype does not fit.
      ValueError: if a shape does not fit.
    """
    params = cell_and_params(cell, params)
    xs = jnp.asarray(xs)
    inputs("xs", "(T, *B, I), time first and the inputs last", xs, params, ndim=2)
    state = given_or_initial(cell, params, state, xs.shape[1:-1])
    mask = None if mask is None else steps("mask", jnp.asarray(mask), xs.shape[:-1])
    reset = None if reset is None else steps("reset", jnp.asarray(reset), xs.shape[:-1])
    return params, state, xs, mask, reset


def one_step(cell: Any, params: Any, state: Any, x: Any) -> tuple[Any, Any, Array]:
    """`sequence` for a single input `x [*B, I]`."""
    params = cell_and_params(cell, params)
    x = jnp.asarray(x)
    inputs("x", "(*B, I), the inputs last", x, params, ndim=1)
    if state is None and x.ndim > 2:
        batch = x.shape[:-1]
        raise ValueError(
            f"`state` must be given for an `x` with several batch axes, {x.shape}. "
            "`step` takes one time step: give a sequence to jaxrnn.unroll. If all axes "
            f"but the last are batch axes, pass cell.initial_state(params, {batch})."
        )
    return params, given_or_initial(cell, params, state, x.shape[:-1]), x


def given_or_initial(
    cell: Cell, params: Any, state: Any, batch_shape: Shape, name: str = "state"
) -> Any:
    """`state` as arrays, or the cell's initial state for None; raises unless they fit."""
    initial = partial(cell.initial_state, params, batch_shape)
    state = initial() if state is None else jax.tree.map(jnp.asarray, state)
    made = "`cell.initial_state` makes it for these inputs"
    same_state(state, jax.eval_shape(initial), made, name)
    return state


def cell_and_params(cell: Any, params: Any) -> Any:
    """`params` as arrays; raises unless `cell` is a Cell and they are its own, of one dtype."""
    if not isinstance(cell, Cell):
        raise TypeError(
            f"`cell` must be a jaxrnn.Cell, such as jaxrnn.lstm, but got {type(cell).__name__}."
        )
    expected = _params_type(cell)
    if not isinstance(params, expected):
        raise TypeError(
            f"`params` must be the cell's own, {expected.__name__}, as `cell.init` makes them, but "
            f"got a {type(params).__name__}. Restored from a file as a dict? {expected.__name__}"
            "(**params)."
        )
    params = jax.tree.map(jnp.asarray, params)
    dtypes = sorted({str(jnp.result_type(p)) for p in jax.tree.leaves(params)})
    if len(dtypes) != 1 or not jnp.issubdtype(dtypes[0], jnp.floating):
        raise TypeError(
            f"`params` must have one floating dtype, but got {', '.join(dtypes) or 'no arrays'}. "
            "Cast them: jax.tree.map(lambda p: p.astype(dtype), params)."
        )
    return params


@cache
def _params_type(cell: Cell) -> type:
    return type(jax.eval_shape(lambda: cell.init(jax.random.key(0), 1, 1)))


def inputs(name: str, shape: str, xs: Array, params: Any, ndim: int) -> None:
    """Raises unless `xs` has `ndim` axes at least, and the dtype of `params`."""
    if xs.ndim < ndim:
        raise ValueError(
            f"`{name}` must have shape {shape}, but got {xs.shape}. Give a sequence of numbers an "
            f"axis of inputs: {name}[..., None]."
        )
    dtype = jax.tree.leaves(params)[0].dtype
    if xs.dtype != dtype:
        cure = (
            f"Cast one of them: {name}.astype({str(dtype)!r})."
            if jnp.issubdtype(xs.dtype, jnp.floating)
            else f"Encode ids first, e.g. jax.nn.one_hot({name}, I, dtype={str(dtype)!r})."
        )
        raise TypeError(
            f"`{name}` must have the dtype of `params`, {dtype}, but got {xs.dtype}. {cure}"
        )


def same_state(got: Any, expected: Any, made: str, name: str = "state") -> None:
    """Raises unless `got` has the structure, shapes and dtypes of `expected`.

    `made` says where `expected` comes from.
    """
    if jax.tree.structure(got) != jax.tree.structure(expected):
        raise TypeError(
            f"`{name}` must be a {type(expected).__name__}{getattr(expected, '_fields', '')}, as "
            f"{made}, but got a {type(got).__name__}. `cell.initial_state(params, batch_shape)` is "
            "the one to begin with."
        )
    leaves = jax.tree.leaves_with_path(expected)
    for (path, leaf), have in zip(leaves, jax.tree.leaves(got), strict=True):
        leaf_name = name + jax.tree_util.keystr(path)
        if have.shape != leaf.shape:
            raise ValueError(
                f"`{leaf_name}` must have shape {leaf.shape}, as {made}, but got {have.shape}. "
                "Its batch axes are those of the inputs, without time."
            )
        if have.dtype != leaf.dtype:
            raise TypeError(
                f"`{leaf_name}` must have dtype {leaf.dtype}, as {made}, but got {have.dtype}. "
                f"Cast it: .astype({str(leaf.dtype)!r})."
            )


def steps(name: str, got: Array, shape: Shape, axes: str = "(T, *B)") -> Array:
    """`got` if it is a bool array of this shape, `axes`; raises otherwise."""
    if got.dtype != jnp.bool_:
        raise TypeError(
            f"`{name}` must be bool, but got {got.dtype}. Compare: {name} != 0; lengths become a "
            "mask by jaxrnn.lengths_to_mask."
        )
    if got.shape != tuple(shape):
        cure = (
            "Time comes first: transpose it."
            if sorted(got.shape) == sorted(shape)
            else f"Broadcast it to the steps of `xs`: jnp.broadcast_to({name}, {tuple(shape)})."
        )
        raise ValueError(
            f"`{name}` must have shape {axes} = {tuple(shape)}, but got {got.shape}. {cure}"
        )
    return got


def factors(name: str, got: Array, xs: Array) -> Array:
    """`got`, `(T,)` or `(T, *B)`, an axis of size 1 for every one it lacks.

    In float32 or, where `xs` is, wider: in bfloat16 a factor of 1.003 would be 1.

    Raises:
      TypeError, ValueError: if it is not floating, or of another shape.
    """
    if not jnp.issubdtype(got.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be floating, but got {got.dtype}: {name}.astype(float)."
        )
    steps, batch = xs.shape[:1], xs.shape[1:-1]
    if got.shape not in (steps, steps + batch):
        raise ValueError(
            f"`{name}` must have shape (T,) or (T, *B), {steps} or {steps + batch}, but got "
            f"{got.shape}. One factor per sequence alone: jnp.broadcast_to({name}, "
            f"{steps + batch})."
        )
    return got.astype(accumulation_dtype(xs.dtype)).reshape(
        *steps, *(got.shape[1:] or [1] * len(batch))
    )


def flag(name: str, got: Any) -> bool:
    """`got` if it is True or False; raises otherwise."""
    if not isinstance(got, bool):
        raise TypeError(
            f"`{name}` must be True or False, but got {got!r}. It is static: under `jit`, "
            "close over it or name it in static_argnames."
        )
    return got


def positive(name: str, got: Any) -> int:
    """`got` as an int if it is an integer ≥ 1; raises otherwise."""
    return _integer(name, got, 1)


def _integer(name: str, got: Any, least: int) -> int:
    try:
        number = operator.index(got)
    except TypeError as error:
        raise TypeError(
            f"`{name}` must be an integer, but got {got!r}. It is static: under `jit`, close over "
            "it or name it in static_argnames."
        ) from error
    if isinstance(got, bool) or number < least:
        raise ValueError(f"`{name}` must be an integer ≥ {least}, but got {got!r}.")
    return number


def natural(name: str, got: Any) -> int:
    """`got` as an int if it is an integer ≥ 0; raises otherwise."""
    return _integer(name, got, 0)


def between(name: str, got: Any, low: float, high: float = math.inf) -> float:
    """`got` as a float if it is a number and low < got < high; raises otherwise."""
    rule = (
        f"a number above {low:g}"
        if high == math.inf
        else f"between {low:g} and {high:g}"
    )
    if not isinstance(got, numbers.Real):
        raise TypeError(f"`{name}` must be {rule}, but got {got!r}.")
    number = float(got)
    if not low < number < high:
        raise ValueError(f"`{name}` must be {rule}, but got {got!r}.")
    return number


def window_and_backprop(window: Any, backprop: Any) -> tuple[int, int]:
    """K₁ and K₂ ≥ K₁, which is K₁ for None; raises otherwise."""
    window = positive("window", window)
    backprop = window if backprop is None else positive("backprop", backprop)
    if backprop < window:
        raise ValueError(
            f"`backprop` must be at least `window`, {window}, but got {backprop}: every loss of a "
            "window must be sent back to the window's own start."
        )
    return window, backprop


def nested_windows(window: Any, windows: Any) -> tuple[int, ...]:
    """K₁ ≥ K₂ ≥ …, from either of them, or () for neither; raises otherwise."""
    if isinstance(window, Sequence):
        raise TypeError(
            f"`window` must be an integer, but got {window!r}: give `windows` several."
        )
    if windows is None:
        return () if window is None else (positive("window", window),)
    if window is not None:
        raise ValueError(
            f"either `window` or `windows` must be None, but got {window!r} and {windows!r}."
        )
    if not isinstance(windows, Sequence):
        raise TypeError(f"`windows` must be a tuple of integers, but got {windows!r}.")
    levels = tuple(positive(f"windows[{i}]", given) for i, given in enumerate(windows))
    if not levels or list(levels) != sorted(levels, reverse=True):
        raise ValueError(
            "`windows` must hold the steps of windows, and of those that they are cut into, "
            f"K₁ ≥ K₂ ≥ …, but got {levels}."
        )
    return levels


def within(name: str, got: int, size: int) -> None:
    """Raises `ValueError` if a window of `got` steps is longer than `size` = T ≥ 1."""
    if got > size > 0:
        raise ValueError(
            f"`{name}` must be at most T, but got {got} for a sequence of T = {size}. To take the "
            f"whole sequence as one window, give min({got}, T)."
        )


def scalar(name: str, got: Any, what: str) -> None:
    """Raises unless `got`, what a function `name` gave, is a single floating number."""
    if jax.tree.structure(got) != jax.tree.structure(0):
        kind = f"a {type(got).__name__}"
    elif jnp.shape(got) != () or not jnp.issubdtype(jnp.result_type(got), jnp.floating):
        kind = f"{jnp.result_type(got)} of shape {jnp.shape(got)}. Sum it: loss.sum()"
    else:
        return
    raise TypeError(
        f"`{name}` must return a loss that is one floating number, {what}, but got {kind}."
    )


def floating(dtype: Any) -> jnp.dtype:
    """`dtype` if it is a floating one; raises `TypeError` otherwise."""
    try:
        got = jnp.dtype(dtype)
    except TypeError:
        got = None
    if got is None or not jnp.issubdtype(got, jnp.floating):
        raise TypeError(
            f"`compute_dtype` must be a floating dtype, such as jnp.bfloat16, but got {dtype!r}."
        )
    return got


def common_length(name: str, tree: Any) -> int:
    """T, the length of the first axis of every leaf; raises `ValueError` if they disagree."""
    lengths = {
        name + jax.tree_util.keystr(path): leaf.shape[0] if leaf.ndim else -1
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
    if len(set(lengths.values())) != 1 or -1 in lengths.values():
        raise ValueError(
            f"all leaves of `{name}` must have the same first axis, time, but its length is "
            f"{lengths or 'nowhere: there are no leaves'} (-1: a scalar)."
        )
    return next(iter(lengths.values()))
