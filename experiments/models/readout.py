"""The network of most tasks: recurrent layers, and a readout to the outputs.

The recurrent layers are one `Layer`, the body. Where there is one of them, without
dropout, its parameters and its state are the cell's own.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
from jaxtyping import PRNGKeyArray

import jaxrnn
from experiments.config.load import ConfigError, one_of
from experiments.config.schema import Model
from jaxrnn import initializers, layers
from jaxrnn.cells import CELLS


class ModelParams(NamedTuple):
    """The parameters of the body, and the readout from its outputs."""

    cell: Any
    readout: layers.DenseParams


class Network(NamedTuple):
    """A network, before it has parameters."""

    cell: jaxrnn.Cell
    body: layers.Layer
    init: Callable[[PRNGKeyArray], Any]
    """`key -> params`, where `params.cell` are the body's."""


def make_network(model: Model, input_size: int, outputs: int) -> Network:
    """Returns the network that reads vectors `[I]` and returns `outputs` numbers."""
    sizes = {"input_size": input_size, "outputs": outputs}
    make_params = partial(init, model=model, **sizes)
    return Network(make_cell(model), make_body(model), make_params)


def make_body(model: Model, **options: Any) -> layers.Layer:
    """Returns the recurrent layers of a config; `options` are those of `unroll`."""
    engine = partial(jaxrnn.unroll, **options) if options else jaxrnn.unroll
    layer = layers.recurrent(make_cell(model), model.hidden_size, engine=engine)
    if model.bidirectional:
        layer = layers.bidirectional(layer)
    block = [layer, layers.dropout(model.dropout)] if model.dropout else [layer]
    parts = block * model.layers
    return parts[0] if len(parts) == 1 else layers.stack(*parts)


def key_of(number: Any) -> PRNGKeyArray:
    """Returns the key of the dropout of a training step, by its number."""
    return jax.random.fold_in(jax.random.key(0), number)


def check_one_layer(model: Model, what: str) -> None:
    """Raises unless the body is a single layer whose parameters are a cell's.

    Raises:
      ConfigError: otherwise; `what` needs it, such as "the microscope".
    """
    if model.layers > 1 or model.bidirectional or model.dropout:
        raise ConfigError(
            f"{what} looks at networks of one layer in one direction, without dropout, "
            f"but got `model.layers = {model.layers}`, `model.bidirectional = "
            f"{str(model.bidirectional).lower()}`, `model.dropout = {model.dropout}`."
        )


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
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), 1, 2))
    return type(params).gates.keep


def init_body(key: PRNGKeyArray, model: Model, input_size: int) -> Any:
    """Returns initial parameters of the body, by the initializers that a config names.

    They change the parameters of each cell.
    """
    numbers = itertools.count(1)

    def changed(params: Any) -> Any:
        if model.identity is not None:
            params = initializers.identity(params, model.identity)
        if model.spectral_radius is not None:
            params = initializers.spectral_radius(params, model.spectral_radius)
        if model.chrono is not None:
            own = jax.random.fold_in(key, next(numbers))
            params = initializers.chrono(own, params, model.chrono)
        return params

    params = make_body(model).init(key, input_size)
    return jax.tree.map(changed, params, is_leaf=lambda p: hasattr(p, "w_hh"))


def init(key: PRNGKeyArray, model: Model, input_size: int, outputs: int) -> ModelParams:
    """Returns initial parameters, for vectors `[I]` and `outputs` numbers."""
    keys = jax.random.split(key)
    return ModelParams(
        init_body(keys[0], model, input_size),
        layers.dense(outputs).init(keys[1], width_of(model)),
    )


def width_of(model: Model) -> int:
    """Returns the number of outputs of the body."""
    return make_body(model).output_size(1)


def read_out(params: layers.DenseParams, hs: Array) -> Array:
    """Returns the outputs `[..., O]` of a readout for states `[..., H]`."""
    return layers.dense(params.b.size).unroll(params, (), hs)[1]


def make_initial_state(model: Model, batch_size: int) -> Callable[[], Any]:
    """Returns a function that makes the state before a stream, new at each call.

    It is new because a training step may take the state's buffers.
    """
    body = make_body(model)

    @jax.jit
    def initial_state() -> Any:
        # Only shapes matter, so the compiler drops what makes the parameters.
        params = body.init(jax.random.key(0), 1)
        return body.initial_state(params, (batch_size,))

    return initial_state
