"""The states of a run, and the coefficients of its derivatives.

Once a sequence has run forward, the coefficients of every J[t] = ∂s[t]/∂s[t-1] and
M[t] = ∂s[t]/∂θ are known, and are computed for all t at once (`Cell.linearize`). Every
derivative through time is a linear recursion with them, in one direction or the other:

    backwards    λ[t-1] = J[t]ᵀ λ[t] + g[t-1]                                      (1)
    forwards     v[t] = J[t] v[t-1]                                                (2)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Integer

from jaxrnn import checks
from jaxrnn.cells.base import Cell, Lin, Params, State
from jaxrnn.ops.ids import leading_shape
from jaxrnn.ops.products import accumulation_dtype, transposed
from jaxrnn.unrolling import admit


class Linearization(NamedTuple):
    """A run of a cell over a sequence `[T, *B, I]`, or ids `[T, *B]`, linearized."""

    params: Params
    xs: Array
    """The inputs, `[T, *B, I]` or `[T, *B]`."""
    befores: State
    """The state before every step, leaves `[T, *B, H]`."""
    lin: Lin
    """The coefficients of every J[t] and M[t], leaves `[T, *B, ...]`."""


def linearize(
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
) -> Linearization:
    """Runs a cell over a sequence, and linearizes it at every step at once.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      state: the state before the first step, leaves `[*B, H]`; None for zeros.
      xs: the inputs, `[T, *B, I]`, or ids, `[T, *B]`.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`.
    """
    params, state, _, xs, *_ = admit(cell, params, state, xs)
    us = cell.drive(params, xs)

    def over_step(before, u):
        after, res = cell.step(params, before, u)
        return after, (before, after, res)

    _, (befores, afters, res) = lax.scan(over_step, state, us)
    return Linearization(
        params, xs, befores, cell.linearize(params, befores, afters, res)
    )


Product = Callable[[Lin, Float[Array, "D k"]], Float[Array, "D k"]]


class JacobianProducts(NamedTuple):
    """J[t] and J[t]ᵀ of one sequence, as products with vectors `[D]` like the state."""

    lin: Lin
    """Leaves `[T, ...]`; the products take those of one step."""
    forward: Product
    """J[t] V, `[D, k]`, (2)."""
    back: Product
    """J[t]ᵀ V, `[D, k]`, (1)."""
    width: int
    """D."""
    dtype: jnp.dtype
    """float32 or wider, and so are the products."""


def jacobian_products(
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T I"] | Integer[Array, "T"],
) -> JacobianProducts:
    """Returns J[t] and J[t]ᵀ of every step of one sequence, as products.

    J is the linear transpose of the cell's `state_vjp`: there is no second derivation.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      state: the state before the first step, leaves `[H]`; None for zeros.
      xs: the inputs of one sequence, `[T, I]`, or ids, `[T]`.

    Raises:
      ValueError: if `xs` is not one sequence.
      TypeError, ValueError: as `jaxrnn.unroll`.
    """
    xs = checks.sequences("xs", xs)
    if len(leading_shape(xs)) != 1:
        raise ValueError(
            f"`xs` must be one sequence, (T, I) or ids (T,), but got {xs.shape}. Use "
            "jax.vmap over sequences."
        )
    run = linearize(cell, params, state, xs)
    params, lin = jax.tree.map(
        lambda a: a.astype(accumulation_dtype(a.dtype)), (run.params, run.lin)
    )
    one_state = jax.tree.map(
        lambda s: jnp.zeros(s.shape[1:], accumulation_dtype(s.dtype)), run.befores
    )
    flat, unflatten = ravel_pytree(one_state)
    params_t = transposed(params)

    def back(lin, vector):
        return ravel_pytree(cell.state_vjp(params_t, lin, unflatten(vector)))[0]

    def forward(lin, vector):
        return jax.linear_transpose(lambda v: back(lin, v), vector)(vector)[0]

    over_columns = {"in_axes": (None, 1), "out_axes": 1}
    return JacobianProducts(
        lin,
        jax.vmap(forward, **over_columns),
        jax.vmap(back, **over_columns),
        flat.size,
        flat.dtype,
    )
