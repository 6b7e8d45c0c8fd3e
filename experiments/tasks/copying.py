"""Copying memory: ten symbols, to be repeated after a delay."""

from typing import Any

import numpy as np

from experiments.config.schema import Positive, Report, Sizes
from experiments.tasks.sequences import TEST_SEQUENCES, Scored, Steps, one_hot

# Symbols to copy, and kinds of them.
COPIED, KINDS = 10, 8
BLANK, DELIMITER = 8, 9


class Copying(Scored, frozen=True, kw_only=True, tag_field="task", tag="copying"):
    """Ten symbols, `delay` - 1 blanks, a delimiter, ten steps to repeat the symbols.

    All `delay` + 20 steps have a label, first blanks, then the symbols. A model that
    knows when to answer but not what has a loss of 10 ln 8 / (delay + 20) nats per
    step.

    Source: Hochreiter & Schmidhuber (1997), in the form of Arjovsky, Shah & Bengio
    (2016), arXiv:1511.06464, section 5.1.
    """

    delay: Positive

    def sizes(self) -> Sizes:
        steps = self.delay + 2 * COPIED
        return Sizes(steps, DELIMITER + 1, BLANK + 1, "delay", TEST_SEQUENCES)

    def draw(self, random: np.random.Generator, batch_size: int) -> Steps:
        """Draws B new sequences."""
        symbols = random.integers(KINDS, size=(COPIED, batch_size))
        ids, labels = np.full((2, self.delay + 2 * COPIED, batch_size), BLANK)
        ids[:COPIED] = labels[-COPIED:] = symbols
        ids[-COPIED - 1] = DELIMITER
        return Steps(one_hot(ids, DELIMITER + 1), labels, np.ones(ids.shape, bool))

    def make(self, report: Report) -> Any:
        from experiments.tasks.scored import make_task

        metrics = "test_loss", "accuracy"
        return make_task(self, self.draw, "cross_entropy", metrics, uncounted=BLANK)
