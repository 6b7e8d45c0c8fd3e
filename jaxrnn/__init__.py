"""Recurrent networks for JAX, differentiated through time by hand. Read `bptt.py` first."""

from jaxrnn.bptt import lengths_to_mask, step, unroll, unroll_autodiff
from jaxrnn.cells.base import Cell
from jaxrnn.cells.elman import ElmanParams, ElmanState, elman, make_elman
from jaxrnn.cells.gru import GRUParams, GRUState, gru
from jaxrnn.cells.lstm import LSTMParams, LSTMState, lstm
from jaxrnn.windows import truncated_value_and_grad

__version__ = "0.1.0"

__all__ = [
    "Cell",
    "ElmanParams",
    "ElmanState",
    "GRUParams",
    "GRUState",
    "LSTMParams",
    "LSTMState",
    "elman",
    "gru",
    "lengths_to_mask",
    "lstm",
    "make_elman",
    "step",
    "truncated_value_and_grad",
    "unroll",
    "unroll_autodiff",
]
