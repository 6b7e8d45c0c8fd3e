"""The cells that a config may name."""

import jaxrnn
from experiments import schema

CELLS = {"elman": jaxrnn.elman, "lstm": jaxrnn.lstm, "gru": jaxrnn.gru}


def cell_of(model: schema.Model) -> jaxrnn.Cell:
    """The cell that a config names."""
    return CELLS[model.cell]
