"""Whether the functions of a cell fit together: shapes, dtypes and trees alone.

Nothing is computed. The first call with a cell traces its functions in the order of
(1) to (5) of `base`, and an error names the function that returned what it must not.
`jaxrnn.check_cell` compares the numbers too.
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn.arguments import describe
from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.ops.ids import leading_shape

ARGUMENTS = {
    "init": ("key", "input_size", "hidden_size"),
    "initial_state": ("params", "batch_shape"),
    "drive": ("params", "xs"),
    "step": ("params", "state", "u"),
    "linearize": ("params", "state_prev", "state", "res"),
    "state_vjp": ("params_t", "lin", "adjoint"),
    "param_vjp": ("params_t", "xs", "states_prev", "lin", "adjoints"),
}
"""The arguments of each function of a cell, in their order."""


def signature(cell: Cell, name: str) -> None:
    """Raises `TypeError` unless a function of the cell takes its arguments."""
    takes(name, getattr(cell, name), ARGUMENTS[name])


def takes(name: str, function: Any, names: tuple[str, ...]) -> None:
    """Raises `TypeError` unless a cell's function takes arguments of these names."""
    rule = f"the cell's `{name}` must take ({', '.join(names)})"
    if not callable(function):
        raise TypeError(f"{rule}, but is {describe(function)}.")
    try:
        got = inspect.signature(function)
    except (TypeError, ValueError):  # of a function without a readable signature
        return
    try:
        got.bind(*names)
    except TypeError as error:
        raise TypeError(
            f"{rule}, but takes {got}. `jaxrnn.Cell` describes them all."
        ) from error


def parameters(params: Params) -> None:
    """Raises `TypeError` unless `init` returned a NamedTuple `[...]` of arrays."""
    if not hasattr(params, "_fields"):
        raise TypeError(
            "the cell's `init` must return a NamedTuple of arrays, but returned "
            f"{describe(params)}. Define one: class Params(NamedTuple)."
        )


def kept(cell: Cell, params: Params, state: State, xs: Any) -> None:
    """Raises unless the cell keeps its contract for arguments like these.

    Args:
      cell: the cell.
      params: its parameters.
      state: a state, leaves `[*B, H]`.
      xs: inputs with any leading axes, `[*N, I]`, or ids, `[*N]`.

    Raises:
      TypeError: if a function has other arguments, or returns another kind of value.
      ValueError: if a function returns arrays of other shapes.
    """
    x = jax.ShapeDtypeStruct(xs.shape[len(leading_shape(xs)) :], xs.dtype)
    one = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[-1:], s.dtype), state)
    leaves, tree = jax.tree.flatten((jax.tree.map(_kind, params), one, x))
    _kept(cell, tree, tuple(leaves))


def _kind(a: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, a.dtype)


# K steps of *B sequences: a stretch of time, and the step within it.
STEPS, BATCH = 3, (2,)


@cache
def _kept(cell: Cell, tree: Any, leaves: tuple[Any, ...]) -> None:
    """Checks the shapes `[K, *B, ...]` and `[*B, ...]` of all that the cell returns."""
    params, one, x = jax.tree.unflatten(tree, leaves)
    for name in ARGUMENTS:
        signature(cell, name)
    stretch = (STEPS, *BATCH)

    def stacked(kinds: Any, shape: tuple[int, ...]) -> Any:
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((*shape, *a.shape), a.dtype), kinds
        )

    initial = _call(cell, "initial_state", params, BATCH)
    state_like("initial_state", initial, stacked(one, BATCH))
    us = _call(cell, "drive", params, stacked(x, stretch))
    _leading("drive", us, stretch)
    for shape in (BATCH, stretch):
        states = stacked(one, shape)
        u = _call(cell, "drive", params, stacked(x, shape))
        after, res = _pair(
            "step", _call(cell, "step", params, states, u), "(state, res)"
        )
        state_like("step", after, states)
        _leading("step", res, shape)
    lin = _call(cell, "linearize", params, states, states, res)
    _leading("linearize", lin, stretch)
    params_t = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape[::-1], p.dtype) if p.ndim == 2 else p,
        params,
    )
    lin_of_a_step = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), lin
    )
    states = stacked(one, BATCH)
    back = _call(cell, "state_vjp", params_t, lin_of_a_step, states)
    state_like("state_vjp", back, states, "an adjoint like the state")
    xs, states = stacked(x, stretch), stacked(one, stretch)
    result = _call(cell, "param_vjp", params_t, xs, states, lin, states)
    dparams, dxs = _pair("param_vjp", result, "(dparams, dxs)")
    gradients(dparams, params)
    if jnp.issubdtype(x.dtype, jnp.floating):  # ids have no gradient
        _alike("param_vjp", "dxs", dxs, xs)


