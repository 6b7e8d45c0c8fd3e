"""Truncated BPTT as a windowed scan: gradients of long sequences, a window at a time.

Cut a sequence of T steps into windows w = 0, 1, … of K₁ steps. With R̂_w the loss of window w, run
from the state s at step a_w, and sg(·) a value without its gradient,

    a_w = max(0, (w + 1) K₁ - K₂),      R̂_w = loss of window w, from sg(s[a_w])              (1)
    R̂ = Σ R̂_w,                          dR̂/dθ ≈ Σ dR̂_w/dθ                                    (2)

So every K₁ steps the newest K₁ losses, and they alone, are sent back over the last K₂ ≥ K₁ steps:
a loss sees its past for K₂ - K₁ steps at least and for K₂ at most. With K₂ = K₁ no gradient
crosses a window's edge, and the forward pass runs once; with K₂ > K₁ it runs K₂/K₁ times, since
the steps before a window are run again from s[a_w], with the present parameters. (The other usual
reading keeps the old steps' own graph; the two differ only where parameters move in between.)
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn import checks, placement
from jaxrnn.cells.base import wide

LossFn = Callable[[Any, Any, Any], tuple[Any, Any]]
ValueAndGrad = Callable[[Any, Any, Any], tuple[tuple[Any, Any], Any]]


def truncated_value_and_grad(
    loss_fn: LossFn, window: int, backprop: int | None = None
) -> ValueAndGrad:
    """The loss of a whole sequence and its gradient by truncated BPTT, (1) and (2).

    Shaped like `jax.value_and_grad(loss_fn, has_aux=True)`:

        (loss, state), grads = truncated_value_and_grad(loss_fn, 64)(params, state, batch)

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`. The loss must be a *sum* over the
        steps of its window, not a mean: windows' losses are added up, and windows are cut into
        parts. Divide by the number of labels afterwards, loss and gradients alike.
      window: K₁, the steps of a window, at least 1. Where it does not divide T, the last window is
        shorter; nothing is dropped.
      backprop: K₂, the steps over which a window's losses are sent back, at least K₁; None: K₁.

    Returns:
      A function of `params`, of `state` (that before the first step) and of `batch`, a tree of
      arrays `[T, ...]`, time first. It returns the loss, the state after the last step (which
      continues the next call), and the gradient with respect to `params`, of their dtypes. The
      loss is added up in float32 or wider.

    Raises:
      TypeError, ValueError: if `window` is no integer ≥ 1, or `backprop` none ≥ `window`; when
        called, if the leaves of `batch` disagree on T or there are none, or if `state` is not of
        the kind that `loss_fn` returns.

    Source: Williams & Peng (1990), Neural Computation 2: BPTT(h; h') with h = K₂ and h' = K₁.
    """
    window = checks.positive("window", window)
    backprop = window if backprop is None else checks.positive("backprop", backprop)
    if backprop < window:
        raise ValueError(
            f"`backprop` must be at least `window`, {window}, but got {backprop}: every loss of a "
            "window must be sent back to the window's own start."
        )
    lag = backprop - window
    # So far nothing is cut: a_w = 0 in all these windows, and they are one.
    head = -(-lag // window) * window

    def value_and_grad(params, state, batch, counted, kept):
        """Loss from step `counted` on; the last state, and that after `kept` steps; gradient."""

        def run(params):
            size = checks.common_length("batch", batch)
            edges = sorted({0, counted, kept, size} & set(range(size + 1)))
            now, at_kept, loss = state, state, None
            for start, end in itertools.pairwise(edges):
                part, now = loss_fn(params, now, jax.tree.map(lambda a: a[start:end], batch))  # noqa: B023
                if start >= counted:
                    loss = part if loss is None else loss + part
                at_kept = now if end == kept else at_kept
            return loss, (now, at_kept)

        return jax.value_and_grad(run, has_aux=True)(params)

    def over_sequence(params: Any, state: Any, batch: Any) -> tuple[tuple[Any, Any], Any]:
        batch = jax.tree.map(jnp.asarray, batch)
        size = checks.common_length("batch", batch)
        # Not the parameters: their gradient comes back summed over the mesh, as `jax.grad`'s does.
        state, batch, zero = placement.varying_alike((state, batch, jnp.zeros(())))
        loss_type, after = jax.eval_shape(
            loss_fn, params, state, jax.tree.map(lambda a: a[:window], batch)
        )
        checks.same_state(state, after, "`loss_fn` returns it")
        # Summed in float32 or wider: in bfloat16, 256 + 1 = 256.
        sums = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), params)
        carry = (state, state, zero.astype(wide(loss_type.dtype)), sums)

        def advanced(carry, start, segment, counted, kept):
            _, _, loss, grads = carry
            (part, (last, old)), grads_part = value_and_grad(params, start, segment, counted, kept)
            return last, old, loss + part, jax.tree.map(jnp.add, grads, grads_part)

        def over_window(carry, at):
            segment = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, at, backprop), batch)
            return advanced(carry, carry[1], segment, lag, window), None

        first, whole = min(head, size), size - size % window
        if first:
            segment = jax.tree.map(lambda a: a[:first], batch)
            carry = advanced(carry, state, segment, 0, head - lag)
        if first < whole:
            carry, _ = lax.scan(over_window, carry, jnp.arange(first, whole, window) - lag)
        if whole < size and first < size:
            segment = jax.tree.map(lambda a: a[whole - lag :], batch)
            carry = advanced(carry, carry[1], segment, lag, window)
        last, _, loss, grads = carry
        return (loss, last), jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return over_sequence
