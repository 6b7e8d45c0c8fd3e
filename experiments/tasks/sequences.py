"""Sequences with labels at some of their steps, as tasks draw them. No JAX here."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Num

from experiments.config.schema import Experiment

TEST_SEQUENCES = 1000

# What numbers are drawn for. Training is 0, so that its batches are drawn from
# `default_rng([seed, number])`: trailing zeros do not count.
TRAINING, TESTING, PROBING = 0, 1, 2


class Steps(NamedTuple):
    """Some steps of B sequences."""

    xs: Float32[np.ndarray, "T B I"]
    labels: Num[np.ndarray, "T B ..."]
    """One of each step, or O numbers."""
    mask: Bool[np.ndarray, "T B ..."]
    """True where there is a label: of each step, or of each number."""


class Scored(Experiment, frozen=True, kw_only=True):
    """A task whose network reads vectors, and answers at every step."""

    def network(self, artifacts: Mapping[str, Any]) -> Any:
        from experiments.models.readout import make_network

        sizes = self.sizes()
        return make_network(self.model, sizes.inputs, sizes.outputs)


def numbered(
    seed: int, number: int, purpose: int = TRAINING, detail: int = 0
) -> np.random.Generator:
    """Returns the random numbers of one batch, the same ones at every call."""
    return np.random.default_rng([seed, number, purpose, detail])


def last_step(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a mask of this shape that is True at the last step alone."""
    mask = np.zeros(shape, bool)
    mask[-1] = True
    return mask


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """Returns rows of the identity: `[T, B]` ids to `[T, B, size]`."""
    return np.eye(size, dtype=np.float32)[ids]
