"""Optimal Kronecker-sum approximation, OK(r) (Benzing et al., 2019, ICML).

The influence of a weight matrix is kept as r Kronecker products, P ≈ Σ a_k ⊗ A_k, which
is right on average. A step turns them into a_k ⊗ J[t] A_k, and adds M[t] = â ⊗ D
(`kronecker`). These r + 1 products are made r again, with the least variance of all
unbiased ways. As columns of two matrices, P = L Rᵀ, and with L = Q_L T_L, R = Q_R T_R
(QR) and T_L T_Rᵀ = U diag(d) Vᵀ (singular values, the largest first),

    P = (Q_L U) diag(d) (Q_R V)ᵀ                                                   (1)

so that diag(d) is left. The m largest numbers are kept, m least with

    (r - m) d[m+1] ≤ s,    s = Σ_{i>m} d[i]                                        (2)

and the other k + 1 = r + 1 - m become k columns. With signs c drawn evenly from ±1,

    z[i] = √(1 - k d[i] / s),    diag(d) ≈ (s/k) diag(c) (1 - z zᵀ) diag(c)         (3)

where 1 - z zᵀ = Z Zᵀ for k columns Z orthogonal to z. (3) is d[i] on the diagonal, and
random signs beside it.

    dR̂/dW ≈ Σ_t Σ_k a_k ⊗ (g[t]ᵀ A_k)                                              (4)

O(r H³) per step and O(r H²) memory. Biases and other vectors have their exact
influence. Unlike the paper, each matrix is reduced by itself.
"""

import jax
import jax.numpy as jnp
from jax import Array
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
    something else than the input or the state; `update` raises it without a key.

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
    (q_left, t_left), (q_right, t_right) = map(jnp.linalg.qr, (left, right))
    u, d, vt = jnp.linalg.svd(t_left @ t_right.T, full_matrices=False)  # (1)
    count = left.shape[1]
    if len(d) < count:  # of so low a rank that nothing is lost
        columns = jnp.diag(jnp.sqrt(d))
        columns = jnp.pad(columns, ((0, 0), (0, count - 1 - len(d))))
    else:
        columns = _reduced_diagonal(d, key)
    return q_left @ u @ columns, q_right @ vt.T @ columns


def _reduced_diagonal(d: Float[Array, " n"], key: PRNGKeyArray) -> Float[Array, "n r"]:
    """Returns Y with r = n - 1 columns and diag(d) = Y Yᵀ on average, (2) and (3)."""
    # How many numbers are kept, m, and what is left over, s in k columns.
    r = len(d) - 1
    sums = jnp.cumsum(d[::-1])[::-1]
    m = jnp.argmax((r - jnp.arange(r)) * d[:-1] <= sums[:-1])
    k, s = r - m, sums[m]
    mixed = jnp.arange(len(d)) >= m
    share = jnp.where(s > 0, d / jnp.where(s > 0, s, 1), 1 / (k + 1))
    z = jnp.where(mixed, jnp.sqrt(jnp.maximum(1 - k * share, 0)), 0)
    # A reflection that takes the last unit vector to -z: its other columns are Z, and
    # the unit vectors of the numbers that are kept.
    v = z.at[-1].add(1)
    others = (jnp.eye(len(d)) - 2 * jnp.outer(v, v) / jnp.vdot(v, v))[:, :-1]
    signs = jax.random.rademacher(key, d.shape, d.dtype)
    scales = jnp.sqrt(jnp.where(mixed, s / k, d))
    return (signs * scales)[:, None] * others
