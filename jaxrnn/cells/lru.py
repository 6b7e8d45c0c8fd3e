"""The linear recurrent unit (Orvieto et al., 2023, ICML, arXiv:2303.06349).

The state is N = H/2 complex numbers s, each multiplied by its own eigenvalue at every
step. With u[t] = γ ⊙ (x[t] W_ih), where columns j and N + j of W_ih are the real and
the imaginary part of B:

    μ = exp(-e^ν + i e^θ),   γ = e^g                                               (1)
    s[t] = μ ⊙ s[t-1] + u[t],   h[t] = (Re s[t], Im s[t])                          (2)

The parameters ν, θ and g are ν^log, θ^log and γ^log of the paper, and |μ| < 1 whatever
they are. Unlike there, the output is the state itself, H real numbers: the complex C
and the skip connection D of the paper are a dense layer above, of h and x.

There is no product in the loop. With λ as N complex numbers too, (Re λ, Im λ):

    Jᵀλ = μ̄ ⊙ λ                                                                    (3)
    dμ = Σ (Re (s̄[t-1] λ), Im (s̄[t-1] λ)),
    dν = -e^ν (Re μ dRe + Im μ dIm),   dθ = e^θ (Re μ dIm - Im μ dRe)              (4)
    dW_ih = Σ x[t]ᵀ δ,  dx[t] = δ W_ihᵀ,  δ = (γ, γ) ⊙ λ                           (5)
    dg = the sum of W_ih ⊙ dW_ih down the two columns of each number               (6)

(6) holds because γ multiplies those columns. With `parallel=True` the steps of a chunk
run as an associative scan (`parallel.py`).
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Complex, Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import Cell, Linear, Shape
from jaxrnn.cells.weights import Gates, check_shapes, columns_of, drive, drive_vjp
from jaxrnn.ops.products import accumulation_dtype, lead_sum


class LRUParams(NamedTuple):
    """`w_ih [I, H]`, and `nu`, `theta` and `g`, `[H/2]`, of one floating dtype."""

    w_ih: Array
    nu: Array
    theta: Array
    g: Array

    gates = Gates("h")


class LRULin(NamedTuple):
    """The coefficients of (3): `real` and `imaginary`, Re μ and Im μ, `[..., H/2]`."""

    real: Array
    imaginary: Array


class LRUState(NamedTuple):
    """`h [*B, H]`: the real parts of H/2 numbers, then the imaginary parts."""

    h: Array


def make_lru(
    *,
    parallel: bool = False,
    smallest: float | int = 0.0,
    largest: float | int = 1.0,
    phase: float | int = 6.283,
) -> Cell:
    """Returns an LRU, whose steps run one after the other or as an associative scan.

    The same arguments give the same `Cell` object, so `jit` does not trace twice.

    Args:
      parallel: whether the K steps of a chunk (`chunk` of `jaxrnn.unroll`) run as an
        associative scan, in about 2 log₂ K rounds, forward and back.
      smallest: the least modulus of an eigenvalue at first, 0 ≤ `smallest`. For long
        sequences 0.9, so that no number fades fast.
      largest: the largest modulus at first, above `smallest` and at most 1.
      phase: the largest phase at first, in radians: 0 < `phase`.

    Returns:
      A `Cell` with `LRUParams` and `LRUState`. The hidden size must be even.

    Raises:
      TypeError: if `parallel` is not a bool, or another argument not a number.
      ValueError: if the moduli or the phase are not in their range.
    """
    arguments.flag("parallel", parallel)
    for name, got in (("smallest", smallest), ("largest", largest), ("phase", phase)):
        if isinstance(got, bool) or not isinstance(got, int | float):
            raise TypeError(
                f"`{name}` must be a number, but got {arguments.describe(got)}."
            )
    if not 0 <= smallest < largest <= 1:
        raise ValueError(
            "the moduli must be 0 ≤ `smallest` < `largest` ≤ 1, but got "
            f"{smallest} and {largest}."
        )
    if not 0 < phase < float("inf"):
        raise ValueError(f"`phase` must be a number above 0, but got {phase}.")
    return _make_lru(bool(parallel), float(smallest), float(largest), float(phase))


@cache
def _make_lru(parallel: bool, smallest: float, largest: float, phase: float) -> Cell:
    init = _Init(smallest, largest, phase)
    functions = _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp
    linear = Linear(_coefficients, _numbers, _state) if parallel else None
    return Cell(init, *functions, linear)


# A value, not a closure: equal if its numbers are, so that a cell can be pickled.
class _Init(NamedTuple):
    smallest: float
    largest: float
    phase: float

    def __call__(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ):
        arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
        if hidden_size % 2:
            raise ValueError(
                "`hidden_size` must be even, the real and imaginary parts of H/2 "
                f"numbers, but got {hidden_size}."
            )
        wide, size = accumulation_dtype(dtype), hidden_size // 2
        keys = jax.random.split(key, 3)
        # Eigenvalues drawn evenly from a ring; above 0, so log is finite.
        above = float(jnp.finfo(wide).tiny)
        area = jax.random.uniform(keys[0], (size,), wide, minval=above)
        least, most = self.smallest**2, self.largest**2
        nu = jnp.log(-0.5 * jnp.log(area * (most - least) + least))
        theta = jnp.log(
            self.phase * jax.random.uniform(keys[1], (size,), wide, minval=above)
        )
        # γ keeps the variance of a number that of its input, which W_ih keeps that of a
        # component of x.
        g = 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu)))
        w_ih = jax.random.normal(keys[2], (input_size, hidden_size), wide)
        params = LRUParams((2 * input_size) ** -0.5 * w_ih, nu, theta, g)
        return jax.tree.map(lambda p: p.astype(dtype), params)


def _initial_state(params: LRUParams, batch_shape: Shape) -> LRUState:
    batch_shape = arguments.batch_shape("batch_shape", batch_shape)
    inputs, columns = columns_of(params)
    size = columns // 2
    each = dict.fromkeys(("nu", "theta", "g"), (size,))
    check_shapes(params, {"w_ih": (inputs, 2 * size)} | each)
    return LRUState(jnp.zeros((*batch_shape, 2 * size), params.nu.dtype))


def _drive(
    params: LRUParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N H"]:
    return drive(xs, params.w_ih, params.g.dtype) * _twice(jnp.exp(params.g))


def _twice(per_number: Float[Array, "*N"]) -> Float[Array, "*M"]:
    """Returns `[..., H]` of `[..., N]`: for the real and for the imaginary part."""
    return jnp.concatenate([per_number, per_number], axis=-1)


def _eigenvalues(params: LRUParams) -> tuple[Array, Array]:
    """Returns Re μ and Im μ, `[N]`, (1)."""
    modulus, angle = jnp.exp(-jnp.exp(params.nu)), jnp.exp(params.theta)
    return modulus * jnp.cos(angle), modulus * jnp.sin(angle)


def _step(
    params: LRUParams, state: LRUState, u: Float[Array, "*B H"]
) -> tuple[LRUState, tuple[()]]:
    real, imaginary = _eigenvalues(params)
    a, b = jnp.split(state.h, 2, axis=-1)
    turned = [real * a - imaginary * b, imaginary * a + real * b]
    return LRUState(jnp.concatenate(turned, axis=-1) + u), ()  # (2)


def _linearize(
    params: LRUParams, state_prev: LRUState, state: LRUState, res: tuple[()]
) -> LRULin:
    shape = (*state.h.shape[:-1], len(params.nu))
    return LRULin(*(jnp.broadcast_to(part, shape) for part in _eigenvalues(params)))


def _state_vjp(params_t: LRUParams, lin: LRULin, adjoint: LRUState) -> LRUState:
    real, imaginary = lin
    a, b = jnp.split(adjoint.h, 2, axis=-1)
    turned = [real * a + imaginary * b, real * b - imaginary * a]
    return LRUState(jnp.concatenate(turned, axis=-1))  # (3)


def _param_vjp(
    params_t: LRUParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: LRUState,
    lin: LRULin,
    adjoints: LRUState,
) -> tuple[LRUParams, Float[Array, "*N I"] | None]:
    # The eigenvalues, (4).
    real, imaginary = _eigenvalues(params_t)
    (a, b), (on_a, on_b) = (jnp.split(s.h, 2, axis=-1) for s in (states_prev, adjoints))
    d_real, d_imaginary = lead_sum(a * on_a + b * on_b), lead_sum(a * on_b - b * on_a)
    dnu = -jnp.exp(params_t.nu) * (real * d_real + imaginary * d_imaginary)
    dtheta = jnp.exp(params_t.theta) * (real * d_imaginary - imaginary * d_real)
    # The inputs, (5) and (6).
    delta = adjoints.h * _twice(jnp.exp(params_t.g))
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    per_column = jnp.sum(params_t.w_ih.T * dw_ih, axis=0)
    of_real, of_imaginary = jnp.split(per_column, 2)
    return LRUParams(dw_ih, dnu, dtheta, of_real + of_imaginary), dxs


def _coefficients(
    params: LRUParams, us: Float[Array, "*N H"]
) -> tuple[Complex[Array, "*N n"], Complex[Array, "*N n"]]:
    v = _numbers(LRUState(us))
    return jnp.broadcast_to(_complex(*_eigenvalues(params)), v.shape), v


def _numbers(state: LRUState) -> Complex[Array, "*N n"]:
    return _complex(*jnp.split(state.h, 2, axis=-1))


def _complex(real: Array, imaginary: Array) -> Array:
    """Returns complex numbers `[...]`; there are none of 16 bits."""
    wide = accumulation_dtype(real.dtype)
    return lax.complex(real.astype(wide), imaginary.astype(wide))


def _state(numbers: Complex[Array, "*N n"]) -> LRUState:
    return LRUState(jnp.concatenate([numbers.real, numbers.imag], axis=-1))


lru = make_lru()
"""The linear recurrent unit: `LRUParams` (`w_ih [I, H]`, `nu [H/2]`), `LRUState`."""

register_namedtuple_serialization(LRUParams, serialized_name="jaxrnn.LRUParams")
register_namedtuple_serialization(LRUState, serialized_name="jaxrnn.LRUState")
