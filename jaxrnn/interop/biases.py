"""Two biases where a cell has one: to train as libraries do that add them up.

PyTorch adds two biases to each gate. Both get the gradient of their sum, so under Adam
the sum moves twice as fast as a single bias would. `TwoBiases` keeps them apart for the
optimizer, and `one_bias` adds them up inside the loss:

    net, params = interop.from_torch(module, two_biases=True)

    def loss(params, xs):
        state, ys = net.unroll(interop.one_bias(params), None, xs)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization


class TwoBiases(NamedTuple):
    """A cell's parameters, and a second bias `b_hh` for the first gates of its `b`.

    `b_hh` is `[G]`, or `[2H]` for a GRU: its gates r and z. The second bias of n is
    `b_hn`, one of the cell's parameters, because the reset gate multiplies it.
    """

    cell: Any
    b_hh: Array


def one_bias(params: Any) -> Any:
    """Returns parameters with each `TwoBiases` replaced by the cell's, `b + b_hh`.

    `params` is any tree. The gradient of the sum, `[G]`, goes to both biases.
    """
    return jax.tree.map(_summed, params, is_leaf=_is_two)


def _is_two(node: Any) -> bool:
    return isinstance(node, TwoBiases)


def _summed(node: Any) -> Any:
    if not _is_two(node):
        return node
    cell, second = node
    rest = jnp.shape(cell.b)[-1] - jnp.shape(second)[-1]
    return cell._replace(b=cell.b + jnp.pad(second, (0, rest)))


register_namedtuple_serialization(TwoBiases, serialized_name="jaxrnn.interop.TwoBiases")
