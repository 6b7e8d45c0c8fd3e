"""Weights of Haiku's `LSTM`, `GRU` and `VanillaRNN`."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn import arguments
from jaxrnn.interop import keys
from jaxrnn.interop.biases import one_bias
from jaxrnn.interop.layouts import Kind
from jaxrnn.interop.weights import (
    Weights,
    cell_of,
    kind_of,
    params_of,
    shapes_of,
    weights_of,
)
from jaxrnn.layers.base import Layer
from jaxrnn.layers.recurrent import recurrent

MODULES: dict[Kind, str] = {"lstm": "lstm", "gru_before": "gru", "elman": "vanilla_rnn"}
"""The name that Haiku gives a module of each kind."""

# The paths below a module, in the order of `Weights`. The LSTM has one matrix for both
# products, the input's rows first.
PATHS: dict[Kind, tuple[str, ...]] = {
    "lstm": ("linear/w", "linear/b"),
    "gru_before": ("w_i", "w_h", "b"),
    "elman": ("linear/w", "linear_1/w", "linear/b", "linear_1/b"),
}


def from_haiku(
    source: Mapping[str, Any], *, name: str | None = None, two_biases: bool = False
) -> tuple[Layer, Any]:
    """Returns the layer that computes what a Haiku core does, and its parameters.

    The layer is a `recurrent` one, whose parameters are `LSTMParams`,
    `ResetBeforeGRUParams` or, with relu, `ElmanParams`. JAX can differentiate and trace
    it. Haiku adds 1 to the LSTM's forget bias when it runs, and its GRU's z has the
    opposite meaning: both are in the parameters that this returns.

    Args:
      source: the parameters that `init` returned: arrays by module and name.
      name: the core's module, such as "policy/~/lstm"; None: "lstm", "gru" or
        "vanilla_rnn", whichever there is.
      two_biases: whether the two biases of `VanillaRNN` stay apart, as `TwoBiases`. The
        layer takes `jaxrnn.interop.one_bias(params)`.

    Raises:
      TypeError: if `source` is no mapping.
      ValueError: if there is no such core, a name is missing or unknown, or an array
        has another shape.
    """
    if not isinstance(source, Mapping):
        raise TypeError(
            "`source` must be the parameters of a Haiku network, a mapping, but got "
            f"{arguments.describe(source)}."
        )
    flat = keys.flat(source)
    if name is None:
        tops = {path.partition("/")[0] for path in flat}
        present = [module for module in MODULES.values() if module in tops]
        if len(present) != 1:
            raise ValueError(
                f"`source` must have one of {', '.join(MODULES.values())}, but got "
                f"{', '.join(map(str, source)) or 'nothing'}. Give the `name` of the "
                'module, such as "policy/~/lstm".'
            )
        (name,) = present
    arrays = {
        path.removeprefix(f"{name}/"): array
        for path, array in flat.items()
        if path.startswith(f"{name}/")
    }

    # The kind, by the names that no other one has; then all names and shapes.
    kind: Kind = "lstm"
    if any(path.startswith("linear_1/") for path in arrays):
        kind = "elman"
    elif "w_i" in arrays or "w_h" in arrays:
        kind = "gru_before"
    rows, columns = (*np.shape(arrays.get(PATHS[kind][0], ())), 0, 0)[:2]
    hidden = columns // {"lstm": 4, "gru_before": 3, "elman": 1}[kind]
    inputs = rows - hidden if kind == "lstm" else rows
    made = shapes_of(kind, "haiku", inputs, hidden)
    if kind == "lstm":
        made = [(rows, columns), made.b_ih]
    expected = dict(zip(PATHS[kind], made, strict=False))
    if kind == "elman" and "linear_1/b" not in arrays:  # `double_bias=False`
        del expected["linear_1/b"]
    keys.check("source", arrays, expected)

    found: list[Any] = [arrays.get(path) for path in PATHS[kind]]
    if kind == "lstm":
        found = [found[0][:inputs], found[0][inputs:], found[1]]
    cell = cell_of(kind, activation="relu" if kind == "elman" else "tanh")
    params = params_of(Weights(*found), kind, cell, "haiku", two_biases)
    return recurrent(cell, hidden), params


def to_haiku(
    params: Any,
    *,
    name: str | None = None,
    double_bias: bool = True,
) -> dict[str, Any]:
    """Returns the parameters of a Haiku core, arrays by module and name.

    Args:
      params: `LSTMParams`, `ResetBeforeGRUParams`, or `ElmanParams` of a cell with relu
        (`TwoBiases` of them too).
      name: the core's module; None: "lstm", "gru" or "vanilla_rnn".
      double_bias: whether a `VanillaRNN` has two biases. One goes to the first of them.

    Raises:
      TypeError, ValueError: if Haiku has no such core, or cannot hold a bias.
    """
    arguments.flag("double_bias", double_bias)
    kind = kind_of(params)
    weights = weights_of(params, "haiku")
    arrays = [a for a in weights if a is not None]
    if kind == "lstm":
        arrays = [jnp.concatenate(arrays[:2]), *arrays[2:]]
    if kind == "elman" and not double_bias:
        arrays = [*arrays[:2], one_bias(params).b]
    name = MODULES[kind] if name is None else name
    found: dict[str, Any] = {}
    for path, array in zip(PATHS[kind], arrays, strict=False):
        module, _, leaf = f"{name}/{path}".rpartition("/")
        found.setdefault(module, {})[leaf] = array
    return found
