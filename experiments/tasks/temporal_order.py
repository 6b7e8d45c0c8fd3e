"""Temporal order: X or Y, twice among distractors. Which, and in which order?"""

from typing import Any

import numpy as np

from experiments.config.schema import Report, Sizes
from experiments.tasks.sequences import TEST_SEQUENCES, Scored, Steps, one_hot

# Both included.
SHORTEST, LONGEST = 100, 110
FIRST_AT, SECOND_AT = (10, 20), (50, 60)
# Ids: the start, the question, X and Y, four distractors.
START, QUESTION, X_OR_Y, DISTRACTORS = 0, 1, (2, 4), (4, 8)
SYMBOLS, CLASSES = 8, 4


class TemporalOrder(
    Scored, frozen=True, kw_only=True, tag_field="task", tag="temporal_order"
):
    """The answer, due at the end, is one of X X, X Y, Y X and Y Y.

    A sequence has 100 to 110 symbols: a start, distractors with X or Y at steps 10 to
    20 and at steps 50 to 60, and the question. Steps after the question are not scored,
    and come after its answer.

    Source: Hochreiter & Schmidhuber (1997), "Long short-term memory", Neural
    Computation 9, experiment 6a.
    """

    def sizes(self) -> Sizes:
        return Sizes(LONGEST, SYMBOLS, CLASSES, "model.hidden_size", TEST_SEQUENCES)

    def draw(self, random: np.random.Generator, batch_size: int) -> Steps:
        """Draws B new sequences."""
        columns, shape = np.arange(batch_size), (LONGEST, batch_size)

        def step_in(first: int, last: int) -> np.ndarray:
            return random.integers(first, last, size=batch_size, endpoint=True)

        ids = random.integers(*DISTRACTORS, size=shape)
        ids[0], labels, mask = START, np.zeros(shape, int), np.zeros(shape, bool)
        first, second = random.integers(*X_OR_Y, size=(2, batch_size))
        ids[step_in(*FIRST_AT), columns] = first
        ids[step_in(*SECOND_AT), columns] = second
        last = step_in(SHORTEST, LONGEST) - 1
        ids[last, columns], mask[last, columns] = QUESTION, True
        x, _ = X_OR_Y
        labels[last, columns] = 2 * (first - x) + second - x
        return Steps(one_hot(ids, SYMBOLS), labels, mask)

    def make(self, report: Report) -> Any:
        from experiments.tasks.scored import make_task

        return make_task(self, self.draw, "cross_entropy", ("accuracy",))
