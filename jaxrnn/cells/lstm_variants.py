"""Variants of long short-term memory: peepholes, coupled gates, a projection, any f, σ.

With u[t] = x[t] W_ih, gates in the order i f g o, the activation φ of content (tanh)
and σ of the gates (the logistic function), z = u[t] + h[t-1] W_hh + b:

    i = σ(z_i + p_i ⊙ c[t-1]),  f = σ(z_f + p_f ⊙ c[t-1]),  g = φ(z_g)             (1)
    c[t] = f ⊙ c[t-1] + i ⊙ g                                                      (2)
    o = σ(z_o + p_o ⊙ c[t])                                                        (3)
    y = o ⊙ φ(c[t]),  h[t] = y W_hr                                                (4)

Each variant is one part of this; the others are absent:

    peepholes    p: the gates see the memory. Gers, Schraudolph & Schmidhuber (2002),
                 JMLR 3, pp. 115-143.
    coupled      i = 1 - f, without weights of its own; the order is f g o. Greff et al.
                 (2017), IEEE TNNLS 28(10), there "CIFG".
    projection   W_hr [H, P]: the output, which the gates see at the next step, has P
                 numbers. Without it h[t] = y. Sak, Senior & Beaufays (2014),
                 arXiv:1402.1128; PyTorch's `proj_size`.

The adjoint is that of `lstm.py`, with other coefficients. Let π = λ_h W_hrᵀ be all that
reaches y (π = λ_h without a projection):

    κ = λ_c + π ⊙ (o φ̇(c[t]) + p_o φ(c[t]) σ̇_o)            all that reaches c[t]  (5)
    δ = (κ g σ̇_i,  κ c[t-1] σ̇_f,  κ i ġ,  π φ(c[t]) σ̇_o)                          (6)
    Jᵀλ = (δ W_hhᵀ,  κ ⊙ (f + p_i g σ̇_i + p_f c[t-1] σ̇_f))                        (7)
    dW_ih = Σ x[t]ᵀ δ,  dW_hh = Σ h[t-1]ᵀ δ,  db = Σ δ,  dx[t] = δ W_ihᵀ
    dp_i = Σ δ_i c[t-1],  dp_f = Σ δ_f c[t-1],  dp_o = Σ δ_o c[t],
    dW_hr = Σ yᵀ λ_h                                                               (8)

With coupled gates there is no δ_i, and δ_f = κ (c[t-1] - g) σ̇_f. The factors of κ and π
are known once the states are. So the loop has one product, or two with a projection.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.activations import ACTIVATIONS, check_name
from jaxrnn.cells.base import Cell, Shape
from jaxrnn.cells.lstm import LSTMState, lstm
from jaxrnn.cells.weights import (
    Gates,
    check_shapes,
    columns_of,
    drive,
    drive_vjp,
    input_weights,
    recurrent_weights,
)
from jaxrnn.ops.products import lead_sum, matmul, outer_sum


class LSTMVariantParams(NamedTuple):
    """`w_ih [I, 4H]`, `w_hh [P, 4H]`, `b [4H]`, gates i f g o, and the variants' own.

    These are `peepholes [3H]`, p of the gates i f o, and `w_hr [H, P]`, the projection;
    each is None where the cell is without it. P = H without a projection.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    peepholes: Array | None
    w_hr: Array | None

    gates = Gates("ifgo", keep="f", admit="i", meet="w_hh")


