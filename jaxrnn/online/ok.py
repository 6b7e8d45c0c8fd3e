"""Optimal Kronecker-sum approximation, OK(r) (Benzing et al., 2019, ICML).

The influence of a weight matrix is kept as r Kronecker products, P ≈ Σ a_k ⊗ A_k, which
is right on average. A step turns them into a_k ⊗ J[t] A_k, and adds M[t] = â ⊗ D
(`kronecker`). These r + 1 products are reduced to r, with the least variance of all
unbiased ways. Written as columns of two matrices, P = L Rᵀ. Rotations X, Y of the
columns make them orthogonal, L X = Q_L A and R Y = Q_R B with unit columns Q and
diagonal A, B. With the singular values A Xᵀ Y B = U diag(d) Vᵀ, the largest first,

    P = (Q_L U) diag(d) (Q_R V)ᵀ                                                   (1)

so that only diag(d) must be reduced. Its m largest numbers are kept, for the least m
with

    (r - m) d[m+1] ≤ s,    s = Σ_{i>m} d[i]                                        (2)

and the other k + 1 = r + 1 - m become k columns. With signs c drawn evenly from ±1,

    z[i] = √(1 - k d[i] / s),    diag(d) ≈ (s/k) diag(c) (1 - z zᵀ) diag(c)         (3)

where 1 - z zᵀ = Z Zᵀ for k columns Z orthogonal to z. The product in (3) has d[i] on
the diagonal; off it stand terms of random sign, zero on average.

    dR̂/dW ≈ Σ_t Σ_k a_k ⊗ (g[t]ᵀ A_k)                                              (4)

O(r H³) per step and O(r H²) memory. Biases and other vectors have their exact
influence. Unlike the paper, each matrix is reduced by itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online import kronecker
from jaxrnn.online.base import Estimator, for_sequences, step
from jaxrnn.online.kronecker import Product, Products


def ok(r: int = 1) -> Estimator:
    """Returns OK(r), (1) to (4): unbiased, and it draws.

    The trace has r vectors `[*B, r, R]` and r matrices `[*B, r, D, C]` for each weight
    matrix `[R, C]`. `init` raises `TypeError` if a weight matrix of the cell multiplies
    anything but the input or the state; `update` raises it without a key.

    Args:
      r: how many products are kept for each weight matrix, r ≥ 1. Static.

    Raises:
      TypeError, ValueError: if `r` is not an integer ≥ 1.

    Source: Benzing et al. (2019), "Optimal Kronecker-sum approximation of real time
    recurrent learning", ICML.
    """
    r = arguments.integer("r", r, 1)

    def init(cell: Cell, params: Params, state: State) -> Products:
        return kronecker.zero(cell, params, state, r)

    return for_sequences(init, _update, kronecker.gradient, draws="ok")


def _update(
    params: Params, state: State, x: Array, trace: Products, key: PRNGKeyArray
) -> tuple[State, Products]:
    state, local = step(trace.cell, params, state, x)

    def join(old: Product, new: Product, key: PRNGKeyArray) -> Product:
        left = jnp.concatenate([old.left, new.left[None]])
        right = jnp.concatenate([old.right, new.right[None]])
        flat, matrices = reduced(left.T, right.reshape(len(right), -1).T, key)
        return Product(flat.T, matrices.T.reshape(old.right.shape))

    return state, kronecker.advance(trace, params, local, join, key)


def reduced(
    left: Float[Array, "R n"], right: Float[Array, "S n"], key: PRNGKeyArray
) -> tuple[Float[Array, "R m"], Float[Array, "S m"]]:
    """Returns matrices of m = n - 1 columns with the same product L Rᵀ on average.

    Args:
      left: L.
      right: R.
      key: a random key.
    """
    rotations = [_axes(a.T @ a) for a in (left, right)]
    (q_left, a), (q_right, b) = (
        _unit_columns(m @ x) for m, x in zip((left, right), rotations, strict=True)
    )
    core = a[:, None] * (rotations[0].T @ rotations[1]) * b
    v = _axes(core.T @ core)
    v = v[:, jnp.argsort(-jnp.linalg.norm(core @ v, axis=0))]
    u, d = _unit_columns(core @ v)  # (1)
    columns = _reduced_diagonal(d, key)
    return q_left @ u @ columns, q_right @ v @ columns


def _unit_columns(a: Float[Array, "N n"]) -> tuple[Array, Array]:
    """Returns the columns over their norms, and the norms; a column of 0 stays 0."""
    norms = jnp.linalg.norm(a, axis=0)
    return a / jnp.where(norms > 0, norms, 1), norms


def _axes(gram: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the rotation V for which Vᵀ G V is diagonal, by Jacobi's method.

    (1) is an identity for any rotations, so a remainder off the diagonal adds no bias.
    Unlike LAPACK's routines, this may run several times at once: those of jaxlib 0.10.2
    wait for one another forever if a program calls two of them on batches.
    """
    n = len(gram)
    pairs = [(p, q) for p in range(n) for q in range(p + 1, n)]
    sweeps = 1 if n == 2 else SWEEPS

    def rotate(carry: tuple[Array, Array], pair: Array) -> Any:
        gram, axes = carry
        p, q = pair
        # At most an eighth of a turn, which makes number (p, q) of G zero.
        difference, off = gram[q, q] - gram[p, p], 2 * gram[p, q]
        sign = jnp.where(difference < 0, -1, 1)
        angle = jnp.arctan2(sign * off, sign * difference) / 2
        c, s = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.eye(n, dtype=gram.dtype)
        turn = turn.at[pair, pair].set(c).at[p, q].set(s).at[q, p].set(-s)
        return (turn.T @ gram @ turn, axes @ turn), None

    start = gram, jnp.eye(n, dtype=gram.dtype)
    return lax.scan(rotate, start, jnp.array(pairs * sweeps))[0][1]


SWEEPS = 6
"""Each sweep squares the remainder: 0.1 is 1e-16 after 4 of them."""


def _reduced_diagonal(d: Float[Array, " n"], key: PRNGKeyArray) -> Float[Array, "n r"]:
    """Returns Y with r = n - 1 columns and diag(d) = Y Yᵀ on average, (2) and (3)."""
    # How many numbers are kept, m, and what is left over, s in k columns.
    r = len(d) - 1
    sums = jnp.cumsum(d[::-1])[::-1]
    m = jnp.argmax((r - jnp.arange(r)) * d[:-1] <= sums[:-1])
    k, s = (r - m).astype(d.dtype), sums[m]
    mixed = jnp.arange(len(d)) >= m
    share = jnp.where(s > 0, d / jnp.where(s > 0, s, 1), 1 / (k + 1))
    z = jnp.where(mixed, jnp.sqrt(jnp.maximum(1 - k * share, 0)), 0)
    # A reflection that takes the last unit vector to -z: its other columns are Z, and
    # the unit vectors of the numbers that are kept.
    v = z.at[-1].add(1)
    unit = jnp.eye(len(d), dtype=d.dtype)
    others = (unit - 2 * jnp.outer(v, v) / jnp.vdot(v, v))[:, :-1]
    signs = jax.random.rademacher(key, d.shape, d.dtype)
    scales = jnp.sqrt(jnp.where(mixed, s / k, d))
    return (signs * scales)[:, None] * others
