"""Truncated BPTT as windowed scans.

Cut a sequence of T steps into windows w = 0, 1, … of K₁ steps; R̂_w is the loss of
window w, and R̂ = Σ R̂_w that of the sequence. Let sg(·) stop the gradient, and let
window w run from the state at step a_w:

    a_w = max(0, (w + 1) K₁ - K₂),      R̂_w = loss of window w, from sg(s[a_w])    (1)
    dR̂/dθ ≈ Σ dR̂_w/dθ                                                              (2)

Every K₁ steps, only the losses of the newest K₁ steps are backpropagated, through the
last K₂ ≥ K₁ steps. A loss therefore reaches back between K₂ - K₁ + 1 and K₂ steps,
counting its own. With K₂ = K₁ no gradient crosses a window's edge, and the forward pass
runs once; with K₂ > K₁ it runs K₂/K₁ times, since the steps before a window are run
again from s[a_w], with the present parameters. (The other usual reading keeps the graph
of the old steps; the two differ only where parameters change in between.)
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from jaxrnn import checks
from jaxrnn.cells.base import Params
from jaxrnn.ops.products import accumulation_dtype, cast_like, zeros_for_sums
from jaxrnn.windows import segments
from jaxrnn.windows.segments import LossFn, ValueAndGrad


def truncated_value_and_grad(
    loss_fn: LossFn, window: int, backprop: int | None = None
) -> ValueAndGrad:
    """Returns a function for the loss of a whole sequence and its truncated gradient.

    It computes (1) and (2), and is shaped like `jax.value_and_grad(loss_fn,
    has_aux=True)`:

        def loss_fn(params, state, batch):  # one window: [K₁, B, ...]
            xs, labels = batch
            state, hs = jaxrnn.unroll(jaxrnn.lstm, params, state, xs)
            return jnp.sum((hs - labels) ** 2), state  # a sum over steps, not a mean

        fn = jax.jit(truncated_value_and_grad(loss_fn, 64))
        (loss, state), grads = fn(params, state, (xs, labels))  # sequence: [T, B, ...]
        mean = jax.tree.map(lambda a: a / labels.size, (loss, grads))

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`. The loss must be a
        *sum* over the steps of its window, not a mean: the losses of windows are added
        up, and windows are cut into parts. Divide by the number of labels afterwards,
        loss and gradients alike. Four mistakes here cannot be detected. A mean is
        counted once per window. So is a loss of the window's last state: give the last
        step of the sequence a label and mask out the others. `unroll(...,
        reverse=True)` reverses each window by itself. With batch-first arrays the
        windows run over the batch.
      window: K₁, the steps of a window, 1 ≤ K₁ ≤ T. Where it does not divide T, the
        last window is shorter; nothing is dropped.
      backprop: K₂, the steps through which a window's losses are backpropagated, at
        least K₁; None: K₁.

    Returns:
      A function of `params`, of `state` (that before the first step) and of `batch`, a
      tree of arrays `[T, ...]`, time first. It returns the loss, the state after the
      last step (which continues the next call), and the gradient with respect to
      `params`, of their dtypes. The loss is added up in float32 or wider. No gradient
      goes from one call to the one before: with K₂ = K₁, calls that end at windows'
      edges add up to one call; with K₂ > K₁ the first losses of each call reach back
      fewer steps.

    Raises:
      TypeError, ValueError: if `window` is not an integer ≥ 1, or `backprop` not an
        integer ≥ `window`; when called, if the leaves of `batch` disagree on T or there
        are none, if T is less than `window`, if the loss is not one number, or if
        `state` is not of the kind that `loss_fn` returns.

    Source: Williams & Peng (1990), Neural Computation 2: BPTT(h; h') with h = K₂, h' =
    K₁.
    """
    window, backprop = checks.window_and_backprop(window, backprop)
    loss_fn = segments.checked(loss_fn)

    def over_sequence(
        params: Params, state: PyTree, batch: PyTree
    ) -> tuple[tuple[Any, Any], Any]:
        def add(carry, states, value_and_grad):
            loss, grads = carry
            (part, states), grads_part = value_and_grad(params)
            grads = jax.tree.map(jnp.add, grads, grads_part)
            return (loss + part, grads), states, None

        state, batch, zero = segments.admit(params, state, batch, "window", window)
        first = jax.tree.map(lambda a: a[:window], batch)
        loss = segments.zero_loss(loss_fn, params, state, first, zero)
        sums = loss, zeros_for_sums(params)
        (loss, grads), last, _ = scan(
            loss_fn, window, backprop, add, sums, state, batch
        )
        return (loss, last), cast_like(grads, params)

    return over_sequence


def scan(
    loss_fn: LossFn,
    window: int,
    backprop: int,
    visit: Callable[[Any, Any, Callable[[Any], Any]], tuple[Any, Any, Any]],
    carry: PyTree,
    state: PyTree,
    batch: PyTree,
) -> tuple[Any, Any, Any]:
    """Runs `visit` over the windows of a sequence, and carries the states of (1) along.

    Args:
      loss_fn: as in `truncated_value_and_grad`.
      window: K₁.
      backprop: K₂.
      visit: `(carry, states, value_and_grad) -> (carry, states, out)`, called once per
        window. `value_and_grad(params)` returns `((R̂_w, states), dR̂_w/dθ)`; the next
        window starts from the states that `visit` returns, these or the ones it was
        given. The windows that end before step K₂, if any, are visited as one, because
        no gradient is cut among them.
      carry: the value that `visit` carries along.
      state: the state before the first step.
      batch: a tree of arrays `[T, ...]`.

    Returns:
      The carry, the state after the last step, and the `out`s, `[visits, ...]`.
    """
    # Where the first segment ends, and where the last full window does.
    lag = backprop - window
    size = checks.common_length("batch", batch)
    head = min(-(-lag // window) * window, size)
    whole = max(head, size - size % window)

    # One visit: the loss of a segment, and the states that go on from it.
    def over_segment(carry, start, segment, counted, kept):
        """Visits a segment: losses count from step `counted` on, and the next segment
        starts from the state after `kept` steps."""

        def loss_of(params):
            now, at_kept, loss = start, start, None
            for part, end in _parts(segment, counted, kept):
                added, now = loss_fn(params, now, part)
                if end > counted:
                    added = added.astype(accumulation_dtype(added.dtype))
                    loss = added if loss is None else loss + added
                at_kept = now if end == kept else at_kept
            return loss, (now, at_kept)

        carry, states = carry
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        carry, states, out = visit(carry, states, value_and_grad)
        return (carry, states), out

    def over_window(carry, at):
        segment = segments.slice_steps(batch, at, backprop)
        return over_segment(carry, carry[1][1], segment, lag, window)

    carry, outs = (carry, (state, state)), []
    # The windows that see the start of the sequence, as one segment.
    if head:
        segment = jax.tree.map(lambda a: a[:head], batch)
        carry, out = over_segment(carry, state, segment, 0, head - lag)
        outs.append(jax.tree.map(lambda a: a[None], out))
    # All windows of full length.
    if head < whole:
        carry, out = lax.scan(over_window, carry, jnp.arange(head, whole, window) - lag)
        outs.append(out)
    # The last window, if it is shorter.
    if whole < size:
        segment = jax.tree.map(lambda a: a[whole - lag :], batch)
        carry, out = over_segment(carry, carry[1][1], segment, lag, window)
        outs.append(jax.tree.map(lambda a: a[None], out))
    # The outputs of all visits.
    carry, (last, _) = carry
    if not outs:
        return carry, last, None
    return carry, last, jax.tree.map(lambda *a: jnp.concatenate(a), *outs)


def _parts(segment: PyTree, counted: int, kept: int) -> list[tuple[Any, int]]:
    """Returns the parts of a segment, cut at the given steps, and where each ends."""
    length = checks.common_length("batch", segment)
    edges = sorted({0, counted, kept, length} & set(range(length + 1)))

    def between(begin, end):
        return jax.tree.map(lambda a: a[begin:end], segment)

    return [(between(begin, end), end) for begin, end in itertools.pairwise(edges)]
