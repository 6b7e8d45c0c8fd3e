"""Random feedback local online learning, RFLO (Murray, 2019, eLife 8:e43299).

It takes the recurrent matrices out of the Jacobian J[t]. The rest, L[t], is how a unit
keeps its own state: the leak of a leaky network, or the gates of an LSTM. With one
block of L for each unit,

    P[t] = L[t] P[t-1] + M[t]                                                      (1)
    dR̂/dθ = Σ g[t]ᵀ P[t]                                                           (2)

O(|θ|) per step and O(|θ|) memory. It drops every path from unit to unit, so it is
biased, and a basic network learns nothing from further back than one step. Where the
units are separate, nothing is dropped, and it is exact.

In the paper, the error reaches the units through fixed random weights: `feedback`.
"""

from typing import Any

from jax import Array

from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online import influence
from jaxrnn.online.base import Estimator, for_sequences, step
from jaxrnn.online.influence import Influence
from jaxrnn.online.lateral import blocks_without, check_seen, synapses


def rflo() -> Estimator:
    """Returns RFLO, (1) and (2).

    The trace is the influence of each parameter on its own unit, `[*B, k, ...]`. `init`
    raises `TypeError` if a parameter of the cell acts on several units within a step,
    or the cell does not show its recurrent weights (`lateral.are_seen`).

    Source: Murray (2019), "Local online learning in recurrent networks with random
    feedback", eLife 8, equations 3 to 5.
    """
    return for_sequences(init_own, update_own, gradient_own)


def init_own(cell: Cell, params: Params, state: State) -> Influence:
    """Returns P[0] of one sequence, leaves `[k, ...]`."""
    layout = influence.by_index(cell, params)
    check_seen(cell, params, layout)
    return influence.zero(cell, params, layout)


def update_own(
    params: Params, state: State, x: Array, trace: Influence, key: Any
) -> tuple[State, Influence]:
    """Runs one step of one sequence, and of (1), leaves `[k, ...]`."""
    layout = influence.by_index(trace.cell, params)
    state, local = step(trace.cell, params, state, x)
    if influence.is_separate(trace.cell, params):
        blocks = influence.blocks(local, layout)
    else:
        blocks = blocks_without(local, params, layout, synapses(layout))
    return state, influence.advance(trace, local, layout, blocks)


def gradient_own(params: Params, trace: Influence, g: State) -> Params:
    """Returns (2) of one step of one sequence, leaves `[...]`."""
    return influence.gradient(trace, influence.by_index(trace.cell, params), g)
