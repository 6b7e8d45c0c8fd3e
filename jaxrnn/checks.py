"""Checks of the arguments of public functions: the rule, what was got, the cure."""

import math
import numbers
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxrnn import arguments
from jaxrnn.arguments import Given, describe
from jaxrnn.cells import contract
from jaxrnn.cells.base import Cell, Params, Shape
from jaxrnn.ops.ids import are_ids, leading_shape
from jaxrnn.ops.products import accumulation_dtype


def sequence(
    cell: Given, params: Given, state: Given, xs: Given, mask: Given, reset: Given
) -> tuple[Any, Any, Array, Array | None, Array | None]:
    """Returns all arguments but `cell` as arrays that fit; None: the initial state.

    Raises:
      TypeError: if `cell` is not a Cell, or a dtype does not fit.
      ValueError: if a shape does not fit.
    """
    params = cell_and_params(cell, params)
    xs = sequences("xs", xs)
    inputs("xs", ("T", "*B"), xs, cell, params, state)
    shape = leading_shape(xs)
    state = given_or_initial(cell, params, state, shape[1:])
    contract.kept(cell, params, state, xs)
    mask = None if mask is None else steps("mask", array("mask", mask), shape)
    if reset is not None:
        reset = steps("reset", array("reset", reset), shape)
    return params, state, xs, mask, reset


def one_step(
    cell: Given, params: Given, state: Given, x: Given
) -> tuple[Any, Any, Array]:
    """Returns the arguments as `sequence` does, for a single `x [*B, I]` or `[*B]`."""
    params = cell_and_params(cell, params)
    x = sequences("x", x)
    inputs("x", ("*B",), x, cell, params, state)
    batch = leading_shape(x)
    if state is None and len(batch) > 1:
        raise ValueError(
            f"`state` must be given for an `x` with several batch axes, {x.shape}. "
            "`step` takes one time step: give a sequence to jaxrnn.unroll. If all axes "
            f"but the last are batch axes, pass cell.initial_state(params, {batch})."
        )
    state = given_or_initial(cell, params, state, batch)
    contract.kept(cell, params, state, x)
    return params, state, x


def given_or_initial(
    cell: Cell, params: Given, state: Given, batch_shape: Shape, name: str = "state"
) -> Any:
    """Returns `state` as arrays, or the initial one for None; raises unless it fits."""
    initial = partial(cell.initial_state, params, batch_shape)
    if state is None:
        state = initial()
    else:
        alive(name, state)
        state = jax.tree.map(jnp.asarray, unwrapped(state))
    made = "`cell.initial_state` makes it for these inputs"
    same_state(state, jax.eval_shape(initial), made, name)
    return state


def cell_and_params(cell: Given, params: Given) -> Any:
    """Returns `params` as arrays; raises unless they are those of the Cell `cell`."""
    if not isinstance(cell, Cell):
        raise TypeError(
            "`cell` must be a jaxrnn.Cell, such as jaxrnn.lstm, but got "
            f"{type(cell).__name__}."
        )
    example, params = _example(cell), unwrapped(params)
    expected = type(example)
    if not isinstance(params, expected):
        raise TypeError(
            f"`params` must be the cell's own, {expected.__name__}, as `cell.init` "
            f"makes them, but got a {type(params).__name__}. Restored from a file as "
            f"a dict? {expected.__name__}(**params)."
        )
    alive("params", params)
    for name in getattr(params, "_fields", ()):
        if getattr(params, name) is None and getattr(example, name) is not None:
            raise TypeError(
                f"`params.{name}` must be an array, but got None. To leave it out, "
                "give zeros: jnp.zeros(...)."
            )
    params = jax.tree.map(jnp.asarray, params)
    _one_network(params, example)
    dtypes = sorted({str(jnp.result_type(p)) for p in jax.tree.leaves(params)})
    if len(dtypes) != 1 or not jnp.issubdtype(dtypes[0], jnp.floating):
        raise TypeError(
            f"`params` must have one floating dtype, but got "
            f"{', '.join(dtypes) or 'no arrays'}. "
            "Cast them: jax.tree.map(lambda p: p.astype(dtype), params)."
        )
    return params


