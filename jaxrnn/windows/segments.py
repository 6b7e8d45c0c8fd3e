"""A loss over a window of a sequence: its contract, its windows, its backward pass.

A `loss_fn(params, state, batch_window) -> (loss, state)` runs a network from `state`
over a window of steps, and returns the *sum* of the losses of these steps and the state
after them.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import PyTree

from jaxrnn import checks
from jaxrnn.cells.base import Params
from jaxrnn.ops import placement
from jaxrnn.ops.products import accumulation_dtype

LossFn: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Any]]
ValueAndGrad: TypeAlias = Callable[[Any, Any, Any], tuple[tuple[Any, Any], Any]]


def checked(loss_fn: LossFn) -> LossFn:
    """Returns the same function, with its contract checked at every call.

    The loss must be one number, and the returned state like the one given.
    """

    checks.function("loss_fn", loss_fn, "(params, state, batch) -> (loss, state)")

    def checked_loss(params: Params, state: PyTree, segment: PyTree) -> tuple[Any, Any]:
        loss, after = checks.loss_and_state(loss_fn(params, state, segment))
        checks.scalar("loss_fn", loss, "the sum over the steps of its window")
        checks.state_of_loss(state, after)
        return loss, after

    return checked_loss


def admit(
    params: Params, state: PyTree, batch: PyTree, name: str, window: int
) -> tuple[Any, Any, Array]:
    """Returns state and batch as arrays, placed alike, and a scalar zero like them.

    Raises:
      ValueError: if `window`, called `name`, is longer than the batch.
    """
    state, batch = jax.tree.map(jnp.asarray, (state, batch))
    checks.within(name, window, checks.common_length("batch", batch))
    # The parameters count here too, but are not replaced: if they are replicated over a
    # mesh, their gradient is summed over it, as with `jax.grad`.
    return placement.varying_alike((params, state, batch, jnp.zeros(())))[1:]


def zero_loss(
    loss_fn: LossFn, params: Params, state: PyTree, segment: PyTree, zero: Array
) -> Array:
    """Returns the scalar `zero` in the dtype in which losses are summed."""
    loss, _ = jax.eval_shape(loss_fn, params, state, segment)
    return zero.astype(accumulation_dtype(loss.dtype))


def slice_steps(batch: PyTree, at: int | Array, size: int) -> Any:
    """Returns `size` steps of leaves `[T, ...]` from step `at` on; copies no others."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, at, size), batch)


def floating_leaves(tree: PyTree) -> list[Array]:
    """Returns the leaves `[...]` that have a gradient."""
    return [a for a in jax.tree.leaves(tree) if _is_float(a)]


def pull_back(
    loss_fn: LossFn, params: Params, state: PyTree, segment: PyTree
) -> tuple[Array, Any, Callable[[Any, list[Array]], tuple[Any, list[Array]]]]:
    """Returns the loss of a segment, the state after it, and its backward pass.

    The backward pass takes the cotangent of the loss and the adjoint of the floating
    leaves of the state after the segment, a list of `[*B, H]`; it returns the gradient
    with respect to `params` and the adjoint of the floating leaves of the state before
    the segment.
    """
    leaves, tree = jax.tree.flatten(state)

    def run(params, given):
        given = iter(given)
        mixed = [next(given) if _is_float(a) else a for a in leaves]
        loss, after = loss_fn(params, jax.tree.unflatten(tree, mixed), segment)
        return (loss, floating_leaves(after)), after

    (loss, _), back, after = jax.vjp(run, params, floating_leaves(state), has_aux=True)
    return loss, after, lambda dloss, adjoint: back((dloss, adjoint))


def _is_float(a: Array) -> bool:
    return jnp.issubdtype(a.dtype, jnp.inexact)
