"""Layers made of layers: one after another, both ways in time, beside an identity."""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from jaxrnn import arguments, checks
from jaxrnn.cells.base import Shape
from jaxrnn.layers import base
from jaxrnn.layers.base import Layer, layer_of, step_mask
from jaxrnn.layers.pointwise import table_of
from jaxrnn.ops.ids import leading_shape
from jaxrnn.ops.selection import flip, keep

Merge = Literal["concatenate", "sum", "mean", "product"]


class BothWays(NamedTuple):
    """Parameters, or states, of a bidirectional layer, one tree for each direction."""

    forward: Any
    backward: Any


def stack(*layers: Layer) -> Layer:
    """Returns the layer that runs layers one after another.

    Parameters and state are tuples, with one entry for each layer. A key is split among
    the layers. An embedding in front of a recurrent layer is folded into it
    (`layers.embedding`).

    Raises:
      TypeError: if a layer is not a Layer.
      ValueError: if there is none.
    """
    if not layers:
        raise ValueError("`stack` must have at least one layer, but got none.")
    given = tuple(base.checked(f"layers[{n}]", a) for n, a in enumerate(layers))
    return layer_of(_Stack(given))


def bidirectional(layer: Layer, merge: Merge = "concatenate") -> Layer:
    """Returns the layer that reads a sequence in both directions of time.

    Both directions have parameters and a state of their own, `BothWays(forward,
    backward)`. The backward one reads each sequence from its own last step that is not
    masked, so a batch gives what each of its sequences gives alone. Its state enters at
    the end of the sequence and comes out at the start. Where `reset` is True a sequence
    begins, for both: the backward direction starts anew at the step before.

    Because it reads a sequence from its end, it has no `step`, and splitting a sequence
    into calls changes the result.

    Args:
      layer: any layer with a `step`, a `recurrent` or a `stack` of them.
      merge: how both outputs become one: "concatenate" (forward first), "sum", "mean"
        or "product".

    Raises:
      TypeError: if `layer` is not a Layer.
      ValueError: if `merge` is another one.

    Source: Schuster & Paliwal (1997), IEEE Trans. Signal Processing 45.
    """
    if merge not in get_args(Merge):
        raise ValueError(
            f"`merge` must be one of {', '.join(get_args(Merge))}, but got {merge!r}."
        )
    return layer_of(_Bidirectional(base.checked("layer", layer), merge))


def residual(layer: Layer) -> Layer:
    """Returns the layer `x + layer(x)`, whose input and output sizes are equal.

    Parameters and state are the layer's own. `init` raises ValueError if the sizes
    differ.

    Raises:
      TypeError: if `layer` is not a Layer.

    Source: He et al. (2016), CVPR; between recurrent layers: Wu et al. (2016),
    arXiv:1609.08144, equation 6.
    """
    return layer_of(_Residual(base.checked("layer", layer)))


