"""Recall from an endless stream of episodes, read in windows of truncated BPTT."""

from typing import Any

import numpy as np

from experiments.config.schema import Positive, Report, Sizes, check_forward
from experiments.tasks.recall import Symbols, draw_episodes
from experiments.tasks.sequences import (
    TESTING,
    TRAINING,
    Scored,
    Steps,
    numbered,
    one_hot,
)

# The test: a number of streams, and the episodes of each. The first may be cut short.
STREAMS, EPISODES = 64, 9


class RecallStream(
    Scored, frozen=True, kw_only=True, tag_field="task", tag="recall_stream"
):
    """Episodes follow one another at once, and the state is carried through them all.

    Every sequence of the batch starts somewhere in an episode, so windows cut episodes
    anywhere. A question whose symbol came before the stream began has no label.
    """

    lag: Positive
    """Steps from a symbol to the question. The next episode follows at once."""
    window: Positive
    """Steps of truncated BPTT: a loss reaches no further back."""
    symbols: Symbols = 4
    """Number of symbols: a guess is right with probability 1/symbols."""

    def __post_init__(self) -> None:
        check_forward(self.model)

    def sizes(self) -> Sizes:
        inputs = 2 * self.symbols + 1
        longest = {
            "window": self.window,
            "lag": EPISODES * (self.lag + 1),
            "symbols": inputs,
        }
        key = max(longest, key=lambda name: longest[name])
        steps = max(self.window, EPISODES * (self.lag + 1))
        return Sizes(steps, inputs, self.symbols, key, STREAMS)

    def cut(self, number: int, window: int, streams: int, purpose: int) -> Steps:
        """Returns the steps [number · window, (number + 1) · window) of the streams."""
        # The symbol that a question asks for may be some windows back: draw them again.
        back = min(number, -(-self.lag // window))
        shown = np.concatenate(
            [
                numbered(self.seed, drawn, purpose).integers(
                    self.symbols, size=(window, streams)
                )
                for drawn in range(number - back, number + 1)
            ]
        )
        starts = numbered(self.seed, 0, purpose, 1).integers(self.lag + 1, size=streams)

        # Where each of the steps is in its episode.
        t = number * window + np.arange(window)[:, None]
        place = (t + starts) % (self.lag + 1)
        question = place == self.lag
        now = shown[back * window :]
        ids = np.where(place == 0, now, self.symbols + now)
        ids = np.where(question, 2 * self.symbols, ids)

        # The symbol that was shown `lag` steps before each of the questions.
        mask = question & (t >= self.lag)
        asked = np.maximum(back * window + np.arange(window) - self.lag, 0)
        labels = np.where(mask, shown[asked], 0)
        return Steps(one_hot(ids, 2 * self.symbols + 1), labels, mask)

    def draw(self, random: np.random.Generator, batch_size: int) -> Steps:
        """Draws B single episodes."""
        return draw_episodes(random, batch_size, self.lag, self.symbols)

    def make(self, report: Report) -> Any:
        from experiments.tasks.scored import Stream, make_task

        size, length = self.optimizer.batch_size, EPISODES * (self.lag + 1)
        stream = Stream(
            lambda number: self.cut(number, self.window, size, TRAINING),
            self.window,
            self.cut(0, length, STREAMS, TESTING),
        )
        return make_task(self, self.draw, "cross_entropy", ("accuracy",), stream=stream)
