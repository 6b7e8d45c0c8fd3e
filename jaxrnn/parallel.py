"""Linear recursions as associative scans: K steps of a chunk in about 2 log₂ K rounds.

A cell with `Cell.linear` has the recursion s[t] = a[t] s[t-1] + v[t], number by number.
Two steps in a row are one such step, and so are any number of them:

    (a₂, v₂) after (a₁, v₁) = (a₂ a₁, a₂ v₁ + v₂)                                  (1)

This composition is associative, so the steps can be composed pair by pair, like a tree,
instead of one after the other. A step that is not linked to the one before ignores it:
where the later step is not linked, the right side of (1) is v₂, by selection. A masked
step has a = 1 and v = 0. A step that starts from the reset state r has a r + v for v.

Going back, J[t]ᵀ multiplies by the conjugate of a[t], which is J[t]ᵀ 1. With (2) and
(8) of `bptt`, the adjoint without its direct part, b[t] = λ[t] - g[t], is a recursion
of the same form in the other direction:

    b[t-1] = γ[t] ā[t] b[t] + γ[t] ā[t] g[t],   0 where the adjoint is cut         (2)

Source: Blelloch (1990), "Prefix sums and their applications", CMU-CS-90-190, sections
1.4 and 1.5; Martin & Cundy (2018), arXiv:1709.04057.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Inexact

from jaxrnn.cells.base import Adjoint, Cell, Drives, Lin, Linear, Params, State
from jaxrnn.ops.products import accumulation_dtype, cast_like
from jaxrnn.ops.selection import keep, scale, select


def scan(
    a: Inexact[Array, "K *B n"],
    v: Inexact[Array, "K *B n"],
    linked: Bool[Array, "K *_"] | None,
    first: Inexact[Array, "*B n"],
    reverse: bool = False,
) -> Inexact[Array, "K *B n"]:
    """Returns s[t] = a[t] s[t-1] + v[t] for all t at once, or v[t] where not linked.

    Args:
      a: the factors.
      v: the inputs.
      linked: whether a step depends on the one before, `[K, *B]` or `[K]`; None: True.
      first: the state before the first step; with `reverse`, after the last one.
      reverse: whether the recursion runs from the last step to the first one.
    """
    if a.shape[0] == 0:
        return v

    def compose(earlier, later):  # (1)
        (a1, v1, linked1), (a2, v2, linked2) = earlier, later
        v = select(linked2, a2 * v1 + v2, v2)
        both = None if linked2 is None else linked1 & linked2
        return a2 * a1, v, both

    # The state before the first step becomes a part of its input.
    at, rest = (slice(-1, None), slice(-1)) if reverse else (slice(1), slice(1, None))
    link = None if linked is None else linked[at]
    start = select(link, a[at] * first + v[at], v[at])
    v = jnp.concatenate([v[rest], start] if reverse else [start, v[rest]])
    return lax.associative_scan(compose, (a, v, linked), reverse=reverse)[1]


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
    cell: Cell,
    params_t: Params,
    lin: Lin,
    after: Adjoint,
    direct: Adjoint,
    mask: Bool[Array, "K *B"] | None,
    passes: Bool[Array, "K *_"] | None,
    gamma: Float[Array, "K *_"] | None,
) -> tuple[Adjoint, Adjoint]:
    """Returns the adjoint that reaches the state before K steps, and all λ: (2).

    Args:
      cell: a cell with a `linear` that is not None.
      params_t: the cell's parameters, every matrix transposed.
      lin: the coefficients of the K steps.
      after: λ without its direct part after the last step, leaves `[*B, H]`.
      direct: g, like the adjoint, leaves `[K, *B, H]`.
      mask: whether there is an input.
      passes: whether the adjoint passes to the step before.
      gamma: γ.
    """
    linear: Any = cell.linear
    g = _wide(linear.numbers(direct))
    one = cast_like(linear.state(jnp.ones_like(g)), direct)
    a = _wide(linear.numbers(cell.state_vjp(params_t, lin, one)))
    a = scale(gamma, select(mask, a, jnp.ones_like(a)))
    end = _wide(linear.numbers(after))
    back = scan(a, keep(passes, a * g), passes, end, reverse=True)  # (2)
    indirect = jnp.concatenate([back, end[None]])
    found = linear.state(indirect[0]), linear.state(g + indirect[1:])
    return cast_like(found, (after, direct))


def _wide(tree: Any) -> Any:
    """Returns every leaf `[...]` in float32 or wider: products of many a's round."""
    return jax.tree.map(lambda s: s.astype(accumulation_dtype(s.dtype)), tree)
