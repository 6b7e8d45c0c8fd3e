"""Recurrent networks for JAX, differentiated through time by hand. Read `bptt.py` first."""

from jaxrnn.bptt import lengths_to_mask, step, unroll, unroll_autodiff
from jaxrnn.cells.base import Cell
from jaxrnn.cells.elman import ElmanParams, ElmanState, elman, make_elman
from jaxrnn.cells.gru import GRUParams, GRUState, gru
from jaxrnn.cells.lstm import LSTMParams, LSTMState, lstm
from jaxrnn.truncation import (
    AdaptiveTruncation,
    adaptive_truncation,
    randomized_truncation,
)
from jaxrnn.windows import checkpointed_value_and_grad, truncated_value_and_grad

__version__ = "0.1.0"

__all__ = [
    "AdaptiveTruncation",
    "Cell",
    "ElmanParams",
    "ElmanState",
    "GRUParams",
    "GRUState",
    "LSTMParams",
    "LSTMState",
    "adaptive_truncation",
    "checkpointed_value_and_grad",
    "elman",
    "gru",
    "lengths_to_mask",
    "lstm",
    "make_elman",
    "randomized_truncation",
    "step",
    "truncated_value_and_grad",
    "unroll",
    "unroll_autodiff",
]
