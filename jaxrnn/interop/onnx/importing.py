"""A model as a function of its parameters and inputs, with our cells for its nodes.

The nodes of the graph run one after the other, as they stand in the file. RNN, LSTM and
GRU run in the engine, so gradients are those of `jaxrnn.unroll`.
"""

import inspect
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrnn import checks, unrolling
from jaxrnn.arguments import describe
from jaxrnn.cells.base import Cell
from jaxrnn.interop.onnx.cells import cell_of
from jaxrnn.interop.onnx.operators import OPERATORS as AROUND
from jaxrnn.interop.onnx.package import onnx_package
from jaxrnn.interop.onnx.recurrence import OPERATORS, Node, read_node
from jaxrnn.interop.onnx.weights import Weights, read_weights
from jaxrnn.masks import lengths_to_mask

# Since this version, axes are inputs and softmax works on one axis.
OLDEST = 13


class _Step(NamedTuple):
    """A node of the graph. `cells` are those of a recurrent node, one a direction."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    node: Node | None = None
    cells: tuple[Cell, ...] = ()


class _Input(NamedTuple):
    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...] | None
    """A size of None is free."""


class ONNXFunction:
    """A model as a function, `model(params, *inputs) -> outputs`.

    The outputs are a tuple. The function is pure: `jax.jit(model)` compiles it.

    Attributes:
      inputs: the names of the inputs, in their order.
      outputs: the names of the outputs, in their order.
      cells: for each recurrent node, by its name, a tuple of the cells that run it, one
        for each direction. `params[name]` has their parameters, so a node can be run
        alone: `jaxrnn.unroll(model.cells[name][0], params[name][0], None, xs)`.
    """

    def __init__(
        self,
        inputs: Sequence[_Input],
        outputs: Sequence[str],
        constants: Mapping[str, np.ndarray],
        steps: Sequence[_Step],
    ) -> None:
        self._inputs, self._constants, self._steps = inputs, constants, steps
        self.inputs = tuple(i.name for i in inputs)
        self.outputs = tuple(outputs)
        self.cells = {step.name: step.cells for step in steps if step.cells}

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """Returns the outputs of the model, in their order.

        Raises:
          TypeError, ValueError: if the inputs are not those of the model.
        """
        if len(inputs) != len(self._inputs):
            raise TypeError(
                f"the model must have {len(self.inputs)} input(s), "
                f"{', '.join(self.inputs)}, but got {len(inputs)}."
            )
        values: dict[str, Any] = {"": None, **self._constants, **params}
        for declared, given in zip(self._inputs, inputs, strict=True):
            values[declared.name] = _admitted(declared, given)
        for step in self._steps:
            arguments = [values[name] for name in step.inputs]
            try:
                results = _run(step, params, arguments)
            except Exception as error:
                error.add_note(f"This was in {_label(step.operator, step.name)}.")
                raise
            # An output without a name is not wanted; "" stays what is not given.
            results = zip(step.outputs, results, strict=False)
            values.update((name, a) for name, a in results if name)
        return tuple(jnp.asarray(values[name]) for name in self.outputs)


def from_onnx(model: Any) -> tuple[ONNXFunction, dict[str, Any]]:
    """Returns an ONNX model as a function, and its parameters.

        model, params = from_onnx("model.onnx")
        outputs = jax.jit(model)(params, xs)

    Nodes RNN, LSTM and GRU, with any of their attributes and inputs, become cells: ours
    where there is one with the same equations, or else one that is made from ONNX's
    equations. Around them the operators of `jaxrnn.interop.onnx.operators` are known.

    Args:
      model: a path, the bytes of a file, or an `onnx.ModelProto`, with version 13 or
        later of ONNX's operators.

    Returns:
      The function, and a dict of parameters. `params[name]` is a tuple with the
      parameters of a recurrent node, such as `LSTMParams`, one for each direction; all
      other arrays of floating numbers in the file stand under their own names, `[...]`.
      If a node's matrices are computed in the graph, or are its inputs, the node has no
      entry.

    Raises:
      ImportError: if `onnx` is not installed.
      FileNotFoundError: if there is no such file.
      TypeError: if `model` is of another kind.
      ValueError: if it is no valid model, or has an operator, an attribute or a dtype,
        by its name, that is not supported.
    """
    onnx = onnx_package()
    graph = _loaded(onnx, model).graph
    arrays = {a.name: onnx.numpy_helper.to_array(a) for a in graph.initializer}
    inputs = [_declared(onnx, i) for i in graph.input if i.name not in arrays]
    outputs = [o.name for o in graph.output]
    steps = []
    for node in graph.node:
        attributes = {a.name: _attribute(onnx, a) for a in node.attribute}
        if node.op_type == "Constant":
            arrays[node.output[0]] = _constant(attributes)
        else:
            taken = {*arrays, *(step.name for step in steps)}
            steps.append(_step(node, attributes, taken))

    # Floating initializers are parameters, and those that one recurrent node alone
    # reads as its matrices are the parameters of its cells.
    weights = {a.name for a in graph.initializer if _is_floating(arrays[a.name])}
    uses = Counter([name for step in steps for name in step.inputs] + outputs)
    params: dict[str, Any] = {}
    for n, step in enumerate(steps):
        names = {name for name in _matrices(step) if name}
        own = names <= weights and all(uses[name] == 1 for name in names)
        if step.node is not None and own:
            given = [
                _known(name, arrays.pop(name)) if name else None
                for name in _matrices(step)
            ]
            params[step.name] = _cell_params(step, *given)
            left = ("" if name in names else name for name in step.inputs)
            steps[n] = step._replace(inputs=tuple(left))
            weights -= names
    params |= {name: _known(name, arrays.pop(name)) for name in sorted(weights)}
    return ONNXFunction(inputs, outputs, arrays, steps), params


# Reading the file.


def _loaded(onnx: Any, model: Any) -> Any:
    """Returns the model, after ONNX's own checks."""
    if not isinstance(model, onnx.ModelProto | bytes | str | os.PathLike):
        raise TypeError(
            "`model` must be a path, the bytes of a file, or an onnx.ModelProto, but "
            f"got {describe(model)}."
        )
    is_path = isinstance(model, str | os.PathLike)
    try:
        if is_path:
            loaded = onnx.load(model)
        elif isinstance(model, bytes):
            loaded = onnx.load_model_from_string(model)
        else:
            loaded = model
        onnx.checker.check_model(loaded, full_check=True)
    except OSError:
        raise
    except Exception as error:  # protobuf and the checker have no base in common
        what = repr(os.fspath(model)) if is_path else "`model`"
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{what} is not a valid ONNX model: {reason}") from error
    versions = [o.version for o in loaded.opset_import if o.domain in ("", "ai.onnx")]
    if not versions or versions[0] < OLDEST:
        raise ValueError(
            f"the model must have version {OLDEST} or later of ONNX's operators, but "
            f"got {versions[0] if versions else 'none'}. Convert it: "
            f"onnx.version_converter.convert_version(model, 17)."
        )
    if loaded.functions or loaded.graph.sparse_initializer:
        raise ValueError(
            "functions and sparse arrays in a model are not supported. Inline "
            "functions: onnx.inliner.inline_local_functions(model)."
        )
    return loaded


