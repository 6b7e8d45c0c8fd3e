"""Truncated BPTT as a windowed scan: gradients of long sequences, a window at a time.

Cut a sequence into windows w = 1 … W of K steps. With s[w] the state at the end of window w, R̂_w
the loss of window w, and sg(·) the value without its gradient,

    s[w], R̂_w = loss_fn(θ, sg(s[w-1]), batch_w),     R̂ = Σ R̂_w,     dR̂/dθ ≈ Σ dR̂_w/dθ       (1)

No gradient crosses a window's edge, so memory is one window's and the gradient has no term of a
lag beyond K: exact for what happens within a window, blind to what lies further back.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn import checks, placement
from jaxrnn.cells.base import wide

LossFn = Callable[[Any, Any, Any], tuple[Any, Any]]
ValueAndGrad = Callable[[Any, Any, Any], tuple[tuple[Any, Any], Any]]


def truncated_value_and_grad(loss_fn: LossFn, window: int) -> ValueAndGrad:
    """The loss of a whole sequence and its gradient by truncated BPTT, (1).

    Shaped like `jax.value_and_grad(loss_fn, has_aux=True)`:

        (loss, state), grads = truncated_value_and_grad(loss_fn, 64)(params, state, batch)

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`. The loss must be a *sum* over the
        steps of its window, not a mean: windows' losses are added up, and the last window may be
        shorter. Divide by the number of labels afterwards, loss and gradients alike.
      window: K, the steps of a window, at least 1. Where it does not divide T, the last window is
        shorter; nothing is dropped.

    Returns:
      A function of `params`, of `state` (that before the first step) and of `batch`, a tree of
      arrays `[T, ...]`, time first. It returns the loss, the state after the last step (which
      continues the next call), and the gradient with respect to `params`, of their dtypes. The
      loss is added up in float32 or wider.

    Raises:
      TypeError, ValueError: if `window` is no integer ≥ 1; when called, if the leaves of `batch`
        disagree on T or there are none, or if `state` is not of the kind that `loss_fn` returns.

    Source: Williams & Peng (1990), Neural Computation 2: BPTT(h; h'), here with h = h' = K.
    """
    window = checks.positive("window", window)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def over_sequence(params: Any, state: Any, batch: Any) -> tuple[tuple[Any, Any], Any]:
        batch = jax.tree.map(jnp.asarray, batch)
        size = checks.common_length("batch", batch)
        count, tail = divmod(size, window)
        # Not the parameters: their gradient comes back summed over the mesh, as `jax.grad`'s does.
        state, batch, zero = placement.varying_alike((state, batch, jnp.zeros(())))

        def over_window(carry, batch_window):
            state, loss, grads = carry
            (loss_window, state), grads_window = value_and_grad(params, state, batch_window)
            return (state, loss + loss_window, jax.tree.map(jnp.add, grads, grads_window)), None

        first = jax.tree.map(lambda a: a[:window], batch)
        loss_type, after = jax.eval_shape(loss_fn, params, state, first)
        checks.same_state(state, after, "`loss_fn` returns it")
        # Summed in float32 or wider: in bfloat16, 256 + 1 = 256.
        sums = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), params)
        carry = (state, zero.astype(wide(loss_type.dtype)), sums)

        def shaped(a):
            return a[: count * window].reshape(count, window, *a.shape[1:])

        carry, _ = lax.scan(over_window, carry, jax.tree.map(shaped, batch))
        if tail:
            carry, _ = over_window(carry, jax.tree.map(lambda a: a[-tail:], batch))
        state, loss, grads = carry
        return (loss, state), jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)

    return over_sequence
