"""The adding problem: the sum of the two numbers that are marked."""

from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from experiments.config.schema import LARGEST, Report, Sizes
from experiments.tasks.sequences import TEST_SEQUENCES, Scored, Steps, last_step


class Adding(Scored, frozen=True, kw_only=True, tag_field="task", tag="adding"):
    """One number is marked in each half of `length`, and the answer is due at the end.

    The constant answer 1 has a mean squared error of 1/6, the variance of the sum.

    Source: Hochreiter & Schmidhuber (1997), experiment 4, in the form of Le, Jaitly &
    Hinton (2015), arXiv:1504.00941, and Arjovsky, Shah & Bengio (2016),
    arXiv:1511.06464.
    """

    length: Annotated[int, Meta(ge=2, le=LARGEST)]

    def sizes(self) -> Sizes:
        return Sizes(self.length, 2, 1, "length", TEST_SEQUENCES)

    def draw(self, random: np.random.Generator, batch_size: int) -> Steps:
        """Draws B new sequences."""
        shape, columns = (self.length, batch_size), np.arange(batch_size)
        half = self.length // 2
        values = random.random(shape, np.float32)
        marks, labels = np.zeros((2, *shape), np.float32)
        marks[random.integers(half, size=batch_size), columns] = 1
        marks[random.integers(half, self.length, size=batch_size), columns] = 1
        labels[-1] = (values * marks).sum(axis=0)
        return Steps(np.stack([values, marks], axis=-1), labels, last_step(shape))

    def make(self, report: Report) -> Any:
        from experiments.tasks.scored import make_task

        return make_task(self, self.draw, "squared_error", ("test_error",))