@cache
def _example(cell: Cell) -> Any:
    """Returns the shapes of small parameters of the cell, of 2 units: some are even."""
    contract.signature(cell, "init")
    example = jax.eval_shape(lambda: cell.init(jax.random.key(0), 1, 2))
    contract.parameters(example)
    return example


def _one_network(params: Given, example: Given) -> None:
    """Raises if every leaf has leading axes more than the cell's own parameters."""
    if jax.tree.structure(params) != jax.tree.structure(example):
        return
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(example), strict=True)
    extra = {got.ndim - expected.ndim for got, expected in pairs}
    if len(extra) == 1 and min(extra) > 0:
        shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
        raise ValueError(
            "`params` must be those of one network, but got leaves of shapes "
            f"{shapes}. For an ensemble, call jax.vmap over its axis: jax.vmap(lambda "
            "p: jaxrnn.unroll(cell, p, None, xs))(params)."
        )


def unwrapped(tree: Given) -> Any:
    """Returns the tree with the value of each framework's variable, `nnx.Param` say."""

    def value(a: Given) -> Any:
        for read in ("get_value", "__jax_array__"):
            if callable(getattr(a, read, None)):
                return getattr(a, read)()
        return a.value

    def opened(a: Given) -> Any:
        return value(a) if _is_variable(a) else a

    return jax.tree.map(opened, tree, is_leaf=_is_variable)


def _is_variable(a: Given) -> bool:
    plain = tuple | list | dict | Array | np.ndarray | np.generic
    if a is None or isinstance(a, plain):
        return False
    readers = "__jax_array__", "get_value", "value"
    return any(hasattr(a, reader) for reader in readers)


def is_known(a: Given) -> bool:
    """Returns whether `a` is an array with numbers that can be read: not traced."""
    concrete = isinstance(a, Array) and not isinstance(a, Tracer)
    return concrete and a.is_fully_addressable


