"""The network of most tasks: a cell, and a readout from H to the outputs."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

import jaxrnn
from experiments.config.load import ConfigError, one_of
from experiments.config.schema import Model
from jaxrnn import initializers, layers
from jaxrnn.cells import CELLS


class ModelParams(NamedTuple):
    """The cell's parameters, and the readout from H to the outputs."""

    cell: Any
    readout: layers.DenseParams


class Network(NamedTuple):
    """A network, before it has parameters."""

    cell: jaxrnn.Cell
    init: Callable[[PRNGKeyArray], Any]
    """`key -> params`, where `params.cell` are the cell's."""


def make_network(model: Model, input_size: int, outputs: int) -> Network:
    """Returns the network that reads vectors `[I]` and returns `outputs` numbers."""
    sizes = {"input_size": input_size, "outputs": outputs}
    return Network(make_cell(model), partial(init, model=model, **sizes))


def make_cell(model: Model) -> jaxrnn.Cell:
    """Returns the cell that a config names.

    Raises:
      ConfigError: if there is no such cell, or it has no gates for `chrono`.
    """
    if model.cell not in CELLS:
        rule = one_of(model.cell, CELLS)
        raise ConfigError(f"`model.cell` must be {rule}, but got {model.cell!r}")
    cell = CELLS[model.cell]
    if model.cell == "elman":
        cell = jaxrnn.make_elman(model.activation)
    if model.chrono is not None and keeping_gate(cell) is None:
        raise ConfigError(
            f'`model.chrono` sets gate biases, but `cell = "{model.cell}"` has no gate '
            "that keeps the state. Remove it, or take another cell."
        )
    return cell


def keeping_gate(cell: jaxrnn.Cell) -> str | None:
    """Returns the letter of the gate that keeps the state, as the cell declares it."""
    params = jax.eval_shape(lambda key: cell.init(key, 1, 1), jax.random.key(0))
    return type(params).gates.keep


def init_cell(key: PRNGKeyArray, model: Model, input_size: int) -> Any:
    """Returns initial parameters of the config's cell, by the initializers it names."""
    params = make_cell(model).init(key, input_size, model.hidden_size)
    if model.identity is not None:
        params = initializers.identity(params, model.identity)
    if model.spectral_radius is not None:
        params = initializers.spectral_radius(params, model.spectral_radius)
    if model.chrono is not None:
        params = initializers.chrono(jax.random.fold_in(key, 1), params, model.chrono)
    return params


def init(key: PRNGKeyArray, model: Model, input_size: int, outputs: int) -> ModelParams:
    """Returns initial parameters, for vectors `[I]` and `outputs` numbers."""
    keys = jax.random.split(key)
    return ModelParams(
        init_cell(keys[0], model, input_size),
        layers.init_dense(keys[1], model.hidden_size, outputs),
    )


def make_initial_state(model: Model, batch_size: int) -> Callable[[], Any]:
    """Returns a function that makes the state before a stream, new at each call.

    It is new because a training step may take the state's buffers.
    """
    cell = make_cell(model)

    @jax.jit
    def initial_state() -> Any:
        # Only shapes matter, so the compiler drops what makes the parameters.
        params = cell.init(jax.random.key(0), 1, model.hidden_size)
        return cell.initial_state(params, (batch_size,))

    return initial_state
