"""Which cell computes what a node computes, and which node what a cell computes.

Most nodes are one of our cells, whose adjoint is written by hand; the others, such as
those that clip, are made by `jaxrnn.cell_from_step` from ONNX's own equations.
"""

from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from jaxrnn.cells.base import Cell, Params, Shape, State
from jaxrnn.cells.elman import ElmanState, elman, make_elman
from jaxrnn.cells.from_step import cell_from_step
from jaxrnn.cells.gru import GRUState
from jaxrnn.cells.gru_variants import make_gru
from jaxrnn.cells.lstm import LSTMState
from jaxrnn.cells.lstm_variants import make_lstm
from jaxrnn.interop.onnx.recurrence import Activation, Recurrence
from jaxrnn.methods import methods_of
from jaxrnn.ops.products import matmul

# Our activations that ONNX has; it has no hard_tanh.
NAMES: dict[str, Activation] = {
    "tanh": Activation("Tanh"),
    "logistic": Activation("Sigmoid"),
    "relu": Activation("Relu"),
    "identity": Activation("Affine", 1.0, 0.0),
    "softsign": Activation("Softsign"),
    # Attributes are float32.
    "hard_logistic": Activation("HardSigmoid", float(np.float32(1 / 6)), 0.5),
}


def is_symmetric(gate: Activation) -> bool:
    """Returns whether 1 - σ(z) = σ(-z), so that coupled gates may change places."""
    return gate.name == "Sigmoid" or (gate.name, gate.beta) == ("HardSigmoid", 0.5)


@cache
def own_cells() -> dict[Recurrence, Cell]:
    """Returns our cells, by what they compute."""
    cells = {Recurrence("RNN", (a,)): make_elman(name) for name, a in NAMES.items()}
    pairs = [(gate, content) for gate in NAMES for content in NAMES]
    for gate, content in pairs:
        f, g = NAMES[gate], NAMES[content]
        names: dict[str, Any] = {"activation": content, "gate_activation": gate}
        for after in (False, True):
            node = Recurrence("GRU", (f, g), linear_before_reset=after)
            cells[node] = make_gru(reset_after=after, **names)
        for peephole in (False, True):
            for coupled in (False, True) if is_symmetric(f) else (False,):
                options: dict[str, Any] = {"peephole": peephole, "coupled": coupled}
                node = Recurrence("LSTM", (f, g, g), **options)
                cells[node] = make_lstm(**options, **names)
    return cells


@cache
def _recurrences() -> dict[Cell, Recurrence]:
    return {cell: recurrence for recurrence, cell in own_cells().items()}


def recurrence_of(cell: Cell) -> Recurrence | None:
    """Returns what a cell of ours computes; None if no node computes it."""
    return _recurrences().get(cell)


def cell_of(recurrence: Recurrence) -> Cell:
    """Returns a cell that computes the recurrence: one of ours, if there is one.

    Raises:
      ValueError: if gates are coupled, and their activation is not symmetric.
    """
    if (cell := own_cells().get(recurrence)) is not None:
        return cell
    gate = recurrence.activations[0]
    if recurrence.coupled and not is_symmetric(gate):
        raise ValueError(
            "`input_forget` must go with gates for which 1 - f(z) = f(-z), Sigmoid or "
            f"HardSigmoid around 0.5, but the node has {gate.name}."
        )
    equations = {"RNN": _RNN, "LSTM": _LSTM, "GRU": _GRU}[recurrence.operator]
    functions = methods_of(equations(recurrence), ("init", "initial_state", "step"))
    return cell_from_step(*functions)


def _plain(recurrence: Recurrence) -> Cell:
    """Returns our cell with the parameters and the state of the recurrence."""
    if recurrence.operator == "RNN":
        return elman
    if recurrence.operator == "GRU":
        return make_gru(reset_after=recurrence.linear_before_reset)
    # Of any activation but the default one, for the parameters of the variants.
    return make_lstm(
        peephole=recurrence.peephole, coupled=recurrence.coupled, activation="identity"
    )


def _init(
    self: Any,
    key: PRNGKeyArray,
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    return _plain(self.recurrence).init(key, input_size, hidden_size, dtype)


def _initial_state(self: Any, params: Params, batch_shape: Shape) -> State:
    return _plain(self.recurrence).initial_state(params, batch_shape)


def _applied(recurrence: Recurrence, function: int, z: Array) -> Array:
    """Returns an activation, by its number, of a gate's argument, clipped first."""
    if recurrence.clip is not None:
        z = jnp.clip(z, -recurrence.clip, recurrence.clip)
    return recurrence.activations[function](z)


class _RNN(NamedTuple):
    recurrence: Recurrence

    init, initial_state = _init, _initial_state

    def step(self, params: Any, state: ElmanState, x: Float[Array, "I"]) -> ElmanState:
        z = matmul(x, params.w_ih) + matmul(state.h, params.w_hh) + params.b
        return ElmanState(_applied(self.recurrence, 0, z))


class _LSTM(NamedTuple):
    recurrence: Recurrence

    init, initial_state = _init, _initial_state

    def step(self, params: Any, state: LSTMState, x: Float[Array, "I"]) -> LSTMState:
        coupled, c = self.recurrence.coupled, state.c
        z = matmul(x, params.w_ih) + matmul(state.h, params.w_hh) + params.b
        *z_if, z_g, z_o = jnp.split(z, 3 if coupled else 4, axis=-1)
        p_o = jnp.zeros_like(c)
        if self.recurrence.peephole:
            *p_if, p_o = jnp.split(params.peepholes, 2 if coupled else 3)
            z_if = [z + p * c for z, p in zip(z_if, p_if, strict=True)]
        gates = [_applied(self.recurrence, 0, z) for z in z_if]
        f, g = gates[-1], _applied(self.recurrence, 1, z_g)
        i = 1 - f if coupled else gates[0]
        c = f * c + i * g
        o = _applied(self.recurrence, 0, z_o + p_o * c)
        # onnxruntime does not clip c[t], the argument of h.
        return LSTMState(o * self.recurrence.activations[2](c), c)


class _GRU(NamedTuple):
    recurrence: Recurrence

    init, initial_state = _init, _initial_state

    def step(self, params: Any, state: GRUState, x: Float[Array, "I"]) -> GRUState:
        size = state.h.shape[-1]
        u_rz, u_n = jnp.split(matmul(x, params.w_ih) + params.b, (2 * size,), axis=-1)
        if self.recurrence.linear_before_reset:
            q_rz, q_n = jnp.split(matmul(state.h, params.w_hh), (2 * size,), axis=-1)
            r, z = jnp.split(_applied(self.recurrence, 0, u_rz + q_rz), 2, axis=-1)
            z_n = u_n + r * (q_n + params.b_hn)
        else:
            q_rz = matmul(state.h, params.w_rz)
            r, z = jnp.split(_applied(self.recurrence, 0, u_rz + q_rz), 2, axis=-1)
            z_n = u_n + matmul(r * state.h, params.w_n)
        n = _applied(self.recurrence, 1, z_n)
        return GRUState((1 - z) * n + z * state.h)
