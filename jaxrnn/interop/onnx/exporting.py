"""A layer as an ONNX model: each recurrent layer becomes one node RNN, LSTM or GRU.

Every recurrent node reads the lengths of the sequences, and a backward direction begins
where a sequence ends. All other layers map each step by itself, so what they compute in
the padding reaches no step before it, and the outputs are masked once, at the end.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrnn import arguments
from jaxrnn.cells.noise import _Zoneout, noise_of
from jaxrnn.interop.onnx.cells import recurrence_of
from jaxrnn.interop.onnx.graph import Graph
from jaxrnn.interop.onnx.package import onnx_package
from jaxrnn.interop.onnx.recurrence import Node, Recurrence, write_node
from jaxrnn.interop.onnx.weights import write_weights
from jaxrnn.layers import base
from jaxrnn.layers.base import Layer
from jaxrnn.layers.combined import (
    BothWays,
    _Bidirectional,
    _both_ways,
    _Residual,
    _Stack,
)
from jaxrnn.layers.dropout import _Dropout
from jaxrnn.layers.pointwise import _Dense, _Embedding, _LayerNorm, _Pointwise
from jaxrnn.layers.recurrent import _Recurrent
from jaxrnn.methods import options_of

DTYPES = "float16", "float32", "float64"

Path = tuple[str, ...]
"""Where a layer's entry stands in the tree of the parameters: ("1", "forward")."""


def to_onnx(
    layer: Layer,
    params: Any,
    *,
    ids: bool = False,
    lengths: bool = False,
    initial_state: bool = False,
) -> Any:
    """Returns an ONNX model that computes `layer.unroll(params, …)` without noise.

    Recurrent layers become the native nodes RNN, LSTM and GRU, for any number of time
    steps T and of sequences B. `onnx.save(model, path)` writes the model to a file.

    The inputs are, in this order:

    - `xs [T, B, I]`, or `ids [T, B]`, int32, where the layer begins with an embedding.
    - `lengths [B]`, int32, from 0 to T, if `lengths` is True.
    - `state/…`, `[B, H]`, if `initial_state` is True: the leaves of the layer's state
      in their order, named by their place, such as `state/0/forward/h`. Counts of
      steps, which only noise reads, are left out.

    The outputs are `ys [T, B, O]`, zero after the end of each sequence, and `last/…`,
    the leaves of the last state, in the same order.

    Args:
      layer: a layer of `jaxrnn.layers`, made of cells that ONNX knows. Dropout, of
        cells too, is the identity.
      params: the layer's parameters, in float32, float16 or float64. onnxruntime runs
        no nodes of float64 on a CPU.
      ids: whether inputs are ids that stand for one-hot vectors, as `jaxrnn.unroll`
        takes them, where the layer begins with a recurrent layer.
      lengths: whether the model has an input for the lengths of the sequences.
      initial_state: whether the model has inputs for the initial state. Without them it
        starts from zeros, or from the state that the layer has learned.

    Raises:
      ImportError: if `onnx` is not installed.
      TypeError, ValueError: if an argument is not of this kind, or a layer has no
        counterpart in ONNX.
    """
    onnx = onnx_package()
    base.checked("layer", layer)
    flags = {"ids": ids, "lengths": lengths, "initial_state": initial_state}
    for name, given in flags.items():
        arguments.flag(name, given)
    params = jax.tree.map(_numbers, params)
    graph = Graph(onnx, _dtype(params))

    # The inputs.
    first = _first(layer, params, ())
    if first is None:
        raise ValueError("`layer` must have weights: they give the size of the inputs.")
    if ids and first.kind not in (_Recurrent, _Embedding):
        raise ValueError(
            "`ids` must be False unless the layer begins with a recurrent layer or an "
            "embedding. Put layers.embedding in front."
        )
    if ids or first.kind is _Embedding:
        xs = _Value(graph.input("ids", np.int32, ["T", "B"]), are_ids=True)
    else:
        name = graph.input("xs", graph.dtype, ["T", "B", first.input_size])
        xs = _Value(name, first.input_size)
    if lengths:
        graph.input("lengths", np.int32, ["B"])

    # The layers, and the outputs.
    writer = _Writer(graph, lengths, initial_state)
    ys = writer.masked(writer.layer(layer, params, xs, (), False))
    graph.node("Identity", [ys.name], ["ys"])
    states = graph.outputs
    graph.outputs = []
    graph.output("ys", ["T", "B", ys.size])
    graph.outputs += states
    return graph.model()


