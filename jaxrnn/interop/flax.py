"""Weights of Flax's recurrent cells, Linen and NNX."""
# pyright: reportMissingImports=false

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrnn import arguments
from jaxrnn.interop import keys
from jaxrnn.interop.layouts import Kind, Library
from jaxrnn.interop.weights import (
    Weights,
    activation_of,
    cell_of,
    kind_of,
    params_of,
    shapes_of,
    weights_of,
)
from jaxrnn.layers.base import Layer
from jaxrnn.layers.combined import BothWays, bidirectional
from jaxrnn.layers.recurrent import recurrent


class _Form(NamedTuple):
    """How a cell of Flax names its weights: paths, blocks side by side."""

    api: Library
    kind: Kind
    paths: Weights

    def names(self) -> set[str]:
        """Returns all paths."""
        return {path for paths in self.paths if paths for path in paths}


def _each(sides: str, gates: list[str], leaf: str) -> list[str]:
    return [f"{sides}{gate}/{leaf}" for gate in gates]


_LSTM, _GRU = ["i", "f", "g", "o"], ["r", "z", "n"]
_NNX_LSTM = ["i", "f_", "g", "o"]  # `if` is a word of Python
_PACKED = Weights(["dense_i/kernel"], ["dense_h/kernel"])
_OF_LINEN_LSTM = Weights(
    _each("i", _LSTM, "kernel"),
    _each("h", _LSTM, "kernel"),
    b_hh=_each("h", _LSTM, "bias"),
)
FORMS = {
    "linen.SimpleCell": _Form(
        "linen", "elman", Weights(["i/kernel"], ["h/kernel"], ["i/bias"])
    ),
    "linen.LSTMCell": _Form("linen", "lstm", _OF_LINEN_LSTM),
    "linen.OptimizedLSTMCell": _Form("linen", "lstm", _OF_LINEN_LSTM),
    "linen.GRUCell": _Form(
        "linen",
        "gru",
        Weights(
            _each("i", _GRU, "kernel"),
            _each("h", _GRU, "kernel"),
            _each("i", _GRU, "bias"),
            ["hn/bias"],
        ),
    ),
    "nnx.SimpleCell": _Form("nnx", "elman", _PACKED._replace(b_ih=["dense_i/bias"])),
    "nnx.LSTMCell": _Form(
        "nnx",
        "lstm",
        Weights(
            _each("i", _NNX_LSTM, "kernel"),
            _each("h", _LSTM, "kernel"),
            b_hh=_each("h", _LSTM, "bias"),
        ),
    ),
    "nnx.OptimizedLSTMCell": _Form(
        "nnx", "lstm", _PACKED._replace(b_hh=["dense_h/bias"])
    ),
    "nnx.GRUCell": _Form("nnx", "gru", _PACKED._replace(b_ih=["dense_i/bias"])),
}
"""The cells of Flax that have a counterpart."""


def from_flax(
    source: Any,
    *,
    activation: str | None = None,
    gate_activation: str | None = None,
) -> tuple[Layer, Any]:
    """Returns the layer that computes what a Flax cell does, and its parameters.

    The layer is a `recurrent` one, whose parameters are the cell's own (`ElmanParams`,
    `LSTMParams`, `GRUParams`), or for `Bidirectional` a `bidirectional` one, `BothWays`
    of them. JAX can differentiate and trace it. An `nnx.GRUCell` has no bias `b_hn`: it
    is zero.

    Args:
      source: an NNX cell, `nnx.RNN` or `nnx.Bidirectional`, or their state; or the
        variables of a Linen cell, `nn.RNN` or `nn.Bidirectional`: arrays by name.
      activation: the activation, as for `jaxrnn.make_gru`; None: the NNX cell's own, or
        else "tanh".
      gate_activation: that of the gates; None: its own, or else "logistic".

    Raises:
      TypeError: if `source` is none of these.
      ValueError: if a name is missing or unknown, an array has another shape, or we
        have no such activation.
    """
    options: dict[str, Any] = {
        "activation": activation,
        "gate_activation": gate_activation,
    }
    module = None if isinstance(source, Mapping) else source
    tree: Any = _pure(source)
    tree = tree.get("params", tree)
    if {"forward_rnn", "backward_rnn"} <= set(tree):
        ways = [getattr(module, name, tree[name]) for name in _WAYS]
        both = [from_flax(way, **options) for way in ways]
        if both[0][0] != both[1][0]:
            raise ValueError(
                "`source` must have the same cell in both directions, of one hidden "
                "size. Convert its two cells."
            )
        return bidirectional(both[0][0]), BothWays(both[0][1], both[1][1])
    arrays = keys.flat(tree.get("cell", tree))
    cell = getattr(module, "cell", module)
    if getattr(cell, "residual", False) or getattr(module, "reverse", False):
        raise ValueError(
            "`source` must have neither `residual` nor `reverse`: no layer of ours is "
            "like it. Its weights alone can be converted: nnx.state(source)."
        )
    form, inputs, hidden = _form(arrays)
    made = shapes_of(form.kind, form.api, inputs, hidden)
    keys.check("source", arrays, _cut(form, made), "Give a cell's part of a model.")
    parts = ([arrays[path] for path in paths or []] for paths in form.paths)
    weights = Weights(*(jnp.concatenate(p, axis=-1) if p else None for p in parts))
    ours = cell_of(
        form.kind,
        activation=activation_of(cell, "activation_fn", activation, "tanh"),
        gate_activation=activation_of(cell, "gate_fn", gate_activation, "logistic"),
    )
    params = params_of(weights, form.kind, ours, form.api)
    return recurrent(ours, hidden), params


