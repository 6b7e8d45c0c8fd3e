"""The weights between units, and the Jacobian without them.

A weight is *lateral* if it multiplies the state of one unit and acts on another. In a
dense cell all recurrent weights are, except for the diagonal of each gate. Without them
J has one block for each unit, and takes k products instead of D.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxrnn import structure
from jaxrnn.cells.base import Cell, Params
from jaxrnn.online import influence
from jaxrnn.online.base import Local, random_arguments, step, wide
from jaxrnn.online.influence import Layout
from jaxrnn.ops.products import transposed


def lateral(layout: Layout) -> Params:
    """Returns which numbers of the parameters are lateral, bools like them `[...]`."""
    unit_of = unit_of_place(layout)

    def of_leaf(targets: Any, places: Any) -> Any:
        others = unit_of[np.maximum(places, 0)] != targets
        return (places == structure.SEVERAL) | ((places >= 0) & others)

    return jax.tree.map(of_leaf, layout.entries.targets, layout.entries.places)


def synapses(layout: Layout) -> Params:
    """Returns which numbers of the parameters belong to recurrent matrices, bools.

    They are those that multiply the state, in an array `[...]` with lateral weights.
    """

    def of_leaf(is_lateral: Any, places: Any) -> Any:
        return is_lateral.any() & (places != structure.NONE)

    return jax.tree.map(of_leaf, lateral(layout), layout.entries.places)


def unit_of_place(layout: Layout) -> Any:
    """Returns the unit of each number of the state, integers `[D]`."""
    places = np.array(layout.units)
    found = np.zeros(places.size, int)
    found[places] = np.arange(len(places))[:, None]
    return found


def blocks_without(
    local: Local, params: Params, layout: Layout, dropped: Params
) -> Float[Array, "n k k"]:
    """Returns the blocks of the J that the cell has without some of its weights.

    The coefficients of the step stay those of the whole cell.

    Args:
      local: the step.
      params: the cell's parameters.
      layout: the units of the state.
      dropped: which parameters are taken to be 0, bools `[...]`. All lateral ones must
        be among them.
    """
    kept = jax.tree.map(lambda p, d: jnp.where(d, 0, p), wide(params), dropped)
    return influence.blocks(local._replace(params_t=transposed(kept)), layout)


def are_seen(cell: Cell, params: Params, layout: Layout) -> bool:
    """Returns whether all lateral weights of a cell are known.

    They are not if the cell takes them, or the state that they multiply, from the
    result of `linearize`, as a cell made by `cell_from_step` may do. At random numbers,
    the blocks without them are compared with those of the whole J.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters, `[...]`, of which only the shapes are read.
      layout: the units of the state.
    """
    leaves, tree = jax.tree.flatten(params)
    shapes = tuple(leaf.shape for leaf in leaves)
    return _are_seen(cell, tree, shapes, layout.units)


def check_seen(cell: Cell, params: Params, layout: Layout) -> None:
    """Raises TypeError unless a cell has separate units, or its weights are seen.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters, `[...]`, of which only the shapes are read.
      layout: the units of the state.
    """
    if not influence.is_separate(cell, params) and not are_seen(cell, params, layout):
        raise TypeError(
            "`cell` must show which weights join its units, but with "
            f"{type(params).__name__} its `state_vjp` takes them from `linearize`. Use "
            "jaxrnn.online.rtrl() or snap(1)."
        )


@cache
def _are_seen(cell: Cell, tree: Any, shapes: Any, units: Any) -> bool:
    with jax.ensure_compile_time_eval():  # also while another program is traced
        params, state, x = random_arguments(cell, tree, shapes)
        layout = Layout(units, structure.entries(cell, params, units, x.size))

        @jax.jit
        def difference(params: Params, state: Any, x: Any) -> Array:
            local = step(cell, params, state, x)[1]
            without = blocks_without(local, params, layout, lateral(layout))
            own = influence.own_blocks(local, layout)
            return jnp.abs(without - own).max() / jnp.abs(own).max()

        return bool(difference(params, state, x) < TOLERANCE)


TOLERANCE = 1e-3
"""Rounding leaves differences of 1e-6; a weight that was missed, of the order of 1."""