def alive(name: str, tree: Given, rule: str = "", cure: str = "") -> None:
    """Raises `ValueError` if an array of the tree has been donated."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        is_array = isinstance(leaf, Array) and not isinstance(leaf, Tracer)
        if not (is_array and leaf.is_deleted()):
            continue
        where = name + jax.tree_util.keystr(path)
        rule = rule or f"`{where}` was donated to an earlier call"
        cure = cure or (
            "Use what that call returned, or give it a copy: "
            f"jax.tree.map(jnp.copy, {name})."
        )
        raise ValueError(f"{rule}, which reuses its memory. {cure}")


def array(name: str, got: Given, cure: str = "") -> Array:
    """Returns `got` as an array; raises if it cannot be one, or has been donated."""
    alive(name, got)
    try:
        return jnp.asarray(unwrapped(got))
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"`{name}` must be an array, but got {describe(got)}. {cure}".strip()
        ) from error


def sequences(name: str, got: Given) -> Array:
    """Returns the inputs `got` as an array; raises if they cannot be one."""
    cure = ""
    if got is None:
        cure = f"A network without inputs takes zeros: {name} = jnp.zeros((T, *B, 1))."
    elif isinstance(got, list | tuple):
        cure = (
            "Pad sequences to one length, and mask the rest: "
            "jaxrnn.lengths_to_mask(lengths, T)."
        )
    return array(name, got, cure)


def inputs(
    name: str,
    axes: tuple[str, ...],
    xs: Array,
    cell: Cell,
    params: Params,
    state: Given,
) -> None:
    """Raises unless `xs` are ids for the cell, or vectors of the dtype of `params`.

    Ids have these `axes`, the batch among them; vectors have one more, of inputs.
    """
    if are_ids(xs):
        ids(name, axes, xs, params, state)
        takes_ids(cell)
        return
    time_first = "time first and " if "T" in axes else ""
    if xs.ndim < len(axes):
        raise ValueError(
            f"`{name}` must have shape ({', '.join(axes)}, I), {time_first}the inputs "
            f"last, but got {xs.shape}. Give a sequence of numbers an axis of inputs: "
            f"{name}[..., None]."
        )
    dtype = jax.tree.leaves(params)[0].dtype
    if xs.dtype == dtype:
        return
    cast = f"{name}.astype({str(dtype)!r})"
    if jnp.issubdtype(xs.dtype, jnp.floating):
        cure = f"Cast one of them: {cast}."
    elif jnp.issubdtype(xs.dtype, jnp.complexfloating):
        cure = (
            "Give real and imaginary parts as inputs: "
            f"jnp.concatenate([{name}.real, {name}.imag], -1)."
        )
    else:
        cure = f"Cast numbers: {cast}. Ids are integers: {name}.astype(int)."
    raise TypeError(
        f"`{name}` must have the dtype of `params`, {dtype}, but got {xs.dtype}. {cure}"
    )


def ids(
    name: str, axes: tuple[str, ...], xs: Array, params: Params, state: Given
) -> None:
    """Raises unless integers `xs` can be ids, and do not look like features.

    They do if `state` fits all but their last axis, or if no state says that this is a
    batch axis beside another one.
    """
    dtype = jax.tree.leaves(params)[0].dtype
    cast = f"{name}.astype({str(dtype)!r})"
    got = f"{xs.dtype} of shape {xs.shape}"
    if not hasattr(params, "w_ih"):
        raise TypeError(
            f"integer `{name}` are ids, which select rows of `params.w_ih`, but "
            f"{type(params).__name__} has none. Cast numbers: {cast}."
        )
    shape = ", ".join(axes)
    if xs.ndim < len(axes) - 1:
        raise ValueError(
            f"integer `{name}` are ids and must have shape ({shape}), time first, but "
            f"got {got}. One step: jaxrnn.step."
        )
    batch = xs.shape[len(axes) - 1 :]
    leaves = [leaf for leaf in jax.tree.leaves(state) if hasattr(leaf, "shape")]
    if state is None and len(batch) > 1:
        why = " and no `state`"
    elif leaves and batch and leaves[0].shape[:-1] == batch[:-1]:
        why = f" and a `state` for batch axes {batch[:-1]}"
    else:
        return
    raise ValueError(
        f"integer `{name}` are ids, ({shape}), but got {got}{why}. If the last axis "
        f"holds features, cast them: {cast}. If it is a batch axis, give a state for "
        f"it: cell.initial_state(params, {batch})."
    )


@cache
def takes_ids(cell: Cell) -> None:
    """Raises `TypeError` if the cell's `drive` takes only vectors."""
    rule = "integer inputs are ids, but the cell's `drive` does not take them"
    given = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    try:
        us = jax.eval_shape(cell.drive, _example(cell), given)
    except (TypeError, ValueError, IndexError) as error:
        raise TypeError(f"{rule}. {contract.CURE_OF_IDS}") from error
    shapes = [u.shape for u in jax.tree.leaves(us)]
    if any(shape[:-1] != given.shape for shape in shapes):
        raise TypeError(
            f"{rule}: for {given.shape} it must return (2, 3, G), but returned "
            f"{shapes}. {contract.CURE_OF_IDS}"
        )


def same_state(
    got: Given,
    expected: Given,
    made: str,
    name: str = "state",
    cure: str = "`cell.initial_state(params, batch_shape)` is the one to begin with.",
) -> None:
    """Raises unless `got` has the structure, shapes and dtypes of `expected`.

    `made` completes the sentence "as ...": it says where `expected` comes from. `cure`
    is for what is no such state at all.
    """
    if jax.tree.structure(got) != jax.tree.structure(expected):
        fields = getattr(expected, "_fields", "")
        kind = describe(expected) + (str(fields) if fields else "")
        raise TypeError(
            f"`{name}` must be {kind}, as {made}, but got {describe(got)}. {cure}"
        )
    leaves = jax.tree.leaves_with_path(expected)
    for (path, leaf), have in zip(leaves, jax.tree.leaves(got), strict=True):
        leaf_name = name + jax.tree_util.keystr(path)
        if jnp.shape(have) != leaf.shape:
            raise ValueError(
                f"`{leaf_name}` must have shape {leaf.shape}, as {made}, but got "
                f"{jnp.shape(have)}. Its batch axes are those of the inputs, without "
                "time."
            )
        if jnp.result_type(have) != leaf.dtype:
            raise TypeError(
                f"`{leaf_name}` must have dtype {leaf.dtype}, as {made}, but got "
                f"{jnp.result_type(have)}. Cast it: .astype({str(leaf.dtype)!r})."
            )


