"""How far back to send a gradient: drawn at random, so that it is right on average, or measured.

Truncation leaves out what a loss owes to steps further back than K: it is biased. *Randomized*
truncation cuts the way from step t to t-1 with probability c[t], and makes up for the cuts where
it does not cut, with the factor γ of `jaxrnn.unroll`:

    γ[t] = 0 with probability c[t],  else 1 / (1 - c[t]),    so E[γ[t] … γ[t-i]] = 1         (1)

for c[t] may depend on the cuts before t, and on nothing after. Cuts at every step with the same
probability make windows of geometric length; with n steps since the last cut and

    c = (α - 1) / ((α - 2) K + n)                                                            (2)

a window's length has mean K too, and a tail that falls as n^(1-α).

*Adaptive* truncation measures what it leaves out. With d_i the part of the gradient that a loss
owes to the step i before its own, i = 0, 1, … (so dR̂/dθ = Σ d_i), and λ_i the adjoint of the state
before that step, seen over R steps,

    ‖dR̂/dθ - Σ_{i<K} d_i‖ ≤ E_K = Σ_{K≤i<R} ‖d_i‖ + ‖d_{R-1}‖ β / (1 - β)                      (3)
    relative bias of K ≤ E_K / max_k (‖Σ_{i<k} d_i‖ - E_k)                                    (4)

if ‖λ_i‖, and so ‖d_i‖, falls as β^i beyond R, with β from a line through log ‖λ_i‖ over its second
half.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Float64, PRNGKeyArray

from jaxrnn import checks, windows
from jaxrnn.cells.base import wide
from jaxrnn.windows import LossFn


def randomized_truncation(
    key: PRNGKeyArray,
    size: int,
    window: float,
    *,
    exponent: float | None = None,
    batch_shape: tuple[int, ...] = (),
) -> Float[Array, "T *B"]:
    """Factors γ, (1), with which truncated BPTT is unbiased: `unroll(..., gamma=γ)`.

    The gradient's mean over draws is that of full BPTT. Its variance is the price: a path over n
    steps has the weight 1/P(n steps without a cut) where it is not cut, (1 - 1/K)^-n with constant
    windows, about n^(α-1) with growing ones. So where the adjoint decays slowly, by β per step with
    β² > 1 - 1/K, the variance of one loss's gradient grows without bound with the steps behind it
    if windows are constant, and does not if they grow.

    Without bias in float32 or wider. In bfloat16 each step rounds the adjoint by more than γ is off
    1 where K is some tens: keep the parameters in float32, and give `unroll` a `compute_dtype`.

    Args:
      key: a random key; a new one for every gradient.
      size: T.
      window: K, the mean number of steps between cuts, above 1.
      exponent: α > 2, (2): long windows are rare, and the longer one is, the less likely its end
        comes. 6 is a usual choice. None: every step is cut with probability 1/K.
      batch_shape: *B, for cuts of their own in each sequence; (): the same in all.

    Returns:
      γ, `[T, *B]`, float32; the first one is 1.

    Raises:
      TypeError, ValueError: if an argument is not as above.

    Source: Tallec & Ollivier (2017), "Unbiasing truncated backpropagation through time",
    arXiv:1705.08209.
    """
    size = checks.natural("size", size)
    batch_shape = tuple(checks.natural("batch_shape", b) for b in batch_shape)
    mean = checks.between("window", window, 1.0)
    alpha = None if exponent is None else checks.between("exponent", exponent, 2.0)

    def over_step(since, draw):
        c = 1 / mean if alpha is None else (alpha - 1) / ((alpha - 2) * mean + since)
        cut = draw < c
        return jnp.where(cut, 1.0, since + 1), jnp.where(cut, 0.0, 1 / (1 - c))

    draws = jax.random.uniform(key, (size, *batch_shape), jnp.float32)
    _, gamma = lax.scan(over_step, jnp.ones(batch_shape, jnp.float32), draws[1:])
    return jnp.concatenate([jnp.ones_like(draws[:1]), gamma])


# Steps: two points in the second half, for a line, and one to spare.
LEAST = 4


class AdaptiveTruncation(NamedTuple):
    """How far back a loss must be sent. R is the number of steps over which it was measured."""

    window: int | None
    """K, the least with a relative bias of at most δ; None where no K ≤ R is known to have it."""
    rate: float
    """β, by which the adjoint shrinks per step; from 1 on it does not, and nothing is known."""
    adjoints: Float64[np.ndarray, " R"]
    """‖λ_i‖, of the adjoint of the state before the step that is i steps before the loss's."""
    biases: Float64[np.ndarray, " R"]
    """The bound (4) of the relative bias if a loss is sent back over i + 1 steps."""


