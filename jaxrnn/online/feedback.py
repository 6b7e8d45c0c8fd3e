"""A readout whose error goes back through weights of its own (feedback alignment).

    y = h W,    dR̂/dh := dR̂/dy Bᵀ                                                  (1)

where backpropagation has Wᵀ. With fixed random B the network learns to make B a useful
feedback (Lillicrap et al., 2016, Nature Communications 7:13276). In *adaptive* feedback
B gets the gradient of W, so that with weight decay the two become alike (Bellec et al.,
2020).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxrnn import arguments
from jaxrnn.ops.products import matmul, outer_sum


def feedback(
    h: Float[Array, "*N H"],
    w: Float[Array, "H O"],
    b: Float[Array, "H O"],
    *,
    adaptive: bool = False,
) -> Float[Array, "*N O"]:
    """Returns `h @ w`, whose gradient by h is that of `h @ b`, (1).

    Call it in a loss. For symmetric feedback, multiply: `h @ w`.

    Args:
      h: outputs of a cell, `[*N, H]`.
      w: the readout's weights, `[H, O]`. Their gradient is the usual one.
      b: B, the feedback's weights, `[H, O]`.
      adaptive: whether the gradient by B is that by W; else it is zero. Static.

    Raises:
      TypeError: if `adaptive` is not a bool.
      ValueError: if the shapes do not fit.
    """
    adaptive = arguments.flag("adaptive", adaptive)
    fits = jnp.ndim(w) == 2 and jnp.shape(h)[-1:] == jnp.shape(w)[:1]
    if not fits or jnp.shape(w) != jnp.shape(b):
        raise ValueError(
            "`w` and `b` must both be [H, O] for `h` [*N, H], but got "
            f"{jnp.shape(w)} and {jnp.shape(b)} for {jnp.shape(h)}."
        )
    return _feedback(adaptive, h, w, b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _feedback(adaptive: bool, h: Array, w: Array, b: Array) -> Array:
    return matmul(h, w)


def _forward(adaptive: bool, h: Array, w: Array, b: Array):
    return matmul(h, w), (h, w, b)


def _backward(adaptive: bool, saved: tuple, dy: Array):
    h, w, b = saved
    dw = outer_sum(h, dy, w.dtype).astype(w.dtype)
    db = dw if adaptive else jnp.zeros_like(b)
    return matmul(dy, b.T), dw, db  # (1)


_feedback.defvjp(_forward, _backward)
