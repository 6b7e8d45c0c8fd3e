"""Layers that map each step by itself: no state, any leading axes.

The lecture's output is y[t] = f(W₂ h[t]): `dense`, for all t at once, since no output
depends on another.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from jaxrnn import arguments, checks
from jaxrnn.cells.base import Shape
from jaxrnn.layers.base import Layer, known_size, layer_of, step_mask, vectors
from jaxrnn.methods import options_of
from jaxrnn.ops.ids import are_ids, indices, one_hot
from jaxrnn.ops.placement import is_explicit
from jaxrnn.ops.products import accumulation_dtype, matmul
from jaxrnn.ops.selection import keep


class DenseParams(NamedTuple):
    """`w [I, O]` and `b [O]`."""

    w: Array
    b: Array


class LayerNormParams(NamedTuple):
    """`scale [I]` and `offset [I]`."""

    scale: Array
    offset: Array


class EmbeddingParams(NamedTuple):
    """`table [V, I]`, a row for each id."""

    table: Array


def dense(size: int) -> Layer:
    """Returns the layer `x @ w + b`, `[..., I]` to `[..., O]`; O = `size`.

    Its parameters are `DenseParams`: Glorot-uniform weights (Glorot & Bengio, 2010,
    equation 16) and zeros. Products accumulate in float32 or wider.

    Raises:
      TypeError, ValueError: if `size` is not an integer ≥ 1.
    """
    return _pointwise(_Dense(checks.positive("size", size)))


def layer_norm(epsilon: float = 1e-5) -> Layer:
    """Returns the layer `scale (x - mean) / √(variance + ε) + offset`, over features.

    Its parameters are `LayerNormParams`, `[I]`: ones and zeros at first. Mean and
    variance, over the last axis of `[..., I]`, are computed in float32 or wider.

    Args:
      epsilon: ε > 0, which bounds the slope where all features are equal.

    Raises:
      TypeError, ValueError: if `epsilon` is not a number above 0.

    Source: Ba, Kiros & Hinton (2016), arXiv:1607.06450.
    """
    return _pointwise(_LayerNorm(checks.between("epsilon", epsilon, 0.0)))


def embedding(vocabulary: int, size: int) -> Layer:
    """Returns the layer that replaces ids `[...]` by rows of a table, `[..., I]`.

    Its parameters are `EmbeddingParams(table [V, I])`, standard normal at first:
    features of unit variance. Its `init` needs no input size. In a `stack`, in front of
    a recurrent layer, the table is folded into that layer's `w_ih`, once per call of
    `unroll`, and the cell then reads ids. This is done where V is at most T·B, so that
    fewer rows are multiplied.

    An id outside 0 … V - 1 is an error where ids are known. Under `jit` they are not;
    such an id then stands for zeros, as in `jaxrnn.unroll`.

    Args:
      vocabulary: V, the number of ids.
      size: I.

    Raises:
      TypeError, ValueError: if an argument is not an integer ≥ 1.
    """
    given = {"vocabulary": vocabulary, "size": size}
    return _pointwise(_Embedding(*(checks.positive(n, s) for n, s in given.items())))


def table_of(layer: Layer, params: Any, ids: Array) -> Array | None:
    """Returns the table `[V, I]` of an embedding, its ids checked; None of others."""
    options = options_of(layer.unroll)
    if not isinstance(options, _Pointwise) or not isinstance(options.map, _Embedding):
        return None
    return options.map.admitted(params, ids)[0].table


def _pointwise(options: Any) -> Layer:
    return layer_of(_Pointwise(type(options), options))


class _Pointwise(NamedTuple):
    """A layer without a state out of `init`, `apply` and `output_size` of `map`."""

    kind: type  # equal NamedTuples of two classes are two layers
    map: Any

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Any:
        return self.map.init(key, input_size, dtype)

    def initial_state(self, params: Any, batch_shape: Shape) -> tuple[()]:
        return ()

    def unroll(
        self,
        params: Any,
        state: Any,
        xs: Shaped[Array, "T ..."],
        *,
        mask: Bool[Array, "T *B"] | None = None,
        reset: Bool[Array, "T *B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[tuple[()], Array]:
        return (), self._masked("xs", params, xs, mask, "(T, *B)")

    def step(
        self,
        params: Any,
        state: Any,
        x: Shaped[Array, "..."],
        *,
        mask: Bool[Array, "*B"] | None = None,
        reset: Bool[Array, "*B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[tuple[()], Array]:
        return (), self._masked("x", params, x, mask, "(*B)")

    def output_size(self, input_size: int | None) -> int:
        return self.map.output_size(input_size)

    def fold(self, params: Any, table: Float[Array, "V I"]) -> None:
        return None

    def _masked(
        self, name: str, params: Any, xs: Array, mask: Array | None, axes: str
    ) -> Array:
        params, xs = self.map.admitted(params, xs, name)
        mask = step_mask("mask", mask, xs, axes)
        return keep(mask, self.map.apply(params, keep(mask, xs)))


class _Dense(NamedTuple):
    size: int

    def init(self, key: PRNGKeyArray, input_size: int | None, dtype: DTypeLike) -> Any:
        input_size = known_size(input_size, "layers.dense")
        arguments.for_init(key, dtype)
        w = initializers.glorot_uniform()(
            key, (input_size, self.size), accumulation_dtype(dtype)
        )
        return DenseParams(w.astype(dtype), jnp.zeros(self.size, dtype))

    def output_size(self, input_size: int | None) -> int:
        return self.size

    def admitted(self, params: Any, xs: Any, name: str = "xs") -> tuple[Any, Array]:
        w, b = _params(DenseParams, params)
        if w.ndim != 2 or b.shape != w.shape[1:]:
            raise ValueError(
                "`params.w` must have shape (I, O) and `params.b` (O,), but got "
                f"{w.shape} and {b.shape}."
            )
        xs = vectors(name, xs, w.dtype)
        _same_size(name, xs, w.shape[0], f"the first of `w` {w.shape}")
        return DenseParams(w, b), xs

    def apply(
        self, params: DenseParams, xs: Float[Array, "*N I"]
    ) -> Float[Array, "*N O"]:
        return matmul(xs, params.w) + params.b


class _LayerNorm(NamedTuple):
    epsilon: float

    def init(self, key: PRNGKeyArray, input_size: int | None, dtype: DTypeLike) -> Any:
        input_size = known_size(input_size, "layers.layer_norm")
        arguments.for_init(key, dtype)
        return LayerNormParams(
            jnp.ones(input_size, dtype), jnp.zeros(input_size, dtype)
        )

    def output_size(self, input_size: int | None) -> int:
        return known_size(input_size, "layers.layer_norm")

    def admitted(self, params: Any, xs: Any, name: str = "xs") -> tuple[Any, Array]:
        params = _params(LayerNormParams, params)
        xs = vectors(name, xs, params.scale.dtype)
        _same_size(name, xs, params.scale.shape[0], "the size of `scale`")
        return params, xs

    def apply(
        self, params: LayerNormParams, xs: Float[Array, "*N I"]
    ) -> Float[Array, "*N I"]:
        wide = xs.astype(accumulation_dtype(xs.dtype))
        centered = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centered**2, axis=-1, keepdims=True)
        normed = centered * jax.lax.rsqrt(variance + self.epsilon)
        return normed.astype(xs.dtype) * params.scale + params.offset


class _Embedding(NamedTuple):
    vocabulary: int
    size: int

    def init(self, key: PRNGKeyArray, input_size: int | None, dtype: DTypeLike) -> Any:
        if input_size not in (None, self.vocabulary):
            raise ValueError(
                f"`input_size` must be None or the vocabulary, {self.vocabulary}, for "
                f"layers.embedding, but got {input_size!r}."
            )
        arguments.for_init(key, dtype)
        shape = self.vocabulary, self.size
        table = jax.random.normal(key, shape, accumulation_dtype(dtype))
        return EmbeddingParams(table.astype(dtype))

    def output_size(self, input_size: int | None) -> int:
        return self.size

    def admitted(self, params: Any, xs: Any, name: str = "xs") -> tuple[Any, Array]:
        params, ids = _params(EmbeddingParams, params), checks.array(name, xs)
        if not are_ids(ids):
            raise TypeError(
                f"`{name}` of an embedding must be ids, integers, but got {ids.dtype}."
            )
        if params.table.ndim != 2:
            raise ValueError(
                f"`params.table` must have shape (V, I), but got {params.table.shape}."
            )
        if checks.is_known(ids) and ids.size:
            known, last = np.asarray(ids), params.table.shape[0] - 1
            wrong = known[(known < 0) | (known > last)]
            if wrong.size:
                raise ValueError(
                    f"ids must be between 0 and V - 1 = {last}, but got {wrong[0]}. "
                    "Mask steps without an id, and give them id 0."
                )
        return params, ids

    def apply(self, params: EmbeddingParams, ids: Array) -> Float[Array, "*N I"]:
        table = params.table
        if is_explicit(ids) or is_explicit(table):
            return matmul(one_hot(ids, table.shape[0], table.dtype), table)
        rows = table.at[indices(ids)]
        return rows.get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _params(kind: Any, params: Any) -> Any:
    """Returns the parameters as arrays; raises unless they are floating, of `kind`."""
    params = checks.unwrapped(params)
    if not isinstance(params, kind):
        raise TypeError(
            f"`params` must be {kind.__name__}, but got {arguments.describe(params)}. "
            f"The order is layer.unroll(params, state, xs); from a dict: "
            f"{kind.__name__}(**params)."
        )
    arrays = {n: checks.array(f"params.{n}", a) for n, a in params._asdict().items()}
    for name, a in arrays.items():
        if not jnp.issubdtype(a.dtype, jnp.floating):
            raise TypeError(f"`params.{name}` must be floating, but got {a.dtype}.")
    return kind(**arrays)


def _same_size(name: str, xs: Array, size: int, whose: str) -> None:
    if xs.shape[-1] != size:
        raise ValueError(
            f"the last axis of `{name}` must be {size}, {whose}, but `{name}` has "
            f"shape {xs.shape}."
        )


for _kind in (DenseParams, LayerNormParams, EmbeddingParams):
    register_namedtuple_serialization(
        _kind, serialized_name=f"jaxrnn.layers.{_kind.__name__}"
    )
