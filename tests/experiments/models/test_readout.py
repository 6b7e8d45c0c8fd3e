"""The networks of configs: known cells, initializers, and the state before a stream."""

import jax
import numpy as np
import pytest

import jaxrnn
from experiments.config.load import ConfigError
from experiments.config.schema import Model
from experiments.models import readout
from jaxrnn import layers


def test_a_cell_that_there_is_not():
    with pytest.raises(ConfigError, match=r"`model.cell` must be one of .*`lstm`"):
        readout.make_cell(Model(cell="lstn", hidden_size=2))
    with pytest.raises(ConfigError, match=r"mean `lstm`\?\), but got 'lstn'"):
        readout.make_cell(Model(cell="lstn", hidden_size=2))


def test_chrono_needs_a_gate():
    with pytest.raises(ConfigError, match='`cell = "elman"` has no gate that keeps'):
        readout.make_cell(Model(cell="elman", hidden_size=2, chrono=9.0))


def test_the_irnn_and_its_state():
    model = Model(cell="elman", hidden_size=3, activation="relu", identity=0.5)
    params = readout.make_network(model, 2, 4).init(jax.random.key(0))
    np.testing.assert_array_equal(params.cell.w_hh, 0.5 * np.eye(3))
    assert params.readout.w.shape == (3, 4)
    initial_state = readout.make_initial_state(model, 5)
    assert initial_state().h.shape == (5, 3) and not initial_state().h.any()


def test_layers_of_a_config():
    """One layer is the cell itself; several begin with the initializers named, each."""
    model = Model(cell="lstm", hidden_size=3, layers=2, chrono=9.0, dropout=0.5)
    params = readout.make_network(model, 2, 4).init(jax.random.key(0))
    cells = [p for p in params.cell if p]  # dropout has no parameters
    assert [p.w_ih.shape for p in cells] == [(2, 12), (3, 12)]
    first, second = (np.asarray(p.b) for p in cells)
    assert first[3:6].all() and second[3:6].all() and (first != second).any()
    both = Model(cell="gru", hidden_size=3, bidirectional=True)
    params = readout.make_network(both, 2, 4).init(jax.random.key(0))
    assert params.readout.w.shape == (6, 4)
    one = readout.make_body(Model(cell="gru", hidden_size=3))
    assert one == layers.recurrent(jaxrnn.gru, 3)


def test_the_microscope_is_for_one_layer():
    model = Model(cell="gru", hidden_size=3, layers=2)
    with pytest.raises(ConfigError, match=r"the microscope looks .* one layer"):
        readout.check_one_layer(model, "the microscope")
    readout.check_one_layer(Model(cell="gru", hidden_size=3), "the microscope")