def to_flax(params: Any, target: Any, *, allow_lossy: bool = False) -> dict[str, Any]:
    """Returns the weights of a Flax cell, nested as it names them.

    `nnx.update(cell, to_flax(params, cell))` loads them into an NNX cell. Linen's
    `cell.apply` takes `{"params": to_flax(params, nn.GRUCell)}`; `nn.RNN` keeps them
    under the name "cell".

    Args:
      params: a cell's parameters, or `BothWays` of them for `Bidirectional`.
      target: the cell of Flax, or its class, such as `nnx.OptimizedLSTMCell`.
      allow_lossy: whether a bias that the cell cannot hold is dropped, though it is not
        zero: `b_hn` of an `nnx.GRUCell`.

    Raises:
      TypeError: if `target` is no recurrent cell of Flax, or has another kind.
      ValueError: if the cell cannot hold a bias that is not zero.
    """
    if isinstance(params, BothWays):
        made = [to_flax(way, target, allow_lossy=allow_lossy) for way in params]
        return {way: {"cell": part} for way, part in zip(_WAYS, made, strict=True)}
    form = _form_of(target)
    if kind_of(params) != form.kind:
        raise TypeError(
            f"`params` must be those of the target, {form.kind}, but got those of "
            f"{kind_of(params)}."
        )
    weights = weights_of(params, form.api, allow_lossy=allow_lossy)
    arrays = {}
    for paths, whole in zip(form.paths, weights, strict=True):
        blocks = jnp.split(whole, len(paths), axis=-1) if paths else []
        arrays |= dict(zip(paths or [], blocks, strict=True))
    return keys.nested(arrays)


_WAYS = "forward_rnn", "backward_rnn"


def _pure(source: Any) -> Mapping[str, Any]:
    """Returns nested mappings of arrays."""
    if isinstance(source, Mapping) and not hasattr(source, "raw_mapping"):
        return source
    from flax import nnx

    if isinstance(source, nnx.Module):
        source = nnx.state(source, nnx.Param)
    if not isinstance(source, nnx.State):
        raise TypeError(
            "`source` must be an NNX module, its state, or the variables of a Linen "
            f"module, but got {arguments.describe(source)}."
        )
    return nnx.to_pure_dict(source)


def _form(arrays: Mapping[str, Any]) -> tuple[_Form, int, int]:
    """Returns the form that shares most names with `arrays`, I and H."""

    def shared(form: _Form) -> tuple[int, bool]:
        first = np.shape(arrays.get(form.paths.w_hh[0], ()))
        blocks = len(form.paths.w_hh)
        gates = blocks * max(first) // min(first) if len(first) == 2 else 0
        fits = gates == {"elman": 1, "lstm": 4, "gru": 3}[form.kind]
        return len(form.names() & set(arrays)) - len(form.names() - set(arrays)), fits

    form = max(FORMS.values(), key=shared)
    w_ih, w_hh = (
        np.shape(arrays.get(paths[0], ()))
        for paths in (form.paths.w_ih, form.paths.w_hh)
    )
    return form, (*w_ih, 0)[0], min(w_hh, default=0)


def _form_of(target: Any) -> _Form:
    made = target if isinstance(target, type) else type(target)
    for base in made.__mro__:
        library = "linen" if ".linen." in base.__module__ else "nnx"
        name = f"{library}.{base.__name__}"
        if name in FORMS and base.__module__.startswith("flax."):
            return FORMS[name]
    raise TypeError(
        f"`target` must be one of {', '.join(FORMS)}, or one of their instances, but "
        f"got {made.__name__}."
    )


def _cut(form: _Form, shapes: Weights) -> dict[str, Any]:
    """Returns the shape of the array at each path."""
    found = {}
    for paths, shape in zip(form.paths, shapes, strict=True):
        for path in paths or []:
            found[path] = (*shape[:-1], shape[-1] // len(paths))
    return found