def _numbers(a: Any) -> np.ndarray:
    if isinstance(a, Tracer):
        raise TypeError(
            "`params` must be arrays with values, but got traced ones. Call to_onnx "
            "outside `jit`."
        )
    return np.asarray(a)


def _dtype(params: Any) -> np.dtype:
    """Returns the dtype of the parameters; raises unless ONNX's nodes have it."""
    dtypes = sorted({str(a.dtype) for a in jax.tree.leaves(params)}) or ["float32"]
    if len(dtypes) != 1 or dtypes[0] not in DTYPES:
        raise TypeError(
            f"`params` must be arrays of one dtype among {', '.join(DTYPES)}, but got "
            f"{', '.join(dtypes)}. Cast them: "
            "jax.tree.map(lambda a: a.astype('float32'), params)."
        )
    return np.dtype(dtypes[0])


def _refusal(path: Path, what: str, cure: str = "") -> TypeError:
    """Returns the error that says what has no counterpart in ONNX, and where it is."""
    where = f"params[{']['.join(path)}]" if path else "the layer"
    cure = cure or (
        "It has nodes for elman, lstm and gru with the activations of make_elman, "
        "make_lstm and make_gru other than hard_tanh, with peepholes, and with coupled "
        "gates if these are logistic. jax.export saves any layer."
    )
    return TypeError(f"ONNX has no node for {what} ({where}). {cure}")


def _foreign(path: Path) -> TypeError:
    cure = "Build it of the layers in jaxrnn.layers. jax.export saves any layer."
    return _refusal(path, "a layer of your own", cure)


class _Value(NamedTuple):
    """A sequence in the graph, `[T, B, I]`, or ids `[T, B]`."""

    name: str
    size: int = 0
    """I; 0 for ids."""
    is_masked: bool = False
    """Whether it is zero after the end of each sequence."""
    are_ids: bool = False


class _First(NamedTuple):
    """The first layer that has weights."""

    kind: type
    input_size: int


def _first(layer: Layer, params: Any, path: Path) -> _First | None:
    """Returns the first layer that has weights; None if there is none."""
    options = options_of(layer.unroll)
    match options:
        case _Stack():
            parts = zip(options.layers, options._each("params", params), strict=True)
            found = (_first(a, p, (*path, str(n))) for n, (a, p) in enumerate(parts))
            return next(filter(None, found), None)
        case _Bidirectional():
            return _first(options.layer, _both_ways("params", params).forward, path)
        case _Residual():
            return _first(options.layer, params, path)
        case _Recurrent():
            _, own = _native(options, params, path)
            return _First(_Recurrent, len(getattr(own, "w_ih", ())))
        case _Pointwise():
            # Whether they are the layer's own is checked when it is written.
            weights = jax.tree.leaves(params)
            return _First(options.kind, len(weights[0]) if weights else 0)
        case _Dropout():
            return None
    raise _foreign(path)


def _native(options: _Recurrent, params: Any, path: Path) -> tuple[Recurrence, Any]:
    """Returns what the cell of a recurrent layer computes, and its parameters."""
    if options.return_states:
        raise _refusal(
            path,
            "a layer with return_states=True",
            "Its nodes output h alone: make the layer with return_states=False.",
        )
    cell = options.cell
    while (noise := noise_of(cell)) and not isinstance(noise, _Zoneout):
        cell = noise.cell  # dropout, which is off
    recurrence = recurrence_of(cell)
    if recurrence is None:
        example = jax.eval_shape(lambda: options.cell.init(jax.random.key(0), 2, 2))
        what = "zoneout" if noise else f"this cell with {type(example).__name__}"
        raise _refusal(path, what)
    return recurrence, options._cell_params(params)


def _is_reversed(options: _Recurrent) -> bool:
    """Returns whether the engine is `partial(jaxrnn.unroll, reverse=True)`."""
    return bool(getattr(options.engine, "keywords", {}).get("reverse", False))


class _Run(NamedTuple):
    """A recurrent layer in one direction of time."""

    params: Any
    path: Path
    reverse: bool


def _name(path: Path, name: str) -> str:
    return "/".join((*path, name))


