"""Gradients of long sequences as windowed scans: truncated BPTT, and exact BPTT in little memory.

Cut a sequence of T steps into windows w = 0, 1, … of K₁ steps; R̂_w is the loss of window w, and
R̂ = Σ R̂_w that of the sequence.

*Truncated.* With sg(·) a value without its gradient, and window w run from the state at step a_w,

    a_w = max(0, (w + 1) K₁ - K₂),      R̂_w = loss of window w, from sg(s[a_w])              (1)
    dR̂/dθ ≈ Σ dR̂_w/dθ                                                                        (2)

So every K₁ steps the newest K₁ losses, and they alone, are sent back over the last K₂ ≥ K₁ steps:
a loss sees K₂ - K₁ + 1 steps at least, its own among them, and K₂ at most. With K₂ = K₁ no gradient
crosses a window's edge, and the forward pass runs once; with K₂ > K₁ it runs K₂/K₁ times, since
the steps before a window are run again from s[a_w], with the present parameters. (The other usual
reading keeps the old steps' own graph; the two differ only where parameters move in between.)

*Checkpointed.* With s_w the state before window w, and λ_w = dR̂/ds_w its adjoint,

    s_{w+1} = state after window w, from s_w                       for w = 0, 1, …           (3)
    dR̂/dθ = Σ (∂R̂_w/∂θ + (∂s_{w+1}/∂θ)ᵀ λ_{w+1})                                             (4)
    λ_w = ∂R̂_w/∂s_w + (∂s_{w+1}/∂s_w)ᵀ λ_{w+1}                     for w = …, 1, 0           (5)

(3) keeps the T/K states s_w alone; (4) and (5) run each window once more, and hold what one
window's backward pass needs. A window is a sequence too, so it may be cut into windows itself.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrnn import checks, chunks, placement
from jaxrnn.cells.base import wide

LossFn = Callable[[Any, Any, Any], tuple[Any, Any]]
ValueAndGrad = Callable[[Any, Any, Any], tuple[tuple[Any, Any], Any]]


def truncated_value_and_grad(
    loss_fn: LossFn, window: int, backprop: int | None = None
) -> ValueAndGrad:
    """The loss of a whole sequence and its gradient by truncated BPTT, (1) and (2).

    Shaped like `jax.value_and_grad(loss_fn, has_aux=True)`:

        def loss_fn(params, state, batch):  # of a window: [K₁, B, ...]
            xs, labels = batch
            state, hs = jaxrnn.unroll(jaxrnn.lstm, params, state, xs)
            return jnp.sum((hs - labels) ** 2), state  # a sum over steps, no mean

        fn = jax.jit(truncated_value_and_grad(loss_fn, 64))
        (loss, state), grads = fn(params, state, (xs, labels))  # of the sequence: [T, B, ...]
        mean = jax.tree.map(lambda a: a / labels.size, (loss, grads))  # the loss, its gradient

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`. The loss must be a *sum* over the
        steps of its window, not a mean: windows' losses are added up, and windows are cut into
        parts. Divide by the number of labels afterwards, loss and gradients alike.
      window: K₁, the steps of a window, 1 ≤ K₁ ≤ T. Where it does not divide T, the last window is
        shorter; nothing is dropped.
      backprop: K₂, the steps over which a window's losses are sent back, at least K₁; None: K₁.

    Returns:
      A function of `params`, of `state` (that before the first step) and of `batch`, a tree of
      arrays `[T, ...]`, time first. It returns the loss, the state after the last step (which
      continues the next call), and the gradient with respect to `params`, of their dtypes. The
      loss is added up in float32 or wider. No gradient goes from one call to the one before: with
      K₂ = K₁, calls that end at windows' edges add up to one call; with K₂ > K₁ the first losses
      of each call see fewer steps.

    Raises:
      TypeError, ValueError: if `window` is no integer ≥ 1, or `backprop` no integer ≥ `window`;
        when called, if the leaves of `batch` disagree on T or there are none, if T is less than
        `window`, if the loss is not one number, or if `state` is not of the kind that `loss_fn`
        returns.

    Source: Williams & Peng (1990), Neural Computation 2: BPTT(h; h') with h = K₂ and h' = K₁.
    """
    window, backprop = checks.window_and_backprop(window, backprop)
    loss_fn = checked(loss_fn)

    def over_sequence(
        params: Any, state: Any, batch: Any
    ) -> tuple[tuple[Any, Any], Any]:
        def add(carry, states, value_and_grad):
            loss, grads = carry
            (part, states), grads_part = value_and_grad(params)
            return (loss + part, jax.tree.map(jnp.add, grads, grads_part)), states, None

        state, batch, zero = _admitted(params, state, batch, "window", window)
        sums = _zero_loss(loss_fn, params, state, batch, window, zero), zeros(params)
        (loss, grads), last, _ = scan(
            loss_fn, window, backprop, add, sums, state, batch
        )
        return (loss, last), _as(params, grads)

    return over_sequence


def scan(
    loss_fn: LossFn,
    window: int,
    backprop: int,
    visit: Callable[[Any, Any, Callable[[Any], Any]], tuple[Any, Any, Any]],
    carry: Any,
    state: Any,
    batch: Any,
) -> tuple[Any, Any, Any]:
    """`lax.scan` over the windows of a sequence, the states of (1) carried along.

    Args:
      loss_fn: as in `truncated_value_and_grad`.
      window: K₁.
      backprop: K₂.
      visit: `(carry, states, value_and_grad) -> (carry, states, out)`, called once per window.
        `value_and_grad(params)` is `((R̂_w, states), dR̂_w/dθ)`; the states that `visit` returns,
        those or the ones it was given, are what the next window starts from. The windows that end
        before step K₂, if any, are visited as one, for no gradient is cut among them.
      carry: what `visit` carries.
      state: the state before the first step.
      batch: a tree of arrays `[T, ...]`.

    Returns:
      The carry, the state after the last step, and the `out`s, `[visits, ...]`.
    """
    lag = backprop - window
    size = checks.common_length("batch", batch)
    head = min(-(-lag // window) * window, size)
    whole = max(head, size - size % window)

    def visited(carry, start, segment, counted, kept):
        """A segment from state `start`: losses count from step `counted` on, the state after
        `kept` steps is where the next segment starts."""

        def loss_of(params):
            length = checks.common_length("batch", segment)
            edges = sorted({0, counted, kept, length} & set(range(length + 1)))
            now, at_kept, loss = start, start, None
            for begin, end in itertools.pairwise(edges):
                part, now = loss_fn(
                    params,
                    now,
                    jax.tree.map(lambda a: a[begin:end], segment),  # noqa: B023
                )
                if begin >= counted:
                    part = part.astype(wide(part.dtype))
                    loss = part if loss is None else loss + part
                at_kept = now if end == kept else at_kept
            return loss, (now, at_kept)

        carry, states = carry
        carry, states, out = visit(
            carry, states, jax.value_and_grad(loss_of, has_aux=True)
        )
        return (carry, states), out

    def over_window(carry, at):
        return visited(carry, carry[1][1], steps(batch, at, backprop), lag, window)

    carry, outs = (carry, (state, state)), []
    if head:
        carry, out = visited(
            carry, state, jax.tree.map(lambda a: a[:head], batch), 0, head - lag
        )
        outs.append(jax.tree.map(lambda a: a[None], out))
    if head < whole:
        carry, out = lax.scan(over_window, carry, jnp.arange(head, whole, window) - lag)
        outs.append(out)
    if whole < size:
        segment = jax.tree.map(lambda a: a[whole - lag :], batch)
        carry, out = visited(carry, carry[1][1], segment, lag, window)
        outs.append(jax.tree.map(lambda a: a[None], out))
    carry, (last, _) = carry
    return (
        carry,
        last,
        jax.tree.map(lambda *a: jnp.concatenate(a), *outs) if outs else None,
    )


def checkpointed_value_and_grad(
    loss_fn: LossFn, window: int | None = None, *, windows: Sequence[int] | None = None
) -> ValueAndGrad:
    """The loss of a whole sequence and its exact gradient in O(T/K + K) memory, (3) to (5).

    Shaped like `jax.value_and_grad(loss_fn, has_aux=True)`, and equal to it: full BPTT, nothing is
    truncated. The loss is evaluated inside each window, so that readouts, logits and losses never
    stand there for all T. It takes two forward passes, the first without the losses, and one
    backward pass; every further level of windows, one forward pass more. Within a window memory is
    bounded already, so `unroll(..., store="residuals")` saves computing the gates a third time.

        fn = jax.jit(checkpointed_value_and_grad(loss_fn, 1000))
        (loss, state), grads = fn(params, state, batch)

        nested = checkpointed_value_and_grad(loss_fn, windows=(10_000, 100))  # O(T^⅓) memory

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`, the loss a *sum* over the steps of
        its window, as in `truncated_value_and_grad`.
      window: K, the steps of a window, 1 ≤ K ≤ T; None: about √T, a divisor of T if there is one
        nearby. The last window may be shorter; nothing is dropped.
      windows: instead of `window`, the steps of windows, of the windows that they are cut into,
        and so on: T ≥ K₁ ≥ K₂ … ≥ 1. About T^⅔ and T^⅓ need the least memory.

    Returns:
      A function of `params`, of `state` (that before the first step; leaves that are no floats,
      such as keys, are carried along) and of `batch`, a tree of arrays `[T, ...]`, time first. It
      returns the loss, the state after the last step (which continues the next call, without its
      gradient), and the gradient with respect to `params`, of their dtypes. Loss and gradient are
      added up in float32 or wider.

    Raises:
      TypeError, ValueError: if a window is no integer ≥ 1, windows do not shrink, or both arguments
        are given; when called, if the leaves of `batch` disagree on T or there are none, if T is
        less than a window, if the loss is not one number, or if `state` is not of the kind that
        `loss_fn` returns.

    Source: Chen, Xu, Zhang & Guestrin (2016), arXiv:1604.06174, section 4.
    """
    levels = checks.nested_windows(window, windows)
    loss_fn = checked(loss_fn)

    def over_sequence(
        params: Any, state: Any, batch: Any
    ) -> tuple[tuple[Any, Any], Any]:
        name = "window" if windows is None else "windows[0]"
        state, batch, zero = _admitted(
            params, state, batch, name, max(levels, default=1)
        )
        size = checks.common_length("batch", batch)
        cut = levels or (chunks.fit(size, round(size**0.5)),)

        def run(levels, start, at, size):
            """(3): the last state, the states before whole windows, and that before the tail."""
            if not levels or not size:
                return loss_fn(params, start, steps(batch, at, size))[1], None, None
            window = min(levels[0], size)
            count, tail = divmod(size, window)

            def over_window(before, number):
                after, *_ = run(levels[1:], before, at + number * window, window)
                return after, before

            before_tail, befores = lax.scan(over_window, start, jnp.arange(count))
            last = before_tail
            if tail:
                last, *_ = run(levels[1:], before_tail, at + count * window, tail)
            return last, befores, before_tail

        def pull(levels, carry, start, at, size):
            """(4) and (5): the carry `(λ, loss, sums)` from a segment's end to its start, and the
            state at its end."""
            if not levels or not size:
                adjoint, loss, sums = carry
                part, last, back = pullback(
                    loss_fn, params, start, steps(batch, at, size)
                )
                dparams, adjoint = back(jnp.ones_like(part), adjoint)
                return (
                    adjoint,
                    loss + part,
                    jax.tree.map(jnp.add, sums, dparams),
                ), last
            window = min(levels[0], size)
            count, tail = divmod(size, window)
            last, befores, before_tail = run(levels, start, at, size)
            if tail:
                carry, _ = pull(
                    levels[1:], carry, before_tail, at + count * window, tail
                )

            def over_window(carry, inputs):
                before, number = inputs
                return pull(levels[1:], carry, before, at + number * window, window)[
                    0
                ], None

            carry, _ = lax.scan(
                over_window, carry, (befores, jnp.arange(count)), reverse=True
            )
            return carry, last

        loss = _zero_loss(loss_fn, params, state, batch, cut[-1], zero)
        adjoint = jax.tree.map(jnp.zeros_like, floats(state))
        (_, loss, grads), last = pull(
            cut, (adjoint, loss, zeros(params)), state, 0, size
        )
        return (loss, last), _as(params, grads)

    return over_sequence


def pullback(
    loss_fn: LossFn, params: Any, state: Any, segment: Any
) -> tuple[Array, Any, Callable[[Any, list[Array]], tuple[Any, list[Array]]]]:
    """Of a segment: the loss, the state after it, and its backward pass.

    The backward pass takes the cotangent of the loss and the adjoint of the floating leaves of the
    state after the segment, a list of `[*B, H]`; it returns the gradient with respect to `params`
    and the adjoint of those of the state before it. The other leaves have none.
    """
    leaves, tree = jax.tree.flatten(state)

    def run(params, given):
        given = iter(given)
        mixed = [next(given) if _is_float(a) else a for a in leaves]
        loss, after = loss_fn(params, jax.tree.unflatten(tree, mixed), segment)
        return (loss, floats(after)), after

    (loss, _), back, after = jax.vjp(run, params, floats(state), has_aux=True)
    return loss, after, lambda dloss, adjoint: back((dloss, adjoint))


def checked(loss_fn: LossFn) -> LossFn:
    """The same function; it raises unless its loss is one number and its state like the given."""

    def of(params: Any, state: Any, segment: Any) -> tuple[Any, Any]:
        loss, after = loss_fn(params, state, segment)
        checks.scalar("loss_fn", loss, "the sum over the steps of its window")
        checks.same_state(state, after, "`loss_fn` returns it")
        return loss, after

    return of


def _admitted(
    params: Any, state: Any, batch: Any, name: str, window: int
) -> tuple[Any, Any, Any]:
    """State and batch as arrays that are placed alike, and a zero like them; T ≥ `window`."""
    state, batch = jax.tree.map(jnp.asarray, (state, batch))
    checks.within(name, window, checks.common_length("batch", batch))
    # The parameters decide too, but stay as they are: where they are the same all over a mesh,
    # their gradient comes back summed over it, as `jax.grad`'s does.
    return placement.varying_alike((params, state, batch, jnp.zeros(())))[1:]


def steps(batch: Any, at: Any, size: int) -> Any:
    """`size` steps from step `at` on, of leaves `[T, ...]`: no loop ever copies more of them."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, at, size), batch)


def zeros(params: Any) -> Any:
    """What gradients are summed in: in bfloat16, 256 + 1 = 256."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), params)


def floats(tree: Any) -> list[Array]:
    """The leaves that have a gradient, each `[...]`."""
    return [a for a in jax.tree.leaves(tree) if _is_float(a)]


def _is_float(a: Array) -> bool:
    return jnp.issubdtype(a.dtype, jnp.inexact)


def _zero_loss(
    loss_fn: LossFn, params: Any, state: Any, batch: Any, size: int, zero: Array
) -> Any:
    """`zero`, in the dtype in which losses are summed."""
    segment = jax.tree.map(lambda a: a[:size], batch)
    loss, _ = jax.eval_shape(loss_fn, params, state, segment)
    return zero.astype(wide(loss.dtype))


def _as(params: Any, grads: Any) -> Any:
    return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