def state_of_loss(got: Given, returned: Given) -> None:
    """Raises unless `got`, the state given to `loss_fn`, is like the one it returns."""
    cure = (
        "`loss_fn` must return the state after its batch. `initial_state(params, "
        "batch_shape)` of the cell or the layer is the one to begin with."
    )
    same_state(got, returned, "`loss_fn` returns it", cure=cure)


def steps(name: str, got: Array, shape: Shape, axes: str = "(T, *B)") -> Array:
    """Returns `got` if it is a bool array of this shape, `axes`; raises otherwise."""
    if got.dtype != jnp.bool_:
        raise TypeError(
            f"`{name}` must be bool, but got {got.dtype}. Compare: {name} != 0; "
            "lengths become a mask by jaxrnn.lengths_to_mask."
        )
    if got.shape != tuple(shape):
        cure = (
            "Broadcast it to the steps of `xs`: "
            f"jnp.broadcast_to({name}, {tuple(shape)})."
        )
        if sorted(got.shape) == sorted(shape):
            cure = "Time comes first: transpose it."
        raise ValueError(
            f"`{name}` must have shape {axes} = {tuple(shape)}, but got {got.shape}. "
            f"{cure}"
        )
    return got


def factors(name: str, got: Array, shape: Shape, dtype: Given) -> Array:
    """Returns `got`, `(T,)` or `(T, *B)`, with axes of size 1 for those it lacks.

    It is in float32, or wider where `dtype` is: in bfloat16 a factor of 1.003 would be
    1. `shape` is (T, *B).

    Raises:
      TypeError, ValueError: if it is not floating, or of another shape.
    """
    if not jnp.issubdtype(got.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be floating, but got {got.dtype}: {name}.astype(float)."
        )
    steps, batch = tuple(shape[:1]), tuple(shape[1:])
    if got.shape not in (steps, steps + batch):
        raise ValueError(
            f"`{name}` must have shape (T,) or (T, *B), {steps} or {steps + batch}, "
            f"but got {got.shape}. One factor per sequence alone: "
            f"jnp.broadcast_to({name}, {steps + batch})."
        )
    return got.astype(accumulation_dtype(dtype)).reshape(
        *steps, *(got.shape[1:] or [1] * len(batch))
    )


def positive(name: str, got: Given) -> int:
    """Returns `got` as an int if it is an integer ≥ 1; raises otherwise."""
    return arguments.integer(name, got, 1)


def natural(name: str, got: Given) -> int:
    """Returns `got` as an int if it is an integer ≥ 0; raises otherwise."""
    return arguments.integer(name, got, 0)


def mask_size(got: Given) -> Any:
    """Returns `got`, the size of a mask, if it can be T; raises otherwise."""
    if arguments.is_symbolic(got):
        return got
    try:
        return arguments.integer("size", got, 0)
    except TypeError as error:
        cure = "The order is lengths_to_mask(lengths, size), and T is xs.shape[0]."
        if isinstance(got, Tracer):
            cure = f"{arguments.STATIC} T is xs.shape[0]."
        raise TypeError(
            f"`size` must be the number of time steps T, an integer, but got "
            f"{describe(got)}. {cure}"
        ) from error


def finite(name: str, got: Given) -> Any:
    """Returns `got` if it is a finite number, or a traced one; raises otherwise."""
    is_array = isinstance(got, Array | np.ndarray) and got.ndim == 0
    if not (is_array or isinstance(got, numbers.Real)):
        raise TypeError(f"`{name}` must be a number, but got {describe(got)}.")
    if not isinstance(got, Tracer) and not math.isfinite(got):
        raise ValueError(f"`{name}` must be a finite number, but got {got}.")
    return got


