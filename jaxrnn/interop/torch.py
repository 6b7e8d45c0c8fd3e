"""Weights of PyTorch's `nn.RNN`, `nn.LSTM` and `nn.GRU`, and of their cells."""
# pyright: reportMissingImports=false

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrnn import arguments
from jaxrnn.interop import keys
from jaxrnn.interop.layouts import Kind
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
from jaxrnn.layers.combined import BothWays, bidirectional, stack
from jaxrnn.layers.dropout import dropout
from jaxrnn.layers.recurrent import recurrent

# Of `Weights`, in the same order.
NAMES = Weights("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


class _Form(NamedTuple):
    """What the names and shapes of a state dict tell about its module."""

    kind: Kind
    suffixes: list[list[str]]
    """The endings of the names: for each layer, one for each direction."""
    inputs: int
    hidden: int
    projection: int | None
    bias: bool

    def expected(self) -> dict[str, Any]:
        """Returns the shape of each array, by name."""
        shapes: dict[str, Any] = {}
        inputs = self.inputs
        for suffixes in self.suffixes:
            made = shapes_of(
                *(self.kind, "torch", inputs, self.hidden),
                projection=self.projection,
                bias=self.bias,
            )
            for suffix in suffixes:
                shapes |= _named(made, suffix)
            inputs = len(suffixes) * (self.projection or self.hidden)
        return shapes


def from_torch(
    source: Any,
    *,
    prefix: str = "",
    nonlinearity: Literal["tanh", "relu"] | None = None,
    two_biases: bool = False,
) -> tuple[Layer, Any]:
    """Returns the layer that computes what a PyTorch module does, and its parameters.

    The arrays are new ones: training either side does not change the other. A cell, or
    one layer in one direction, becomes a `recurrent` layer, whose parameters are the
    cell's own (`ElmanParams`, `LSTMParams`, `GRUParams`). More layers become a `stack`,
    and two directions `BothWays`. Between layers the module's dropout is on while a
    `key` is given. Time comes first, whatever the module's `batch_first`.

    Args:
      source: an `nn.RNN`, `nn.LSTM`, `nn.GRU` or one of their cells, or its state dict:
        tensors or NumPy arrays by name. Without biases, `b` is zero.
      prefix: the beginning of the names to read, such as "encoder.rnn.", in the state
        dict of a larger model.
      nonlinearity: that of an `nn.RNN`, which its state dict does not hold: None means
        the module's own, or else "tanh".
      two_biases: whether PyTorch's two biases stay apart, as `TwoBiases`, to train as
        it does. The layer takes `jaxrnn.interop.one_bias(params)`.

    Raises:
      TypeError: if `source` is neither a module nor a state dict.
      ValueError: if a name is missing or unknown, or an array has another shape.
    """
    tensors = source if isinstance(source, Mapping) else _state_dict(source)
    arrays = {
        name.removeprefix(prefix): _array(tensor)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    form = _form(arrays)
    nonlinearity = nonlinearity or getattr(source, "nonlinearity", "tanh")
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(
            f'`nonlinearity` must be "tanh" or "relu", but got {nonlinearity!r}.'
        )
    options = {"activation": nonlinearity} if form.kind == "elman" else {}
    cell = cell_of(form.kind, projection=form.projection, **options)

    def params(suffix: str) -> Any:
        weights = (arrays.get(f"{name}{suffix}") for name in NAMES)
        return params_of(Weights(*weights), form.kind, cell, "torch", two_biases)

    layer = recurrent(cell, form.hidden)
    made = [[params(suffix) for suffix in suffixes] for suffixes in form.suffixes]
    if len(made[0]) == 2:
        layer, trees = bidirectional(layer), [BothWays(*both) for both in made]
    else:
        trees = [one for (one,) in made]
    if len(trees) == 1:
        return layer, trees[0]
    rate = getattr(source, "dropout", 0.0)
    if not rate:
        return stack(*[layer] * len(trees)), tuple(trees)
    layers, entries = [layer], [trees[0]]
    for tree in trees[1:]:
        layers += [dropout(rate), layer]
        entries += [(), tree]
    return stack(*layers), tuple(entries)


def to_torch(
    params: Any, *, bias: bool = True, cell: bool = False, allow_lossy: bool = False
) -> dict[str, Any]:
    """Returns the state dict of the PyTorch module with these parameters.

    `module.load_state_dict(to_torch(params))` loads it. One bias goes to PyTorch's
    first one, `bias_ih`; the second one is zero, except for a GRU's `b_hn`.

    Args:
      params: what `from_torch` returns: parameters of a cell, `TwoBiases` or `BothWays`
        of them, or a tuple with one of these for each layer. The `()` of a dropout is
        skipped.
      bias: whether the module has biases.
      cell: whether it is an `nn.RNNCell`, `nn.LSTMCell` or `nn.GRUCell`, whose names
        have no suffix.
      allow_lossy: whether, without `bias`, biases that are not zero are dropped.

    Raises:
      TypeError, ValueError: if PyTorch has no such module, or it cannot hold a bias.
    """
    import torch

    arguments.flag("bias", bias)
    arguments.flag("cell", cell)
    layers = [params] if _is_one_layer(params) else [p for p in params if p != ()]
    ways = [list(layer) if isinstance(layer, BothWays) else [layer] for layer in layers]
    forms = {(kind_of(p), len(both)) for both in ways for p in both}
    if len(forms) != 1 or (cell and len(ways) * len(ways[0]) > 1):
        raise ValueError(
            "`params` must be layers of one kind of cell, in the same directions, and "
            f"a single one for a PyTorch cell, but got {len(layers)} layer(s) of "
            f"{sorted(forms)} (kind, directions)."
        )
    found = {}
    for n, both in enumerate(ways):
        for way, params in zip(("", "_reverse"), both, strict=False):
            weights = weights_of(params, "torch", bias=bias, allow_lossy=allow_lossy)
            found |= _named(weights, "" if cell else f"_l{n}{way}")
    return {name: _tensor(array, torch) for name, array in found.items()}


def _form(arrays: Mapping[str, Any]) -> _Form:
    """Returns the form of a state dict; raises unless all its names and shapes fit."""
    pattern = rf"(?:{'|'.join(NAMES)})(_l(\d+)(_reverse)?|)"
    found = [m for m in (re.fullmatch(pattern, name) for name in arrays) if m]
    numbers = [int(m[2]) for m in found if m[2]]
    ways = ["", "_reverse"] if any(m[3] for m in found) else [""]
    suffixes = [[""]]
    if numbers or not found:
        depth = max(numbers, default=0) + 1
        suffixes = [[f"_l{n}{way}" for way in ways] for n in range(depth)]

    # The sizes, from the first layer; then every name and shape is checked.
    first = suffixes[0][0]
    w_ih, w_hh, w_hr = (
        np.shape(arrays.get(f"{name}{first}", ()))
        for name in (NAMES.w_ih, NAMES.w_hh, NAMES.w_hr)
    )
    kind, inputs, hidden = kind_from(w_ih, w_hh, "torch")
    projection = None
    if len(w_hr) == 2:
        kind, (projection, hidden) = "lstm", sorted(w_hr)
    bias = any(name.startswith("bias") for name in arrays)
    form = _Form(kind, suffixes, inputs, hidden, projection, bias)
    keys.check(
        "source",
        arrays,
        form.expected(),
        'For a part of a model, give its `prefix`, such as "encoder.".',
    )
    return form


def _named(weights: Weights, suffix: str) -> dict[str, Any]:
    pairs = zip(NAMES, weights, strict=True)
    return {f"{name}{suffix}": a for name, a in pairs if a is not None}


def _state_dict(source: Any) -> Mapping[str, Any]:
    if not callable(getattr(source, "state_dict", None)):
        raise TypeError(
            "`source` must be a torch.nn.RNN, LSTM, GRU, one of their cells, or its "
            f"state dict, but got {arguments.describe(source)}."
        )
    return source.state_dict()


def _array(tensor: Any) -> Any:
    """Returns a tensor as an array `[...]` on the host; an array as it is."""
    if not hasattr(tensor, "detach"):
        return tensor
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # unknown to NumPy
        return jnp.asarray(tensor.float().numpy(), jnp.bfloat16)
    return tensor.numpy()


def _tensor(array: Any, torch: Any) -> Any:
    if array.dtype == jnp.bfloat16:
        return torch.tensor(np.asarray(array, np.float32)).to(torch.bfloat16)
    return torch.tensor(np.asarray(array))


def _is_one_layer(params: Any) -> bool:
    return hasattr(params, "_fields") or not isinstance(params, tuple | list)
