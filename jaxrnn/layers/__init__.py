"""Layers: a cell over a sequence, and what stands before, between and after cells.

`base` has the contract.
"""

from jaxrnn.cells.noise import candidate_dropout, recurrent_dropout, zoneout
from jaxrnn.layers.base import Layer
from jaxrnn.layers.combined import BothWays, bidirectional, residual, stack
from jaxrnn.layers.dropout import dropout
from jaxrnn.layers.pointwise import (
    DenseParams,
    EmbeddingParams,
    LayerNormParams,
    dense,
    embedding,
    layer_norm,
)
from jaxrnn.layers.recurrent import NoisyState, RecurrentParams, recurrent

__all__ = [
    "BothWays",
    "DenseParams",
    "EmbeddingParams",
    "Layer",
    "LayerNormParams",
    "NoisyState",
    "RecurrentParams",
    "bidirectional",
    "candidate_dropout",
    "dense",
    "dropout",
    "embedding",
    "layer_norm",
    "recurrent",
    "recurrent_dropout",
    "residual",
    "stack",
    "zoneout",
]
