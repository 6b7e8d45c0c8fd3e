"""How other libraries lay out a cell's weights: the order of gates, and two biases."""

from typing import Any, NamedTuple

import numpy as np

# The gates in the order of their columns, by jaxrnn's order, where it is another one.
ORDERS = {
    "haiku": {"ifgo": "igfo"},
    "keras": {"rzn": "zrn"},
    "onnx": {"ifgo": "iofg", "rzn": "zrn"},
}


class Weights(NamedTuple):
    """`b_hh`, of the recurrent product, is zero but for the GRU's last gate: `b_hn`."""

    w_ih: np.ndarray
    w_hh: np.ndarray
    b: np.ndarray
    b_hh: np.ndarray


def weights(params: Any, library: str = "") -> Weights:
    """Returns jaxrnn's parameters with their gates in the library's order."""
    w_ih, w_hh, b, *b_hn = map(np.asarray, params)
    b_hh = np.zeros_like(b)
    for bias in b_hn:
        b_hh[-len(bias) :] = bias
    gates: str = type(params).gates.order
    order = ORDERS.get(library, {}).get(gates) or gates
    return Weights(*(permuted(a, gates, order) for a in (w_ih, w_hh, b, b_hh)))


def permuted(a: np.ndarray, gates: str, order: str) -> np.ndarray:
    """Returns the blocks of the last axis, one for each gate, in another order."""
    blocks = dict(zip(gates, np.split(a, len(gates), axis=-1), strict=True))
    return np.concatenate([blocks[gate] for gate in order], axis=-1)
