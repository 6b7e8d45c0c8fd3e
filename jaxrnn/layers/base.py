"""The contract of a layer: pure functions, like a cell's, over whole sequences.

A layer maps a sequence to a sequence and carries a state, which may be empty:

    params = layer.init(key, input_size)
    state, ys = layer.unroll(params, state, xs, mask=None, reset=None, key=None)
    state, y = layer.step(params, state, x, mask=None, reset=None, key=None)

Time is the first axis, `xs [T, *B, I]`, and any number of batch axes follow. For every
layer but those that read a sequence from its end:

- A loop of `step` equals `unroll`, and a sequence may be split into calls anywhere.
- A masked step copies the state and outputs zero. Whatever its input holds, NaN
  included, reaches no output and no gradient.
- A step at which `reset` is True starts from the initial state.
- Dropout and its kin are on if a `key` is given, and off without one. One key gives the
  same masks to a whole sequence, to its parts and to single steps, because layers that
  draw a mask per step count the steps in their state.

How a gradient is computed is not the layer's business but the engine's: `recurrent`
takes any function with the arguments of `jaxrnn.unroll`.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from jaxrnn import checks
from jaxrnn.arguments import Given, describe
from jaxrnn.cells.base import Shape
from jaxrnn.methods import methods_of
from jaxrnn.ops.ids import leading_shape


class Init(Protocol):
    """`(key, input_size=None, dtype=float32) -> params`."""

    def __call__(
        self,
        key: PRNGKeyArray,
        input_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Any: ...


class InitialState(Protocol):
    """`(params, batch_shape) -> state`, leaves `[*B, ...]`."""

    def __call__(self, params: Any, batch_shape: Shape, /) -> Any: ...


class Unroll(Protocol):
    """`(params, state, xs [T, *B, I], *, mask, reset, key) -> (state, ys)`."""

    def __call__(
        self,
        params: Any,
        state: Any,
        xs: Array,
        /,
        *,
        mask: Array | None = None,
        reset: Array | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, Any]: ...


class Step(Protocol):
    """`(params, state, x [*B, I], *, mask, reset, key) -> (state, y)`."""

    def __call__(
        self,
        params: Any,
        state: Any,
        x: Array,
        /,
        *,
        mask: Array | None = None,
        reset: Array | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, Any]: ...


class OutputSize(Protocol):
    """`(input_size) -> output_size`."""

    def __call__(self, input_size: int | None, /) -> int: ...


class Fold(Protocol):
    """`(params, table [V, I]) -> params` that read ids below V, or None."""

    def __call__(self, params: Any, table: Array, /) -> Any: ...


@jax.tree_util.register_static
class Layer(NamedTuple):
    """A layer: a hashable value without arrays, static under `jit` and `vmap`.

    Layers that are made alike are equal, so making one again compiles nothing again.

    Attributes:
      init: `(key, input_size=None, dtype=float32) -> params`. Only a layer that reads
        ids of its own vocabulary needs no input size.
      initial_state: `(params, batch_shape) -> state`, leaves `[*B, ...]`; `()` if there
        is none.
      unroll: `(params, state, xs, *, mask, reset, key) -> (state, ys)`, `[T, *B, I]` to
        `[T, *B, O]`. A `state` of None is the initial one. `mask` and `reset` are bool
        `[T, *B]`; `key` is a random key, or None for no noise.
      step: `(params, state, x, *, mask, reset, key) -> (state, y)`, one step of
        `unroll`: `[*B, I]` to `[*B, O]`. A layer that reads a sequence from its end
        raises `TypeError`.
      output_size: `(input_size) -> O`.
      fold: `(params, table) -> params`, the parameters of the same layer behind an
        embedding: for ids i they give what `params` give for rows i of the table
        `[V, I]`. None where there are no such parameters.
    """

    init: Init
    initial_state: InitialState
    unroll: Unroll
    step: Step
    output_size: OutputSize
    fold: Fold


def layer_of(options: Any) -> Layer:
    """Returns the layer whose functions are the methods of `options`, a NamedTuple."""
    return Layer(*methods_of(options, Layer._fields))


def checked(name: str, got: Given) -> Layer:
    """Returns `got` if it is a Layer; raises `TypeError` otherwise."""
    if not isinstance(got, Layer):
        raise TypeError(
            f"`{name}` must be a jaxrnn.layers.Layer, such as layers.dense(10), but "
            f"got {describe(got)}. A cell becomes one by layers.recurrent(cell, size)."
        )
    return got


def known_size(input_size: Given, layer: str) -> int:
    """Returns the input size; raises unless it is an integer ≥ 1."""
    if input_size is None:
        raise TypeError(
            f"`input_size` must be given to the `init` of {layer}: only a layer that "
            "begins with an embedding needs none. Call init(key, input_size)."
        )
    return checks.positive("input_size", input_size)


def step_mask(name: str, got: Given, xs: Array, axes: str) -> Array | None:
    """Returns a mask of the steps of `xs`; raises unless it is bool of their shape.

    `axes` are those of the mask, "(T, *B)" or "(*B)".
    """
    if got is None:
        return None
    return checks.steps(name, checks.array(name, got), leading_shape(xs), axes)


def vectors(name: str, got: Given, dtype: DTypeLike) -> Array:
    """Returns `got` as an array `[..., I]`; raises unless it is floating.

    `dtype` is that of the parameters, for the cure.
    """
    xs = checks.array(name, got)
    if not jnp.issubdtype(xs.dtype, jnp.floating) or xs.ndim == 0:
        cast = f"{name}.astype({str(jnp.dtype(dtype))!r})"
        raise TypeError(
            f"`{name}` must be floating, the features last, but got {xs.dtype} of "
            f"shape {xs.shape}. Cast numbers: {cast}; for ids, put layers.embedding "
            "in front."
        )
    return xs
