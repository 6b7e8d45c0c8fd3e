"""Constraints on recurrent weights as maps of parameters: Dale's law, low rank.

A constraint is no cell. It maps parameters that are free to those that a cell takes,
inside the loss, so that the optimizer never leaves the constraint:

    def loss(free, xs):
        params = constraints.dale(free, signs)
        last, hs = jaxrnn.unroll(jaxrnn.leaky, params, None, xs)

The gradient by the free parameters is exact: the engine's, through a map that JAX
differentiates once per call, not once per step.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxrnn import arguments, checks
from jaxrnn.cells.weights import RecurrentParams


def dale(params: RecurrentParams, signs: Float[Array, " H"]) -> RecurrentParams:
    """Makes every unit excitatory or inhibitory: replaces `w_hh [H, G]` by its moduli.

    Row j of `w_hh` holds the weights from unit j to all others, and gets its sign. A
    unit excites or inhibits only if its output is not negative: use an activation such
    as "relu" or "logistic".

    Args:
      params: any cell's parameters with a matrix `w_hh`.
      signs: 1 for each excitatory unit, -1 for each inhibitory one.

    Raises:
      TypeError: if there is no matrix `w_hh`.
      ValueError: if `signs` has another shape than (H,), or a known number other than 1
        and -1.

    Source: Song, Yang & Wang (2016), "Training excitatory-inhibitory recurrent neural
    networks for cognitive tasks", PLoS Comput. Biol. 12(2), e1004792. Unlike there, the
    weights are moduli, not rectified: a rectified weight below 0 has no gradient.
    """
    matrix, signs = _matrix(params), checks.array("signs", signs)
    if signs.shape != matrix.shape[:1]:
        raise ValueError(
            f"`signs` must have shape (H,) = {matrix.shape[:1]}, one for each unit, "
            f"but got {signs.shape}."
        )
    if checks.is_known(signs) and not np.isin(np.asarray(signs), (-1, 1)).all():
        raise ValueError(f"`signs` must be 1 or -1, but got {np.asarray(signs)}.")
    return params._replace(w_hh=jnp.abs(matrix) * signs.astype(matrix.dtype)[:, None])


def low_rank(
    params: RecurrentParams, n: Float[Array, "H R"], m: Float[Array, "G R"]
) -> RecurrentParams:
    """Replaces the recurrent matrix by `w_hh = n mᵀ / H`, of rank R at most.

    The network hears its units through the R patterns n, and answers with the R
    patterns m. The matrix that `params` holds is not used, and its gradient is zero.

    Args:
      params: any cell's parameters with a matrix `w_hh`.
      n: the patterns that are heard.
      m: the patterns of the answer; G = gates · H.

    Raises:
      TypeError: if there is no matrix `w_hh`.
      ValueError: if the shapes of `n` and `m` do not fit.

    Source: Mastrogiuseppe & Ostojic (2018), "Linking connectivity, dynamics, and
    computations in low-rank recurrent neural networks", Neuron 99(3), pp. 609-623.
    """
    matrix = _matrix(params)
    n, m = checks.array("n", n), checks.array("m", m)
    size, columns = matrix.shape
    if n.ndim != 2 or n.shape[0] != size or m.shape != (columns, n.shape[1]):
        raise ValueError(
            f"`n` and `m` must have shapes (H, R) and (G, R), H = {size} and G = "
            f"{columns}, but got {n.shape} and {m.shape}."
        )
    return params._replace(w_hh=(n @ m.T / size).astype(matrix.dtype))


def _matrix(params: Any) -> Array:
    matrix: Any = getattr(params, "w_hh", None)
    if np.ndim(matrix) != 2:
        raise TypeError(
            "`params` must be a cell's, with a matrix `w_hh`, but got "
            f"{arguments.describe(params)}."
        )
    return jnp.asarray(matrix)
