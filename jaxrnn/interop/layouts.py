"""How each library lays out a cell's weights: one table, and one permutation."""

from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

Library = Literal["torch", "linen", "nnx", "equinox", "keras", "haiku", "onnx"]
Kind = Literal["elman", "lstm", "gru", "gru_before"]
"""A kind of cell; `gru_before` resets before the product."""


class Layout(NamedTuple):
    """A library's layout of one kind of cell, its gates named by our letters.

    Attributes:
      order: the gates, in the order of their blocks.
      gates_first: whether matrices are `[G, I]` and `[G, H]`, not `[I, G]` and
        `[H, G]`.
      b_ih: the gates that have a bias beside the product with the input.
      b_hh: the gates that have one beside the recurrent product.
      plus_one: the gates to whose bias the library adds 1 when it runs.
      negated: the gates whose weights have the opposite sign.
      projects: whether the output may be projected, by `w_hr`.
    """

    order: str
    gates_first: bool = False
    b_ih: str = ""
    b_hh: str = ""
    plus_one: str = ""
    negated: str = ""
    projects: bool = False


_OF_TORCH: dict[Kind, Layout] = {
    "elman": Layout("h", gates_first=True, b_ih="h", b_hh="h"),
    "lstm": Layout("ifgo", gates_first=True, b_ih="ifgo", b_hh="ifgo", projects=True),
    "gru": Layout("rzn", gates_first=True, b_ih="rzn", b_hh="rzn"),
}
_OF_LINEN: dict[Kind, Layout] = {
    "elman": Layout("h", b_ih="h"),
    "lstm": Layout("ifgo", b_hh="ifgo"),
    "gru": Layout("rzn", b_ih="rzn", b_hh="n"),
}
_OF_ONNX: dict[Kind, Layout] = {
    "elman": Layout("h", gates_first=True, b_ih="h", b_hh="h"),
    "lstm": Layout("iofg", gates_first=True, b_ih="iofg", b_hh="iofg"),
    "gru": Layout("zrn", gates_first=True, b_ih="zrn", b_hh="zrn"),
    "gru_before": Layout("zrn", gates_first=True, b_ih="zrn", b_hh="zrn"),
}
LAYOUTS: dict[Library, dict[Kind, Layout]] = {
    "torch": _OF_TORCH,
    "linen": _OF_LINEN,
    # The candidate has no bias of its own behind the reset gate.
    "nnx": {**_OF_LINEN, "gru": Layout("rzn", b_ih="rzn")},
    "equinox": {
        "lstm": Layout("ifgo", gates_first=True, b_ih="ifgo"),
        "gru": Layout("rzn", gates_first=True, b_ih="rzn", b_hh="n"),
    },
    "keras": {
        "elman": Layout("h", b_ih="h"),
        "lstm": Layout("ifgo", b_ih="ifgo"),
        "gru": Layout("zrn", b_ih="zrn", b_hh="zrn"),
        "gru_before": Layout("zrn", b_ih="zrn"),
    },
    "haiku": {
        "elman": Layout("h", b_ih="h", b_hh="h"),
        "lstm": Layout("igfo", b_ih="igfo", plus_one="f"),
        # Its z admits the new content; ours keeps the state: σ(-x) = 1 - σ(x).
        "gru_before": Layout("zrn", b_ih="zrn", negated="z"),
    },
    "onnx": _OF_ONNX,
}
"""Each library's cells. A cell that is not listed does not exist there."""

ACTIVATIONS = {
    "tanh": "tanh",
    "sigmoid": "logistic",
    "relu": "relu",
    "linear": "identity",
    "identity": "identity",
    "softsign": "softsign",
    "soft_sign": "softsign",
    "hard_sigmoid": "hard_logistic",
    "hard_tanh": "hard_tanh",
}
"""Our name of an activation, by that of the function in JAX, Flax or Keras."""

A = TypeVar("A", np.ndarray, Array)


def order_of(gates: str, library: Library) -> str:
    """Returns a library's order of the gates that we order as `gates`.

    `gates` is `LSTMParams.gates.order`, say. A library without such a cell has ours.

    Raises:
      ValueError: if `library` is unknown.
    """
    if library not in get_args(Library):
        raise ValueError(
            f"`library` must be one of {', '.join(get_args(Library))}, but got "
            f"{library!r}."
        )
    orders = (layout.order for layout in LAYOUTS[library].values())
    return next((order for order in orders if set(order) == set(gates)), gates)


def to_library(array: A, gates: str, library: Library, axis: int = -1) -> A:
    """Returns weights, with our gates along `axis`, in a library's order."""
    return permuted(array, gates, order_of(gates, library), axis)


def from_library(array: A, gates: str, library: Library, axis: int = -1) -> A:
    """Returns weights, with a library's gates along `axis`, in our order."""
    return permuted(array, order_of(gates, library), gates, axis)


def permuted(array: A, order: str, wanted: str, axis: int = -1) -> A:
    """Returns the blocks along `axis`, one for each letter of `order`, as `wanted`."""
    if order == wanted:
        return array
    numpy: Any = np if isinstance(array, np.ndarray) else jnp
    blocks = dict(zip(order, numpy.split(array, len(order), axis), strict=True))
    return numpy.concatenate([blocks[gate] for gate in wanted], axis)
