"""Which numbers of a cell's state depend on which, at the step before.

J[t] = ∂s[t]/∂s[t-1] is `[D, D]` for a state of D numbers. In many cells most of it is
zero at every step, whatever the parameters are: a unit of an IndRNN depends on itself
alone, and a complex number of an LRU, two numbers of the state, on itself alone. Then D
numbers fall into *units* that do not depend on one another, and J[t] into one block for
each unit: k × k if a unit has k numbers.

The units are found in the program of `Cell.state_vjp`, which is traced for the shapes
of the arguments, and whose equations are followed from λ to Jᵀ λ. An operation that is
not known here is taken to mix all numbers that it reads. So what is found to be
separate is separate, whatever the values are, and nothing is computed.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer

from jaxrnn.cells.base import Cell, Params
from jaxrnn.ops import programs
from jaxrnn.ops.ids import leading_shape
from jaxrnn.ops.products import transposed

Mask = Any
"""`[..., D]` bool: on which numbers of λ each number of an array depends."""


def separate_units(
    cell: Cell, params: Params, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> bool:
    """Returns whether a unit of the state depends on the same unit of the state before.

    And on no other, at any step and for any values: only shapes are read, so that the
    arguments may be traced. False if all numbers of the state are one unit.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      xs: inputs with any leading axes, `[*N, I]`, or ids, `[*N]`.
    """
    found = units(cell, params, xs)
    return len(found) > 1 or len(*found) == 1


def units(
    cell: Cell, params: Params, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> tuple[tuple[int, ...], ...]:
    """Returns the units of the state: n of them, each a tuple of k places.

    The places are those of the state's numbers in one vector `[D]`, its leaves one
    after the other (`jax.flatten_util.ravel_pytree`), and D = n k. The second unit of
    an LRU with H = 6 is `(1, 4)`. Units of different sizes are not told apart: all
    numbers are then one unit, as they are if each depends on each, n = 1 and k = D.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      xs: inputs with any leading axes, `[*N, I]`, or ids, `[*N]`.
    """
    # Structure does not depend on the dtype, and parameters may be of two.
    single = jnp.dtype(jnp.float32)

    def kind(a: Any, shape: Any) -> jax.ShapeDtypeStruct:
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(shape, single if floating else a.dtype)

    x = kind(xs, xs.shape[len(leading_shape(xs)) :])
    theta = jax.tree.map(lambda p: kind(p, p.shape), params)
    leaves, tree = jax.tree.flatten((theta, x))
    return _units(cell, tree, tuple(leaves))


@cache
def _units(
    cell: Cell, tree: Any, leaves: tuple[Any, ...]
) -> tuple[tuple[int, ...], ...]:
    """Returns the units for arguments of these shapes."""
    params, x = tree.unflatten(leaves)
    state = jax.eval_shape(lambda p: cell.initial_state(p, ()), params)
    kinds, structure = jax.tree.flatten((state, params, x, state))

    def back(*given: Any) -> list[Any]:
        adjoint, params, x, state = structure.unflatten(given)
        after, res = cell.step(params, state, cell.drive(params, x))
        lin = cell.linearize(params, state, after, res)
        return jax.tree.leaves(cell.state_vjp(transposed(params), lin, adjoint))

    program = programs.trace(back, kinds)
    pattern = _pattern(program, len(jax.tree.leaves(state)))
    found = _components(pattern | pattern.T)
    if len({len(unit) for unit in found}) > 1:
        return (tuple(range(len(pattern))),)
    return found


def _components(joined: Any) -> tuple[tuple[int, ...], ...]:
    """Returns the places that a symmetric pattern `[D, D]` joins, in their order."""
    found, rest = [], np.ones(len(joined), bool)
    while rest.any():
        unit = np.zeros_like(rest)
        edge = np.flatnonzero(rest)[:1]
        while edge.size:
            unit[edge] = True
            edge = np.flatnonzero(joined[edge].any(axis=0) & ~unit)
        rest &= ~unit
        found.append(tuple(np.flatnonzero(unit).tolist()))
    return tuple(found)


def _pattern(program: programs.Program, count: int) -> Any:
    """Returns `[D, D]`: whether number i of the result depends on number j of λ.

    λ is the first `count` inputs of the program.
    """
    sources = program.inputs[:count]
    ends = np.cumsum([0, *(math.prod(v.aval.shape) for v in sources)])
    size = int(ends[-1])
    masks: dict[Any, Mask] = {}
    for v, start, end in zip(sources, ends[:-1], ends[1:], strict=True):
        masks[v] = np.eye(size, dtype=bool)[start:end].reshape(*v.aval.shape, size)
    for equation in program.equations:
        read = [_mask_of(v, masks) for v in equation.invars]
        if any(mask is not None for mask in read):
            written = _through(equation, read, size)
            masks.update(zip(equation.outvars, written, strict=True))
    rows = []
    for v in program.outputs:
        mask = _mask_of(v, masks)
        none = np.zeros((math.prod(v.aval.shape), size), bool)
        rows.append(none if mask is None else mask.reshape(-1, size))
    return np.concatenate(rows)


def _mask_of(v: Any, masks: dict[Any, Mask]) -> Mask | None:
    return None if programs.is_literal(v) else masks.get(v)


def _through(equation: Any, read: list[Mask | None], size: int) -> list[Mask]:
    """Returns the masks of an equation's results from those of what it reads."""
    name, shapes = equation.primitive.name, [v.aval.shape for v in equation.outvars]
    known = [mask for mask in read if mask is not None]
    if name in NUMBER_BY_NUMBER:
        # One with no axes is the same for every number.
        total = np.zeros((*shapes[0], size), bool)
        for mask in known:
            total = total | mask
        return [total]
    if name == "optimization_barrier":
        none = [np.zeros((*shape, size), bool) for shape in shapes]
        return [n if mask is None else mask for mask, n in zip(read, none, strict=True)]
    if name in ("concatenate", "stack"):
        parts = [
            np.zeros((*v.aval.shape, size), bool) if mask is None else mask
            for mask, v in zip(read, equation.invars, strict=True)
        ]
        if name == "stack":
            return [np.stack(parts, axis=equation.params["axis"])]
        return [np.concatenate(parts, axis=equation.params["dimension"])]
    if name in MOVES and len(known) == 1 and read[0] is not None:
        return MOVES[name](known[0], equation.params, shapes)
    if name == "dot_general" and len(known) == 1:
        return [_of_product(equation.params, read, shapes[0])]
    # Unknown: every number of the results depends on every number that is read.
    mixed = np.any([mask.reshape(-1, size).any(axis=0) for mask in known], axis=0)
    return [np.broadcast_to(mixed, (*shape, size)) for shape in shapes]


