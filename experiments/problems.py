"""Sequences made up so that the answer lies a known number of steps back. NumPy alone.

Every function draws B sequences of T steps; where they are scored, and on what, is in `Steps`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Num

RECALLED, COPIED_SYMBOLS = (
    10,
    8,
)  # the copying memory's: how many, out of how many kinds
BLANK, DELIMITER = 8, 9
ORDERED_LENGTHS = (100, 110)  # the temporal order's, both included


class Steps(NamedTuple):
    """Some steps of B sequences."""

    xs: Float32[np.ndarray, "T B I"]
    labels: Num[np.ndarray, "T B"]
    mask: Bool[np.ndarray, "T B"]
    """True where there is a label."""


def adding(random: np.random.Generator, batch_size: int, length: int) -> Steps:
    """Numbers between 0 and 1, two of them marked, one in each half: their sum, at the end.

    Who always answers 1 has a mean squared error of 1/6, the variance of the sum.

    Source: Hochreiter & Schmidhuber (1997), experiment 4, in the form of Le, Jaitly & Hinton
    (2015), arXiv:1504.00941, and Arjovsky, Shah & Bengio (2016), arXiv:1511.06464.
    """
    values, columns = (
        random.random((length, batch_size), np.float32),
        np.arange(batch_size),
    )
    marks, labels = np.zeros((2, length, batch_size), np.float32)
    marks[random.integers(length // 2, size=batch_size), columns] = 1
    marks[random.integers(length // 2, length, size=batch_size), columns] = 1
    labels[-1] = (values * marks).sum(axis=0)
    return Steps(np.stack([values, marks], axis=-1), labels, _last(labels.shape))


def copying(random: np.random.Generator, batch_size: int, delay: int) -> Steps:
    """Ten symbols, `delay` - 1 blanks, a delimiter, and ten steps in which to say them again.

    At all `delay` + 20 steps there is a label, first blanks, then the symbols. Who knows the time
    but not the symbols loses 10 ln 8 / (delay + 20) nats a step.

    Source: Hochreiter & Schmidhuber (1997), in the form of Arjovsky, Shah & Bengio (2016),
    arXiv:1511.06464, section 5.1.
    """
    symbols = random.integers(COPIED_SYMBOLS, size=(RECALLED, batch_size))
    ids, labels = np.full((2, delay + 2 * RECALLED, batch_size), BLANK)
    ids[:RECALLED] = labels[-RECALLED:] = symbols
    ids[-RECALLED - 1] = DELIMITER
    return Steps(_one_hot(ids, DELIMITER + 1), labels, np.ones(ids.shape, bool))


def temporal_order(random: np.random.Generator, batch_size: int) -> Steps:
    """Of two X or Y among distractors, which and in which order, X X, X Y, Y X or Y Y, at the end.

    Sequences of 100 to 110 symbols, the first a sign of its own and the last the question; X or Y
    at steps 10 to 20 and 50 to 60, four kinds of distractors elsewhere. What follows a shorter
    sequence is not scored, nor seen by its answer.

    Source: Hochreiter & Schmidhuber (1997), "Long short-term memory", Neural Computation 9,
    experiment 6a.
    """
    shortest, longest = ORDERED_LENGTHS
    start, question, x_or_y, distractors = 0, 1, (2, 4), (4, 8)
    columns, shape = np.arange(batch_size), (longest, batch_size)
    ids = random.integers(*distractors, size=shape)
    ids[0], labels, mask = start, np.zeros(shape, int), np.zeros(shape, bool)
    first, second = random.integers(*x_or_y, size=(2, batch_size))
    ids[random.integers(10, 20, size=batch_size, endpoint=True), columns] = first
    ids[random.integers(50, 60, size=batch_size, endpoint=True), columns] = second
    last = random.integers(shortest, longest, size=batch_size, endpoint=True) - 1
    ids[last, columns], mask[last, columns] = question, True
    labels[last, columns] = 2 * (first - 2) + second - 2
    return Steps(_one_hot(ids, 8), labels, mask)


def recall(
    random: np.random.Generator, batch_size: int, lag: int, symbols: int
) -> Steps:
    """A symbol, `lag` - 1 others that do not matter, and the question which the first one was.

    The inputs `[2 S + 1]` are one-hot: the symbol to keep, the one to ignore, and whether this is
    the question.
    """
    shape = (lag + 1, batch_size)
    shown = random.integers(symbols, size=shape)
    ids = symbols + shown
    ids[0], ids[-1] = shown[0], 2 * symbols
    labels = np.broadcast_to(shown[0], shape)
    return Steps(_one_hot(ids, 2 * symbols + 1), labels, _last(shape))


def recall_stream(
    random: np.random.Generator, batch_size: int, lag: int, symbols: int, window: int
) -> Iterator[Steps]:
    """Endless windows of endless streams of such episodes, which follow one another at once.

    Every sequence of the batch begins at a place of its own, so windows cut episodes anywhere. A
    question whose symbol came before the stream began has no label.
    """
    place = random.integers(lag + 1, size=batch_size)
    kept = np.full(batch_size, -1)
    while True:
        ids = symbols + random.integers(symbols, size=(window, batch_size))
        labels, mask = np.zeros_like(ids), np.zeros(ids.shape, bool)
        for t in range(window):
            first, question = place == 0, place == lag
            ids[t] = np.where(
                first, ids[t] - symbols, np.where(question, 2 * symbols, ids[t])
            )
            kept = np.where(first, ids[t], kept)
            labels[t], mask[t] = np.maximum(kept, 0), question & (kept >= 0)
            place = (place + 1) % (lag + 1)
        yield Steps(_one_hot(ids, 2 * symbols + 1), labels, mask)


def _last(shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[-1] = True
    return mask


def _one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    return np.eye(size, dtype=np.float32)[ids]