def _call(cell: Cell, name: str, *arguments: Any) -> Any:
    """Returns the shapes of a function's result; an error says whose it is."""
    function: Callable[..., Any] = getattr(cell, name)
    try:
        if name == "initial_state":
            params, batch = arguments
            return jax.eval_shape(lambda p: function(p, batch), params)
        return jax.eval_shape(lambda *given: function(*given), *arguments)
    except Exception as error:
        given = ", ".join(
            f"{argument} {_shapes(value)}"
            for argument, value in zip(ARGUMENTS[name], arguments, strict=True)
        )
        error.add_note(f"This is from the cell's `{name}`, called with {given}.")
        raise


def _shapes(tree: Any) -> str:
    shapes = jax.tree.map(lambda a: list(getattr(a, "shape", [a])), tree)
    return str(jax.tree.leaves(shapes, is_leaf=lambda a: isinstance(a, list)))


def _pair(name: str, got: Any, what: str) -> Any:
    """Returns `got` if it is a pair, but no NamedTuple; raises otherwise."""
    if isinstance(got, tuple) and len(got) == 2 and not hasattr(got, "_fields"):
        return got
    cure = "A step that keeps nothing returns state, ()." if name == "step" else ""
    raise TypeError(
        f"the cell's `{name}` must return a pair {what}, but returned {describe(got)}. "
        f"{cure}".strip()
    )


def state_like(name: str, got: Any, expected: Any, what: str = "a state") -> None:
    """Raises unless `got` is like the state `[*N, H]`, whose first field is `h`.

    Raises:
      TypeError: if it is another kind of value, or of another dtype.
      ValueError: if it has another shape.
    """
    rule = f"the cell's `{name}` must return {what}"
    fields = getattr(got, "_fields", ())
    if fields[:1] != ("h",):
        raise TypeError(
            f"{rule}, a NamedTuple whose first field is `h`, but returned "
            f"{describe(got)}{tuple(fields) or ''}."
        )
    if jax.tree.structure(got) != jax.tree.structure(expected):
        raise TypeError(
            f"{rule}, {describe(expected)}{expected._fields}, but returned "
            f"{describe(got)}{tuple(fields)}."
        )
    for field, a, b in zip(fields, got, expected, strict=True):
        _alike(name, field, a, b)


def _alike(name: str, field: str, got: Any, expected: Any) -> None:
    """Raises unless an array has the shape and the dtype that it must have."""
    if not hasattr(got, "shape") or got.shape != expected.shape:
        shape = getattr(got, "shape", describe(got))
        raise ValueError(
            f"the cell's `{name}` must return `{field}` of shape {expected.shape}, but "
            f"returned {shape}. Axes other than the last are time and the batch."
        )
    if got.dtype != expected.dtype:
        raise TypeError(
            f"the cell's `{name}` must return `{field}` in {expected.dtype}, but "
            f"returned {got.dtype}. Cast it: .astype({str(expected.dtype)!r})."
        )


def _leading(name: str, got: Any, shape: tuple[int, ...]) -> None:
    """Raises unless every array begins with the leading axes of the arguments."""
    for path, leaf in jax.tree.leaves_with_path(got):
        if leaf.shape[: len(shape)] != shape:
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"the cell's `{name}` must return arrays with the leading axes of its "
                f"arguments, {shape}, but returned{where and ' ' + where} "
                f"{leaf.shape}. Broadcast what is the same at every step: "
                "jnp.broadcast_to."
            )


CURE_OF_IDS = (
    "Call jaxrnn.cells.weights.drive in `drive` and drive_vjp in `param_vjp`, or "
    "encode ids: jax.nn.one_hot."
)


def gradients(got: Any, params: Params) -> None:
    """Raises `TypeError` unless a cell's `param_vjp` returned a tree like `params`.

    A gradient of fewer axes would be broadcast, silently, when chunks are summed.
    """
    shapes, expected = (jax.tree.map(jnp.shape, tree) for tree in (got, params))
    if shapes != expected:
        raise TypeError(
            "the cell's `param_vjp` must return a gradient of each parameter's shape, "
            f"{expected}, but returned {shapes}. For ids: {CURE_OF_IDS}"
        )
