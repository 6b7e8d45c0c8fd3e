"""Exact gradients of long sequences in little memory.

Cut a sequence of T steps into windows w = 0, 1, … of K steps; R̂_w is the loss of
window w, and R̂ = Σ R̂_w that of the sequence. With s_w the state before window w, and
λ_w = dR̂/ds_w its adjoint,

    s_{w+1} = state after window w, from s_w                    for w = 0, 1, …    (1)
    dR̂/dθ = Σ (∂R̂_w/∂θ + (∂s_{w+1}/∂θ)ᵀ λ_{w+1})                                   (2)
    λ_w = ∂R̂_w/∂s_w + (∂s_{w+1}/∂s_w)ᵀ λ_{w+1}                  for w = …, 1, 0    (3)

(1) keeps only the T/K states s_w. (2) and (3) run each window once more, and hold the
memory of one window's backward pass. A window is a sequence too, so it can be cut into
windows itself.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from jaxrnn import checks
from jaxrnn.cells.base import Params
from jaxrnn.ops import chunks
from jaxrnn.ops.products import cast_like, zeros_for_sums
from jaxrnn.windows import segments
from jaxrnn.windows.segments import LossFn, ValueAndGrad


def checkpointed_value_and_grad(
    loss_fn: LossFn,
    window: int | None = None,
    *,
    windows: Sequence[int] | None = None,
) -> ValueAndGrad:
    """Returns a function for the loss of a whole sequence and its exact gradient.

    It computes (1) to (3) in O(T/K + K) memory, and is shaped like, and equal to,
    `jax.value_and_grad(loss_fn, has_aux=True)`: full BPTT, nothing is truncated. The
    loss is evaluated inside each window, so that readouts, logits and losses never
    exist for all T at once. It takes two forward passes, the first without the losses,
    and one backward pass; every further level of windows takes one forward pass more.
    Within a window memory is bounded already, so `unroll(..., store="residuals")`
    avoids computing the gates a third time.

        fn = jax.jit(checkpointed_value_and_grad(loss_fn, 1000))
        (loss, state), grads = fn(params, state, batch)

        # Nested, in O(T^⅓) memory:
        fn = jax.jit(checkpointed_value_and_grad(loss_fn, windows=(10_000, 100)))

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`, the loss a *sum* over
        the steps of its window: see `truncated_value_and_grad`, and the mistakes there
        that cannot be detected.
      window: K, the steps of a window, 1 ≤ K ≤ T; None: about √T, a divisor of T if
        there is one nearby. The last window may be shorter; nothing is dropped.
      windows: instead of `window`, the steps of windows, of the windows that they are
        cut into, and so on: T ≥ K₁ ≥ K₂ … ≥ 1. About T^⅔ and T^⅓ need the least memory.

    Returns:
      A function of `params`, of `state` (that before the first step; leaves that are
      not floating, such as keys, are carried along) and of `batch`, a tree of arrays
      `[T, ...]`, time first. It returns the loss, the state after the last step (which
      continues the next call, without its gradient), and the gradient with respect to
      `params`, of their dtypes. Loss and gradient are added up in float32 or wider.

    Raises:
      TypeError, ValueError: if a window is not an integer ≥ 1, windows do not shrink,
        or both arguments are given; when called, if the leaves of `batch` disagree on T
        or there are none, if T is less than a window, if the loss is not one number, or
        if `state` is not of the kind that `loss_fn` returns.

    Source: Chen, Xu, Zhang & Guestrin (2016), arXiv:1604.06174, section 4.
    """
    levels = checks.nested_windows(window, windows)
    loss_fn = segments.checked(loss_fn)

    def over_sequence(
        params: Params, state: PyTree, batch: PyTree
    ) -> tuple[tuple[Any, Any], Any]:
        name = "window" if windows is None else "windows[0]"
        longest = max(levels, default=1)
        state, batch, zero = segments.admit(params, state, batch, name, longest)
        size = checks.common_length("batch", batch)
        cuts = levels or (chunks.chunk_length(size, round(size**0.5)),)

        first = jax.tree.map(lambda a: a[: cuts[-1]], batch)
        loss = segments.zero_loss(loss_fn, params, state, first, zero)
        adjoint = jax.tree.map(jnp.zeros_like, segments.floating_leaves(state))
        sums = Sums(adjoint, loss, zeros_for_sums(params))
        problem = Problem(loss_fn, params, batch)
        sums, last = _backward(problem, cuts, sums, state, Segment(0, size))
        return (sums.loss, last), cast_like(sums.dparams, params)

    return over_sequence


class Problem(NamedTuple):
    """The values that are the same in every window."""

    loss_fn: LossFn
    params: Params
    batch: PyTree
    """Leaves `[T, ...]`."""


class Segment(NamedTuple):
    """`size` steps, beginning with step `at`, a scalar."""

    at: int | Array
    size: int

    def cut(self, window: int) -> tuple[int, int]:
        """Returns how many windows of this many steps fit, and the steps left over."""
        return divmod(self.size, window)

    def window(
        self, number: int | Array, size: int, rest: int | None = None
    ) -> "Segment":
        """Returns window `number` of `size` steps each; the last one has `rest`."""
        return Segment(self.at + number * size, size if rest is None else rest)


class Sums(NamedTuple):
    """The values that the backward pass carries along; the loss is a scalar."""

    adjoint: list[Array]
    """λ, of the floating leaves of the state, `[*B, H]`."""
    loss: Array
    dparams: Params


def _forward(problem: Problem, cuts: Sequence[int], start: PyTree, segment: Segment):
    """Runs (1): the last state, those before full windows, the one before the rest."""
    if not cuts or not segment.size:
        steps = segments.slice_steps(problem.batch, *segment)
        return problem.loss_fn(problem.params, start, steps)[1], None, None
    window = min(cuts[0], segment.size)
    count, rest = segment.cut(window)

    def over_window(before, number):
        part = segment.window(number, window)
        after, _, _ = _forward(problem, cuts[1:], before, part)
        return after, before

    last, befores = lax.scan(over_window, start, jnp.arange(count))
    before_rest = last
    if rest:
        part = segment.window(count, window, rest)
        last, _, _ = _forward(problem, cuts[1:], before_rest, part)
    return last, befores, before_rest


def _backward(
    problem: Problem, cuts: Sequence[int], sums: Sums, start: PyTree, segment: Segment
):
    """Runs (2) and (3): the sums up to a segment's start, and the state at its end."""
    if not cuts or not segment.size:
        steps = segments.slice_steps(problem.batch, *segment)
        loss, last, back = segments.pull_back(
            problem.loss_fn, problem.params, start, steps
        )
        dparams, adjoint = back(jnp.ones_like(loss), sums.adjoint)
        dparams = jax.tree.map(jnp.add, sums.dparams, dparams)
        return Sums(adjoint, sums.loss + loss, dparams), last
    window = min(cuts[0], segment.size)
    count, rest = segment.cut(window)
    last, befores, before_rest = _forward(problem, cuts, start, segment)
    if rest:
        part = segment.window(count, window, rest)
        sums, _ = _backward(problem, cuts[1:], sums, before_rest, part)

    def over_window(sums, inputs):
        before, number = inputs
        part = segment.window(number, window)
        return _backward(problem, cuts[1:], sums, before, part)[0], None

    numbers = jnp.arange(count)
    sums, _ = lax.scan(over_window, sums, (befores, numbers), reverse=True)
    return sums, last
