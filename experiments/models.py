"""The model of a config: its cell, its parameters as the config begins them, and a readout."""

from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

import jaxrnn
from experiments import schema
from jaxrnn import initializers, layers


class ModelParams(NamedTuple):
    """The cell's parameters, and the readout from H to the outputs."""

    cell: Any
    readout: layers.DenseParams


def cell_of(model: schema.Model) -> jaxrnn.Cell:
    """The cell that a config names."""
    if model.cell == "elman":
        return jaxrnn.make_elman(model.activation)
    return {"lstm": jaxrnn.lstm, "gru": jaxrnn.gru}[model.cell]


def init_cell(key: PRNGKeyArray, model: schema.Model, input_size: int) -> Any:
    """The parameters of the config's cell, by the initialisers that it names."""
    params = cell_of(model).init(key, input_size, model.hidden_size)
    if model.identity is not None:
        params = initializers.identity(params, model.identity)
    if model.spectral_radius is not None:
        params = initializers.spectral_radius(params, model.spectral_radius)
    if model.chrono is not None:
        params = initializers.chrono(jax.random.fold_in(key, 1), params, model.chrono)
    return params


def init(
    key: PRNGKeyArray, model: schema.Model, input_size: int, outputs: int
) -> ModelParams:
    """Of a model that reads vectors `[I]` and answers with vectors of `outputs` numbers."""
    keys = jax.random.split(key)
    return ModelParams(
        init_cell(keys[0], model, input_size),
        layers.init_dense(keys[1], model.hidden_size, outputs),
    )
