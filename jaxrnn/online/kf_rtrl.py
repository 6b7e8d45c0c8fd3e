"""Kronecker-factored RTRL, KF-RTRL (Mujika, Meier & Steger, 2018, NeurIPS).

The influence of a weight matrix is kept as one Kronecker product, P ≈ a ⊗ A with a
`[R]` and A `[D, C]`, which is right on average. With M[t] = â ⊗ D of the step
(`kronecker`), signs c₀, c₁ drawn evenly from ±1, and any factors p₀, p₁ > 0,

    a ← c₀ p₀ a + c₁ p₁ â,    A ← c₀ / p₀ J[t] A + c₁ / p₁ D                        (1)
    dR̂/dW ≈ Σ a ⊗ (g[t]ᵀ A)                                                        (2)

The variance is least with

    p₀² = |J A| / |a|,    p₁² = |D| / |â|                                          (3)

Biases and other vectors have their exact influence. O(H³) per step and O(H²) memory:
dearer than UORO by H, and less noisy by about as much, because the signs mix two steps
and not all D numbers of the state.

Unlike the paper, each matrix has signs and factors of its own.
"""

import jax
from jax import Array
from jaxtyping import PRNGKeyArray

from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online import kronecker
from jaxrnn.online.base import Estimator, for_sequences, step
from jaxrnn.online.kronecker import Product, Products, balance
from jaxrnn.ops.norms import norm


def kf_rtrl() -> Estimator:
    """Returns KF-RTRL, (1) to (3): unbiased, and it draws.

    The trace has a vector `[*B, 1, R]` and a matrix `[*B, 1, D, C]` for each weight
    matrix `[R, C]`. `init` raises `TypeError` if a weight matrix of the cell multiplies
    anything but the input or the state; `update` raises it without a key.

    Source: Mujika, Meier & Steger (2018), "Approximating real-time recurrent learning
    with random Kronecker factors", NeurIPS.
    """
    return for_sequences(_init, _update, kronecker.gradient, draws="kf_rtrl")


def _init(cell: Cell, params: Params, state: State) -> Products:
    return kronecker.zero(cell, params, state, 1)


def _update(
    params: Params, state: State, x: Array, trace: Products, key: PRNGKeyArray
) -> tuple[State, Products]:
    state, local = step(trace.cell, params, state, x)
    return state, kronecker.advance(trace, params, local, _join, key)


def _join(old: Product, new: Product, key: PRNGKeyArray) -> Product:
    """Returns one product in place of two, the new one without the axis of r = 1."""
    signs = jax.random.rademacher(key, (2,), new.left.dtype)
    p0 = signs[0] * balance(norm(old.right), norm(old.left))
    p1 = signs[1] * balance(norm(new.right), norm(new.left))  # (3)
    left = p0 * old.left + p1 * new.left
    return Product(left, old.right / p0 + new.right / p1)  # (1)
