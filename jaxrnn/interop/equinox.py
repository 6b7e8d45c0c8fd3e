"""Weights of Equinox's `LSTMCell` and `GRUCell`."""
# pyright: reportMissingImports=false

from typing import Any

import jax
import numpy as np

from jaxrnn import arguments
from jaxrnn.interop import keys
from jaxrnn.interop.weights import (
    Weights,
    cell_of,
    kind_from,
    kind_of,
    params_of,
    shapes_of,
    weights_of,
)
from jaxrnn.layers.base import Layer
from jaxrnn.layers.recurrent import recurrent

# Of `Weights`, in the same order; Equinox has no projection.
NAMES = "weight_ih", "weight_hh", "bias", "bias_n"


def from_equinox(source: Any) -> tuple[Layer, Any]:
    """Returns the layer that computes what an Equinox cell does, and its parameters.

    The layer is a `recurrent` one, whose parameters are `LSTMParams` or `GRUParams`.
    JAX can differentiate and trace it. Without biases, ours are zero.

    Args:
      source: an `eqx.nn.LSTMCell` or `GRUCell`.

    Raises:
      TypeError: if `source` is neither.
      ValueError: if an array has another shape.
    """
    if not (hasattr(source, "weight_ih") and hasattr(source, "weight_hh")):
        raise TypeError(
            "`source` must be an equinox.nn.LSTMCell or GRUCell, but got "
            f"{arguments.describe(source)}."
        )
    found = {name: getattr(source, name, None) for name in NAMES}
    arrays = {name: array for name, array in found.items() if array is not None}
    w_ih, w_hh = (np.shape(arrays.get(name, ())) for name in NAMES[:2])
    _, inputs, hidden = kind_from(w_ih, w_hh, "equinox")
    kind = "gru" if hasattr(source, "bias_n") else "lstm"
    expected = shapes_of(kind, "equinox", inputs, hidden, bias="bias" in arrays)
    keys.check("source", arrays, _named(expected))
    cell = cell_of(kind)
    params = params_of(Weights(*found.values()), kind, cell, "equinox")
    return recurrent(cell, hidden), params


def to_equinox(params: Any, *, use_bias: bool = True, allow_lossy: bool = False) -> Any:
    """Returns the Equinox cell with these parameters.

    Args:
      params: those of an LSTM or a GRU (`LSTMParams`, `GRUParams`).
      use_bias: whether the cell has biases.
      allow_lossy: whether, without them, biases that are not zero are dropped.

    Raises:
      TypeError, ValueError: if Equinox has no such cell, or it cannot hold a bias.
    """
    import equinox as eqx

    arguments.flag("use_bias", use_bias)
    weights = weights_of(params, "equinox", bias=use_bias, allow_lossy=allow_lossy)
    kinds = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}
    sizes = weights.w_ih.shape[-1], weights.w_hh.shape[-1]
    options = {"use_bias": use_bias, "dtype": weights.w_ih.dtype}
    cell = kinds[kind_of(params)](*sizes, **options, key=jax.random.key(0))
    arrays = _named(weights)
    return eqx.tree_at(
        lambda cell: [getattr(cell, name) for name in arrays], cell, [*arrays.values()]
    )


def _named(weights: Weights) -> dict[str, Any]:
    pairs = zip(NAMES, weights, strict=False)
    return {name: a for name, a in pairs if a is not None}