NUMBER_BY_NUMBER = {
    *("add", "add_any", "sub", "neg", "mul", "div", "select_n", "copy", "copy_p"),
    *("convert_element_type", "reduce_precision", "real", "imag", "complex", "conj"),
    *("pvary", "pcast", "sharding_constraint"),
}
"""Operations in which a number depends on the numbers at its own place."""


def _reshaped(mask: Mask, _: Any, shapes: list[Any]) -> list[Mask]:
    return [mask.reshape(*shapes[0], mask.shape[-1])]


def _broadcast(mask: Mask, params: Any, shapes: list[Any]) -> list[Mask]:
    axes = [1] * len(shapes[0])
    for axis, length in zip(params["broadcast_dimensions"], mask.shape, strict=False):
        axes[axis] = length
    size = mask.shape[-1]
    return [np.broadcast_to(mask.reshape(*axes, size), (*shapes[0], size))]


def _transposed(mask: Mask, params: Any, _: Any) -> list[Mask]:
    return [mask.transpose(*params["permutation"], mask.ndim - 1)]


def _sliced(mask: Mask, params: Any, _: Any) -> list[Mask]:
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return [mask[tuple(map(slice, starts, limits, strides))]]


def _split(mask: Mask, params: Any, _: Any) -> list[Mask]:
    return np.split(mask, np.cumsum(params["sizes"])[:-1], axis=params["axis"])


def _unstacked(mask: Mask, params: Any, _: Any) -> list[Mask]:
    return list(np.moveaxis(mask, params["axis"], 0))


def _reversed(mask: Mask, params: Any, _: Any) -> list[Mask]:
    return [np.flip(mask, axis=params["dimensions"])]


def _padded(mask: Mask, params: Any, shapes: list[Any]) -> list[Mask]:
    size, config = mask.shape[-1], params["padding_config"]
    if any(low < 0 or high < 0 for low, high, _ in config):  # cut off, not padded
        mixed = mask.reshape(-1, size).any(axis=0)
        return [np.broadcast_to(mixed, (*shapes[0], size))]
    whole = np.zeros((*shapes[0], size), bool)
    places = [
        slice(low, length - high, between + 1)
        for (low, high, between), length in zip(config, shapes[0], strict=True)
    ]
    whole[tuple(places)] = mask
    return [whole]


def _summed(mask: Mask, params: Any, _: Any) -> list[Mask]:
    return [mask.any(axis=tuple(params["axes"]))]


MOVES: dict[str, Callable[[Mask, Any, list[Any]], list[Mask]]] = {
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "broadcast_in_dim": _broadcast,
    "transpose": _transposed,
    "slice": _sliced,
    "split": _split,
    "unstack": _unstacked,
    "rev": _reversed,
    "pad": _padded,
    "reduce_sum": _summed,
}
"""Operations that move the numbers of one array, or sum them."""


def _of_product(params: Any, read: list[Mask | None], shape: Any) -> Mask:
    """Returns the mask of a product of which one factor depends on λ."""
    at = 0 if read[0] is not None else 1
    mask: Any = read[at]
    contracted, batch = (axes[at] for axes in params["dimension_numbers"])
    free = [n for n in range(mask.ndim - 1) if n not in (*contracted, *batch)]
    # Batch axes first, then those of the first factor, then those of the second.
    mask = mask.transpose(*batch, *free, *contracted, mask.ndim - 1)
    kept, size = len(batch) + len(free), mask.shape[-1]
    mask = mask.any(axis=tuple(range(kept, mask.ndim - 1)))
    others = (1,) * (len(shape) - kept)
    leading, rows = mask.shape[: len(batch)], mask.shape[len(batch) : -1]
    axes = (*rows, *others) if at == 0 else (*others, *rows)
    return np.broadcast_to(mask.reshape(*leading, *axes, size), (*shape, size))
