"""How the gradient shrinks or grows on its way back, and how far back it reaches.

The adjoint λ[t] = dR̂/ds[t] of a loss at step T comes back through the Jacobians J[t],

    λ[T-i] = J[T-i+1]ᵀ … J[T]ᵀ λ[T]                                                (1)
    dR̂/dθ  = Σ_i M[T-i]ᵀ λ[T-i]                                                    (2)

so learning about an event i steps before the loss depends on the product of i
Jacobians: on its singular values and, over many steps, on the Lyapunov exponents

    Q[t] R[t] = J[t] Q[t-1],    exponent k = mean over t of log |R[t]_kk|          (3)

with Q[t] orthonormal and R[t] triangular. They are the mean logarithms of the factors
by which a step stretches each of k directions. If the first exponent is below 0,
gradients vanish; along directions whose exponent is above 0, they explode. The
coefficients of every J[t] are computed once, in parallel over time
(`linearization.py`), and then a linear recursion runs.

Lag i is i steps before the last step T of the run: lag 0 is s[T], or the parameters at
step T.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Integer, Shaped

from jaxrnn import checks, unrolling
from jaxrnn.cells.base import Cell, Lin, Params, State
from jaxrnn.linearization import JacobianProducts, Product, jacobian_products, linearize
from jaxrnn.ops.norms import decay_rate, largest_modulus, norm, sum_of_squares
from jaxrnn.ops.products import transposed
from jaxrnn.unrolling import UnrollOptions

Loss = Callable[[Any, Any], Any]


def adjoint_profile(
    loss: Loss,
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
    *,
    reverse: bool = False,
    **options: Unpack[UnrollOptions],
) -> Float[Array, "T *B"]:
    """Returns ‖dR̂/ds[T-i]‖ for every lag i and each sequence, (1).

    It takes one backward pass:

        def loss(last, hs):
            return hs[-1].sum()

        profile = adjoint_profile(loss, jaxrnn.lstm, params, None, xs)

    For a loss at step t, pass only the steps up to t. With a mask, the profile of a
    sequence that ends early begins with a plateau: its state is copied to the end.

    Args:
      loss: `(last, hs) -> R̂`, a function of what `unroll` returns. If it has terms at
        many steps, each adjoint sums those of all later steps.
      cell: as in `jaxrnn.unroll`, and so are all that follow, `options` too.

    Returns:
      Norms over the state's leaves, `[T, *B]`, lag 0 first, in float32 or wider.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`.
    """
    _, adjoints = unrolling.adjoints(
        loss, cell, params, state, xs, reverse=reverse, **options
    )
    norms = norm(adjoints, axis=-1)
    return norms if reverse else jnp.flip(norms, axis=0)


def lag_gradients(
    loss: Loss,
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
) -> Any:
    """Returns the terms of (2), which sum to BPTT's gradient.

    Term i is the contribution of the parameters at step T-i, if the loss is at the last
    step. This is the lecture's expanded sum, for real networks. The result holds T
    copies of the parameters. There is no mask: pass sequences without padding.

    Args:
      loss: `(last, hs) -> R̂`, as in `adjoint_profile`.
      cell: as in `jaxrnn.unroll`, and so are all that follow.

    Returns:
      A tree like `params`, its leaves `[T, ...]`, lag 0 first, in float32 or wider.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`.
    """
    _, adjoints = unrolling.adjoints(loss, cell, params, state, xs)
    run = linearize(cell, params, state, xs)
    params_t = transposed(run.params)

    def term(x, before, lin, adjoint):
        return cell.param_vjp(params_t, x, before, lin, adjoint)[0]

    terms = jax.vmap(term)(run.xs, run.befores, run.lin, adjoints)
    return jax.tree.map(lambda d: jnp.flip(d, axis=0), terms)


def lyapunov_spectrum(
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T I"] | Integer[Array, "T"],
    count: int | None = None,
    *,
    transient: int = 0,
) -> Float[Array, " k"]:
    """Returns the leading Lyapunov exponents of the network, (3), in nats per step.

    They are differentiable, with respect to `params` too:
    `jnp.mean(lyapunov_spectrum(...)**2)` pushes the exponents to zero (gradient
    flossing: Engelken 2023, arXiv:2312.17306).

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      state: the state before the first step, leaves `[H]`; None for zeros.
      xs: the inputs of one sequence, `[T, I]`, or ids, `[T]`; for several,
        `jax.vmap` and average.
      count: k, how many; None: all, one for each number of the state (2 H for an LSTM).
      transient: number of first steps that turn the directions but are left out of the
        mean.

    Returns:
      The exponents `[k]`, the largest first as T grows, in float32 or wider. Along a
      direction in which some J[t] is singular (an inactive relu unit, a slope that
      rounds to 0, an LSTM whose cells and candidates are still 0) an exponent is -∞ or
      noise, and its gradient is not finite: ask for fewer by `count`.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`; if `count` is not between 1 and the
        size of the state; or if the transient leaves no step.

    Source: Benettin, Galgani, Giorgilli & Strelcyn (1980), Meccanica 15, part 2; for
    recurrent networks Engelken, Wolf & Abbott (2023), Physical Review Research 5,
    043044.
    """
    transient = checks.natural("transient", transient)
    products = jacobian_products(cell, params, state, xs)
    count = _admit_count(count, products.width)
    size = len(xs)
    if transient >= size:
        raise ValueError(
            f"`transient` must be less than T = {size}, but got {transient}. It leaves "
            "no step to average over."
        )
    _, logs = _stretch(products.forward, products.lin, _start(products, count))
    return jnp.mean(logs[transient:], axis=0)


def jacobian_product_svd(
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T I"] | Integer[Array, "T"],
    count: int = 1,
    *,
    iterations: int = 10,
) -> Float[Array, " k"]:
    """Returns the log of the largest singular values of J[T] … J[1].

    They are computed from products with vectors: orthogonal iteration with Aᵀ A, where
    A is the product of the Jacobians, on `count` vectors and a few more, which are made
    orthonormal after every step. This resolves singular values far below the largest
    too, even if the product itself would overflow or round to zero.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      state: the state before the first step, leaves `[H]`; None for zeros.
      xs: the inputs of one sequence, `[T, I]`, or ids, `[T]`.
      count: k, how many.
      iterations: the number of products with Aᵀ A. If the k-th and the next value are
        close, more are needed.

    Returns:
      Natural logarithms, the largest first, in float32 or wider. Divided by T, they
      tend to the Lyapunov exponents.

    Raises:
      TypeError, ValueError: as `lyapunov_spectrum`.

    Source: Golub & Van Loan (2013), Matrix Computations, section 8.2: orthogonal
    iteration.
    """
    iterations = checks.positive("iterations", iterations)
    products = jacobian_products(cell, params, state, xs)
    count = _admit_count(count, products.width)

    def iterate(q, _):
        q, _ = _stretch(products.forward, products.lin, q)
        q, logs = _stretch(products.back, products.lin, q, reverse=True)
        return q, jnp.sum(logs, axis=0)

    # A few directions more than asked for: the last ones converge slowly.
    start = _start(products, count + 4)
    _, values = lax.scan(iterate, start, length=iterations)
    return jnp.flip(jnp.sort(values[-1]))[:count]


def vanishing_regularizer(
    loss: Loss,
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
) -> Float[Array, ""]:
    """Returns Ω = Σ_t (‖J[t]ᵀ λ[t]‖ / ‖λ[t]‖ - 1)², the mean over sequences.

    Added to a loss with a small weight, it pushes the recurrent matrix to preserve the
    norm of the errors where there are any. As in the source, only the matrices in J[t]
    are differentiated; states, adjoints, and the parameters and inputs that they come
    from are constants. It therefore takes two more forward passes, one more backward
    pass, and no derivative of second order. Unlike in the source, the state is h (and
    c), not the pre-activation.

    Args:
      loss: `(last, hs) -> R̂`, as in `adjoint_profile`.
      cell: as in `jaxrnn.unroll`, and so are all that follow. There is no mask: pass
        sequences without padding.

    Returns:
      Ω, a scalar, in float32 or wider. Steps whose adjoint is 0 add nothing.

    Raises:
      TypeError, ValueError: as `jaxrnn.unroll`.

    Source: Pascanu, Mikolov & Bengio (2013), arXiv:1211.5063, section 3.3, equation 9.
    """
    fixed, state, xs = lax.stop_gradient((params, state, xs))
    _, adjoints = unrolling.adjoints(loss, cell, fixed, state, xs)
    lin = linearize(cell, fixed, state, xs).lin
    lin, adjoints = lax.stop_gradient((lin, adjoints))
    # J is linear: so that no square underflows, each adjoint has a largest entry of 1.
    largest = largest_modulus(adjoints, axis=-1)
    alive = (largest > 0) & jnp.isfinite(largest)
    unit = jnp.where(alive, largest, 1)[..., None]
    adjoints = jax.tree.map(lambda a: a / unit, adjoints)
    before = cell.state_vjp(transposed(params), lin, adjoints)
    before = sum_of_squares(before, axis=-1)
    after = jnp.where(alive, sum_of_squares(adjoints, axis=-1), 1)
    # √ has no slope at 0, so 0 is replaced before the root is taken.
    shrunk = jnp.sqrt(jnp.where(before > 0, before, 1) / after)
    terms = jnp.square(jnp.where(before > 0, shrunk, 0) - 1)
    return jnp.mean(jnp.sum(jnp.where(alive, terms, 0), axis=0))


class MemoryHorizon(NamedTuple):
    """How far back a gradient reaches."""

    lag: int | None
    """The first lag at which the adjoint is below the share; None if there is none."""
    rate: float
    """The factor per step by which the adjoint decays, from a line through the
    logarithms of the second half of the lags where it is not 0. It is 0 if the adjoint
    vanished at once, above 1 if it grows, and ∞ if it is not finite."""


def memory_horizon(profile: Shaped[Any, "T *B"], share: float = 0.01) -> MemoryHorizon:
    """Returns the lag where the adjoint has fallen to a share of lag 0, and its decay.

    Args:
      profile: norms by lag, `[T]`, or `[T, *B]` of many sequences, which are averaged,
        as `adjoint_profile` returns them. It is read on the host, so not under `jit`.
      share: between 0 and 1.

    Raises:
      ValueError: if `share` is not between 0 and 1, or the profile has fewer than 4
        lags or is 0 at the first.
    """
    share = checks.between("share", share, 0.0, 1.0)
    norms = np.atleast_1d(checks.on_host("profile", profile, "memory_horizon"))
    norms = norms.reshape(len(norms), -1).mean(axis=1) if norms.size else norms.ravel()
    if len(norms) < 4 or not norms[0] > 0:
        raise ValueError(
            f"`profile` must have at least 4 lags and begin above 0, but got "
            f"{len(norms)} lags from {norms[:1]} on. Use a loss of the last step."
        )
    below = np.flatnonzero(norms < share * norms[0])
    return MemoryHorizon(int(below[0]) if below.size else None, decay_rate(norms))


def _admit_count(count: int | None, width: int) -> int:
    if count is None:
        return width
    count = checks.positive("count", count)
    if count > width:
        raise ValueError(
            f"`count` must be at most {width}, the size of the state, but got {count}."
        )
    return count


def _start(products: JacobianProducts, count: int) -> Float[Array, "D k"]:
    """Returns orthonormal directions that no symmetry of the network singles out."""
    shape = products.width, min(products.width, count)
    directions = jax.random.normal(jax.random.key(0), shape, products.dtype)
    return jnp.linalg.qr(directions)[0]


def _stretch(product: Product, lin: Lin, q: Array, reverse: bool = False):
    """(3): the last Q `[D, k]`, and log |R_kk| of every step `[T, k]`."""

    def over_step(q, lin):
        q, r = jnp.linalg.qr(product(lin, q))
        return q, jnp.log(jnp.abs(jnp.diagonal(r)))

    return lax.scan(over_step, q, lin, reverse=reverse)
