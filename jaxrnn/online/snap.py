"""Sparse n-step approximation, SnAp (Menick et al., 2021, ICLR, arXiv:2006.07232).

It keeps those numbers of the influence that become non-zero within n steps. A parameter
acts on one unit, and reaches others in n - 1 more steps along non-zero weights. The
numbers of all these units are kept. With K[n] this pattern of zeros and ones,

    P[t] = K[n] ⊙ (J[t] P[t-1] + M[t])                                             (1)
    dR̂/dθ = Σ g[t]ᵀ P[t]                                                           (2)

n = 1 keeps for each parameter the numbers of its own unit, and needs of J only the
blocks on the diagonal, one for each unit: O(|θ|) per step and O(|θ|) memory. It drops
how a unit acts on itself through others, and is biased; with separate units it drops
nothing and is exact. n ≥ 2 stores the whole P, `[D, ...]`, zeros included, and takes
O(D² |θ|) per step: its only use is the study of sparse networks. With dense weights,
n = 2 is RTRL already.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

from jaxrnn import arguments
from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online import influence
from jaxrnn.online.base import Estimator, for_sequences, step
from jaxrnn.online.influence import Influence, Layout
from jaxrnn.online.lateral import (
    are_seen,
    blocks_without,
    check_seen,
    lateral,
    unit_of_place,
)


def snap(n: int = 1) -> Estimator:
    """Returns SnAp-n, (1) and (2).

    The trace is the influence, `[*B, k, ...]` for n = 1 and `[*B, D, ...]` for n ≥ 2.
    With n ≥ 2 the pattern follows from the weights that are not zero when the trace is
    made: keep the others at zero.

    Args:
      n: the steps of the pattern, n ≥ 1. Static.

    Raises:
      TypeError, ValueError: if `n` is not an integer ≥ 1. `init` raises `TypeError` if
        a parameter of the cell acts on several units within a step, as those of a layer
        norm do, and for n ≥ 2 if the cell does not show its recurrent weights
        (`lateral.are_seen`).

    Source: Menick et al. (2021), "Practical real time recurrent learning with a sparse
    approximation", ICLR.
    """
    if arguments.integer("n", n, 1) == 1:
        return for_sequences(_init, _update, _gradient)

    def init(cell: Cell, params: Params, state: State) -> Sparse:
        return _init_sparse(cell, params, n)

    return for_sequences(init, _update_sparse, _gradient_sparse)


# n = 1: the blocks on the diagonal.
def _init(cell: Cell, params: Params, state: State) -> Influence:
    return influence.zero(cell, params, influence.by_index(cell, params))


def _update(
    params: Params, state: State, x: Array, trace: Influence, key: Any
) -> tuple[State, Influence]:
    cell = trace.cell
    layout = influence.by_index(cell, params)
    state, local = step(cell, params, state, x)
    if influence.is_separate(cell, params):
        blocks = influence.blocks(local, layout)
    elif are_seen(cell, params, layout):
        blocks = blocks_without(local, params, layout, lateral(layout))
    else:
        blocks = influence.own_blocks(local, layout)
    return state, influence.advance(trace, local, layout, blocks)  # (1)


def _gradient(params: Params, trace: Influence, g: State) -> Params:
    return influence.gradient(trace, influence.by_index(trace.cell, params), g)  # (2)


# n ≥ 2: the whole influence, with zeros.
class Sparse(NamedTuple):
    """P of one sequence, and the pattern of what is kept of it."""

    influence: Influence
    reached: Bool[Array, "n n"]
    """Whether unit j reaches unit i of the state in at most n - 1 steps."""


def _init_sparse(cell: Cell, params: Params, n: int) -> Sparse:
    layout = influence.by_index(cell, params)
    check_seen(cell, params, layout)
    joined = _joined(params, layout)
    reached = jnp.eye(len(layout.units), dtype=bool)
    for _ in range(n - 1):
        reached = (reached.astype(int) @ joined.astype(int)) > 0
    zero = influence.zero(cell, params, influence.dense(cell, params))
    return Sparse(zero, reached)


def _update_sparse(
    params: Params, state: State, x: Array, trace: Sparse, key: Any
) -> tuple[State, Sparse]:
    cell = trace.influence.cell
    dense, layout = (f(cell, params) for f in (influence.dense, influence.by_index))
    state, local = step(cell, params, state, x)
    blocks = influence.blocks(local, dense)
    after = influence.advance(trace.influence, local, dense, blocks)
    unit_of = unit_of_place(layout)

    def kept(rows: Array, targets: Any) -> Array:
        # [D, ...]: whether a number of the state is one of a unit that is reached.
        pattern = trace.reached[unit_of][:, np.maximum(targets, 0)]
        return jnp.where(pattern, rows, 0)

    rows = jax.tree.map(kept, after.rows, layout.entries.targets)  # (1)
    return state, trace._replace(influence=after._replace(rows=rows))


def _gradient_sparse(params: Params, trace: Sparse, g: State) -> Params:
    dense = influence.dense(trace.influence.cell, params)
    return influence.gradient(trace.influence, dense, g)  # (2)


def _joined(params: Params, layout: Layout) -> Bool[Array, "n n"]:
    """Returns whether unit j acts on unit i within a step, or is unit i itself."""
    unit_of, found = unit_of_place(layout), jnp.eye(len(layout.units), dtype=bool)
    trees = params, layout.entries.targets, layout.entries.places
    for p, targets, places in zip(*map(jax.tree.leaves, trees), strict=True):
        targets, places = (np.broadcast_to(a, p.shape) for a in (targets, places))
        reads = places >= 0
        at = targets[reads], unit_of[places[reads]]
        found = found.at[at].max(p[reads] != 0)
    return found
