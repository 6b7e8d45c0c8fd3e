"""Recall: a symbol is shown, and asked for `lag` steps later."""

from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from experiments.config.schema import LARGEST, Positive, Report, Sizes, Weight
from experiments.tasks.sequences import (
    TEST_SEQUENCES,
    Scored,
    Steps,
    last_step,
    one_hot,
)

Symbols = Annotated[int, Meta(ge=2, le=LARGEST)]


def draw_episodes(
    random: np.random.Generator, batch_size: int, lag: int, symbols: int
) -> Steps:
    """Draws B episodes: a symbol, `lag` - 1 others to ignore, and the question.

    The inputs `[2 S + 1]` are one-hot: the symbol to keep, the symbol to ignore, and
    the question which symbol came first.
    """
    shape = (lag + 1, batch_size)
    shown = random.integers(symbols, size=shape)
    ids = symbols + shown
    ids[0], ids[-1] = shown[0], 2 * symbols
    labels = np.broadcast_to(shown[0], shape)
    return Steps(one_hot(ids, 2 * symbols + 1), labels, last_step(shape))


class Recall(Scored, frozen=True, kw_only=True, tag_field="task", tag="recall"):
    """Every episode is a sequence of its own; its loss reaches back to its start."""

    lag: Positive
    """Steps from the symbol to the question."""
    symbols: Symbols = 4
    """Number of symbols: a guess is right with probability 1/symbols."""
    vanishing: Weight = 0.0
    """Weight of the regularizer Ω against vanishing gradients (Pascanu et al. 2013)."""

    def __post_init__(self) -> None:
        if self.vanishing and self.model.compute_dtype != "float32":
            raise ValueError(
                "`vanishing` is computed in float32, so `model.compute_dtype` must be "
                f'"float32", but got "{self.model.compute_dtype}"'
            )
        model = self.model
        if self.vanishing and (
            model.layers > 1 or model.bidirectional or model.dropout
        ):
            raise ValueError(
                "`vanishing` is defined for one layer in one direction, without "
                "dropout: remove it, or `layers`, `bidirectional` and `dropout`"
            )

    def sizes(self) -> Sizes:
        inputs, key = (
            2 * self.symbols + 1,
            "lag" if self.lag > self.symbols else "symbols",
        )
        return Sizes(self.lag + 1, inputs, self.symbols, key, TEST_SEQUENCES)

    def draw(self, random: np.random.Generator, batch_size: int) -> Steps:
        """Draws B new episodes."""
        return draw_episodes(random, batch_size, self.lag, self.symbols)

    def make(self, report: Report) -> Any:
        from experiments.tasks.scored import make_task

        return make_task(
            self, self.draw, "cross_entropy", ("accuracy",), vanishing=self.vanishing
        )
