"""Dropout between layers. That inside a recursion is a cell: `jaxrnn.cells.noise`."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import Shape
from jaxrnn.layers.base import Layer, known_size, layer_of, step_mask, vectors
from jaxrnn.ops import noise
from jaxrnn.ops.selection import keep


def dropout(rate: float, *, variational: bool = False) -> Layer:
    """Returns the layer that drops features, and scales the others by 1/(1 - rate).

    It has no parameters, `()`. Its state is the number of steps so far, float32 `[*B]`,
    which chooses the masks, so that windows of one sequence under one key do not repeat
    them; with `variational` there is no state, `()`. All sequences of a batch must have
    made the same number of steps; inside `shard_map` and `vmap`, give each part a key
    of its own.

    Args:
      rate: probability that a feature is dropped, 0 ≤ rate < 1.
      variational: whether one mask serves all steps of a sequence (Gal & Ghahramani,
        2016); else each step has its own.

    Raises:
      TypeError, ValueError: if `rate` is not in [0, 1).

    Source: Srivastava et al. (2014), JMLR 15; before a recurrent layer: Zaremba,
    Sutskever & Vinyals (2014), arXiv:1409.2329.
    """
    rate = arguments.share("rate", rate)
    return layer_of(_Dropout(rate, arguments.flag("variational", variational)))


class _Dropout(NamedTuple):
    rate: float
    variational: bool

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> tuple[()]:
        return ()

    def initial_state(self, params: Any, batch_shape: Shape) -> Any:
        shape = arguments.batch_shape("batch_shape", batch_shape)
        return () if self.variational else jnp.zeros(shape, jnp.float32)

    def unroll(
        self,
        params: Any,
        state: Any,
        xs: Float[Array, "T *B I"],
        *,
        mask: Bool[Array, "T *B"] | None = None,
        reset: Bool[Array, "T *B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, Float[Array, "T *B I"]]:
        xs = vectors("xs", xs, jnp.float32)
        mask = step_mask("mask", mask, xs, "(T, *B)")
        if state is None:
            state = self.initial_state(params, xs.shape[1:-1])
        after = () if self.variational else state + xs.shape[0]
        return after, keep(mask, self._dropped(xs, state, key))

    def step(
        self,
        params: Any,
        state: Any,
        x: Float[Array, "*B I"],
        *,
        mask: Bool[Array, "*B"] | None = None,
        reset: Bool[Array, "*B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, Float[Array, "*B I"]]:
        x = vectors("x", x, jnp.float32)
        mask = step_mask("mask", mask, x, "(*B)")
        if state is None:
            state = self.initial_state(params, x.shape[:-1])
        after = () if self.variational else state + 1
        return after, keep(mask, self._dropped(x[None], state, key)[0])

    def output_size(self, input_size: int | None) -> int:
        return known_size(input_size, "layers.dropout")

    def fold(self, params: Any, table: Float[Array, "V I"]) -> None:
        return None

    def _dropped(self, xs: Array, steps: Any, key: Any) -> Array:
        """Returns `xs [T, *B, I]` with some features 0; unchanged without a key."""
        if key is None or self.rate == 0:
            return xs
        arguments.key("key", key)

        def draw(key):
            return noise.kept(key, self.rate, xs.shape[1:], xs.dtype)

        masks = noise.of_steps(draw, key, steps, xs.shape[0], self.variational)
        return xs * noise.like(xs, masks)
