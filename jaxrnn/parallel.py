"""Linear recursions as associative scans: K steps of a chunk in about 2 log₂ K rounds.

A cell with `Cell.linear` has the recursion s[t] = a[t] s[t-1] + v[t], number by number.
Two steps in a row are one such step, and so are any number of them:

    (a₂, v₂) after (a₁, v₁) = (a₂ a₁, a₂ v₁ + v₂)                                  (1)

This composition is associative, so the steps can be composed pair by pair, like a tree,
instead of one after the other. A step that is not linked to the one before ignores it:
where the later step is not linked, the right side of (1) is v₂, by selection. A masked
step has a = 1 and v = 0. A step that starts from the reset state r has a r + v for v.

Going back, the recursion is linear for every cell: λ enters J[t]ᵀ λ[t] as a factor,
however the states were made. With (2) and (8) of `bptt`, the adjoint without its direct
part, b[t] = λ[t] - g[t], is a recursion of the same form in the other direction:

    b[t-1] = γ[t] ā[t] b[t] + γ[t] ā[t] g[t],   0 where the adjoint is cut         (2)

Here ā[t] is J[t]ᵀ. For a cell with `Cell.linear` it is the conjugate of a[t], which is
J[t]ᵀ 1. For any other it is one matrix for each unit of the state (`structure.py`). The
columns of all n matrices `[k, k]` are J[t]ᵀ applied to k vectors: vector m is 1 at the
m-th number of every unit and 0 elsewhere. So a diagonal J takes one product, like a
step of the loop, and a dense one k = D of them; and (1) takes n k³ multiplications.

Source: Blelloch (1990), "Prefix sums and their applications", CMU-CS-90-190, sections
1.4 and 1.5; Martin & Cundy (2018), arXiv:1709.04057; for (2) of any cell Wang, Bai &
Pekhimenko (2020), "BPPSA: Scaling back-propagation by parallel scan algorithm", MLSys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Inexact

from jaxrnn.cells.base import Adjoint, Cell, Drives, Lin, Linear, Params, State
from jaxrnn.ops.products import accumulation_dtype, cast_like
from jaxrnn.ops.selection import keep, scale, select

Product = Callable[[Array, Array], Array]


class Form(NamedTuple):
    """What the numbers of a state are, and what their factors are.

    Attributes:
      numbers: `state -> s`, `[*N, n]`, or `[*N, n, k]` for units of k numbers.
      state: `s -> state`, its inverse.
      back: `adjoints -> ā`, J[t]ᵀ of every step, `[*N, n]` or `[*N, n, k, k]`; of the
        adjoints, `[*N, H]`, only shapes are read.
      one: the identity: 1 or `[k, k]`.
      times: `(a, s) -> a s`.
      compose: `(a₂, a₁) -> a₂ a₁`.
    """

    numbers: Callable[[State], Array]
    state: Callable[[Array], State]
    back: Callable[[Adjoint], Array]
    one: Any
    times: Product = jnp.multiply
    compose: Product = jnp.multiply


def scan(
    a: Inexact[Array, "K *_"],
    v: Inexact[Array, "K *N"],
    linked: Bool[Array, "K *_"] | None,
    first: Inexact[Array, "*N"],
    reverse: bool = False,
    times: Product = jnp.multiply,
    compose: Product = jnp.multiply,
) -> Inexact[Array, "K *N"]:
    """Returns s[t] = a[t] s[t-1] + v[t] for all t at once, or v[t] where not linked.

    Args:
      a: the factors, `[K, *B, n]`, or matrices, `[K, *B, n, k, k]`.
      v: the inputs, `[K, *B, n]` or `[K, *B, n, k]`.
      linked: whether a step depends on the one before, `[K, *B]` or `[K]`; None: True.
      first: the state before the first step; with `reverse`, after the last one.
      reverse: whether the recursion runs from the last step to the first one.
      times: `(a, s) -> a s`, for any leading axes.
      compose: `(a₂, a₁) -> a₂ a₁`, for any leading axes.
    """
    if a.shape[0] == 0:
        return v

    def both(earlier, later):  # (1)
        (a1, v1, linked1), (a2, v2, linked2) = earlier, later
        v = select(linked2, times(a2, v1) + v2, v2)
        linked = None if linked2 is None else linked1 & linked2
        return compose(a2, a1), v, linked

    # The state before the first step becomes a part of its input.
    at, rest = (slice(-1, None), slice(-1)) if reverse else (slice(1), slice(1, None))
    link = None if linked is None else linked[at]
    start = select(link, times(a[at], first[None]) + v[at], v[at])
    v = jnp.concatenate([v[rest], start] if reverse else [start, v[rest]])
    return lax.associative_scan(both, (a, v, linked), reverse=reverse)[1]


def states(
    linear: Linear,
    params: Params,
    before: State,
    us: Drives,
    reset_state: State | None,
    mask: Bool[Array, "K *B"] | None,
    linked: Bool[Array, "K *B"] | None,
) -> State:
    """Returns the states after each of K steps, leaves `[K, *B, H]`.

    They are those of (4) and (5) of `bptt`.

    Args:
      linear: `linear` of the cell.
      params: the cell's parameters.
      before: the state before the first step, leaves `[*B, H]`.
      us: the drives, `[K, *B, G]`.
      reset_state: the state from which steps start that are not linked.
      mask: whether there is an input.
      linked: whether a step continues the one before.
    """
    a, v = _wide(linear.coefficients(params, us))
    a, v = select(mask, a, jnp.ones_like(a)), keep(mask, v)
    if reset_state is not None:
        v = select(linked, v, a * _wide(linear.numbers(reset_state)) + v)
    found = linear.state(scan(a, v, linked, _wide(linear.numbers(before))))
    return cast_like(found, before)


def adjoints(
    form: Form,
    after: Adjoint,
    direct: Adjoint,
    mask: Bool[Array, "K *B"] | None,
    passes: Bool[Array, "K *_"] | None,
    gamma: Float[Array, "K *_"] | None,
) -> tuple[Adjoint, Adjoint]:
    """Returns the adjoint that reaches the state before K steps, and all λ: (2).

    Args:
      form: that of `linear_form` or `unit_form`, for these steps.
      after: λ without its direct part after the last step, leaves `[*B, H]`.
      direct: g, like the adjoint, leaves `[K, *B, H]`.
      mask: whether there is an input.
      passes: whether the adjoint passes to the step before.
      gamma: γ.
    """
    g, end = _wide((form.numbers(direct), form.numbers(after)))
    a = _wide(form.back(direct))
    a = scale(gamma, select(mask, a, jnp.asarray(form.one, a.dtype)))
    v = keep(passes, form.times(a, g))
    back = scan(a, v, passes, end, True, form.times, form.compose)  # (2)
    indirect = jnp.concatenate([back, end[None]])
    found = form.state(indirect[0]), form.state(g + indirect[1:])
    return cast_like(found, (after, direct))


def linear_form(cell: Cell, params_t: Params, lin: Lin) -> Form:
    """Returns the form of a cell whose `linear` is not None: numbers `[K, *B, n]`.

    Args:
      cell: the cell.
      params_t: its parameters, every matrix transposed.
      lin: the coefficients of the K steps.
    """
    linear: Any = cell.linear

    def back(like: Adjoint) -> Array:
        ones = jnp.ones_like(_wide(linear.numbers(like)))
        one = cast_like(linear.state(ones), like)
        return linear.numbers(cell.state_vjp(params_t, lin, one))

    return Form(linear.numbers, linear.state, back, 1)


def unit_form(
    cell: Cell,
    params_t: Params,
    lin: Lin,
    like: Adjoint,
    units: tuple[tuple[int, ...], ...],
) -> Form:
    """Returns the form of any cell: units `[K, *B, n, k]`, or `[K, *B, n]` if k = 1.

    Args:
      cell: the cell.
      params_t: its parameters, every matrix transposed.
      lin: the coefficients of the K steps.
      like: an adjoint, of which the widths H of the leaves `[..., H]` are read.
      units: the places of the n units of k numbers, from `structure.units`.
    """
    places = np.asarray(units)  # [n, k]
    count, size = places.shape
    leaves, tree = jax.tree.flatten(like)
    edges = np.cumsum([leaf.shape[-1] for leaf in leaves])[:-1].tolist()
    shape = (count,) if size == 1 else (count, size)

    def numbers(state: State) -> Array:
        flat = jnp.concatenate(jax.tree.leaves(state), axis=-1)
        return _permuted(flat, places.ravel()).reshape(*flat.shape[:-1], *shape)

    def state(units: Array) -> State:
        flat = units.reshape(*units.shape[: units.ndim - len(shape)], places.size)
        flat = _permuted(flat, np.argsort(places.ravel()))
        return jax.tree.unflatten(tree, jnp.split(flat, edges, axis=-1))

    def back(adjoints: Adjoint) -> Array:
        zeros = jax.tree.map(jnp.zeros_like, adjoints)
        ones = np.zeros((size, places.size))
        ones[np.arange(size), places] = 1

        def column(row: Array) -> Array:
            parts = jax.tree.unflatten(tree, jnp.split(row, edges))
            vector = cast_like(jax.tree.map(jnp.add, zeros, parts), zeros)
            return numbers(cell.state_vjp(params_t, lin, vector))

        columns = jax.vmap(column, out_axes=-1)(jnp.asarray(ones, leaves[0].dtype))
        return columns[..., 0] if size == 1 else columns

    if size == 1:
        return Form(numbers, state, back, 1)
    return Form(numbers, state, back, np.eye(size), _times_vectors, _times_matrices)


def _permuted(flat: Array, places: Any) -> Array:
    """Returns the numbers `[..., D]` at these places; nothing is moved if none is."""
    if np.array_equal(places, np.arange(places.size)):
        return flat
    return jnp.take(flat, places, axis=-1)


def _times_vectors(
    a: Float[Array, "*N k k"], s: Float[Array, "*N k"]
) -> Float[Array, "*N k"]:
    return _times_matrices(a, s[..., None])[..., 0]


def _times_matrices(
    a: Float[Array, "*N k k"], b: Float[Array, "*N k m"]
) -> Float[Array, "*N k m"]:
    # In full precision: a product of many rounded matrices would be worth little.
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _wide(tree: Any) -> Any:
    """Returns every leaf `[...]` in float32 or wider: products of many a's round."""
    return jax.tree.map(lambda s: s.astype(accumulation_dtype(s.dtype)), tree)
