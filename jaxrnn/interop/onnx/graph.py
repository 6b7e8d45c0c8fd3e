"""The graph of an ONNX model while it is written: nodes, weights, inputs, outputs."""

import functools
from typing import Any

import numpy as np
from jaxtyping import Shaped

# The first version with LayerNormalization; RNN, LSTM and GRU are those of version 14.
OPSET = 17
# The oldest version of the file format that has these operators.
FORMAT = 8


class Graph:
    """A graph in which every value has a name. Its sizes T and B are free."""

    def __init__(self, onnx: Any, dtype: np.dtype) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def input(self, name: str, dtype: Any, shape: list[Any]) -> str:
        """Adds an input, and returns its name."""
        self.inputs.append(self._declared(name, dtype, shape))
        return name

    def output(self, name: str, shape: list[Any]) -> None:
        """Declares the value of this name as an output."""
        self.outputs.append(self._declared(name, self.dtype, shape))

    def weight(self, name: str, a: Shaped[np.ndarray, "..."]) -> str:
        """Adds parameters, and returns their name."""
        a = np.ascontiguousarray(a)
        self.weights.append(self.onnx.numpy_helper.from_array(a, name))
        return name

    def constant(self, a: Any, dtype: Any = np.int64) -> str:
        """Adds a constant, and returns its name."""
        tensor = self.onnx.numpy_helper.from_array(np.asarray(a, dtype))
        return self.op("Constant", value=tensor)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output, and returns the name of the output."""
        output = f"{kind}_{len(self.nodes)}"
        self.node(kind, inputs, [output], name=output, **attributes)
        return output

    def node(self, kind: str, inputs: Any, outputs: Any, **attributes: Any) -> None:
        """Adds a node."""
        made = self.onnx.helper.make_node(kind, inputs, outputs, **attributes)
        self.nodes.append(made)

    # Values that several nodes read are written once.
    @functools.cached_property
    def batch(self) -> str:
        """B, as an array of one number."""
        return self.op("Shape", self.inputs[0].name, start=1, end=2)

    @functools.cached_property
    def mask(self) -> str:
        """The steps before the end of each sequence, bool `[T, B]`."""
        size = self.op("Shape", self.inputs[0].name, start=0, end=1)
        first, step = self.constant(0), self.constant(1)
        steps = self.op("Range", first, self.op("Squeeze", size), step)
        lengths = self.op("Cast", "lengths", to=self.onnx.TensorProto.INT64)
        return self.op("Less", self.op("Unsqueeze", steps, self.constant([1])), lengths)

    @functools.cached_property
    def mask_of_vectors(self) -> str:
        """The same, `[T, B, 1]`."""
        return self.op("Unsqueeze", self.mask, self.constant([2]))

    @functools.cached_property
    def is_empty(self) -> str:
        """Whether a sequence has no step, bool `[B, 1]`."""
        empty = self.op("Equal", "lengths", self.constant(0, np.int32))
        return self.op("Unsqueeze", empty, self.constant([1]))

    def model(self) -> Any:
        """Returns the model, after ONNX's own checks."""
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, "jaxrnn", self.inputs, self.outputs, self.weights
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=FORMAT, producer_name="jaxrnn"
        )
        self.onnx.checker.check_model(model, full_check=True)
        return model

    def _declared(self, name: str, dtype: Any, shape: list[Any]) -> Any:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, kind, shape)
