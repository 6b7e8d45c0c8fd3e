"""Losses over whole sequences in which labels may be missing, on top of optax's losses.

    R̂ = Σ_t select(present[t], L(y[t], v[t]), 0)                                    (1)

with outputs y[t] and labels v[t]. A label is present where the mask is True:
many-to-many (everywhere), many-to-one (at the last step), or any subset. A negative
class id, such as the -100 of PyTorch's `ignore_index`, also means a missing label. A
step without a label contributes exactly nothing to the loss and to the gradient. Where
the mask is False, the outputs may even be NaN: outputs and labels are replaced *before*
L is computed, because 0 · NaN would be NaN in the backward pass. (At a negative id the
outputs must be finite: replacing them would copy all outputs in every call.) An id that
is none of the outputs' classes is an error where ids are known. Under `jit` they are
not; the loss of such an id is then NaN, by optax.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Shaped

from jaxrnn import checks
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
    """Returns the sum of the loss over the steps that have a label, (1).

    Sums over windows of a sequence add up to the sum over the sequence, as the
    functions of `jaxrnn.windows` require of their losses.

    Args:
      loss: `(outputs, labels) -> losses [*N]`, one of optax's such as
        `optax.softmax_cross_entropy_with_integer_labels` or `optax.squared_error`
        (whose loss keeps the outputs' last axis: reduce it, or give the mask that
        axis).
      outputs: `[*N, ...]`, such as logits `[T, *B, classes]`.
      labels: `[*N, ...]`, any dtype that `loss` takes. Integers with one axis fewer
        than the outputs are class ids `[*N]`: a negative one is a missing label, whose
        outputs must be finite.
      mask: `[*N]`, True where there is a label; None: everywhere. Without a mask,
        outputs `[T, B, …]` and labels `[B, T, …]` look alike if T = B: give both time
        first.
      axis: the axes of `[*N]` to sum over; None: all of them. 0 gives one loss per
        sequence.

    Returns:
      The sum, in the dtype of the losses; 0, with gradient 0, where there is no label.

    Raises:
      TypeError: if `loss` is not a function, or the mask is not bool.
      ValueError: if the shapes of outputs, labels, mask and losses do not fit, or a
        class id is none of the classes.
    """
    losses, _ = _masked_losses(loss, outputs, labels, mask)
    return jnp.sum(losses, axis=axis)


def masked_mean(
    loss: Loss,
    outputs: Shaped[Array, "..."],
    labels: Shaped[Array, "..."],
    mask: Bool[Array, "*N"] | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> Shaped[Array, "..."]:
    """Returns `masked_sum` over the number of labels; 0, with gradient 0, for none.

    Arguments and errors are those of `masked_sum`. With `axis=0` each sequence has its
    own mean. The mean of counts or bools, such as an accuracy, is a float.
    """
    losses, present = _masked_losses(loss, outputs, labels, mask)
    counted = jnp.ones(losses.shape, bool) if present is None else present
    # 70,000 labels overflow float16, and a sum of bools in bool stops at 1.
    accumulated = accumulation_dtype(losses.dtype)
    count = jnp.sum(counted, axis=axis, dtype=accumulated)
    mean = jnp.sum(losses, axis=axis, dtype=accumulated) / jnp.maximum(count, 1)
    if jnp.issubdtype(losses.dtype, jnp.floating):
        return mean.astype(losses.dtype)
    return mean


def _masked_losses(
    loss: Loss, outputs: Array, labels: Array, mask: Array | None
) -> tuple[Array, Array | None]:
    """Returns the losses `[*N]`, and where the labels are; None: everywhere."""
    # The arguments, as arrays that fit one another.
    order = "The order is (loss, outputs, labels, mask)."
    checks.function("loss", loss, "(outputs, labels) -> losses", order)
    outputs = checks.array("outputs", outputs, order)
    labels = checks.array("labels", labels, order)
    if mask is None:
        _same_leading_axes(outputs, labels)
    else:
        mask = checks.array("mask", mask, order)
        _covering(mask, outputs, labels)

    # A negative class id is no label.
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    ids = jnp.issubdtype(labels.dtype, jnp.signedinteger)
    ids = ids and labels.ndim == outputs.ndim - 1
    present = mask
    if ids and (mask is None or mask.shape == labels.shape):
        present = labels >= 0 if mask is None else mask & (labels >= 0)
        _are_classes(labels, present, outputs.shape[-1])
    if present is None:
        return loss(outputs, labels), None

    # A valid stand-in for every loss: class 0 for ids, and 1 for numbers, where the
    # logarithms, norms and quotients that losses are made of have no singularity.
    if mask is not None:
        given = with_axes_of(outputs, mask)
        outputs = jnp.where(given, outputs, jnp.ones_like(outputs))
    stand_in = jnp.zeros_like(labels) if integers else jnp.ones_like(labels)
    labels = jnp.where(with_axes_of(labels, present), labels, stand_in)
    losses = loss(outputs, labels)
    if losses.shape != present.shape:
        raise ValueError(
            f"`loss` must return one number per step, shape {present.shape}, but "
            f"returned {losses.shape}. Reduce the last axis inside it, or give the "
            "mask that axis."
        )
    return jnp.where(present, losses, jnp.zeros_like(losses)), present


def _are_classes(labels: Array, present: Array, classes: int) -> None:
    """Raises if an id that is known is none of the classes; one output has no ids."""
    if classes < 2 or not (checks.is_known(labels) and checks.is_known(present)):
        return
    largest = int(jnp.max(jnp.where(present, labels, 0), initial=0))
    if largest >= classes:
        raise ValueError(
            f"`labels` must be class ids below {classes}, the last axis of `outputs`, "
            f"but got {largest}. Ids count from 0."
        )


def _covering(mask: Array, outputs: Array, labels: Array) -> None:
    """Raises unless the mask is bool, and has the first axes of outputs and labels."""
    if mask.dtype != jnp.bool_:
        raise TypeError(
            f"`mask` must be bool, but got {mask.dtype}. Compare: mask != 0."
        )
    leading = {a.shape[: mask.ndim] for a in (outputs, labels)}
    if leading != {mask.shape}:
        raise ValueError(
            f"`mask` must have the leading axes of `outputs` {outputs.shape} and "
            f"`labels` {labels.shape}, but got {mask.shape}. Time comes first in all "
            "three."
        )


def _same_leading_axes(outputs: Array, labels: Array) -> None:
    """Raises unless the first axes are alike: all but the outputs' last one."""
    if labels.ndim not in (outputs.ndim, outputs.ndim - 1):
        return  # only `loss` knows
    first = outputs.ndim - 1
    pairs = zip(labels.shape[:first], outputs.shape[:first], strict=True)
    if not all(label in (1, output) for label, output in pairs):
        raise ValueError(
            f"`labels` must have the leading axes of `outputs` {outputs.shape}, but "
            f"got {labels.shape}. Time comes first in both: transpose one."
        )
