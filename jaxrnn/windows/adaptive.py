"""How far back a loss must reach, measured from the contribution of each lag.

Let d_i be the contribution of lag i, the parameters at step T-i, to the gradient of a
loss at step T. So dR̂/dθ = Σ d_i for i = 0, 1, …; `flow.lag_gradients` returns the same
terms. With λ[T-i] = dR̂/ds[T-i], measured over R steps,

    ‖dR̂/dθ - Σ_{i<K} d_i‖ ≤ E_K = Σ_{K≤i<R} ‖d_i‖ + ‖d_{R-1}‖ β / (1 - β)         (1)
    relative bias of K ≤ E_K / max_k (‖Σ_{i<k} d_i‖ - E_k)                        (2)

if ‖λ[T-i]‖, and so ‖d_i‖, falls as β^i beyond R, with β from a line through log
‖λ[T-i]‖ over its second half.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float64, PyTree

from jaxrnn import checks
from jaxrnn.cells.base import Params
from jaxrnn.ops.norms import decay_rate, norm
from jaxrnn.ops.products import zeros_for_sums
from jaxrnn.windows import segments
from jaxrnn.windows.segments import LossFn

# Steps: two points in the second half, for a line, and one to spare.
LEAST = 4


class AdaptiveTruncation(NamedTuple):
    """How far back a loss must reach. R is the number of steps that were measured."""

    window: int | None
    """The least K known to have a relative bias of at most δ; None: no such K ≤ R."""
    rate: float
    """β, by which the adjoint decays per step; if β ≥ 1, no bias is bounded."""
    contributions: Float64[np.ndarray, " R"]
    """‖d_i‖, by lag i: the norms of the terms that `flow.lag_gradients` returns."""
    biases: Float64[np.ndarray, " R"]
    """The bound (2) of the relative bias of windows of i + 1 steps: lags 0 to i."""


def adaptive_truncation(
    loss_fn: LossFn, bias: float
) -> Callable[[Any, Any, Any], AdaptiveTruncation]:
    """Chooses how far back a loss reaches, from the decay of its adjoint, (1) and (2).

    Train with the result as with any truncation, and measure again now and then as the
    network learns:

        measure = adaptive_truncation(loss_fn, 0.1)
        K = measure(params, state, batch).window
        fn = jax.jit(truncated_value_and_grad(loss_fn, window, backprop=window + K - 1))

    Then every loss reaches back at least K steps. Every new K is a new compilation, so
    round it up, for example to a power of 2.

    Both the decay and δ refer to the last loss of this batch. (The gradients of many
    losses cancel; near a minimum they cancel more than their biases do.) A batch of
    many sequences averages over them. The bound adds up norms, so it is safe, but
    larger than the bias where contributions cancel.

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`, as in
        `truncated_value_and_grad`; it is called with windows of one step.
      bias: δ, the relative bias that is tolerated, between 0 and 1.

    Returns:
      A function of `params`, of `state` (that before the first step) and of `batch`, a
      tree of arrays `[R, ...]`, time first; R should be several times the expected
      memory. It compiles once for each shape, and holds the R states.

    Raises:
      TypeError, ValueError: if `bias` is not between 0 and 1; when called, if the
        leaves of `batch` disagree on R or R < 4, if the last step's loss has no
        gradient, or if `state` is not of the kind that `loss_fn` returns.

    Source: Aicher, Foti & Fox (2019), "Adaptively truncating backpropagation through
    time to control gradient bias", arXiv:1905.07473, with ‖d_i‖ measured in place of a
    bound M ‖λ_i‖.
    """
    bias = checks.between("bias", bias, 0.0, 1.0)
    loss_fn = segments.checked(loss_fn)
    measured = jax.jit(lambda *arguments: _contributions(loss_fn, *arguments))

    def measure(params: Params, state: PyTree, batch: PyTree) -> AdaptiveTruncation:
        # The contributions of every lag.
        batch = jax.tree.map(jnp.asarray, batch)
        size = checks.common_length("batch", batch)
        if size < LEAST:
            raise ValueError(
                f"`batch` must have at least {LEAST} steps, but got R = {size}."
            )
        adjoints, parts, sums = np.asarray(measured(params, state, batch), np.float64)
        if not parts[0]:
            raise ValueError(
                "the loss of the last step of `batch` must have a gradient, but it is "
                "zero. End the batch with a step that has a label."
            )
        # The decay beyond R: without one, no bias is bounded.
        rate = decay_rate(adjoints)
        if rate >= 1:
            return AdaptiveTruncation(None, rate, parts, np.full(size, np.inf))
        # (1), for K = 1 … R.
        beyond = parts[-1] * rate / (1 - rate)
        errors = np.append(np.cumsum(parts[:0:-1])[::-1], 0.0) + beyond
        # (2): ‖dR̂/dθ‖ is at least `least`.
        least = np.max(sums - errors)
        biases = errors / least if least > 0 else np.full(size, np.inf)
        # The least window within the bias.
        enough = np.flatnonzero(biases <= bias)
        window = int(enough[0]) + 1 if enough.size else None
        return AdaptiveTruncation(window, rate, parts, biases)

    return measure


def _contributions(
    loss_fn: LossFn, params: Params, state: PyTree, batch: PyTree
) -> Array:
    """Returns ‖λ[T-i-1]‖, ‖d_i‖ and ‖Σ_{j≤i} d_j‖ of the last step's loss, `[3, R]`."""
    size = checks.common_length("batch", batch)
    state = jax.tree.map(jnp.asarray, state)

    def forward(before, t):
        step = segments.slice_steps(batch, t, 1)
        return loss_fn(params, before, step)[1], before

    def backward(carry, inputs):
        dloss, adjoint, total = carry
        before, t = inputs
        step = segments.slice_steps(batch, t, 1)
        loss, _, back = segments.pull_back(loss_fn, params, before, step)
        part, adjoint = back(dloss.astype(loss.dtype), adjoint)
        total = jax.tree.map(jnp.add, total, part)
        norms = norm(adjoint), norm(part), norm(total)
        return (jnp.zeros_like(dloss), adjoint, total), norms

    _, befores = lax.scan(forward, state, jnp.arange(size))
    adjoint = [jnp.zeros_like(a) for a in segments.floating_leaves(state)]
    start = jnp.ones(()), adjoint, zeros_for_sums(params)
    _, norms = lax.scan(backward, start, (befores, jnp.arange(size)), reverse=True)
    return jnp.flip(jnp.stack(norms), axis=1)
