"""Recurrent networks for JAX, differentiated through time by hand.

The engine is `bptt.py`: read it first, then a cell, such as `cells/lstm.py`.
"""

from jaxrnn import devices, flow, initializers, layers, losses, ops, train
from jaxrnn.cells.base import Cell
from jaxrnn.cells.check import check_cell
from jaxrnn.cells.elman import ElmanParams, ElmanState, elman, make_elman
from jaxrnn.cells.from_step import cell_from_step
from jaxrnn.cells.gru import GRUParams, GRUState, gru
from jaxrnn.cells.lstm import LSTMParams, LSTMState, lstm
from jaxrnn.masks import lengths_to_mask
from jaxrnn.unrolling import adjoints, step, unroll, unroll_autodiff
from jaxrnn.windows.adaptive import AdaptiveTruncation, adaptive_truncation
from jaxrnn.windows.checkpointed import checkpointed_value_and_grad
from jaxrnn.windows.randomized import randomized_truncation
from jaxrnn.windows.truncated import truncated_value_and_grad

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
    "adjoints",
    "cell_from_step",
    "check_cell",
    "checkpointed_value_and_grad",
    "devices",
    "elman",
    "flow",
    "gru",
    "initializers",
    "layers",
    "lengths_to_mask",
    "losses",
    "lstm",
    "make_elman",
    "ops",
    "randomized_truncation",
    "step",
    "train",
    "truncated_value_and_grad",
    "unroll",
    "unroll_autodiff",
]


def __dir__() -> list[str]:
    """Returns the public names: the modules that they come from are internal."""
    return [*__all__, "__version__"]
