"""Which numbers of a cell's state depend on which, at the step before.

J[t] = ∂s[t]/∂s[t-1] is `[D, D]` for a state of D numbers. In many cells most of it is
zero at every step, whatever the parameters are: in an IndRNN each number of the state
depends on itself alone, and in an LRU each complex number, two numbers of the state.
Then the D numbers fall into *units* that do not depend on one another, and J[t] into
one block for each unit: k × k if a unit has k numbers.

The units are found in the program of `Cell.state_vjp`, which is traced for the shapes
of the arguments, and whose equations are followed from λ to Jᵀ λ (`ops.dependence`).
Likewise `Cell.param_vjp` shows on which unit each number of the parameters acts within
a step, and which number of the state or of the input it multiplies. Nothing is
computed, and units that are found to be separate are so for any values.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer

from jaxrnn.cells.base import Cell, Params
from jaxrnn.ops import dependence, programs
from jaxrnn.ops.ids import leading_shape
from jaxrnn.ops.products import transposed

Units = tuple[tuple[int, ...], ...]
"""n units, each a tuple of the k places of its numbers in the state, `[D]`."""


def units(
    cell: Cell, params: Params, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Units:
    """Returns the units of the state: n of them, each a tuple of k places.

    The places are those of the state's numbers in one vector `[D]`, its leaves one
    after the other (`jax.flatten_util.ravel_pytree`), and D = n k. The second unit of
    an LRU with H = 6 is `(1, 4)`. All numbers are one unit, n = 1 and k = D, if each
    depends on each, or if the units differ in size.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      xs: inputs with any leading axes, `[*N, I]`, or ids, `[*N]`.
    """
    x = _kind(xs, xs.shape[len(leading_shape(xs)) :])
    leaves, tree = jax.tree.flatten((jax.tree.map(_kind, params), x))
    return _units(cell, tree, tuple(leaves))


def _kind(a: Any, shape: Any = None) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype, float32 for any floats: the structure is the same."""
    floating = jnp.issubdtype(a.dtype, jnp.floating)
    dtype = jnp.dtype(jnp.float32) if floating else a.dtype
    return jax.ShapeDtypeStruct(a.shape if shape is None else shape, dtype)


@cache
def _units(cell: Cell, tree: Any, leaves: tuple[Any, ...]) -> Units:
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
    size = sum(leaf.size for leaf in jax.tree.leaves(state))
    adjoint = program.inputs[: len(jax.tree.leaves(state))]
    given = _labeled(adjoint, np.eye(size, dtype=bool))
    carried = dependence.labels(program, given)
    pattern = np.concatenate([mask.reshape(-1, size) for mask in carried])
    found = _components(pattern | pattern.T)
    if len({len(unit) for unit in found}) > 1:
        return (tuple(range(len(pattern))),)
    return found


def _components(joined: Any) -> Units:
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


def _labeled(inputs: Any, labels: Any) -> dict[Any, Any]:
    """Gives the rows of `labels [D, L]` to the numbers of some inputs, in order."""
    given, start = {}, 0
    for v in inputs:
        end = start + math.prod(v.aval.shape)
        given[v] = labels[start:end].reshape(*v.aval.shape, labels.shape[1])
        start = end
    return given


NONE, SEVERAL = -1, -2
"""In place of a number, where there is none, or where there are several."""


class Entries(NamedTuple):
    """What each number of the parameters acts on within a step, and what it multiplies.

    All are trees of integers `[...]` like the parameters, `NONE` and `SEVERAL` among
    them. An axis along which nothing changes has size 1.
    """

    targets: Params
    """The unit of the state on which it acts."""
    places: Params
    """The number of the state before that it multiplies."""
    inputs: Params
    """The number of the input that it multiplies."""


def entries(cell: Cell, params: Params, units: Units, input_size: int) -> Entries:
    """Returns what the numbers of a cell's parameters act on, and what they multiply.

    In an LSTM with a state h, c of H numbers each, the units are (i, H + i). Column i
    of any gate of `w_hh [H, G]` acts on unit i, and row j multiplies number j of the
    state, which belongs to unit j. The places are found only if `Cell.param_vjp` reads
    the state from its argument `states_prev`.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters, `[...]`, of which only the shapes are read.
      units: the units of the state.
      input_size: I.
    """
    x = jax.ShapeDtypeStruct((input_size,), jnp.float32)
    leaves, tree = jax.tree.flatten((jax.tree.map(_kind, params), x))
    return _entries(cell, units, tree, tuple(leaves))


@cache
def _entries(cell: Cell, units: Units, tree: Any, leaves: tuple[Any, ...]) -> Entries:
    """Returns the entries for arguments of these shapes."""
    params, x = tree.unflatten(leaves)
    state = jax.eval_shape(lambda p: cell.initial_state(p, (1,)), params)
    x = jax.ShapeDtypeStruct((1, *x.shape), x.dtype)
    # The arguments whose numbers get labels come first.
    kinds, structure = jax.tree.flatten((state, state, x, params, state, x))

    def pull(*given: Any) -> list[Any]:
        adjoint, before, x, params, state, x_of_step = structure.unflatten(given)
        after, res = cell.step(params, state, cell.drive(params, x_of_step))
        lin = cell.linearize(params, state, after, res)
        return jax.tree.leaves(
            cell.param_vjp(transposed(params), x, before, lin, adjoint)[0]
        )

    program = programs.trace(pull, kinds)
    count = len(jax.tree.leaves(state))
    places = sum(map(len, units))

    def numbers_read(inputs: Any, numbers: Any) -> Params:
        """Returns which of the numbers each result depends on."""
        bits = max(1, int(numbers.max()).bit_length())
        digits = (numbers[:, None] >> np.arange(bits)) & 1
        labels = np.concatenate([digits == 1, digits == 0], axis=1)
        carried = dependence.labels(program, _labeled(inputs, labels))
        found = [_thin(_number_of(mask, bits)) for mask in carried]
        return jax.tree.structure(params).unflatten(found)

    unit_of_place = np.zeros(places, int)
    for number, unit in enumerate(units):
        unit_of_place[list(unit)] = number
    return Entries(
        numbers_read(program.inputs[:count], unit_of_place),
        numbers_read(program.inputs[count : 2 * count], np.arange(places)),
        numbers_read(program.inputs[2 * count : 2 * count + 1], np.arange(x.shape[1])),
    )


def _number_of(mask: Any, bits: int) -> Any:
    """Returns the number whose bits, set and not set, are the labels `[..., L]`."""
    is_set, is_not = mask[..., :bits], mask[..., bits:]
    number = (is_set << np.arange(bits)).sum(axis=-1)
    number = np.where((is_set & is_not).any(axis=-1), SEVERAL, number)
    return np.where(mask.any(axis=-1), number, NONE)


def _thin(numbers: Any) -> Any:
    """Returns the same with size 1 for every axis along which nothing changes."""
    for axis in range(numbers.ndim):
        first = numbers.take([0], axis=axis)
        numbers = first if (numbers == first).all() else numbers
    return numbers
