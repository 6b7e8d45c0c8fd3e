"""Recurrent networks for JAX, differentiated through time by hand.

The engine is `bptt.py`: read it first, then a cell, such as `cells/lstm.py`.
"""

from jaxrnn import (
    constraints,
    decoding,
    devices,
    flow,
    initializers,
    interop,
    layers,
    losses,
    online,
    ops,
    sharding,
    train,
)
from jaxrnn.cells.base import Cell, Linear
from jaxrnn.cells.check import check_cell
from jaxrnn.cells.elman import ElmanParams, ElmanState, elman, make_elman
from jaxrnn.cells.from_step import cell_from_step
from jaxrnn.cells.gru import GRUParams, GRUState, gru
from jaxrnn.cells.gru_variants import ResetBeforeGRUParams, make_gru
from jaxrnn.cells.indrnn import IndRNNParams, IndRNNState, indrnn, make_indrnn
from jaxrnn.cells.layer_norm_gru import (
    LayerNormGRUParams,
    LayerNormGRUState,
    layer_norm_gru,
)
from jaxrnn.cells.layer_norm_lstm import (
    LayerNormLSTMParams,
    LayerNormLSTMState,
    layer_norm_lstm,
)
from jaxrnn.cells.leaky import LeakyParams, LeakyState, leaky, make_leaky
from jaxrnn.cells.lru import LRUParams, LRUState, lru, make_lru
from jaxrnn.cells.lstm import LSTMParams, LSTMState, lstm
from jaxrnn.cells.lstm_variants import (
    CoupledLSTMParams,
    LSTMVariantParams,
    make_lstm,
)
from jaxrnn.cells.mgu import MGUParams, MGUState, mgu
from jaxrnn.cells.min_gru import MinGRUParams, MinGRUState, make_min_gru, min_gru
from jaxrnn.cells.min_lstm import (
    MinLSTMParams,
    MinLSTMState,
    make_min_lstm,
    min_lstm,
)
from jaxrnn.cells.slstm import SLSTMParams, SLSTMState, slstm
from jaxrnn.files import load, save
from jaxrnn.masks import lengths_to_mask
from jaxrnn.shipping import export_step, export_unroll
from jaxrnn.unrolling import (
    adjoints,
    step,
    unroll,
    unroll_autodiff,
    unroll_parallel_adjoint,
)
from jaxrnn.windows.adaptive import AdaptiveTruncation, adaptive_truncation
from jaxrnn.windows.checkpointed import checkpointed_value_and_grad
from jaxrnn.windows.randomized import randomized_truncation
from jaxrnn.windows.truncated import truncated_value_and_grad

__version__ = "0.1.0"

__all__ = [
    "AdaptiveTruncation",
    "Cell",
    "CoupledLSTMParams",
    "ElmanParams",
    "ElmanState",
    "GRUParams",
    "GRUState",
    "IndRNNParams",
    "IndRNNState",
    "LRUParams",
    "LRUState",
    "LSTMParams",
    "LSTMState",
    "LSTMVariantParams",
    "LayerNormGRUParams",
    "LayerNormGRUState",
    "LayerNormLSTMParams",
    "LayerNormLSTMState",
    "LeakyParams",
    "LeakyState",
    "Linear",
    "MGUParams",
    "MGUState",
    "MinGRUParams",
    "MinGRUState",
    "MinLSTMParams",
    "MinLSTMState",
    "ResetBeforeGRUParams",
    "SLSTMParams",
    "SLSTMState",
    "adaptive_truncation",
    "adjoints",
    "cell_from_step",
    "check_cell",
    "checkpointed_value_and_grad",
    "constraints",
    "decoding",
    "devices",
    "elman",
    "export_step",
    "export_unroll",
    "flow",
    "gru",
    "indrnn",
    "initializers",
    "interop",
    "layer_norm_gru",
    "layer_norm_lstm",
    "layers",
    "leaky",
    "lengths_to_mask",
    "load",
    "losses",
    "lru",
    "lstm",
    "make_elman",
    "make_gru",
    "make_indrnn",
    "make_leaky",
    "make_lru",
    "make_lstm",
    "make_min_gru",
    "make_min_lstm",
    "mgu",
    "min_gru",
    "min_lstm",
    "online",
    "ops",
    "randomized_truncation",
    "save",
    "sharding",
    "slstm",
    "step",
    "train",
    "truncated_value_and_grad",
    "unroll",
    "unroll_autodiff",
    "unroll_parallel_adjoint",
]


def __dir__() -> list[str]:
    """Returns the public names: the modules that they come from are internal."""
    return [*__all__, "__version__"]
