"""ONNX: a layer as a file that other runtimes read, and files read as functions.

Both directions speak of the nodes RNN, LSTM and GRU: `recurrence` says what such a node
computes, `cells` which cell of ours computes the same, and `weights` how its matrices
are laid out. The package `onnx` is imported when one of them is called.
"""

from jaxrnn.interop.onnx.exporting import to_onnx
from jaxrnn.interop.onnx.importing import ONNXFunction, from_onnx

__all__ = ["ONNXFunction", "from_onnx", "to_onnx"]