def _state_name(kind: str, options: _Recurrent, run: _Run, leaf: str) -> str:
    inside = ("cell",) if options._counts() else ()
    return "/".join((kind, *run.path, *inside, leaf))


class _Writer(NamedTuple):
    """Writes layers into the graph. `reverse` says whether they read from the end."""

    graph: Graph
    has_lengths: bool
    has_state: bool

    def layer(
        self, layer: Layer, params: Any, xs: _Value, path: Path, reverse: bool
    ) -> _Value:
        """Writes any layer, and returns its outputs."""
        options = options_of(layer.unroll)
        match options:
            case _Stack():
                parts = zip(
                    options.layers, options._each("params", params), strict=True
                )
                for n, (inner, p) in enumerate(parts):
                    xs = self.layer(inner, p, xs, (*path, str(n)), reverse)
                return xs
            case _Bidirectional():
                return self.bidirectional(options, params, xs, path, reverse)
            case _Residual():
                ys = self.layer(options.layer, params, xs, path, reverse)
                both = xs.is_masked and ys.is_masked
                return _Value(self.graph.op("Add", xs.name, ys.name), ys.size, both)
            case _Dropout():
                return xs
            case _Recurrent():
                run = _Run(params, path, reverse ^ _is_reversed(options))
                return self.recurrent(layer, [run], xs, path)[0]
            case _Pointwise():
                return self.pointwise(layer, options.map, params, xs, path)
        raise _foreign(path)

    def bidirectional(
        self,
        options: _Bidirectional,
        params: Any,
        xs: _Value,
        path: Path,
        reverse: bool,
    ) -> _Value:
        """Writes both directions: as one node, if they are of one recurrent layer."""
        both, inner = _both_ways("params", params), options.layer
        inside = options_of(inner.unroll)
        flips = (False, True)
        if isinstance(inside, _Recurrent):
            first = reverse ^ _is_reversed(inside)
            runs = [
                _Run(p, (*path, name), first ^ flip)
                for p, name, flip in zip(both, BothWays._fields, flips, strict=True)
            ]
            outputs = self.recurrent(inner, runs, xs, path)
        else:
            outputs = [
                self.layer(inner, p, xs, (*path, name), reverse ^ flip)
                for p, name, flip in zip(both, BothWays._fields, flips, strict=True)
            ]
        ahead, back = outputs
        masked = ahead.is_masked and back.is_masked
        names, size = (ahead.name, back.name), ahead.size
        if options.merge == "concatenate":
            size = ahead.size + back.size
            return _Value(self.graph.op("Concat", *names, axis=-1), size, masked)
        kind = "Mul" if options.merge == "product" else "Add"
        merged = self.graph.op(kind, *names)
        if options.merge == "mean":
            half = self.graph.constant(0.5, self.graph.dtype)
            merged = self.graph.op("Mul", half, merged)
        return _Value(merged, size, masked)

    def pointwise(
        self, layer: Layer, options: Any, params: Any, xs: _Value, path: Path
    ) -> _Value:
        """Writes a layer that maps each step by itself."""
        graph, ys = self.graph, self.checked(layer, params, xs)
        names = {
            name: graph.weight(_name(path, name), a)
            for name, a in params._asdict().items()
        }
        match options:
            case _Dense():
                y = graph.op("MatMul", xs.name, names["w"])
                y = graph.op("Add", y, names["b"])
            case _LayerNorm():
                inputs = xs.name, names["scale"], names["offset"]
                y = graph.op("LayerNormalization", *inputs, epsilon=options.epsilon)
            case _Embedding():
                # Padding need not hold an id.
                y = graph.op("Gather", names["table"], self.masked(xs).name)
            case _:
                raise _refusal(path, f"a layer {type(options).__name__}")
        return _Value(y, ys.shape[-1])

    def recurrent(
        self, layer: Layer, runs: list[_Run], xs: _Value, path: Path
    ) -> list[_Value]:
        """Writes a node for one run, or for two of opposite directions."""
        graph, options = self.graph, options_of(layer.unroll)
        for run in runs:
            self.checked(layer, run.params, xs)
        # In the node, the direction forward in time comes first.
        order = sorted(range(len(runs)), key=lambda n: runs[n].reverse)
        natives = [_native(options, runs[n].params, runs[n].path) for n in order]
        recurrence, size = natives[0][0], options.hidden_size
        is_lstm = recurrence.operator == "LSTM"
        leaves = ("h", "c") if is_lstm else ("h",)

        # Its inputs: X, W, R, B, sequence_lens, initial_h, and initial_c and P.
        parts = [write_weights(recurrence, p) for _, p in natives]
        x = xs.name
        if xs.are_ids:
            # onnxruntime knows OneHot for few combinations of dtypes.
            depth = graph.constant(parts[0].w.shape[-1], np.int32)
            x = graph.op("OneHot", x, depth, graph.constant([0, 1], graph.dtype))
        stacked = zip("WRBP", zip(*parts, strict=True), strict=True)
        w, r, b, p = (
            "" if each[0] is None else graph.weight(_name(path, name), np.stack(each))
            for name, each in stacked
        )
        lengths = "lengths" if self.has_lengths else ""
        before = [[self.initial(options, run, leaf) for leaf in leaves] for run in runs]
        states = [
            self.joined([before[n][k] for n in order]) for k in range(len(leaves))
        ]
        inputs = [x, w, r, b, lengths, *states, *([p] if is_lstm else [])]

        # The node, and a name for each direction of its outputs.
        y, *lasts = (_name(path, name) for name in ("Y", *(f"Y_{a}" for a in leaves)))
        directions = tuple(runs[n].reverse for n in order)
        node = Node((recurrence,) * len(runs), directions, size, batch_first=False)
        attributes = {"name": _name(path, recurrence.operator)} | write_node(node)
        graph.node(recurrence.operator, inputs, [y, *lasts], **attributes)
        for n, run in enumerate(runs):
            slot = graph.constant(order.index(n))
            for leaf, last, first in zip(leaves, lasts, before[n], strict=True):
                output = _state_name("last", options, run, leaf)
                last = graph.op("Gather", last, slot, axis=0)
                if self.has_lengths and first:
                    # onnxruntime answers with zeros where a sequence is empty.
                    last = graph.op("Where", graph.is_empty, first, last)
                graph.node("Identity", [last], [output])
                graph.output(output, ["B", size])
        if len(runs) == 1:
            return [_Value(graph.op("Squeeze", y, graph.constant([1])), size, True)]
        slots = (graph.constant(order.index(n)) for n in range(len(runs)))
        return [_Value(graph.op("Gather", y, n, axis=1), size, True) for n in slots]

    def initial(self, options: _Recurrent, run: _Run, leaf: str) -> str:
        """Returns the state before a run, `[B, H]`; "" for zeros."""
        graph, size = self.graph, options.hidden_size
        if self.has_state:
            name = _state_name("state", options, run, leaf)
            return graph.input(name, graph.dtype, ["B", size])
        if not options.learn_initial_state:
            return ""
        learned = getattr(run.params.initial_state, leaf)
        name = graph.weight(_name(run.path, f"initial_{leaf}"), learned)
        shape = graph.op("Concat", graph.batch, graph.constant([size]), axis=0)
        return graph.op("Expand", name, shape)

    def joined(self, states: list[str]) -> str:
        """Returns the states of all directions, `[D, B, H]`; "" for zeros."""
        if not states[0]:
            return ""
        first = self.graph.constant([0])
        each = [self.graph.op("Unsqueeze", state, first) for state in states]
        return each[0] if len(each) == 1 else self.graph.op("Concat", *each, axis=0)

    def checked(self, layer: Layer, params: Any, xs: _Value) -> Any:
        """Returns the shape of a layer's outputs, after the library's own checks."""
        if xs.are_ids:
            example = jax.ShapeDtypeStruct((2, 3), jnp.int32)
        else:
            example = jax.ShapeDtypeStruct((2, 3, xs.size), self.graph.dtype)
        return jax.eval_shape(lambda p, x: layer.unroll(p, None, x)[1], params, example)

    def masked(self, xs: _Value) -> _Value:
        """Returns the values, zero after the end of each sequence."""
        if not self.has_lengths or xs.is_masked:
            return xs
        graph = self.graph
        if xs.are_ids:
            name = graph.op("Where", graph.mask, xs.name, graph.constant(0, np.int32))
        else:
            zero = graph.constant(0, graph.dtype)
            name = graph.op("Where", graph.mask_of_vectors, xs.name, zero)
        return xs._replace(name=name, is_masked=True)
