"""Packed weights: the blocks of all gates side by side in one matrix.

G = gates × H. The class of the parameters declares once, as `gates`, which block
belongs to which gate. Initializers, diagnostics and other libraries' layouts read it
there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import Params, Shape
from jaxrnn.ops.products import accumulation_dtype, matmul


class Gates(NamedTuple):
    """The blocks of packed weights, one letter each, in the order of their columns."""

    order: str
    """One letter for each block of H columns, such as "ifgo"."""
    keep: str | None = None
    """The gate that multiplies the previous state, if there is one."""
    admit: str | None = None
    """The gate that multiplies the new content, where it is not 1 - keep."""

    def columns(self, gate: str, hidden: int) -> slice:
        """Returns the columns of `gate` in a matrix `[*, G]`; H = `hidden`."""
        first = self.order.index(gate) * hidden
        return slice(first, first + hidden)


def units_in(params: Params) -> int:
    """Returns the hidden size H of packed parameters, from `w_hh [H, G]`.

    Raises:
      ValueError: if `w_ih`, `w_hh` and `b` do not fit one another or the number of
        gates.
    """
    gates = len(type(params).gates.order)
    # Anything other than a matrix, such as None, gets zeros here and is refused below.
    inputs, columns = (*np.shape(params.w_ih), 0, 0)[:2]
    hidden, width = (*np.shape(params.w_hh), 0, 0)[:2]
    # Transposed weights, as PyTorch stores them, are refused with the shape they need.
    if gates > 1 and hidden == gates * width:
        hidden = width
    width = gates * hidden
    if columns != width == inputs:
        inputs = columns
    expected = {"w_ih": (inputs, width), "w_hh": (hidden, width), "b": (width,)}
    for name, shape in expected.items():
        got = np.shape(getattr(params, name))
        if got == shape:
            continue
        cure = "`cell.init` makes the right ones."
        if got == shape[::-1]:
            cure = f"Transpose it: {name}.T."
        raise ValueError(
            f"`{name}` must have shape {shape} for {gates} gate(s) of H = {hidden} "
            f"units, but got {got}. {cure}"
        )
    return hidden


def state_shape(params: Params, batch_shape: Shape) -> Shape:
    """Returns `(*B, H)`, the shape of a state's arrays.

    Raises:
      TypeError, ValueError: if `batch_shape` is not a tuple of sizes, or as `units_in`.
    """
    return (*arguments.batch_shape("batch_shape", batch_shape), units_in(params))


def affine(
    xs: Float[Array, "*N I"], w_ih: Float[Array, "I G"], b: Float[Array, " G"]
) -> Float[Array, "*N G"]:
    """Returns `xs @ w_ih + b`: the drive of every cell with packed weights.

    Raises:
      ValueError: if the last axis of `xs` is not the input size of `w_ih`.
    """
    if xs.shape[-1] != w_ih.shape[0]:
        raise ValueError(
            f"the last axis of the inputs must be the input size I = {w_ih.shape[0]} "
            f"of `w_ih` {w_ih.shape}, but they have {xs.shape[-1]} features. Make the "
            f"parameters with `cell.init(key, {xs.shape[-1]}, hidden_size)`, or feed "
            f"inputs of size {w_ih.shape[0]}."
        )
    return matmul(xs, w_ih) + b


def input_weights(
    key: PRNGKeyArray, input_size: int, hidden_size: int, gates: Gates, dtype: DTypeLike
) -> Float[Array, "I G"]:
    """Draws Glorot-uniform blocks `[I, H]`, one for each gate.

    They keep the variance of the drive near that of the input at any width (Glorot &
    Bengio, 2010, eq. 16). Each gate is drawn as a layer of its own: over the packed
    `[I, G]` the bound would shrink with the number of gates.
    """
    shape = (input_size, hidden_size)
    return _draw_blocks(initializers.glorot_uniform(), key, shape, gates, dtype)


def recurrent_weights(
    key: PRNGKeyArray, hidden_size: int, gates: Gates, dtype: DTypeLike
) -> Float[Array, "H G"]:
    """Draws orthogonal blocks `[H, H]`, one for each gate.

    All singular values are 1, so an untrained network's product of Wₘ over many steps
    neither explodes nor vanishes by itself (Saxe, McClelland & Ganguli, 2014, section
    3).
    """
    shape = (hidden_size, hidden_size)
    return _draw_blocks(initializers.orthogonal(), key, shape, gates, dtype)


def _draw_blocks(initializer, key, shape, gates, dtype) -> Array:
    # Drawn in float32 or wider: there is no QR decomposition in bfloat16.
    keys = jax.random.split(key, len(gates.order))
    matrices = [initializer(k, shape, accumulation_dtype(dtype)) for k in keys]
    return jnp.concatenate(matrices, axis=-1).astype(dtype)
