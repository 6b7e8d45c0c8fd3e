"""Real-time recurrent learning (Williams & Zipser, 1989, Neural Computation 1).

It carries the whole influence,

    P[t] = J[t] P[t-1] + M[t]                                                      (1)
    dR̂/dθ = Σ g[t]ᵀ P[t]                                                           (2)

While the parameters stay the same, this is exactly the gradient of backpropagation
through time. For a state of D numbers it takes O(D² |θ|) per step, of the order of H⁴
for a dense cell of H units, and O(D |θ|) memory, of the order of H³.

If the units of the state do not depend on one another, and each parameter acts on one
of them, most of P is zero. Then it takes O(|θ|) per step and O(|θ|) memory: IndRNN,
LRU, minGRU and minLSTM are such cells. The program of a cell shows which kind it is
(`influence.found`).
"""

from typing import Any

from jax import Array

from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online import influence
from jaxrnn.online.base import Estimator, for_sequences, step
from jaxrnn.online.influence import Influence


def rtrl() -> Estimator:
    """Returns real-time recurrent learning, (1) and (2), for any cell.

    It is exact while the parameters stay the same. The trace is the influence of every
    parameter, `[*B, k, ...]`: k is D for a dense cell, and the size of one unit if the
    units are separate.

    Source: Williams & Zipser (1989), "A learning algorithm for continually running
    fully recurrent neural networks", Neural Computation 1.
    """
    return for_sequences(_init, _update, _gradient)


def _init(cell: Cell, params: Params, state: State) -> Influence:
    return influence.zero(cell, params, influence.found(cell, params))


def _update(
    params: Params, state: State, x: Array, trace: Influence, key: Any
) -> tuple[State, Influence]:
    layout = influence.found(trace.cell, params)
    state, local = step(trace.cell, params, state, x)
    blocks = influence.blocks(local, layout)
    return state, influence.advance(trace, local, layout, blocks)  # (1)


def _gradient(params: Params, trace: Influence, g: State) -> Params:
    layout = influence.found(trace.cell, params)
    return influence.gradient(trace, layout, g)  # (2)
