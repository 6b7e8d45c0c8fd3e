"""Which numbers of a program's results depend on which of its arguments.

Numbers of the arguments carry labels, and the equations of the traced program are
followed: a number carries every label of the numbers from which it is computed. An
operation that is not known here is taken to mix all numbers that it reads. So a number
does not depend on the arguments whose labels it lacks, whatever the values are. Nothing
is computed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrnn.ops import programs

Mask = Any
"""`[..., L]` bool: which of L labels each number of an array carries."""


def labels(program: programs.Program, given: Mapping[Any, Mask]) -> list[Mask]:
    """Returns the labels `[..., L]` of every output.

    Args:
      program: a traced program.
      given: the labels of some of its inputs, `[..., L]`. All others carry none.
    """
    masks: dict[Any, Mask] = dict(given)
    (size,) = {mask.shape[-1] for mask in given.values()}
    for equation in program.equations:
        read = [_mask_of(v, masks) for v in equation.invars]
        if any(mask is not None for mask in read):
            written = _through(equation, read, size)
            masks.update(zip(equation.outvars, written, strict=True))
    found = ((v, _mask_of(v, masks)) for v in program.outputs)
    return [
        np.zeros((*v.aval.shape, size), bool) if mask is None else mask
        for v, mask in found
    ]


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
    """Returns the mask of a product of two arrays, of which one carries labels."""
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
