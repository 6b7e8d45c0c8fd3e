"""Packed weights: the blocks of all gates side by side in one matrix.

G = gates × H. The class of the parameters declares once, as `gates`, which block
belongs to which gate. Initializers, diagnostics and other libraries' layouts read it
there.
"""

from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Float, Integer, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import Params, Shape
from jaxrnn.ops import placement
from jaxrnn.ops.ids import are_ids, indices, one_hot
from jaxrnn.ops.products import accumulation_dtype, matmul, outer_sum


class Gates(NamedTuple):
    """The blocks of packed weights, one letter each, in the order of their columns."""

    order: str
    """One letter for each block of H columns, such as "ifgo"."""
    keep: str | None = None
    """The gate that multiplies the previous state, if there is one."""
    admit: str | None = None
    """The gate that multiplies the new content, where it is not 1 - keep."""
    meet: str | None = None
    """The matrix `[H, G]` in whose product with h the units meet, and nowhere else.

    Such a cell can be split by units (`jaxrnn.sharding`). None: there is no such one,
    as where units are normalized together.
    """

    def columns(self, gate: str, hidden: int) -> slice:
        """Returns the columns of `gate` in a matrix `[*, G]`; H = `hidden`."""
        first = self.order.index(gate) * hidden
        return slice(first, first + hidden)


Same = TypeVar("Same")


@runtime_checkable
class Recurrent(Protocol):
    """Parameters with a recurrent matrix `w_hh [H, G]`, such as `LSTMParams`."""

    @property
    def w_hh(self) -> Array:
        """`[H, G]`."""
        ...

    def _replace(self: Same, **kwargs: Any) -> Same: ...


RecurrentParams = TypeVar("RecurrentParams", bound=Recurrent)


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


def check_shapes(params: Params, expected: dict[str, tuple[int, ...]]) -> None:
    """Raises `ValueError` unless the named parameters have these shapes, `(*N,)`.

    It is for parameters other than `w_ih`, `w_hh [H, G]` and `b` (`units_in`).
    """
    for name, shape in expected.items():
        got = np.shape(getattr(params, name))
        if got != shape:
            raise ValueError(
                f"`{name}` must have shape {shape}, but got {got}. `cell.init` makes "
                "the right ones."
            )


def columns_of(params: Params) -> tuple[int, int]:
    """Returns I and G of `w_ih [I, G]`, or zeros if it is not a matrix."""
    shape = np.shape(params.w_ih)
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)


def state_shape(params: Params, batch_shape: Shape) -> Shape:
    """Returns `(*B, H)`, the shape of a state's arrays.

    Raises:
      TypeError, ValueError: if `batch_shape` is not a tuple of sizes, or as `units_in`.
    """
    return (*arguments.batch_shape("batch_shape", batch_shape), units_in(params))


def drive(
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    w_ih: Float[Array, "I G"],
    dtype: DTypeLike,
) -> Float[Array, "*N G"]:
    """Returns `xs @ w_ih` in `dtype`: the drive of every cell with packed weights.

    The bias is left to the step. Added here, it would cost a pass over the drives of
    all steps, and as much memory again.

    Ids `[*N]` stand for one-hot vectors: they select rows of `w_ih`, and zeros where an
    id is outside 0 … I - 1.

    Raises:
      ValueError: if the last axis of vectors is not the input size of `w_ih`.
    """
    if are_ids(xs):
        return _rows(w_ih, xs).astype(dtype)
    if xs.shape[-1] != w_ih.shape[0]:
        raise ValueError(
            f"the last axis of the inputs must be the input size I = {w_ih.shape[0]} "
            f"of `w_ih` {w_ih.shape}, but they have {xs.shape[-1]} features. Make the "
            f"parameters with `cell.init(key, {xs.shape[-1]}, hidden_size)`, or feed "
            f"inputs of size {w_ih.shape[0]}."
        )
    return matmul(xs, w_ih).astype(dtype)


def drive_vjp(
    xs: Float[Array, "*N I"] | Integer[Array, "*N"],
    w_ih_t: Float[Array, "G I"],
    delta: Float[Array, "*N G"],
) -> tuple[Float[Array, "I G"], Float[Array, "*N I"] | None]:
    """Returns Σ xᵀ δ and δ w_ihᵀ: the gradients of `drive` by w_ih and by xs.

    The sum is in float32 or wider. Ids have no gradient: it is None, and δ is added to
    the rows that they select.
    """
    dtype = w_ih_t.dtype
    if not are_ids(xs):
        return outer_sum(xs, delta, dtype), matmul(delta, w_ih_t)
    size = w_ih_t.shape[1]
    if _on_explicit_axes(xs, delta):
        return outer_sum(one_hot(xs, size, dtype), delta, dtype), None
    # Rounded to `dtype`, as a product with one-hot vectors would.
    terms = delta.astype(dtype).astype(accumulation_dtype(dtype))
    rows = jnp.zeros((size, delta.shape[-1]), terms.dtype).at[indices(xs)]
    return rows.add(terms, mode="drop", wrap_negative_indices=False), None


def _rows(w_ih: Array, ids: Array) -> Array:
    """Returns row `ids` of `w_ih`, `[*N, G]`; zeros where there is no such row."""
    if _on_explicit_axes(ids, w_ih):
        return matmul(one_hot(ids, w_ih.shape[0], w_ih.dtype), w_ih)
    rows = w_ih.at[indices(ids)]
    return rows.get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _on_explicit_axes(*arrays: Array) -> bool:
    """Returns whether to multiply by one-hot vectors: products know their sharding."""
    return any(map(placement.is_explicit, arrays))


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
    key: PRNGKeyArray,
    hidden_size: int,
    gates: Gates,
    dtype: DTypeLike,
    outputs: int | None = None,
) -> Float[Array, "P G"]:
    """Draws orthogonal blocks `[P, H]`, one for each gate; P = `outputs`, or H.

    All singular values are 1, so an untrained network's product of Wₘ over many steps
    neither explodes nor vanishes by itself (Saxe, McClelland & Ganguli, 2014, section
    3).
    """
    shape = (outputs or hidden_size, hidden_size)
    return _draw_blocks(initializers.orthogonal(), key, shape, gates, dtype)


def _draw_blocks(initializer, key, shape, gates, dtype) -> Array:
    # Drawn in float32 or wider: there is no QR decomposition in bfloat16.
    keys = jax.random.split(key, len(gates.order))
    matrices = [initializer(k, shape, accumulation_dtype(dtype)) for k in keys]
    return jnp.concatenate(matrices, axis=-1).astype(dtype)
