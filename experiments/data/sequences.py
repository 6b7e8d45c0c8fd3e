"""Sequences of different lengths, each with a label: what classifiers learn from."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32


class Sequences(NamedTuple):
    """N series of C channels, time first, padded with zeros to T steps."""

    xs: Float32[np.ndarray, "T N C"]
    lengths: Int32[np.ndarray, " N"]
    labels: Int32[np.ndarray, " N"]
    """Indices into the `classes`."""


class Classification(NamedTuple):
    """Series to train on and to test with. Both are padded to the same T, for one
    compilation."""

    train: Sequences
    test: Sequences
    classes: tuple[str, ...]
    """The labels as the file has them."""
    source: str
    """One sentence for the caller to print."""


def pad(
    steps: Float32[np.ndarray, "steps C"],
    lengths: Int32[np.ndarray, " N"],
    longest: int,
) -> Float32[np.ndarray, "T N C"]:
    """Returns N series, given one after another, time first and padded to T = longest.

    Padding is zero.
    """
    within = np.arange(longest) < lengths[:, None]
    padded = np.zeros((*within.shape, steps.shape[-1]), np.float32)
    padded[within] = steps
    return np.ascontiguousarray(np.moveaxis(padded, 0, 1))
