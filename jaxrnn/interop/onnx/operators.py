"""The operators around recurrent nodes: what exporters put before, between and after.

Each is a function of its inputs, with the operator's attributes by name, version 13 and
later. An attribute that a function does not name is refused, not ignored.

What depends on shapes alone is NumPy's, and so is static under `jit`: the sizes for a
reshape, say, which exporters compute inside the graph. All else is JAX's.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.interop.onnx.package import onnx_package


def is_static(*values: Any) -> bool:
    """Returns whether all values are known without running the model."""
    return all(v is None or isinstance(v, np.ndarray | np.generic) for v in values)


def _numpy(*values: Any) -> Any:
    return np if is_static(*values) else jnp


def _static(name: str, value: Any) -> Any:
    """Returns a shape, axis or index as NumPy's; raises if an input decides it."""
    if value is not None and not is_static(value):
        raise ValueError(f"`{name}` must not depend on the values of the inputs.")
    return value


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in np.ravel(_static(name, value)))


def _elementwise(name: str) -> Callable[..., Any]:
    def compute(*inputs: Any) -> Any:
        return getattr(_numpy(*inputs), name)(*inputs)

    return compute


def _nonlinear(function: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda x: function(jnp.asarray(x))


def _cast(x: Any, *, to: int) -> Any:
    dtype = onnx_package().helper.tensor_dtype_to_np_dtype(to)
    return x.astype(dtype if is_static(x) else jax.dtypes.canonicalize_dtype(dtype))


def _concat(*inputs: Any, axis: int) -> Any:
    return _numpy(*inputs).concatenate(inputs, axis)


def _constant_of_shape(shape: Any, *, value: Any = None) -> Any:
    return np.full(_sizes("shape", shape), np.float32(0) if value is None else value[0])


def _div(x: Any, y: Any) -> Any:
    numpy = _numpy(x, y)
    if not numpy.issubdtype(x.dtype, numpy.integer):
        return x / y
    # Integers are rounded toward zero.
    return numpy.sign(x) * numpy.sign(y) * (abs(x) // abs(y))


def _expand(x: Any, shape: Any) -> Any:
    sizes = np.broadcast_shapes(x.shape, _sizes("shape", shape))
    return _numpy(x).broadcast_to(x, sizes)


def _flatten(x: Any, *, axis: int = 1) -> Any:
    rows = int(np.prod(x.shape[:axis]))
    return x.reshape(rows, -1)


def _gather(x: Any, indices: Any, *, axis: int = 0) -> Any:
    numpy = _numpy(x, indices)
    if numpy is np:
        return np.take(x, indices, axis)
    indices = jnp.where(indices < 0, indices + x.shape[axis], indices)
    return jnp.take(x, indices, axis, mode="clip")


def _gemm(
    a: Any,
    b: Any,
    c: Any = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Any:
    product = alpha * jnp.matmul(a.T if transA else a, b.T if transB else b)
    return product if c is None else product + beta * c


def _layer_normalization(
    x: Any,
    scale: Any,
    b: Any = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Any:
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centered = wide - jnp.mean(wide, axes, keepdims=True)
    variance = jnp.mean(centered**2, axes, keepdims=True)
    normed = (centered * jax.lax.rsqrt(variance + epsilon)).astype(x.dtype) * scale
    return normed if b is None else normed + b


def _one_hot(ids: Any, depth: Any, values: Any, *, axis: int = -1) -> Any:
    (size,) = _sizes("depth", depth)
    off, on = values
    ids = jnp.where(ids < 0, ids + size, ids)
    return jnp.where(jax.nn.one_hot(ids, size, axis=axis, dtype=bool), on, off)


def _range(start: Any, limit: Any, delta: Any) -> Any:
    bounds = (_static("limit", a).item() for a in (start, limit, delta))
    return np.arange(*bounds, dtype=start.dtype)


def _reduction(name: str) -> Callable[..., Any]:
    def compute(
        x: Any,
        by_input: Any = None,
        *,
        axes: Any = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Any:
        # Axes were an attribute before they were an input.
        given = axes if by_input is None else by_input
        if given is None:
            if noop_with_empty_axes:
                return x
            given = np.arange(x.ndim)
        reduce = getattr(_numpy(x), name)
        return reduce(
            x, axis=_sizes("axes", np.asarray(given)), keepdims=bool(keepdims)
        )

    return compute


def _reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    sizes = _sizes("shape", shape)
    if not allowzero:
        sizes = tuple(n or x.shape[k] for k, n in enumerate(sizes))
    return x.reshape(sizes)


def _shape(x: Any, *, start: int = 0, end: int | None = None) -> Any:
    return np.asarray(x.shape[start:end], np.int64)


def _slice(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    starts, ends = _sizes("starts", starts), _sizes("ends", ends)
    axes = range(len(starts)) if axes is None else _sizes("axes", axes)
    steps = [1] * len(starts) if steps is None else _sizes("steps", steps)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # An end before the first element is written as a very low number.
        index[axis] = slice(start, None if end < -x.shape[axis] else end, step)
    return x[tuple(index)]


def _softmax(x: Any, *, axis: int = -1) -> Any:
    return jax.nn.softmax(x, axis)


def _log_softmax(x: Any, *, axis: int = -1) -> Any:
    return jax.nn.log_softmax(x, axis)


def _split(x: Any, sizes: Any = None, *, axis: int = 0, num_outputs: int = 1) -> Any:
    if sizes is None:
        # The last part is the smaller one.
        size = -(-x.shape[axis] // num_outputs)
        edges = [size * n for n in range(1, num_outputs)]
    else:
        edges = list(np.cumsum(_sizes("split", sizes))[:-1])
    return tuple(_numpy(x).split(x, edges, axis))


def _squeeze(x: Any, axes: Any = None) -> Any:
    return _numpy(x).squeeze(x, None if axes is None else _sizes("axes", axes))


def _transpose(x: Any, *, perm: Any = None) -> Any:
    return _numpy(x).transpose(x, perm)


def _unsqueeze(x: Any, axes: Any) -> Any:
    return _numpy(x).expand_dims(x, _sizes("axes", axes))


def _dropout(x: Any, ratio: Any = None, training: Any = None, *, seed: int = 0) -> Any:
    if training is not None and (not is_static(training) or bool(training)):
        raise ValueError("`training_mode` must be False.")
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _elementwise("abs"),
    "Add": _elementwise("add"),
    "And": _elementwise("logical_and"),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _div,
    "Dropout": _dropout,
    "Equal": _elementwise("equal"),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "Greater": _elementwise("greater"),
    "Identity": lambda x: x,
    "LayerNormalization": _layer_normalization,
    "Less": _elementwise("less"),
    "LogSoftmax": _log_softmax,
    "MatMul": _elementwise("matmul"),
    "Mul": _elementwise("multiply"),
    "Neg": _elementwise("negative"),
    "Not": _elementwise("logical_not"),
    "OneHot": _one_hot,
    "Or": _elementwise("logical_or"),
    "Pow": _elementwise("power"),
    "Range": _range,
    "ReduceMax": _reduction("max"),
    "ReduceMean": _reduction("mean"),
    "ReduceSum": _reduction("sum"),
    "Relu": _nonlinear(jax.nn.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _nonlinear(jax.nn.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _elementwise("sqrt"),
    "Squeeze": _squeeze,
    "Sub": _elementwise("subtract"),
    "Tanh": _nonlinear(jnp.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise("where"),
}
"""The operators, by their names: `[...]` arrays to `[...]` arrays."""
