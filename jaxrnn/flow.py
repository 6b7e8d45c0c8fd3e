"""What happens to the gradient on its way back: how it shrinks or grows, and how far it reaches.

The adjoint λ[t] = dR̂/ds[t] of a loss at step T comes back through the Jacobians J[t] of the steps,

    λ[T-i] = J[T-i+1]ᵀ … J[T]ᵀ λ[T]                                                          (1)
    dR̂/dθ  = Σ_i M[T-i]ᵀ λ[T-i]                                                              (2)

so whether the network can learn what it owes to i steps before is a matter of the product of i
Jacobians: of its singular values, and, over many steps, of the Lyapunov exponents

    Q[t] R[t] = J[t] Q[t-1],    exponent k = mean over t of log |R[t]_kk|                     (3)

with Q[t] orthonormal, R[t] triangular: the mean logarithm by which a step stretches k directions.
Below 0 gradients vanish, above 0 they explode. For all of it the coefficients of every J[t] are
computed once, in parallel over time (`Cell.linearize`), and then a linear recursion runs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Shaped

from jaxrnn import bptt, checks
from jaxrnn.cells.base import Cell, transposed, wide
from jaxrnn.truncation import decay_rate

Loss = Callable[[Any, Any], Any]


def adjoint_profile(
    loss: Loss,
    cell: Cell,
    params: Any,
    state: Any | None,
    xs: Float[Array, "T *B I"],
    **options: Any,
) -> Float[Array, "T *B"]:
    """‖dR̂/ds[T-i]‖ for every lag i, of each sequence, from one backward pass, (1).

        profile = adjoint_profile(lambda last, hs: hs[-1].sum(), jaxrnn.lstm, params, None, xs)

    Lags count from the last step of `xs`; for a loss at step t, give the steps up to it.

    Args:
      loss: `(last, hs) -> R̂`, a function of what `unroll` returns. Of a loss at many steps, an
        adjoint holds what all later ones owe to its state.
      cell: and all that follow, `options` too: as in `jaxrnn.unroll`.

    Returns:
      Norms over the state's leaves, lag 0 first, in float32 or wider.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`.
    """
    _, adjoints = bptt.adjoints(loss, cell, params, state, xs, **options)
    return jnp.flip(jnp.sqrt(_squares(adjoints)), axis=0)


def lag_gradients(
    loss: Loss,
    cell: Cell,
    params: Any,
    state: Any | None,
    xs: Float[Array, "T *B I"],
) -> Any:
    """The terms of (2): what every lag contributes to dR̂/dθ. Their sum is BPTT's gradient.

    The lecture's expanded sum, for real networks: of a loss at the last step, term i is what the
    gradient owes to step T-i. It holds T copies of the parameters.

    Args:
      loss: `(last, hs) -> R̂`, as in `adjoint_profile`.
      cell: and all that follow: as in `jaxrnn.unroll`.

    Returns:
      A tree like `params`, its leaves `[T, ...]`, lag 0 first.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`.
    """
    _, adjoints = bptt.adjoints(loss, cell, params, state, xs)
    params, befores, lin, xs = _linearized(cell, params, state, xs)

    def term(x, before, lin, adjoint):
        return cell.param_vjp(transposed(params), x, before, lin, adjoint)[0]

    terms = jax.vmap(term)(xs, befores, lin, adjoints)
    return jax.tree.map(lambda d, p: jnp.flip(d, axis=0).astype(p.dtype), terms, params)


def lyapunov_spectrum(
    cell: Cell,
    params: Any,
    state: Any | None,
    xs: Float[Array, "T I"],
    count: int | None = None,
    *,
    transient: int = 0,
) -> Float[Array, " k"]:
    """The leading Lyapunov exponents of the network driven by `xs`, (3), per step, in nats.

    Differentiable, with respect to `params` too: `jnp.mean(lyapunov_spectrum(...)**2)` pushes the
    exponents to zero (gradient flossing: Engelken 2023, arXiv:2312.17306).

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      state: the state before the first step, leaves `[H]`; None for zeros.
      xs: the inputs of one sequence, `[T, I]`; for several, `jax.vmap` and average.
      count: k, how many; None: all, one for each number of the state (2 H for an LSTM).
      transient: first steps that turn the directions, and are not averaged over.

    Returns:
      The exponents, the largest first as T grows, in float32 or wider.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`, if `count` is not between 1 and the numbers of the
        state, or no step is left after the transient.

    Source: Benettin et al. (1980), Meccanica 15; for recurrent networks Engelken, Wolf & Abbott
    (2023), Physical Review Research 5.
    """
    params, befores, lin, xs = _linearized(cell, params, state, xs)
    forward, _, width = _products(cell, params, befores)
    count = width if count is None else checks.positive("count", count)
    transient = checks.natural("transient", transient)
    _check_count(count, width)
    if transient >= len(xs):
        raise ValueError(
            f"`transient` must be less than T = {len(xs)}, but got {transient}: no step is left."
        )

    def over_step(q, lin):
        q, r = jnp.linalg.qr(forward(lin, q))
        return q, jnp.log(jnp.abs(jnp.diagonal(r)))

    # Directions that no symmetry of the network singles out.
    start = jax.random.normal(jax.random.key(0), (width, count), wide(xs.dtype))
    _, logs = lax.scan(over_step, jnp.linalg.qr(start)[0], lin)
    return jnp.mean(logs[transient:], axis=0)


def jacobian_product_svd(
    cell: Cell,
    params: Any,
    state: Any | None,
    xs: Float[Array, "T I"],
    count: int = 1,
    *,
    iterations: int = 10,
) -> Float[Array, " k"]:
    """log of the largest singular values of J[T] … J[1], by products with vectors alone.

    Subspace iteration with Aᵀ A, `count` and a few more vectors, scaled at every step: a product
    that vanishes or explodes beyond the range of floats has logarithms all the same.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      state: the state before the first step, leaves `[H]`; None for zeros.
      xs: the inputs of one sequence, `[T, I]`.
      count: how many.
      iterations: products with Aᵀ A. Singular values below the largest times the rounding error
        are not resolved.

    Returns:
      Natural logarithms, the largest first, in float32 or wider. Divided by T, they tend to the
      Lyapunov exponents.

    Raises:
      TypeError, ValueError: as `lyapunov_spectrum`.

    Source: Halko, Martinsson & Tropp (2011), SIAM Review 53, algorithm 4.4.
    """
    params, befores, lin, xs = _linearized(cell, params, state, xs)
    forward, back, width = _products(cell, params, befores)
    count = checks.positive("count", count)
    _check_count(count, width)
    block = min(width, count + 4)

    def through(product, vectors, reverse):
        def over_step(carry, lin):
            vectors, log_scale = carry
            vectors = product(lin, vectors)
            scale = jnp.max(jnp.abs(vectors))
            scale = jnp.where(scale > 0, scale, 1)
            return (vectors / scale, log_scale + jnp.log(scale)), None

        zero = jnp.zeros((), vectors.dtype)
        return lax.scan(over_step, (vectors, zero), lin, reverse=reverse)[0]

    def iterate(q, _):
        y, _ = through(forward, q, False)
        z, log_scale = through(back, jnp.linalg.qr(y)[0], True)
        return jnp.linalg.qr(z)[0], (z, log_scale)

    start = jax.random.normal(jax.random.key(0), (width, block), wide(xs.dtype))
    iterations = checks.positive("iterations", iterations)
    _, (zs, log_scales) = lax.scan(iterate, jnp.linalg.qr(start)[0], length=iterations)
    values = jnp.linalg.svd(zs[-1], compute_uv=False)
    return jnp.log(values[:count]) + log_scales[-1]


def vanishing_regularizer(
    loss: Loss, cell: Cell, params: Any, state: Any | None, xs: Float[Array, "T *B I"]
) -> Float[Array, ""]:
    """Ω = Σ_t (‖J[t]ᵀ λ[t]‖ / ‖λ[t]‖ - 1)², the mean over sequences: how far errors shrink or grow.

    Added to a loss, with a small weight, it asks the recurrent matrix to preserve the norm of the
    errors where there are any. As in the source, it is differentiated by the matrices in J[t]
    alone: adjoints, states and all that follows from them are constants, so it costs one backward
    pass more, and no derivative of second order.

    Args:
      loss: `(last, hs) -> R̂`, as in `adjoint_profile`.
      cell: and all that follow: as in `jaxrnn.unroll`.

    Returns:
      Ω, in float32 or wider. Steps whose adjoint is 0 count nothing.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`.

    Source: Pascanu, Mikolov & Bengio (2013), arXiv:1211.5063, section 3.3.
    """
    fixed = jax.lax.stop_gradient(params)
    _, adjoints = bptt.adjoints(loss, cell, fixed, state, xs)
    _, _, lin, _ = _linearized(cell, fixed, state, xs)
    lin, adjoints = jax.lax.stop_gradient((lin, adjoints))
    after = _squares(adjoints)
    alive = after > 0
    # √ has no slope at 0: a step without an adjoint is replaced before, not after.
    ones = jnp.ones_like(after)
    before = jnp.where(alive, _squares(cell.state_vjp(transposed(params), lin, adjoints)), ones)
    ratios = jnp.sqrt(jnp.where(before > 0, before, ones) / jnp.where(alive, after, ones))
    ratios = jnp.where(before > 0, ratios, jnp.zeros_like(ratios))
    return jnp.mean(jnp.sum(jnp.square(ratios - 1), axis=0, where=alive))


class MemoryHorizon(NamedTuple):
    """How far back a gradient reaches."""

    lag: int | None
    """The first lag at which the adjoint is below the share of its first; None if it never is."""
    rate: float
    """The factor by which it shrinks per step, from a line through the logarithms of the second
    half of the profile; 0 where it vanished at once, above 1 where it grows."""


def memory_horizon(profile: Shaped[Any, "T *B"], share: float = 0.01) -> MemoryHorizon:
    """The lag at which the adjoint has fallen to a share of what it was at lag 0, and its decay.

    Args:
      profile: norms by lag, `[T]`, or `[T, *B]` of many sequences, which are averaged:
        `adjoint_profile`'s.
      share: between 0 and 1.

    Raises:
      ValueError: if `share` is not between 0 and 1, or the profile has fewer than 4 lags or is 0
        at the first.
    """
    share = checks.between("share", share, 0.0, 1.0)
    norms = np.asarray(profile, np.float64)
    norms = norms.reshape(len(norms), -1).mean(axis=1) if norms.size else norms.ravel()
    if len(norms) < 4 or not norms[0] > 0:
        raise ValueError(
            f"`profile` must have 4 lags at least and begin above 0, but got {len(norms)} lags, "
            f"from {norms[:1]} on. Does the loss look at the last step?"
        )
    below = np.flatnonzero(norms < share * norms[0])
    return MemoryHorizon(int(below[0]) if below.size else None, decay_rate(norms))


def _squares(states):
    """Of the norms over all leaves `[..., H]`: `[...]`, in float32 or wider."""
    squares = [jnp.sum(jnp.square(a.astype(wide(a.dtype))), axis=-1) for a in states]
    return sum(squares[1:], start=squares[0])


def _linearized(cell, params, state, xs):
    """The parameters and inputs checked; the states before every step; the coefficients, (3) of
    `cells.base`, of all of them at once."""
    params, state, xs, _, _ = checks.sequence(cell, params, state, xs, None, None)
    us = cell.drive(params, xs)

    def over_step(before, u):
        after, res = cell.step(params, before, u)
        return after, (before, after, res)

    _, (befores, afters, res) = lax.scan(over_step, state, us)
    return params, befores, cell.linearize(params, befores, afters, res), xs


def _check_count(count, width):
    if count > width:
        raise ValueError(f"`count` must be at most {width}, the state's numbers, but got {count}.")


def _products(cell, params, befores):
    """`(lin, [D, k]) -> [D, k]`: J times vectors, and Jᵀ times vectors, and D, the state's numbers.

    J is the transpose of what the cell has: there is no second derivation.
    """
    if any(s.ndim != 2 for s in befores):
        raise ValueError(
            f"`xs` must be one sequence, (T, I), but has batch axes, {befores.h.shape[1:-1]}: "
            "jax.vmap over sequences."
        )
    one = jax.tree.map(lambda s: s[0], befores)
    flat, unflatten = ravel_pytree(one)
    params_t = transposed(params)

    def back(lin, vector):
        adjoint = unflatten(vector.astype(flat.dtype))
        return ravel_pytree(cell.state_vjp(params_t, lin, adjoint))[0].astype(vector.dtype)

    def forward(lin, vector):
        return jax.linear_transpose(lambda v: back(lin, v), vector)(vector)[0]

    columns = {"in_axes": (None, 1), "out_axes": 1}
    return jax.vmap(forward, **columns), jax.vmap(back, **columns), flat.size
