"""Unbiased online recurrent optimization, UORO (Tallec & Ollivier, 2018, ICLR).

The influence is kept as one outer product, P ≈ s̃ ⊗ θ̃, which is right on average. With
signs ν[t] drawn evenly from ±1, `[D]`, and any factors ρ₀, ρ₁ > 0,

    s̃ ← ρ₀ J[t] s̃ + ρ₁ ν[t],    θ̃ ← θ̃ / ρ₀ + M[t]ᵀ ν[t] / ρ₁                      (1)
    dR̂/dθ ≈ Σ (g[t] · s̃) θ̃                                                        (2)

The variance is least with

    ρ₀² = |θ̃| / |J s̃|,    ρ₁² = |Mᵀν| / |ν|                                       (3)

A step takes one product with J and one with Mᵀ, so O(|θ|), and J is never formed. The
price is noise, which grows with the number of steps that matter and with D.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online.base import Estimator, for_sequences, step, vector, wide
from jaxrnn.online.kronecker import balance
from jaxrnn.ops.norms import norm


class RankOne(NamedTuple):
    """P of one sequence, about s̃ ⊗ θ̃."""

    cell: Cell
    state: Float[Array, " D"]
    """s̃."""
    params: Params
    """θ̃, leaves `[...]`."""


def uoro() -> Estimator:
    """Returns UORO, (1) to (3), for any cell: unbiased, and it draws.

    The trace is a vector `[*B, D]` and a tree like the parameters for each sequence,
    `[*B, ...]`. `update` raises `TypeError` without a key.

    Source: Tallec & Ollivier (2018), "Unbiased online recurrent optimization",
    arXiv:1702.05043.
    """
    return for_sequences(_init, _update, _gradient, draws="uoro")


def _init(cell: Cell, params: Params, state: State) -> RankOne:
    zeros = jax.tree.map(jnp.zeros_like, wide(params))
    return RankOne(cell, jnp.zeros_like(vector(state)), zeros)


def _update(
    params: Params, state: State, x: Array, trace: RankOne, key: PRNGKeyArray
) -> tuple[State, RankOne]:
    state, local = step(trace.cell, params, state, x)
    signs = jax.random.rademacher(key, trace.state.shape, trace.state.dtype)
    old, new = local.forward(trace.state), local.pull(signs)
    rho_0 = balance(norm(trace.params), norm(old))
    rho_1 = balance(norm(new), norm(signs))  # (3)
    return state, RankOne(
        trace.cell,
        rho_0 * old + rho_1 * signs,
        jax.tree.map(lambda a, b: a / rho_0 + b / rho_1, trace.params, new),  # (1)
    )


def _gradient(params: Params, trace: RankOne, g: State) -> Params:
    share = jnp.vdot(vector(g), trace.state)
    return jax.tree.map(lambda a: share * a, trace.params)  # (2)
