"""Two known dependencies: bits, and a label that depends on two of the bits before.

With fair bits x, and t1 < t2 steps back,

    P(y[t] = 1) = 1/2 + x[t - t1] / 2 - x[t - t2] / 4                               (1)

(Pitis, 2016, "Recurrent neural networks in TensorFlow I"; Marschall, Cho & Savin, 2020,
JMLR 21). The least losses with none of the two dependencies learned, with the first,
and with both are known exactly, so a loss shows how far back a network has learned.
"""

import itertools
import math
import statistics
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from experiments.config.schema import Positive, Report, Sizes
from experiments.tasks.sequences import (
    TESTING,
    TRAINING,
    Scored,
    Steps,
    last_step,
    numbered,
    one_hot,
)

# The test: a number of streams, and the steps of each.
STREAMS, LENGTH = 64, 500


def probability(first: Any, second: Any) -> Any:
    """Returns P(y = 1) by the two bits, (1)."""
    return 1 / 2 + first / 2 - second / 4


def cross_entropy(*known: int) -> float:
    """Returns the least cross-entropy, in nats, of an answer that knows some bits.

    Args:
      *known: which of the two bits, 0 or 1.
    """
    pairs, total = [*itertools.product((0, 1), repeat=2)], 0.0
    for pair in pairs:
        alike = [p for p in pairs if all(p[i] == pair[i] for i in known)]
        p = statistics.fmean(probability(*bits) for bits in alike)
        total -= sum(q * math.log(q) for q in (p, 1 - p) if q)
    return total / len(pairs)


class Dependencies(
    Scored, frozen=True, kw_only=True, tag_field="task", tag="dependencies"
):
    """An endless stream, whose state is carried from batch to batch.

    The parameters move after every batch of `every` steps. By a rule that learns
    forwards the trace is carried too, and errors reach back beyond the batch.
    """

    first: Positive
    """t1, the steps back to the bit that matters more."""
    second: Positive
    """t2 > t1, the steps back to the other one."""
    every: Positive
    """Steps from one update of the parameters to the next. With `rule = "bptt"` they
    are the window of truncated BPTT: a loss reaches no further back."""
    rule: Literal["bptt", "rtrl", "snap1", "uoro", "kf_rtrl", "ok", "rflo"] = "bptt"
    """How the gradient is computed: backwards within the window, or by a rule of
    `jaxrnn.online`."""

    def __post_init__(self) -> None:
        if self.second <= self.first:
            raise ValueError(
                f"`second` must be above `first` = {self.first}, but got {self.second}"
            )
        model = self.model
        if model.layers > 1 or model.bidirectional or model.dropout:
            raise ValueError(
                "this task learns with one layer in one direction, without dropout: "
                "remove `layers`, `bidirectional` and `dropout`"
            )
        if self.rule != "bptt" and model.compute_dtype != "float32":
            raise ValueError(
                f'`rule = "{self.rule}"` computes in float32, so `model.compute_dtype` '
                f'must be "float32", but got "{model.compute_dtype}"'
            )

    def sizes(self) -> Sizes:
        # The microscope's sequences, or the batches.
        lengths = {"second": 2 * self.second, "every": self.every}
        key = max(lengths, key=lambda name: lengths[name])
        return Sizes(self.every, 2, 1, key, STREAMS)

    def levels(self) -> Mapping[str, float]:
        """Returns the least losses with none, the first and both bits known."""
        return {
            "none": cross_entropy(),
            "first": cross_entropy(0),
            "both": cross_entropy(0, 1),
        }

    def cut(self, number: int, streams: int) -> Steps:
        """Returns the steps [number · every, (number + 1) · every) of the streams."""
        # The bits that the labels depend on may be some batches back: draw them again.
        back = min(number, -(-self.second // self.every))
        bits = np.concatenate(
            [
                numbered(self.seed, n).integers(2, size=(self.every, streams))
                for n in range(number - back, number + 1)
            ]
        )
        xs, chances, mask = (a[-self.every :] for a in self.by_chance(bits))
        random = numbered(self.seed, number, TRAINING, 1).random(chances.shape)
        return Steps(xs, (random < chances).astype(np.float32), mask)

    def by_chance(self, bits: Int[np.ndarray, "T B"]) -> Steps:
        """Returns steps with P(y = 1), (1), as labels: the first t2 have none.

        The inputs `[T, B, 2]` are one-hot, 0 and 1.
        """
        t = np.arange(len(bits))
        first, second = (
            bits[np.maximum(t - lag, 0)] for lag in (self.first, self.second)
        )
        known = np.broadcast_to(t[:, None] >= self.second, bits.shape)
        chances = probability(first, second).astype(np.float32)
        return Steps(one_hot(bits, 2), chances, known)

    def draw(self, random: np.random.Generator, batch_size: int) -> Steps:
        """Draws B sequences of 2 t2 steps, with P(y = 1) of the last as its label."""
        bits = random.integers(2, size=(2 * self.second, batch_size))
        steps = self.by_chance(bits)
        return steps._replace(mask=last_step(bits.shape))

    def make(self, report: Report) -> Any:
        from experiments.tasks.scored import Stream, make_task

        size = self.optimizer.batch_size
        random = numbered(self.seed, 0, TESTING)
        bits = random.integers(2, size=(LENGTH, STREAMS))
        # Chances in place of drawn labels: the loss's mean over all that can be drawn.
        stream = Stream(lambda n: self.cut(n, size), self.every, self.by_chance(bits))
        return make_task(
            self, self.draw, "bit_cross_entropy", ("test_loss",), stream=stream,
            rule=self.rule,
        )  # fmt: skip
