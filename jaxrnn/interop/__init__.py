"""Weights of other libraries, to and from our parameters.

Each `from_…` returns a layer that computes what the other library's does, and its
parameters; each `to_…` undoes it. No library is imported until a function needs it.
"""

from jaxrnn.interop.biases import TwoBiases, one_bias
from jaxrnn.interop.equinox import from_equinox, to_equinox
from jaxrnn.interop.flax import from_flax, to_flax
from jaxrnn.interop.haiku import from_haiku, to_haiku
from jaxrnn.interop.keras import from_keras, to_keras
from jaxrnn.interop.onnx import ONNXFunction, from_onnx, to_onnx
from jaxrnn.interop.torch import from_torch, to_torch

__all__ = [
    "ONNXFunction",
    "TwoBiases",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_onnx",
    "from_torch",
    "one_bias",
    "to_equinox",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_onnx",
    "to_torch",
]
