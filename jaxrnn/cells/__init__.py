"""The cells, each with its equations, its adjoint equations and its source."""

from jaxrnn.cells.base import Cell
from jaxrnn.cells.elman import elman
from jaxrnn.cells.gru import gru
from jaxrnn.cells.gru_variants import make_gru
from jaxrnn.cells.indrnn import indrnn
from jaxrnn.cells.layer_norm_gru import layer_norm_gru
from jaxrnn.cells.layer_norm_lstm import layer_norm_lstm
from jaxrnn.cells.leaky import leaky
from jaxrnn.cells.lru import lru
from jaxrnn.cells.lstm import lstm
from jaxrnn.cells.lstm_variants import make_lstm
from jaxrnn.cells.mgu import mgu
from jaxrnn.cells.min_gru import min_gru
from jaxrnn.cells.min_lstm import min_lstm
from jaxrnn.cells.slstm import slstm

CELLS: dict[str, Cell] = {
    "elman": elman,
    "lstm": lstm,
    "gru": gru,
    "peephole_lstm": make_lstm(peephole=True),
    "coupled_lstm": make_lstm(coupled=True),
    "reset_before_gru": make_gru(reset_after=False),
    "mgu": mgu,
    "indrnn": indrnn,
    "leaky": leaky,
    "lru": lru,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "layer_norm_lstm": layer_norm_lstm,
    "layer_norm_gru": layer_norm_gru,
    "slstm": slstm,
}
"""Every cell by its name: the only list of cells."""