def on_host(name: str, got: Given, function: str) -> np.ndarray:
    """Returns `got` as float64 numbers; raises if it is traced or not numeric."""
    _known(name, got, function)
    try:
        return np.asarray(unwrapped(got), np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array of numbers, but got {describe(got)}."
        ) from error


def numpy_arrays(name: str, tree: Given, function: str) -> Any:
    """Returns the tree with NumPy arrays; raises if one is traced, or is no array."""
    _known(name, tree, function)

    def converted(path: Any, leaf: Given) -> np.ndarray:
        where = name + jax.tree_util.keystr(path)
        if not isinstance(leaf, Array | np.ndarray | np.generic):
            got = describe(leaf)
            if isinstance(leaf, jax.ShapeDtypeStruct):
                got = "a shape without numbers"
            raise TypeError(f"`{where}` must be an array, but got {got}.")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(
                f"`{where}` must be an array of numbers, but got a random key. Give "
                "its numbers: jax.random.key_data(key)."
            )
        return np.asarray(leaf)

    return jax.tree.map_with_path(converted, unwrapped(tree))


def _known(name: str, tree: Given, function: str) -> None:
    """Raises if an array of the tree is traced, or has been donated."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise TypeError(
            f"`{name}` must be an array with known numbers, but is traced. "
            f"`{function}` runs on the host: call it outside of `jit`."
        )
    alive(name, tree)


def function(name: str, got: Given, signature: str, cure: str = "") -> None:
    """Raises `TypeError` unless `got` can be called."""
    if not callable(got):
        raise TypeError(
            f"`{name}` must be a function `{signature}`, but got {describe(got)}. "
            f"{cure}".strip()
        )


def loss_and_state(got: Given) -> tuple[Any, Any]:
    """Returns `got`, a `loss_fn`'s result, if it is a pair; raises otherwise."""
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise TypeError(
            f"`loss_fn` must return (loss, state), but returned {describe(got)}. "
            "Return the state after its batch too; None if there is no state."
        )
    loss, state = got
    return loss, state


def value_and_grad(got: Given, params: Given) -> tuple[tuple[Any, Any], Any]:
    """Returns the result `got` if it is ((loss, state), grads); raises otherwise."""
    pair = isinstance(got, tuple | list) and len(got) == 2
    if pair and isinstance(got[0], tuple | list) and len(got[0]) == 2:
        (loss, state), grads = got
        if _alike(loss, 0) and _alike(grads, params):
            scalar("loss_fn", loss, "that of its batch")
            return (loss, state), grads
    raise TypeError(f"{RULE_OF_STEPS}, but returned {describe(got)}. {CURE_OF_STEPS}")


RULE_OF_STEPS = "`value_and_grad` must return ((loss, state), grads)"
CURE_OF_STEPS = (
    "Give jax.value_and_grad(loss_fn, has_aux=True), where `loss_fn` returns "
    "(loss, state)."
)


def _alike(tree: Given, other: Given) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(other)


def optimizer(got: Given) -> None:
    """Raises `TypeError` unless `got` is a gradient transformation of optax."""
    methods = getattr(got, "init", None), getattr(got, "update", None)
    if not all(map(callable, methods)):
        raise TypeError(
            "`optimizer` must be an optax transformation, such as optax.adam(1e-3), "
            f"but got {describe(got)}."
        )


def device_list(got: Given) -> list[Any]:
    """Returns `got` as a list if it holds one JAX device or more; raises otherwise."""
    rule = "`devices` must be a list of JAX devices, such as jax.devices()"
    if isinstance(got, jax.Device):
        raise TypeError(f"{rule}, but got a single one, {got}. Give [device].")
    listed = list(got) if isinstance(got, list | tuple | np.ndarray) else [got]
    if not listed:
        raise ValueError(
            "`devices` must have at least one device, but got none. None chooses."
        )
    if not all(isinstance(device, jax.Device) for device in listed):
        raise TypeError(f"{rule}, but got {got!r}. None chooses.")
    return listed