class CoupledLSTMParams(NamedTuple):
    """`w_ih [I, 3H]`, `w_hh [P, 3H]`, `b [3H]`, gates f g o, and the variants' own.

    These are `peepholes [2H]`, p of the gates f o, and `w_hr [H, P]`, the projection;
    each is None where the cell is without it. P = H without a projection.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    peepholes: Array | None
    w_hr: Array | None

    gates = Gates("fgo", keep="f", meet="w_hh")


class LSTMVariantLin(NamedTuple):
    """The coefficients of (5) to (8).

    `gates [..., G]` are those of (6); `y_to_c` and `keep`, `[..., H]`, those of (5) and
    (7). `c` and `y`, `[..., H]`, are None where (8) does not need them.
    """

    gates: Array
    y_to_c: Array
    keep: Array
    c: Any
    y: Any


def make_lstm(
    *,
    peephole: bool = False,
    coupled: bool = False,
    projection: int | None = None,
    activation: str = "tanh",
    gate_activation: str = "logistic",
) -> Cell:
    """Returns an LSTM with peepholes, coupled gates, a projection, or any of them.

    The same arguments give the same `Cell` object, so `jit` does not trace twice.
    Without arguments it is `jaxrnn.lstm`.

    Args:
      peephole: whether the gates see the memory c, each unit its own.
      coupled: whether the input gate is 1 - f, which saves a quarter of the weights.
      projection: P, the size of the output `h [*B, P]`, while the memory `c [*B, H]`
        has the hidden size; None: there is no projection.
      activation: φ, of the content and of the output: a name in
        `jaxrnn.cells.activations`, as for `jaxrnn.make_elman`.
      gate_activation: σ, of the gates: likewise.

    Returns:
      A `Cell` with `LSTMState`, and with `LSTMVariantParams`, or, where gates are
      coupled, with `CoupledLSTMParams`.

    Raises:
      TypeError: if `peephole` or `coupled` is not a bool, or `projection` not an
        integer.
      ValueError: if `projection` is below 1, or there is no such activation.
    """
    arguments.flag("peephole", peephole)
    arguments.flag("coupled", coupled)
    if projection is not None:
        projection = arguments.integer("projection", projection, 1)
    check_name("activation", activation)
    check_name("gate_activation", gate_activation)
    return _make_lstm(
        _Variant(peephole, coupled, projection, activation, gate_activation)
    )


# Values, not closures: equal if their variants are, so that a cell can be pickled.
class _Variant(NamedTuple):
    peephole: bool
    coupled: bool
    projection: int | None
    activation: str
    gate_activation: str

    @property
    def params(self) -> Any:
        return CoupledLSTMParams if self.coupled else LSTMVariantParams

    @property
    def shape_of_peepholes(self) -> int:
        return 2 if self.coupled else 3


@cache
def _make_lstm(variant: _Variant) -> Cell:
    if variant == _Variant(False, False, None, "tanh", "logistic"):
        return lstm
    return Cell(
        _Init(variant),
        _InitialState(variant),
        _drive,
        _Step(variant),
        _Linearize(variant),
        _state_vjp,
        _param_vjp,
    )


class _Init(NamedTuple):
    variant: _Variant

    def __call__(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ):
        arguments.for_init(key, dtype, input_size=input_size, hidden_size=hidden_size)
        kind, outputs = self.variant.params, self.variant.projection
        key_ih, key_hh, key_hr = jax.random.split(key, 3)
        # Forget bias 1, as in `lstm.py`.
        bias = np.repeat([float(gate == "f") for gate in kind.gates.order], hidden_size)
        # Peepholes of 0: at first the gates do not see the memory.
        peepholes = jnp.zeros(self.variant.shape_of_peepholes * hidden_size, dtype)
        w_hr = None
        if outputs is not None:
            w_hr = input_weights(key_hr, hidden_size, outputs, Gates("h"), dtype)
        return kind(
            w_ih=input_weights(key_ih, input_size, hidden_size, kind.gates, dtype),
            w_hh=recurrent_weights(key_hh, hidden_size, kind.gates, dtype, outputs),
            b=jnp.asarray(bias, dtype),
            peepholes=peepholes if self.variant.peephole else None,
            w_hr=w_hr,
        )


class _InitialState(NamedTuple):
    variant: _Variant

    def __call__(self, params: Any, batch_shape: Shape):
        batch_shape = arguments.batch_shape("batch_shape", batch_shape)
        inputs, columns = columns_of(params)
        gates = len(self.variant.params.gates.order)
        size = columns // gates
        outputs = self.variant.projection or size
        shapes = {
            "w_ih": (inputs, gates * size),
            "w_hh": (outputs, gates * size),
            "b": (gates * size,),
        }
        if self.variant.peephole:
            shapes["peepholes"] = (self.variant.shape_of_peepholes * size,)
        if self.variant.projection is not None:
            shapes["w_hr"] = (size, outputs)
        check_shapes(params, shapes)
        h, c = (jnp.zeros((*batch_shape, n), params.b.dtype) for n in (outputs, size))
        return LSTMState(h, c)


def _drive(
    params: Any, xs: Float[Array, "*N I"] | Integer[Array, "*N"]
) -> Float[Array, "*N G"]:
    return drive(xs, params.w_ih, params.b.dtype)


def _seen(peepholes: Array | None, c_prev: Array) -> list[Any]:
    """Returns p ⊙ c[t-1] of each gate before o, and p_o; zeros without peepholes."""
    if peepholes is None:
        return [0.0, 0.0, 0.0]
    *before, p_o = jnp.split(peepholes, peepholes.shape[-1] // c_prev.shape[-1])
    return [*(p * c_prev for p in before), p_o]


class _Step(NamedTuple):
    variant: _Variant

    def __call__(self, params: Any, state: LSTMState, u: Float[Array, "*B G"]):
        value = ACTIVATIONS[self.variant.activation].value
        gate = ACTIVATIONS[self.variant.gate_activation].value
        size = state.c.shape[-1]
        z = matmul(state.h, params.w_hh) + u + params.b
        *z_if, z_g, z_o = jnp.split(z, z.shape[-1] // size, axis=-1)
        *seen, p_o = _seen(params.peepholes, state.c)
        gates = [gate(z + s) for z, s in zip(z_if, seen, strict=False)]
        f, g = gates[-1], value(z_g)  # (1)
        i = 1 - f if self.variant.coupled else gates[0]
        c = f * state.c + i * g  # (2)
        o = gate(z_o + p_o * c)  # (3)
        y = o * value(c)
        h = y if params.w_hr is None else matmul(y, params.w_hr)  # (4)
        return LSTMState(h, c), jnp.concatenate([*gates, g, o], axis=-1)


class _Linearize(NamedTuple):
    variant: _Variant

    def __call__(
        self,
        params: Any,
        state_prev: LSTMState,
        state: LSTMState,
        gates: Float[Array, "*N G"],
    ):
        content = ACTIVATIONS[self.variant.activation]
        gate_slope = ACTIVATIONS[self.variant.gate_activation].slope
        c_prev, size = state_prev.c, state.c.shape[-1]
        *before, g, o = jnp.split(gates, gates.shape[-1] // size, axis=-1)
        f, out = before[-1], content.value(state.c)
        i = 1 - f if self.variant.coupled else before[0]
        # The factors of κ in (6), of the gates before g, and of π.
        on_f = (c_prev - g if self.variant.coupled else c_prev) * gate_slope(f)
        kept = [on_f] if self.variant.coupled else [g * gate_slope(i), on_f]
        on_o = out * gate_slope(o)
        y_to_c, keep = o * content.slope(out), f
        if params.peepholes is not None:
            *p_before, p_o = jnp.split(params.peepholes, len(kept) + 1)
            y_to_c = y_to_c + p_o * on_o  # (5)
            keep = keep + sum(p * k for p, k in zip(p_before, kept, strict=True))  # (7)
        return LSTMVariantLin(
            gates=jnp.concatenate([*kept, i * content.slope(g), on_o], axis=-1),
            y_to_c=y_to_c,
            keep=keep,
            c=None if params.peepholes is None else state.c,
            y=None if params.w_hr is None else o * out,
        )


def _deltas(
    params_t: Any, lin: LSTMVariantLin, adjoint: LSTMState
) -> tuple[Array, Array]:
    """Returns δ `[..., G]` and κ `[..., H]`."""
    w_hr_t = params_t.w_hr
    pi = adjoint.h if w_hr_t is None else matmul(adjoint.h, w_hr_t)
    kappa = adjoint.c + pi * lin.y_to_c  # (5)
    gates = lin.gates.shape[-1] // kappa.shape[-1]
    return lin.gates * jnp.concatenate([kappa] * (gates - 1) + [pi], -1), kappa  # (6)


def _state_vjp(params_t: Any, lin: LSTMVariantLin, adjoint: LSTMState) -> LSTMState:
    delta, kappa = _deltas(params_t, lin, adjoint)
    return LSTMState(matmul(delta, params_t.w_hh), kappa * lin.keep)  # (7)


def _param_vjp(
    params_t: Any,
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    states_prev: LSTMState,
    lin: LSTMVariantLin,
    adjoints: LSTMState,
) -> tuple[Any, Float[Array, "*N I"] | None]:
    delta, _ = _deltas(params_t, lin, adjoints)
    dw_ih, dxs = drive_vjp(xs, params_t.w_ih, delta)
    peepholes, w_hr = params_t.peepholes, params_t.w_hr
    if peepholes is not None:
        size = states_prev.c.shape[-1]
        *before, _, delta_o = jnp.split(delta, delta.shape[-1] // size, axis=-1)
        seen = [*(d * states_prev.c for d in before), delta_o * lin.c]
        peepholes = jnp.concatenate([lead_sum(s) for s in seen])
    if w_hr is not None:
        w_hr = outer_sum(lin.y, adjoints.h, w_hr.dtype)
    dparams = params_t._replace(
        w_ih=dw_ih,
        w_hh=outer_sum(states_prev.h, delta, params_t.w_hh.dtype),
        b=lead_sum(delta),
        peepholes=peepholes,
        w_hr=w_hr,
    )
    return dparams, dxs  # (8)


register_namedtuple_serialization(
    LSTMVariantParams, serialized_name="jaxrnn.LSTMVariantParams"
)
register_namedtuple_serialization(
    CoupledLSTMParams, serialized_name="jaxrnn.CoupledLSTMParams"
)
