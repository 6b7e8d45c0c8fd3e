"""Long short-term memory (Hochreiter & Schmidhuber, 1997; Gers et al., 2000).

With u[t] = x[t] W_ih, σ the logistic function, and gates in the order i f g o:

    i = σ(z_i),  f = σ(z_f),  g = tanh(z_g),  o = σ(z_o),
    z = u[t] + h[t-1] W_hh + b                                                       (1)
    c[t] = f ⊙ c[t-1] + i ⊙ g                                                        (2)
    h[t] = o ⊙ tanh(c[t])                                                            (3)

These are PyTorch's and cuDNN's equations. The adjoint (λ_h, λ_c) moves back by

    κ = λ_c + λ_h ⊙ o ⊙ (1 - tanh² c[t])             all that reaches c[t]           (4)
    δ = (κ ⊙ g ⊙ i(1-i),  κ ⊙ c[t-1] ⊙ f(1-f),
         κ ⊙ i ⊙ (1-g²),  λ_h ⊙ tanh c[t] ⊙ o(1-o))                                  (5)
    Jᵀλ = (δ W_hhᵀ,  κ ⊙ f)                                                          (6)
    dW_ih = Σ x[t]ᵀ δ,   dW_hh = Σ h[t-1]ᵀ δ,   db = Σ δ,   dx[t] = δ W_ihᵀ          (7)

Everything in (4) to (6) except λ is known once the states are, and is kept in
`LSTMLin`. The remedy against the vanishing gradient is the last term of (6): along c
the gradient is multiplied by f alone, without weights or slopes, and survives where f
is near 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import Cell, Shape
from jaxrnn.cells.weights import (
    Gates,
    drive,
    drive_vjp,
    input_weights,
    recurrent_weights,
    state_shape,
)
from jaxrnn.ops.products import lead_sum, matmul, outer_sum


class LSTMParams(NamedTuple):
    """`w_ih [I, 4H]`, `w_hh [H, 4H]`, `b [4H]`, gates i f g o, one floating dtype."""

    w_ih: Array
    w_hh: Array
    b: Array

    gates = Gates("ifgo", keep="f", admit="i", meet="w_hh")


class LSTMState(NamedTuple):
    """`h [*B, H]`, the output, and `c [*B, H]`, the memory."""

    h: Array
    c: Array


class LSTMLin(NamedTuple):
    """The coefficients of (4) to (6): `gates [..., 4H]`, `h_to_c` and `f [..., H]`."""

    gates: Array
    h_to_c: Array
    f: Array


def _init(
    key: PRNGKeyArray, input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32
) -> LSTMParams:
    arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
    key_ih, key_hh = jax.random.split(key)
    # Forget bias 1: at the start the memory decays over a few steps (σ(1) = 0.73), not
    # over one (Jozefowicz, Zaremba & Sutskever, 2015).
    bias = np.repeat([0.0, 1.0, 0.0, 0.0], hidden_size)
    return LSTMParams(
        w_ih=input_weights(key_ih, input_size, hidden_size, LSTMParams.gates, dtype),
        w_hh=recurrent_weights(key_hh, hidden_size, LSTMParams.gates, dtype),
        b=jnp.asarray(bias, dtype),
    )


def _initial_state(params: LSTMParams, batch_shape: Shape) -> LSTMState:
    shape = state_shape(params, batch_shape)
    # Two separate arrays: a state can be donated, and a buffer only once.
    return LSTMState(*(jnp.zeros(shape, params.w_hh.dtype) for _ in LSTMState._fields))


def _drive(
    params: LSTMParams, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    return drive(xs, params.w_ih, params.b.dtype)


def _scale_and_shift(size: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Returns a and b per column, such that every gate is `a tanh(a z) + b`.

    This works because σ(z) = ½ tanh(½ z) + ½. XLA:CPU can vectorize the step because
    one contiguous activation covers all four gates. Its derivative, too, has one form
    for all gates: a² - (gate - b)².
    """
    scale = np.repeat([0.5, 0.5, 1.0, 0.5], size)
    shift = np.repeat([0.5, 0.5, 0.0, 0.5], size)
    return jnp.asarray(scale, dtype), jnp.asarray(shift, dtype)


def _step(
    params: LSTMParams, state: LSTMState, u: Float[Array, "*B G"]
) -> tuple[LSTMState, Float[Array, "*B G"]]:
    scale, shift = _scale_and_shift(state.h.shape[-1], u.dtype)
    z = matmul(state.h, params.w_hh) + u + params.b
    gates = scale * jnp.tanh(scale * z) + shift  # (1)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = f * state.c + i * g  # (2)
    return LSTMState(o * jnp.tanh(c), c), gates  # (3)


def _linearize(
    params: LSTMParams,
    state_prev: LSTMState,
    state: LSTMState,
    gates: Float[Array, "*N G"],
) -> LSTMLin:
    scale, shift = _scale_and_shift(state.h.shape[-1], gates.dtype)
    slopes = scale**2 - (gates - shift) ** 2
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    tanh_c = jnp.tanh(state.c)
    return LSTMLin(
        gates=slopes * jnp.concatenate([g, state_prev.c, i, tanh_c], axis=-1),
        h_to_c=o * (1 - tanh_c**2),
        f=f,
    )


def _deltas(lin: LSTMLin, adjoint: LSTMState) -> tuple[Array, Array]:
    kappa = adjoint.c + adjoint.h * lin.h_to_c  # (4)
    return lin.gates * jnp.concatenate(
        [kappa, kappa, kappa, adjoint.h], axis=-1
    ), kappa  # (5)


def _state_vjp(params_t: LSTMParams, lin: LSTMLin, adjoint: LSTMState) -> LSTMState:
    delta, kappa = _deltas(lin, adjoint)
    return LSTMState(matmul(delta, params_t.w_hh), kappa * lin.f)  # (6)


def _param_vjp(
    params_t: LSTMParams,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: LSTMState,
    lin: LSTMLin,
    adjoints: LSTMState,
) -> tuple[LSTMParams, Float[Array, "*N I"] | None]:
    delta, _ = _deltas(lin, adjoints)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    dparams = LSTMParams(
        w_ih=dw_ih,
        w_hh=outer_sum(states_prev.h, delta, params_t.w_hh.dtype),
        b=lead_sum(delta),
    )
    return dparams, dxs  # (7)


lstm = Cell(_init, _initial_state, _drive, _step, _linearize, _state_vjp, _param_vjp)
"""Long short-term memory, gates i f g o: `LSTMParams` (`w_hh [H, 4H]`), `LSTMState`."""

register_namedtuple_serialization(LSTMParams, serialized_name="jaxrnn.LSTMParams")
register_namedtuple_serialization(LSTMState, serialized_name="jaxrnn.LSTMState")