def between(name: str, got: Given, low: float, high: float = math.inf) -> float:
    """Returns `got` as a float if it is a number in (low, high); raises otherwise."""
    rule = (
        f"a number above {low:g}"
        if high == math.inf
        else f"between {low:g} and {high:g}"
    )
    if not isinstance(got, numbers.Real):
        raise TypeError(f"`{name}` must be {rule}, but got {describe(got)}.")
    number = float(got)
    if not low < number < high:
        raise ValueError(f"`{name}` must be {rule}, but got {got!r}.")
    return number


def window_and_backprop(window: Given, backprop: Given) -> tuple[int, int]:
    """Returns K₁ and K₂ ≥ K₁, which is K₁ for None; raises otherwise."""
    window = positive("window", window)
    backprop = window if backprop is None else positive("backprop", backprop)
    if backprop < window:
        raise ValueError(
            f"`backprop` must be at least `window`, {window}, but got {backprop}: "
            "every loss of a window must reach back to the window's own start."
        )
    return window, backprop


def nested_windows(window: Given, windows: Given) -> tuple[int, ...]:
    """Returns K₁ ≥ K₂ ≥ …, from either argument, or () for none; raises otherwise."""
    if isinstance(window, Sequence):
        raise TypeError(
            f"`window` must be an integer, but got {window!r}: give `windows` several."
        )
    if windows is None:
        return () if window is None else (positive("window", window),)
    if window is not None:
        raise ValueError(
            f"either `window` or `windows` must be None, but got {window!r} and "
            f"{windows!r}."
        )
    if not isinstance(windows, Sequence):
        raise TypeError(f"`windows` must be a tuple of integers, but got {windows!r}.")
    levels = tuple(positive(f"windows[{i}]", given) for i, given in enumerate(windows))
    if not levels or list(levels) != sorted(levels, reverse=True):
        raise ValueError(
            "`windows` must be the lengths of nested windows, K₁ ≥ K₂ ≥ …, but got "
            f"{levels}."
        )
    return levels


def within(name: str, got: int, size: int) -> None:
    """Raises `ValueError` if a window of `got` steps is longer than `size` = T ≥ 1."""
    if got > size > 0:
        raise ValueError(
            f"`{name}` must be at most T, but got {got} for a sequence of T = {size}. "
            f"To take the whole sequence as one window, give min({got}, T)."
        )


def scalar(name: str, got: Given, what: str) -> None:
    """Raises unless `got`, the result of function `name`, is one floating number."""
    if jax.tree.structure(got) != jax.tree.structure(0):
        kind = f"a {type(got).__name__}"
    elif jnp.shape(got) != () or not jnp.issubdtype(jnp.result_type(got), jnp.floating):
        kind = f"{jnp.result_type(got)} of shape {jnp.shape(got)}. Sum it: loss.sum()"
    else:
        return
    raise TypeError(
        f"`{name}` must return a loss that is one floating number, {what}, but got "
        f"{kind}."
    )


def floating(dtype: Given) -> jnp.dtype:
    """Returns `dtype` if products can be computed in it; raises otherwise."""
    got = arguments.floating("compute_dtype", dtype)
    if jax.dtypes.canonicalize_dtype(got) != got:
        raise TypeError(
            f"`compute_dtype` must be a dtype that JAX has enabled, but got {got}. "
            'Enable it: jax.config.update("jax_enable_x64", True).'
        )
    return got


def common_length(name: str, tree: Given) -> int:
    """Returns T, the length of every leaf's first axis; raises if they disagree."""
    lengths = {
        name + jax.tree_util.keystr(path): leaf.shape[0] if leaf.ndim else -1
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
    if len(set(lengths.values())) != 1 or -1 in lengths.values():
        raise ValueError(
            f"all leaves of `{name}` must have the same first axis, time, but its "
            f"length is {lengths or 'nowhere: there are no leaves'} (-1: a scalar)."
        )
    return next(iter(lengths.values()))
