"""The direct influence of weight matrices as a Kronecker product.

A weight matrix multiplies a vector a of the input or of the state before: W[j, i] acts
on the state as a[j] times what a bias at column i would do, D[d, i]:

    M[d, j, i] = a[j] D[d, i],    M = a ⊗ D                                        (1)

a is `[R]` for a matrix `[R, C]`, and D is `[D, C]`. The influence of a matrix is then a
sum of Kronecker products too, one for each past step, and the rules that keep few of
them (`kf_rtrl`, `ok`) start from here. Biases and other vectors have too few numbers to
gain anything: their influence is kept whole, `[D, C]`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from jaxrnn import structure
from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.online import influence
from jaxrnn.online.base import Local, random_arguments, step, vector, wide
from jaxrnn.ops.ids import are_ids, one_hot


class Factor(NamedTuple):
    """Which vector a weight matrix multiplies."""

    of_state: bool
    """Whether it is the state before; else it is the input."""
    places: Any
    """Which numbers of it, integers `[R]`."""


class Product(NamedTuple):
    """A Kronecker product, (1), or r of them with a leading axis."""

    left: Float[Array, "*r R"]
    right: Float[Array, "*r D C"]


class Products(NamedTuple):
    """P of one sequence: r products for each matrix, and the rest whole, `[D, ...]`."""

    cell: Cell
    parts: tuple[Any, ...]


def factors(cell: Cell, params: Params) -> list[Factor | None]:
    """Returns the factor of each parameter `[R, C]`; None for one that is no matrix.

    Raises:
      TypeError: if a matrix multiplies anything but the input or the state, such as
        the state times a gate.
    """
    leaves, tree = jax.tree.flatten(params)
    found = _factors(cell, tree, tuple(leaf.shape for leaf in leaves))
    if found is None:
        raise TypeError(
            "`cell` must be one whose weight matrices multiply the input or the state, "
            f"and nothing else, which does not hold for {type(params).__name__}. Use "
            "jaxrnn.online.rtrl or jaxrnn.online.uoro, which take any cell."
        )
    return found


@cache
def _factors(cell: Cell, tree: Any, shapes: Any) -> list[Factor | None] | None:
    """Returns the factors, or None if (1) does not hold at random numbers."""
    with jax.ensure_compile_time_eval():  # also while another program is traced
        params, state, x = random_arguments(cell, tree, shapes)
        units = influence.dense(cell, params).units
        entries = structure.entries(cell, params, units, x.size)

        # The vector that each matrix multiplies, as the cell's program shows it.
        found = []
        trees = entries.places, entries.inputs
        for shape, *read in zip(shapes, *map(jax.tree.leaves, trees), strict=True):
            factor = _factor(*read) if len(shape) == 2 else None
            if factor is None and len(shape) == 2:
                return None
            found.append(factor)

        # Whether (1) holds: no matrix multiplies anything else.
        @jax.jit
        def difference(params: Params, state: Any, x: Any) -> Array:
            local = step(cell, params, state, x)[1]
            whole = jax.tree.leaves(local.direct())
            errors = [
                jnp.abs(jnp.einsum("r,dc->drc", *part) - m).max() / jnp.abs(m).max()
                for part, m in zip(direct(local, found), whole, strict=True)
                if isinstance(part, Product)
            ]
            return jnp.stack([jnp.zeros(()), *errors]).max()

        return found if difference(params, state, x) < TOLERANCE else None


TOLERANCE = 1e-3
"""Rounding leaves differences of 1e-6; another factor, of the order of 1."""


def _factor(places: Any, inputs: Any) -> Factor | None:
    """Returns the factor of a matrix from what its numbers multiply, `[R, 1]`."""
    for of_state, numbers in ((True, places), (False, inputs)):
        if numbers.shape[1] == 1 and (numbers >= 0).all():
            return Factor(of_state, numbers[:, 0])
    return None


def direct(local: Local, factors: list[Factor | None]) -> list[Any]:
    """Returns M of every parameter: a `Product`, (1), or `[D, ...]`.

    If an input and a state of ones replace those of the step, every a is 1, and each
    row of M is D.
    """
    before, x = vector(local.before), local.x
    if are_ids(x):
        size = 1 + max(max(f.places) for f in factors if f and not f.of_state)
        x = one_hot(x, size, before.dtype)
    ones = local._replace(
        x=jnp.ones_like(x), before=jax.tree.map(jnp.ones_like, local.before)
    )
    rows = jax.tree.leaves(ones.direct())
    whole = jax.tree.leaves(local.direct())

    def of_leaf(factor: Factor | None, rows: Array, whole: Array) -> Any:
        if factor is None:
            return whole
        left = (before if factor.of_state else x)[factor.places]
        return Product(left, rows[:, 0])

    return [*map(of_leaf, factors, rows, whole)]


def zero(cell: Cell, params: Params, state: State, r: int) -> Products:
    """Returns P[0] = 0 of one sequence, with r products `[r, ...]` for each matrix."""
    size = vector(state).size

    def of_leaf(factor: Factor | None, p: Array) -> Any:
        if factor is None:
            return jnp.zeros((size, *p.shape), p.dtype)
        rows, columns = p.shape
        return Product(
            jnp.zeros((r, rows), p.dtype), jnp.zeros((r, size, columns), p.dtype)
        )

    leaves = jax.tree.leaves(wide(params))
    return Products(cell, tuple(map(of_leaf, factors(cell, params), leaves)))


def advance(
    trace: Products,
    params: Params,
    local: Local,
    join: Callable[[Product, Product, PRNGKeyArray], Product],
    key: PRNGKeyArray,
) -> Products:
    """Returns P after a step: exact for vectors `[D, C]`, joined for matrices.

    Args:
      trace: P before the step.
      params: the cell's parameters.
      local: the step.
      join: returns r products, given the r that J has multiplied and the new one.
      key: a random key.
    """
    jacobian = local.jacobian()
    added = direct(local, factors(trace.cell, params))
    keys = jax.random.split(key, len(added))

    def after(part: Any, new: Any, key: PRNGKeyArray) -> Any:
        if isinstance(part, Product):
            return join(part._replace(right=jacobian @ part.right), new, key)
        return jnp.tensordot(jacobian, part, 1) + new

    return trace._replace(parts=tuple(map(after, trace.parts, added, keys)))


def gradient(params: Params, trace: Products, g: State) -> Params:
    """Returns Σ a ⊗ (gᵀ A) for matrices, and gᵀ P for the rest, leaves `[...]`."""
    error = vector(g)

    def of_part(part: Any) -> Array:
        if isinstance(part, Product):
            return jnp.einsum("kr,d,kdc->rc", part.left, error, part.right)
        return jnp.tensordot(error, part, 1)

    return jax.tree.structure(params).unflatten(map(of_part, trace.parts))


def balance(one: Float[Array, ""], other: Float[Array, ""]) -> Float[Array, ""]:
    """Returns √(one / other) for two norms, scalars, finite where either is 0.

    Any positive factor leaves an estimate unbiased.
    """
    tiny = jnp.finfo(one.dtype).tiny ** 0.5
    return jnp.sqrt((one + tiny) / (other + tiny))