class _Stack(NamedTuple):
    layers: tuple[Layer, ...]

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> tuple[Any, ...]:
        arguments.key("key", key)
        params = []
        for layer, own in zip(self.layers, self._split(key), strict=True):
            params.append(layer.init(own, input_size, dtype))
            input_size = layer.output_size(input_size)
        return tuple(params)

    def initial_state(self, params: Any, batch_shape: Shape) -> tuple[Any, ...]:
        params = self._each("params", params)
        return tuple(
            layer.initial_state(p, batch_shape)
            for layer, p in zip(self.layers, params, strict=True)
        )

    def unroll(
        self,
        params: Any,
        state: Any,
        xs: Shaped[Array, "T ..."],
        *,
        mask: Bool[Array, "T *B"] | None = None,
        reset: Bool[Array, "T *B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[tuple[Any, ...], Any]:
        xs = checks.sequences("xs", xs)
        params, folded = self._folded(self._each("params", params), xs)
        return self._through("unroll", params, state, xs, mask, reset, key, folded)

    def step(
        self,
        params: Any,
        state: Any,
        x: Shaped[Array, "..."],
        *,
        mask: Bool[Array, "*B"] | None = None,
        reset: Bool[Array, "*B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[tuple[Any, ...], Any]:
        params = self._each("params", params)
        return self._through("step", params, state, x, mask, reset, key)

    def output_size(self, input_size: int | None) -> int:
        for layer in self.layers:
            input_size = layer.output_size(input_size)
        assert input_size is not None
        return input_size

    def fold(self, params: Any, table: Float[Array, "V I"]) -> Any:
        first, *rest = self._each("params", params)
        folded = self.layers[0].fold(first, table)
        return None if folded is None else (folded, *rest)

    def _through(
        self,
        name: str,
        params: tuple[Any, ...],
        state: Any,
        xs: Array,
        mask: Array | None,
        reset: Array | None,
        key: PRNGKeyArray | None,
        folded: bool = False,
    ) -> tuple[tuple[Any, ...], Any]:
        """Runs the layers by `unroll` or `step`, except a first one that is folded."""
        count = len(self.layers)
        states = [None] * count if state is None else self._each("state", state)
        keys = [None] * count if key is None else self._split(key)
        after = [()] if folded else []
        for n in range(len(after), count):
            run = getattr(self.layers[n], name)
            options = {"mask": mask, "reset": reset, "key": keys[n]}
            new, xs = run(params[n], states[n], xs, **options)
            after.append(new)
        return tuple(after), xs

    def _folded(
        self, params: tuple[Any, ...], xs: Array
    ) -> tuple[tuple[Any, ...], bool]:
        """Returns the parameters, an embedding folded into the layer after it, if any.

        A product with the rows of the table must be smaller than one with those of all
        steps.
        """
        if len(self.layers) < 2:
            return params, False
        table = table_of(self.layers[0], params[0], xs)
        if table is None:
            return params, False
        rows = math.prod(leading_shape(xs))
        if not isinstance(rows, int) or table.shape[0] > rows:
            return params, False
        second = self.layers[1].fold(params[1], table)
        if second is None:
            return params, False
        return (params[0], second, *params[2:]), True

    def _split(self, key: PRNGKeyArray) -> list[Any]:
        return list(jax.random.split(key, len(self.layers)))

    def _each(self, name: str, got: Any) -> tuple[Any, ...]:
        """Returns the entries of the layers; raises unless there is one for each."""
        if not isinstance(got, tuple | list) or len(got) != len(self.layers):
            what = arguments.describe(got)
            if isinstance(got, tuple | list):
                what = f"{len(got)} entries"
            made = "init" if name == "params" else "initial_state"
            raise TypeError(
                f"`{name}` of a stack must be a tuple with an entry for each of its "
                f"{len(self.layers)} layers, but got {what}. `layer.{made}` makes it."
            )
        return tuple(got)


class _Bidirectional(NamedTuple):
    layer: Layer
    merge: Merge

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> BothWays:
        arguments.key("key", key)
        keys = jax.random.split(key)
        return BothWays(*(self.layer.init(k, input_size, dtype) for k in keys))

    def initial_state(self, params: Any, batch_shape: Shape) -> BothWays:
        params = _both_ways("params", params)
        return BothWays(*(self.layer.initial_state(p, batch_shape) for p in params))

    def unroll(
        self,
        params: Any,
        state: Any,
        xs: Shaped[Array, "T ..."],
        *,
        mask: Bool[Array, "T *B"] | None = None,
        reset: Bool[Array, "T *B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[BothWays, Array]:
        xs = checks.sequences("xs", xs)
        mask = step_mask("mask", mask, xs, "(T, *B)")
        reset = step_mask("reset", reset, xs, "(T, *B)")
        params = _both_ways("params", params)
        before = _both_ways("state", (None, None) if state is None else state)
        keys = (None, None) if key is None else jax.random.split(key)
        last, ahead = self.layer.unroll(
            params.forward, before.forward, xs, mask=mask, reset=reset, key=keys[0]
        )
        # Masked steps copy the state, so all sequences may be turned around at once.
        # Where one begins, another one ends, a step earlier.
        if reset is not None:
            ends = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
            reset = flip(ends)
        first, back = self.layer.unroll(
            params.backward,
            before.backward,
            flip(xs),
            mask=None if mask is None else flip(mask),
            reset=reset,
            key=keys[1],
        )
        return BothWays(last, first), self._merged(ahead, flip(back))

    def step(self, *arguments: Any, **keywords: Any) -> Any:
        raise TypeError(
            "a bidirectional layer has no `step`: it reads each sequence from its end "
            "too. Call `unroll` on whole sequences."
        )

    def output_size(self, input_size: int | None) -> int:
        size = self.layer.output_size(input_size)
        return 2 * size if self.merge == "concatenate" else size

    def fold(self, params: Any, table: Float[Array, "V I"]) -> BothWays | None:
        folded = BothWays(
            *(self.layer.fold(p, table) for p in _both_ways("params", params))
        )
        return None if folded.forward is None else folded

    def _merged(self, ahead: Array, back: Array) -> Array:
        if self.merge == "concatenate":
            return jnp.concatenate([ahead, back], axis=-1)
        if self.merge == "product":
            return ahead * back
        return ahead + back if self.merge == "sum" else 0.5 * (ahead + back)


def _both_ways(name: str, got: Any) -> BothWays:
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise TypeError(
            f"`{name}` of a bidirectional layer must be BothWays(forward, backward), "
            f"but got {arguments.describe(got)}."
        )
    return BothWays(*got)


class _Residual(NamedTuple):
    layer: Layer

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Any:
        input_size = base.known_size(input_size, "layers.residual")
        if (size := self.layer.output_size(input_size)) != input_size:
            raise ValueError(
                f"the layer in `residual` must have as many outputs as inputs, but has "
                f"{size} for {input_size}. Put layers.dense({input_size}) at its end: "
                "layers.stack(layer, layers.dense(…))."
            )
        return self.layer.init(key, input_size, dtype)

    def initial_state(self, params: Any, batch_shape: Shape) -> Any:
        return self.layer.initial_state(params, batch_shape)

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
        xs = base.vectors("xs", xs, jnp.float32)
        mask = step_mask("mask", mask, xs, "(T, *B)")
        options = {"mask": mask, "reset": reset, "key": key}
        state, ys = self.layer.unroll(params, state, xs, **options)
        return state, keep(mask, xs) + ys

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
        x = base.vectors("x", x, jnp.float32)
        mask = step_mask("mask", mask, x, "(*B)")
        options = {"mask": mask, "reset": reset, "key": key}
        state, y = self.layer.step(params, state, x, **options)
        return state, keep(mask, x) + y

    def output_size(self, input_size: int | None) -> int:
        return base.known_size(input_size, "layers.residual")

    def fold(self, params: Any, table: Float[Array, "V I"]) -> None:
        return None


register_namedtuple_serialization(BothWays, serialized_name="jaxrnn.layers.BothWays")