def _declared(onnx: Any, value: Any) -> _Input:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type":
        raise ValueError(f"the input {value.name!r} must be a tensor.")
    shape = None
    if tensor.HasField("shape"):
        sizes = (d.dim_value or None for d in tensor.shape.dim)
        shape = tuple(sizes)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return _Input(value.name, dtype, shape)


def _attribute(onnx: Any, attribute: Any) -> Any:
    """Returns the value of an attribute: text as text, tensors as NumPy arrays."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [text.decode() for text in value]
    return value


def _constant(attributes: dict[str, Any]) -> np.ndarray:
    """Returns the value of a node Constant, which has one attribute."""
    ((name, value),) = attributes.items()
    if name == "value":
        return value
    kinds = {"value_float": np.float32, "value_int": np.int64}
    kind = kinds.get(name.removesuffix("s"))
    if kind is None:
        raise ValueError(f"a Constant must have numbers, but got a {name}.")
    return np.asarray(value, kind)


def _label(operator: str, name: str) -> str:
    return f"{operator} {name!r}" if name else operator


def _step(node: Any, attributes: dict[str, Any], taken: set[str]) -> _Step:
    """Returns a node as it will be run; raises unless it is supported."""
    operator, label = node.op_type, _label(node.op_type, node.name)
    known = operator in OPERATORS or operator in AROUND
    if node.domain not in ("", "ai.onnx") or not known:
        names = ", ".join(sorted({*OPERATORS, *AROUND}))
        raise ValueError(
            f"the operator {label} of {node.domain or 'ai.onnx'} is not supported, but "
            f"only {names}."
        )
    # Names of nodes may be missing or repeated; those of values are unique.
    output = next(filter(None, node.output), "")
    name = node.name if node.name and node.name not in taken else output
    step = _Step(name, operator, tuple(node.input), tuple(node.output), attributes)
    try:
        if operator in OPERATORS:
            read = read_node(operator, attributes, peephole=bool(_matrices(step)[3]))
            cells = tuple(cell_of(recurrence) for recurrence in read.recurrences)
            return step._replace(node=read, cells=cells)
        if operator == "Split":
            attributes.setdefault("num_outputs", len(node.output))
        elif any(node.output[1:]):
            raise ValueError(f"its output {node.output[-1]!r} is not computed.")
        inspect.signature(AROUND[operator]).bind(*node.input, **attributes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{label} is not supported: {error}") from error
    return step


def _matrices(step: _Step) -> list[str]:
    """Returns the names of W, R, B and P of a recurrent node; "" where it has none."""
    padded = [*step.inputs, *[""] * 8]
    return [padded[n] for n in (1, 2, 3, 7)]


def _is_floating(a: np.ndarray) -> bool:
    return bool(jnp.issubdtype(a.dtype, jnp.floating))


def _known(name: str, a: np.ndarray) -> Array:
    """Returns parameters as an array of their own dtype."""
    if jax.dtypes.canonicalize_dtype(a.dtype) != a.dtype:
        raise ValueError(
            f"the array {name!r} has the dtype {a.dtype}, which JAX must be told to "
            "use: jax.config.update('jax_enable_x64', True)."
        )
    return jnp.asarray(a)


# Running it.


def _admitted(declared: _Input, given: Any) -> Array:
    """Returns an input as an array; raises unless it is as the model declares."""
    name, dtype, shape = declared
    array = checks.array(name, given)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    kind = next((k for k in kinds if jnp.issubdtype(dtype, k)), None)
    if kind is None or not jnp.issubdtype(array.dtype, kind):
        raise TypeError(f"`{name}` must be {dtype}, but got {array.dtype}.")
    fits = shape is None or (
        len(shape) == array.ndim
        and all(
            want in (None, got) for want, got in zip(shape, array.shape, strict=True)
        )
    )
    if not fits:
        sizes = ", ".join("any" if n is None else str(n) for n in shape or ())
        raise ValueError(f"`{name}` must have shape ({sizes}), but got {array.shape}.")
    return array.astype(jax.dtypes.canonicalize_dtype(dtype))


def _run(step: _Step, params: Mapping[str, Any], values: list[Any]) -> tuple[Any, ...]:
    """Returns the outputs of a node."""
    if step.node is None:
        results = AROUND[step.operator](*values, **step.attributes)
        return results if isinstance(results, tuple) else (results,)
    return _run_recurrent(step, params.get(step.name), *values)


def _run_recurrent(
    step: _Step,
    params: Any,
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lengths: Any = None,
    h: Any = None,
    c: Any = None,
    p: Any = None,
) -> tuple[Array, ...]:
    """Returns Y, Y_h and, of an LSTM, Y_c."""
    assert step.node is not None
    batch_first = step.node.batch_first
    if params is None:
        params = _cell_params(step, w, r, b, p)
    if batch_first:
        x, h, c = (None if a is None else jnp.swapaxes(a, 0, 1) for a in (x, h, c))
    x = jnp.asarray(x)
    mask = None if lengths is None else lengths_to_mask(lengths, x.shape[0])

    # Each direction, from its own initial state.
    lasts, outputs = [], []
    for n, (cell, own) in enumerate(zip(step.cells, params, strict=True)):
        given = {"h": h, "c": c}
        given = {name: a[n] for name, a in given.items() if a is not None}
        state = cell.initial_state(own, x.shape[1:2])._replace(**given)
        reverse = step.node.reversed[n]
        last, ys = unrolling.unroll(cell, own, state, x, mask=mask, reverse=reverse)
        lasts.append(last)
        outputs.append(ys)

    # Side by side: [T, D, B, H], or [B, T, D, H]; [D, B, H], or [B, D, H].
    results = [jnp.stack(outputs, 2 if batch_first else 1)]
    results += [jnp.stack(a, 1 if batch_first else 0) for a in zip(*lasts, strict=True)]
    if batch_first:
        results[0] = jnp.swapaxes(results[0], 0, 1)
    return tuple(results)


def _cell_params(step: _Step, w: Any, r: Any, b: Any, p: Any) -> tuple[Any, ...]:
    """Returns the parameters of the cells of a node, one for each direction."""
    assert step.node is not None
    node, gates = step.node, OPERATORS[step.operator].gates
    size, count = r.shape[-1], len(node.recurrences)
    if b is None:
        b = np.zeros((count, 2 * gates * size), w.dtype)
    columns = gates * size
    wanted = {
        "W": (w, (count, columns, w.shape[-1])),
        "R": (r, (count, columns, node.hidden_size or size)),
        "B": (b, (count, 2 * columns)),
    }
    if p is not None:
        wanted["P"] = (p, (count, 3 * size))
    for name, (a, shape) in wanted.items():
        if a.shape != shape:
            raise ValueError(
                f"the input {name} of {_label(step.operator, step.name)} must have "
                f"shape {shape}, but has {a.shape}."
            )
    return tuple(
        read_weights(recurrence, Weights(*(a[n] for a, _ in wanted.values())))
        for n, recurrence in enumerate(node.recurrences)
    )
