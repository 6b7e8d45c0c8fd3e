"""The matrices of a node in one direction, and the parameters of the cell.

ONNX's are transposed, have two biases where the cells have one, and order the gates
i o f c (peepholes i o f) and z r h.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrnn.cells.elman import ElmanParams
from jaxrnn.cells.gru import GRUParams
from jaxrnn.cells.gru_variants import ResetBeforeGRUParams
from jaxrnn.cells.lstm import LSTMParams, lstm
from jaxrnn.cells.lstm_variants import CoupledLSTMParams, LSTMVariantParams
from jaxrnn.interop.layouts import from_library, permuted, to_library
from jaxrnn.interop.onnx.cells import cell_of
from jaxrnn.interop.onnx.recurrence import Recurrence


class Weights(NamedTuple):
    """`w [G, I]`, `r [G, H]`, `b [2G]` and, of an LSTM with them, `p [3H]`."""

    w: Any
    r: Any
    b: Any
    p: Any = None


def write_weights(recurrence: Recurrence, params: Any) -> Weights:
    """Returns a cell's parameters, as NumPy arrays, in the layout of the node."""
    if recurrence.operator == "LSTM":
        return _write_lstm(recurrence, params)
    if recurrence.operator == "RNN":
        b = np.concatenate([params.b, np.zeros_like(params.b)])
        return Weights(params.w_ih.T, params.w_hh.T, b)
    size = len(params.b) // 3
    inner = np.zeros_like(params.b)
    if recurrence.linear_before_reset:
        inner[2 * size :] = params.b_hn
        w_hh = params.w_hh
    else:
        w_hh = np.concatenate([params.w_rz, params.w_n], axis=-1)
    w, r, b, inner = (
        to_library(a, "rzn", "onnx") for a in (params.w_ih, w_hh, params.b, inner)
    )
    return Weights(w.T, r.T, np.concatenate([b, inner]))


def _write_lstm(recurrence: Recurrence, params: Any) -> Weights:
    matrices = [params.w_ih, params.w_hh, params.b]
    peepholes = params.peepholes if recurrence.peephole else None
    if recurrence.coupled:
        # i = 1 - f = σ(-z_f). The weights of both gates are written, because ONNX does
        # not say which of them the other one follows; so every answer is right.
        matrices = [_with_input_gate(a, 3) for a in matrices]
        peepholes = None if peepholes is None else _with_input_gate(peepholes, 2)
    w, r, b = (to_library(a, "ifgo", "onnx") for a in matrices)
    p = None if peepholes is None else permuted(peepholes, "ifo", "iof")
    return Weights(w.T, r.T, np.concatenate([b, np.zeros_like(b)]), p)


def _with_input_gate(a: Any, blocks: int) -> Any:
    return np.concatenate([-np.split(a, blocks, axis=-1)[0], a], axis=-1)


def read_weights(recurrence: Recurrence, weights: Weights) -> Any:
    """Returns the parameters of `cells.cell_of(recurrence)`, arrays `[...]`."""
    w_ih, w_hh = jnp.asarray(weights.w).T, jnp.asarray(weights.r).T
    b, inner = jnp.split(jnp.asarray(weights.b), 2)
    if recurrence.operator == "RNN":
        return ElmanParams(w_ih, w_hh, b + inner)
    if recurrence.operator == "LSTM":
        return _read_lstm(recurrence, w_ih, w_hh, b + inner, weights.p)
    w_ih, w_hh, b, inner = (
        from_library(a, "rzn", "onnx") for a in (w_ih, w_hh, b, inner)
    )
    start = (2 * w_hh.shape[0],)  # of the gate n
    if recurrence.linear_before_reset:
        inner, b_hn = jnp.split(inner, start)
        b = b.at[: start[0]].add(inner)
        return GRUParams(w_ih, w_hh, b, b_hn)
    w_rz, w_n = jnp.split(w_hh, start, axis=-1)
    return ResetBeforeGRUParams(w_ih, w_rz, w_n, b + inner)


def _read_lstm(
    recurrence: Recurrence, w_ih: Array, w_hh: Array, b: Array, p: Any
) -> Any:
    w_ih, w_hh, b = (from_library(a, "ifgo", "onnx") for a in (w_ih, w_hh, b))
    peepholes = permuted(jnp.asarray(p), "iof", "ifo") if recurrence.peephole else None
    if recurrence.coupled:
        w_ih, w_hh, b = (_without_input_gate(a, 4) for a in (w_ih, w_hh, b))
        if peepholes is not None:
            peepholes = _without_input_gate(peepholes, 3)
        return CoupledLSTMParams(w_ih, w_hh, b, peepholes, None)
    if cell_of(recurrence) is lstm:
        return LSTMParams(w_ih, w_hh, b)
    return LSTMVariantParams(w_ih, w_hh, b, peepholes, None)


def _without_input_gate(a: Array, blocks: int) -> Array:
    """Returns f = 1 - i = σ(-z_i) and the other gates: onnxruntime reads i, not f."""
    i, _, *rest = jnp.split(a, blocks, axis=-1)
    return jnp.concatenate([-i, *rest], axis=-1)