def adaptive_truncation(
    loss_fn: LossFn, bias: float
) -> Callable[[Any, Any, Any], AdaptiveTruncation]:
    """Chooses how far to send a loss back from how its adjoint decays, (3) and (4).

    Train with it as with any truncation; measure again, now and then, as the network learns:

        measure = adaptive_truncation(loss_fn, 0.1)
        K = measure(params, state, batch).window
        fn = jax.jit(truncated_value_and_grad(loss_fn, window, backprop=window + K - 1))

    Then every loss sees K steps at least. Every new K is a new compilation: round it up, to a power
    of 2, say.

    The decay is that of this batch's last loss, and δ that of its gradient (the gradients of many
    losses cancel, near a minimum more than their biases do). A batch of many sequences averages
    over them. The bound adds up norms, so it is safe, and larger than the bias where contributions
    cancel.

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`, as in `truncated_value_and_grad`;
        it is called with windows of one step.
      bias: δ, the relative bias that is tolerated, between 0 and 1.

    Returns:
      A function of `params`, of `state` (that before the first step) and of `batch`, a tree of
      arrays `[R, ...]`, time first; R should be some times the memory that is expected. It
      compiles once for a shape, and holds the R states.

    Raises:
      TypeError, ValueError: if `bias` is not between 0 and 1; when called, if the leaves of `batch`
        disagree on R or R < 4, if the last step's loss has no gradient, or if `state` is not of the
        kind that `loss_fn` returns.

    Source: Aicher, Foti & Fox (2019), "Adaptively truncating backpropagation through time to
    control gradient bias", arXiv:1905.07473, with ‖d_i‖ measured in place of a bound M ‖λ_i‖.
    """
    bias = checks.between("bias", bias, 0.0, 1.0)
    measured = jax.jit(
        lambda *arguments: _contributions(windows.checked(loss_fn), *arguments)
    )

    def measure(params: Any, state: Any, batch: Any) -> AdaptiveTruncation:
        batch = jax.tree.map(jnp.asarray, batch)
        size = checks.common_length("batch", batch)
        if size < LEAST:
            raise ValueError(
                f"`batch` must have {LEAST} steps at least, but got R = {size}."
            )
        adjoints, parts, sums = np.asarray(measured(params, state, batch), np.float64)
        if not parts[0]:
            raise ValueError(
                "the loss of the last step of `batch` has no gradient. Has it a label? End the "
                "batch with a step that has one."
            )
        rate = decay_rate(adjoints)
        if rate >= 1:
            return AdaptiveTruncation(None, rate, adjoints, np.full(size, np.inf))
        # (3), for K = 1 … R.
        beyond = parts[-1] * rate / (1 - rate)
        errors = np.append(np.cumsum(parts[:0:-1])[::-1], 0.0) + beyond
        least = np.max(sums - errors)  # ‖dR̂/dθ‖ is at least this
        biases = errors / least if least > 0 else np.full(size, np.inf)
        enough = np.flatnonzero(biases <= bias)
        return AdaptiveTruncation(
            int(enough[0]) + 1 if enough.size else None, rate, adjoints, biases
        )

    return measure


def _contributions(loss_fn, params, state, batch):
    """‖λ_i‖, ‖d_i‖ and ‖Σ_{j≤i} d_j‖ of the last step's loss, `[3, R]`."""
    size = checks.common_length("batch", batch)
    state = jax.tree.map(jnp.asarray, state)

    def forward(before, t):
        return loss_fn(params, before, windows.steps(batch, t, 1))[1], before

    def backward(carry, inputs):
        dloss, adjoint, total = carry
        before, t = inputs
        loss, _, back = windows.pullback(
            loss_fn, params, before, windows.steps(batch, t, 1)
        )
        part, adjoint = back(dloss.astype(loss.dtype), adjoint)
        total = jax.tree.map(jnp.add, total, part)
        return (jnp.zeros_like(dloss), adjoint, total), (
            norm(adjoint),
            norm(part),
            norm(total),
        )

    _, befores = lax.scan(forward, state, jnp.arange(size))
    adjoint = [jnp.zeros_like(a) for a in windows.floats(state)]
    _, norms = lax.scan(
        backward,
        (jnp.ones(()), adjoint, windows.zeros(params)),
        (befores, jnp.arange(size)),
        reverse=True,
    )
    return jnp.flip(jnp.stack(norms), axis=1)


def norm(tree: Any, axis: int | None = None) -> Array:
    """Over all leaves and `axis`, or all of theirs: `[]` or `[...]`, in float32 or wider.

    Numbers are divided by the largest before they are squared: adjoints are small, and the square
    of 1e-20 is no float32.
    """
    tree = jax.tree.map(lambda a: a.astype(wide(a.dtype)), tree)
    largest = largest_modulus(tree, axis)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    kept = unit if axis is None else jnp.expand_dims(unit, axis)
    squares = [jnp.sum(jnp.square(a / kept), axis=axis) for a in jax.tree.leaves(tree)]
    return unit * jnp.sqrt(functools.reduce(jnp.add, squares))


def largest_modulus(tree: Any, axis: int | None = None) -> Array:
    """Over all leaves and `axis`, or all of theirs: `[]` or `[...]`."""
    moduli = [jnp.max(jnp.abs(a), axis=axis) for a in jax.tree.leaves(tree)]
    return functools.reduce(jnp.maximum, moduli)


def decay_rate(norms: Float64[np.ndarray, " R"]) -> float:
    """The factor per lag of norms `[R]`: a line through their logarithms, over the second half.

    Zeros are left out, for they are what underflowed: 0 if less than two norms are left, and
    infinity if one is not finite.
    """
    if not np.isfinite(norms).all():
        return math.inf
    lags = np.flatnonzero(norms)  # beyond these it underflowed
    lags = lags[len(lags) // 2 :]
    if len(lags) < 2:
        return 0.0
    return float(np.exp(np.polyfit(lags, np.log(norms[lags]), 1)[0]))
