"""e-prop: eligibility propagation (Bellec et al., 2020, Nature Communications 11:3625).

The *eligibility trace* of a parameter is its influence on its own unit, along the paths
that stay within the unit. It is the P of RFLO (`rflo`), with L[t] the Jacobian without
the recurrent matrices:

    P[t] = L[t] P[t-1] + M[t]                                                      (1)
    P̄[t] = κ P̄[t-1] + P[t]                                                        (2)
    dR̂/dθ = Σ g[t]ᵀ P̄[t]                                                          (3)

g is the learning signal. κ is the factor with which a leaky readout y[t] = κ y[t-1] +
W h[t] keeps its own past: then (3) takes g[t] = ∂R̂[t]/∂y[t] Wᵀ. Without such a readout
κ = 0, and e-prop is RFLO. The three kinds of feedback of the paper are three readouts:
the plain product is *symmetric*, and `feedback` with fixed or with learned weights is
*random* or *adaptive*.
"""

from typing import Any, NamedTuple

import jax
from jax import Array

from jaxrnn import arguments
from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online.base import Estimator, for_sequences
from jaxrnn.online.influence import Influence
from jaxrnn.online.rflo import gradient_own, init_own, update_own


class Eligibility(NamedTuple):
    """The traces of one sequence, leaves `[k, ...]`."""

    present: Influence
    """P, (1)."""
    filtered: Params
    """P̄, (2)."""


def eprop(kappa: float = 0.0) -> Estimator:
    """Returns e-prop, (1) to (3).

    Args:
      kappa: κ, the share of its past that a leaky readout keeps, 0 ≤ κ < 1. Static.

    Raises:
      TypeError, ValueError: if `kappa` is not a number in [0, 1). `init` raises
        `TypeError` where that of `rflo` does.

    Source: Bellec et al. (2020), "A solution to the learning dilemma for recurrent
    networks of spiking neurons", equations 1 to 4 and, for κ, the methods.
    """
    kappa = arguments.share("kappa", kappa)

    def init(cell: Cell, params: Params, state: State) -> Eligibility:
        zero = init_own(cell, params, state)
        return Eligibility(zero, zero.rows)

    def update(
        params: Params, state: State, x: Array, trace: Eligibility, key: Any
    ) -> tuple[State, Eligibility]:
        state, present = update_own(params, state, x, trace.present, key)  # (1)
        filtered = jax.tree.map(
            lambda old, new: kappa * old + new, trace.filtered, present.rows
        )
        return state, Eligibility(present, filtered)  # (2)

    def gradient(params: Params, trace: Eligibility, g: State) -> Params:
        filtered = trace.present._replace(rows=trace.filtered)
        return gradient_own(params, filtered, g)  # (3)

    return for_sequences(init, update, gradient)
