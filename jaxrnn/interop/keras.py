"""Weights of Keras's `SimpleRNN`, `LSTM` and `GRU`, and of their cells."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrnn import arguments
from jaxrnn.interop import keys
from jaxrnn.interop.weights import (
    Weights,
    activation_of,
    cell_of,
    kind_from,
    kind_of,
    params_of,
    shapes_of,
    weights_of,
)
from jaxrnn.layers.base import Layer
from jaxrnn.layers.combined import BothWays, Merge, bidirectional
from jaxrnn.layers.recurrent import recurrent

NAMES = "kernel", "recurrent_kernel", "bias"
MERGES: dict[str, Merge] = {
    "concat": "concatenate",
    "sum": "sum",
    "ave": "mean",
    "mul": "product",
}
"""Our name of each `merge_mode` of `keras.layers.Bidirectional`."""


def from_keras(
    source: Any,
    *,
    reset_after: bool | None = None,
    activation: str | None = None,
    gate_activation: str | None = None,
    two_biases: bool = False,
) -> tuple[Layer, Any]:
    """Returns the layer that computes what a Keras layer does, and its parameters.

    The layer is a `recurrent` one, whose parameters are the cell's own (`ElmanParams`,
    `LSTMParams`, `GRUParams`, or `ResetBeforeGRUParams` where `reset_after=False`), or
    for `Bidirectional` a `bidirectional` one, `BothWays` of them. It returns the
    outputs of all steps and the last state, time first, whatever the layer returns.
    Dropout is not converted.

    Args:
      source: a built `keras.layers.SimpleRNN`, `LSTM`, `GRU`, one of their cells, or
        `Bidirectional`; or the arrays that `get_weights` returns.
      reset_after: where a GRU resets; None: as the layer does, or else as the shape of
        its bias shows, or else True.
      activation: the activation, as for `jaxrnn.make_gru`; None: the layer's own, or
        else "tanh".
      gate_activation: that of the gates, Keras's `recurrent_activation`; None: its own,
        or else "logistic".
      two_biases: whether the two biases of a GRU stay apart, as `TwoBiases`. The layer
        takes `jaxrnn.interop.one_bias(params)`.

    Raises:
      TypeError: if `source` is none of these.
      ValueError: if an array is missing or has another shape, or a layer of ours does
        not compute the same.
    """
    options: dict[str, Any] = {"reset_after": reset_after, "two_biases": two_biases}
    options |= {"activation": activation, "gate_activation": gate_activation}
    if hasattr(source, "backward_layer"):
        return _both_ways(source, options)
    if getattr(source, "go_backwards", False):
        raise ValueError(
            "`source` must not have `go_backwards`: no layer of ours returns reversed "
            "outputs. Its weights alone can be converted: source.get_weights()."
        )
    return _one_way(source, **options)


def to_keras(
    params: Any, *, use_bias: bool = True, allow_lossy: bool = False
) -> list[Any]:
    """Returns the arrays for the `set_weights` of a built Keras layer.

    One bias of a GRU that resets after the product goes to Keras's first one; the
    second one is zero, except for `b_hn`. `ResetBeforeGRUParams` are for a layer with
    `reset_after=False`.

    Args:
      params: a cell's parameters, `TwoBiases` of a GRU's, or `BothWays` of these for
        `Bidirectional`.
      use_bias: whether the layer has biases.
      allow_lossy: whether, without them, biases that are not zero are dropped.

    Raises:
      TypeError, ValueError: if Keras has no such layer, or it cannot hold a bias.
    """
    options = {"use_bias": use_bias, "allow_lossy": allow_lossy}
    if isinstance(params, BothWays):
        return [array for way in params for array in to_keras(way, **options)]
    arguments.flag("use_bias", use_bias)
    weights = weights_of(params, "keras", bias=use_bias, allow_lossy=allow_lossy)
    if kind_of(params) == "gru" and use_bias:
        stacked = jnp.stack([weights.b_ih, weights.b_hh])
        weights = weights._replace(b_ih=stacked, b_hh=None)
    return [*_named(weights).values()]


def _one_way(
    source: Any,
    reset_after: bool | None,
    activation: str | None,
    gate_activation: str | None,
    two_biases: bool,
) -> tuple[Layer, Any]:
    # The arrays by name, in Keras's order.
    given = isinstance(source, list | tuple)
    if not (given or callable(getattr(source, "get_weights", None))):
        raise TypeError(
            "`source` must be a keras.layers.SimpleRNN, LSTM, GRU, one of their cells, "
            f"Bidirectional, or a list of arrays, but got {arguments.describe(source)}."
        )
    listed = source if given else source.get_weights()
    names = [*NAMES, *(f"array {n}" for n in range(3, len(listed)))]
    arrays = dict(zip(names, listed, strict=False))
    bias = arrays.get("bias")

    # What kind of cell it is, and whether all shapes fit.
    cell = getattr(source, "cell", source)
    if reset_after is None:
        after = bias is None or np.ndim(bias) == 2
        reset_after = bool(getattr(cell, "reset_after", after))
    w_ih, w_hh = (np.shape(arrays.get(name, ())) for name in NAMES[:2])
    kind, inputs, hidden = kind_from(w_ih, w_hh, "keras", reset_after)
    made = shapes_of(kind, "keras", inputs, hidden, bias=bias is not None)
    expected = _named(made)
    if kind == "gru" and bias is not None:
        expected["bias"] = (2, 3 * hidden)
    keys.check("source", arrays, expected, "Build the layer before.")

    ours = cell_of(
        kind,
        activation=activation_of(cell, "activation", activation, "tanh"),
        gate_activation=activation_of(
            cell, "recurrent_activation", gate_activation, "logistic"
        ),
    )
    b_ih, b_hh = bias if kind == "gru" and bias is not None else (bias, None)
    weights = Weights(arrays["kernel"], arrays["recurrent_kernel"], b_ih, b_hh)
    return recurrent(ours, hidden), params_of(weights, kind, ours, "keras", two_biases)


def _both_ways(source: Any, options: dict[str, Any]) -> tuple[Layer, BothWays]:
    merge = MERGES.get(source.merge_mode)
    if merge is None:
        raise ValueError(
            f"`merge_mode` of `source` must be one of {', '.join(MERGES)}, but got "
            f"{source.merge_mode!r}."
        )
    layer, ahead = _one_way(source.forward_layer, **options)
    other, back = _one_way(source.backward_layer, **options)
    if other != layer:
        raise ValueError(
            "`source` must have the same cell in both directions. Convert its two "
            "layers."
        )
    return bidirectional(layer, merge), BothWays(ahead, back)


def _named(weights: Weights) -> dict[str, Any]:
    """Returns what Keras has of `weights`, by name; of two biases the first."""
    pairs = zip(NAMES, weights, strict=False)
    return {name: a for name, a in pairs if a is not None}
