"""The cells, each with its equations, its adjoint equations and its source."""

from jaxrnn.cells.base import Cell
from jaxrnn.cells.elman import elman
from jaxrnn.cells.gru import gru
from jaxrnn.cells.lstm import lstm

CELLS: dict[str, Cell] = {"elman": elman, "lstm": lstm, "gru": gru}
"""Every cell by its name: the only list of cells."""
