"""Losses over whole sequences in which labels may be missing, on top of optax's losses.

    R̂ = Σ_t select(mask[t], L(y[t], v[t]), 0)                                                (1)

with outputs y[t], labels v[t], and `mask` False where the label is empty: many-to-many (all
True), many-to-one (True at the last step), or any subset. A step without a label contributes
exactly nothing to the loss and to the gradient, whatever stands there, NaN included: the outputs
and labels are replaced *before* L is computed, for 0 · NaN would be NaN on the way back.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Shaped

from jaxrnn.ops.products import accumulation_dtype
from jaxrnn.ops.selection import with_axes_of

Loss = Callable[[Array, Array], Array]


def masked_sum(
    loss: Loss,
    outputs: Shaped[Array, "..."],
    labels: Shaped[Array, "..."],
    mask: Bool[Array, "*N"] | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> Shaped[Array, "..."]:
    """The sum of the loss over the steps that have a label, (1).

    Sums over windows of a sequence add up to the sum over the sequence: what
    `jaxrnn.windows` asks of its loss functions.

    Args:
      loss: `(outputs, labels) -> losses [*N]`, one of optax's such as
        `optax.softmax_cross_entropy_with_integer_labels` or `optax.squared_error` (whose loss
        keeps the outputs' last axis: reduce it, or give the mask that axis).
      outputs: `[*N, ...]`, such as logits `[T, *B, classes]`.
      labels: `[*N, ...]`, any dtype that `loss` takes.
      mask: `[*N]`, True where there is a label; None: everywhere.
      axis: the axes of `[*N]` to sum over; None: all of them. 0 gives one loss per sequence.

    Returns:
      The sum, in the dtype of the losses; 0, with gradient 0, where there is no label at all.

    Raises:
      TypeError: if the mask is not bool.
      ValueError: if the shape of the mask is not that of the losses.
    """
    return jnp.sum(_masked_losses(loss, outputs, labels, mask), axis=axis)


def masked_mean(
    loss: Loss,
    outputs: Shaped[Array, "..."],
    labels: Shaped[Array, "..."],
    mask: Bool[Array, "*N"] | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> Shaped[Array, "..."]:
    """`masked_sum` over the number of labels; 0, with gradient 0, where there is none.

    Arguments and errors as in `masked_sum`. With `axis=0` each sequence's own mean. The mean of
    losses that are counts or bools, such as an accuracy, is a float.
    """
    losses = _masked_losses(loss, outputs, labels, mask)
    counted = jnp.ones(losses.shape, bool) if mask is None else mask
    accumulated = accumulation_dtype(
        losses.dtype
    )  # 70,000 labels are beyond float16, and a bool counts to 1
    count = jnp.sum(counted, axis=axis, dtype=accumulated)
    mean = jnp.sum(losses, axis=axis, dtype=accumulated) / jnp.maximum(count, 1)
    return (
        mean.astype(losses.dtype)
        if jnp.issubdtype(losses.dtype, jnp.floating)
        else mean
    )


def _masked_losses(
    loss: Loss, outputs: Array, labels: Array, mask: Array | None
) -> Array:
    if mask is None:
        return loss(outputs, labels)
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"`mask` must be bool, but got {mask.dtype}. Compare: mask != 0."
        )
    if (
        mask.shape != outputs.shape[: mask.ndim]
        or mask.shape != labels.shape[: mask.ndim]
    ):
        raise ValueError(
            f"`mask` must have the leading axes of `outputs` {outputs.shape} and `labels` "
            f"{labels.shape}, but got {mask.shape}. Time comes first in all three."
        )
    # A valid stand-in for every loss: class 0 for ids, and 1 for numbers, where the logarithms,
    # norms and quotients that losses are made of have no singularity.
    ids = jnp.issubdtype(labels.dtype, jnp.integer)
    outputs = jnp.where(with_axes_of(outputs, mask), outputs, jnp.ones_like(outputs))
    labels = jnp.where(
        with_axes_of(labels, mask),
        labels,
        jnp.zeros_like(labels) if ids else jnp.ones_like(labels),
    )
    losses = loss(outputs, labels)
    if losses.shape != mask.shape:
        raise ValueError(
            f"`loss` must give one number per step, shape {mask.shape} as `mask`, but gave "
            f"{losses.shape}. Reduce the last axis inside it, or give the mask that axis."
        )
    return jnp.where(mask, losses, jnp.zeros_like(losses))
