"""The influence of the parameters on the state, unit by unit.

If the units of a state do not depend on one another (`jaxrnn.structure`), and each
number of the parameters acts on one unit, then P[t] is zero outside that unit: it has k
numbers for each number θ of the parameters. Let B[t] `[n, k, k]` be the blocks of J[t],
one for each unit, u the unit on which θ acts, and a and b numbers of that unit. Then

    P[a, θ] ← Σ_b B[u, a, b] P[b, θ] + M[a, θ]                                     (1)
    dR̂/dθ = Σ_a g[u, a] P[a, θ]                                                    (2)

A state in which everything depends on everything is one unit: n = 1 and k = D, and (1)
is a product of matrices. So one recursion serves diagonal cells and dense ones.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxrnn import structure
from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online.base import Local, input_size, vector
from jaxrnn.ops.products import accumulation_dtype


class Layout(NamedTuple):
    """Which units a state has, and on which of them each parameter acts."""

    units: structure.Units
    entries: structure.Entries


class Influence(NamedTuple):
    """P of one sequence, (1)."""

    cell: Cell
    rows: Params
    """Leaves `[k, ...]`, a row for each number of a unit."""


def state_sizes(cell: Cell, params: Params) -> list[int]:
    """Returns how many numbers each leaf of a state `[H]` has."""
    state = jax.eval_shape(lambda p: cell.initial_state(p, ()), params)
    return [leaf.size for leaf in jax.tree.leaves(state)]


def dense(cell: Cell, params: Params) -> Layout:
    """Returns the layout in which all numbers of the state `[D]` are one unit."""
    return _layout(cell, params, (tuple(range(sum(state_sizes(cell, params)))),))


def found(cell: Cell, params: Params) -> Layout:
    """Returns the layout with the units that the cell has by itself.

    The layout is dense if all numbers `[D]` depend on one another, or if a number of
    the parameters acts on several units.
    """
    x = jnp.zeros(input_size(cell, params))  # only its shape is read
    layout = _layout(cell, params, structure.units(cell, params, x))
    return layout if _acts_on_one(layout) else dense(cell, params)


def is_separate(cell: Cell, params: Params) -> bool:
    """Returns whether the cell `[D]` has several units by itself (`found`)."""
    return len(found(cell, params).units) > 1


def by_index(cell: Cell, params: Params) -> Layout:
    """Returns the layout of `found`, or, if that is dense, one with a unit per index.

    Unit i then has number i of every leaf of the state, `[H]`: h[i] and c[i] of an
    LSTM.

    Raises:
      TypeError: if there are no such units, because the leaves differ in length or a
        number of the parameters acts on several units.
    """
    layout = found(cell, params)
    if len(layout.units) > 1:
        return layout
    sizes = state_sizes(cell, params)
    if len(set(sizes)) == 1:
        starts = np.arange(len(sizes)) * sizes[0]
        units = tuple(tuple((starts + i).tolist()) for i in range(sizes[0]))
        layout = _layout(cell, params, units)
        if _acts_on_one(layout):
            return layout
    raise TypeError(
        "`cell` must be one in which each parameter acts on a single unit within a "
        f"step, which does not hold for {type(params).__name__}. Use "
        "jaxrnn.online.rtrl or jaxrnn.online.uoro, which take any cell."
    )


def _layout(cell: Cell, params: Params, units: structure.Units) -> Layout:
    size = input_size(cell, params)
    return Layout(units, structure.entries(cell, params, units, size))


def _acts_on_one(layout: Layout) -> bool:
    """Returns whether every number of the parameters acts on one unit, or on none."""
    targets = jax.tree.leaves(layout.entries.targets)
    return not any((numbers == structure.SEVERAL).any() for numbers in targets)


def zero(cell: Cell, params: Params, layout: Layout) -> Influence:
    """Returns P[0] = 0, leaves `[k, ...]`."""
    count = len(layout.units[0])
    rows = jax.tree.map(
        lambda p: jnp.zeros((count, *p.shape), accumulation_dtype(p.dtype)), params
    )
    return Influence(cell, rows)


def blocks(local: Local, layout: Layout) -> Float[Array, "n k k"]:
    """Returns the blocks B of a J that is zero outside them, by k products with J."""
    rows = jax.vmap(local.back)(_indicators(layout, local))  # [k, D], of all units
    return jnp.moveaxis(rows[:, np.array(layout.units)], 1, 0)


def own_blocks(local: Local, layout: Layout) -> Float[Array, "n k k"]:
    """Returns the blocks of any J, by D products with it."""
    places = np.array(layout.units)
    return local.jacobian()[places[:, :, None], places[:, None, :]]


def advance(
    influence: Influence, local: Local, layout: Layout, blocks: Float[Array, "n k k"]
) -> Influence:
    """Returns the influence after a step, (1), leaves `[k, ...]`."""
    direct = jax.vmap(local.pull)(_indicators(layout, local))  # M

    def after(rows: Array, direct: Array, targets: Any) -> Array:
        if len(layout.units) == 1:
            return jnp.tensordot(blocks[0], rows, 1) + direct
        # [k, k, ...]: the block of the unit on which each number acts.
        own = jnp.moveaxis(blocks[np.maximum(targets, 0)], (-2, -1), (0, 1))
        return (own * rows).sum(axis=1) + direct

    targets = layout.entries.targets
    rows = jax.tree.map(after, influence.rows, direct, targets)
    return influence._replace(rows=rows)


def gradient(influence: Influence, layout: Layout, g: State) -> Params:
    """Returns dR̂/dθ of one step, (2), leaves `[...]`."""
    errors = vector(g)[np.array(layout.units)]  # [n, k]

    def of_leaf(rows: Array, targets: Any) -> Array:
        if len(layout.units) == 1:
            return jnp.tensordot(errors[0], rows, 1)
        own = jnp.moveaxis(errors[np.maximum(targets, 0)], -1, 0)
        return (own * rows).sum(axis=0)

    return jax.tree.map(of_leaf, influence.rows, layout.entries.targets)


def _indicators(layout: Layout, local: Local) -> Float[Array, "k D"]:
    """Returns vectors with 1 for number a of every unit, a = 1 … k."""
    places = np.array(layout.units)
    rows = np.zeros((places.shape[1], places.size))
    for a, at in enumerate(places.T):
        rows[a, at] = 1
    return jnp.asarray(rows, vector(local.before).dtype)
