"""Music, of which the keys of the next step are predicted.

Each key sounds or does not, by a probability of its own, as in Boulanger-Lewandowski,
Bengio & Vincent (2012), arXiv:1206.6392. The loss of a step is that of all keys.
"""

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, UInt8
from msgspec import Meta, Struct

from experiments import data
from experiments.config.schema import Positive, Report, Share, Sizes, check_forward
from experiments.data.chorales import KEYS
from experiments.tasks.sequences import Scored, Steps

# Windows that the microscope looks at, and their steps at most.
PROBED, PROBED_STEPS = 32, 32


class Music(Struct, frozen=True, forbid_unknown_fields=True):
    """What is read."""

    path: str = ""
    """A MusicXML file, or a folder of them. Empty: Bach's chorales, fetched once."""
    held_out: Share = 0.2
    """Share of the pieces to test with, evenly spread."""


class Chorales(Scored, frozen=True, kw_only=True, tag_field="task", tag="chorales"):
    """At each quarter note, the keys that sound are predicted from those before."""

    window: Positive
    """Steps that are cut out of a piece to train on."""
    transpose: Annotated[int, Meta(ge=0, le=12)] = 0
    """Half tones up or down, at most, by which a window is moved at random."""
    data: Music = Music()

    def __post_init__(self) -> None:
        check_forward(self.model)

    def sizes(self) -> Sizes:
        return Sizes(self.window, KEYS, KEYS, "window")

    def make(self, report: Report) -> Any:
        report("Reading the music. The first time, it is fetched.")
        pieces = data.load_chorales(self.data.path)
        report(pieces.source)
        return _make(self, pieces)


Rolls = list[UInt8[np.ndarray, "_ 88"]]
"""Pieces: 1 where a key sounds."""


def split(pieces: data.Pieces, config: Chorales) -> tuple[Rolls, Rolls]:
    """Returns the pieces to train on, and those to test with.

    Raises:
      ValueError: a part would have no pieces, or keys would leave the piano if they
        were transposed.
    """
    rolls = np.split(pieces.keys, np.cumsum(pieces.lengths)[:-1])
    # The share of the first n pieces is held out, rounded down, for every n.
    share = np.floor(np.arange(len(rolls) + 1) * config.data.held_out)
    tested = np.diff(share) > 0
    if tested.all() or not tested.any():
        raise ValueError(
            f"there must be pieces to train on and to test with, but got {len(rolls)} "
            f"pieces, of which {tested.sum()} are to test with. Change "
            "`data.held_out`, or give more pieces."
        )
    (used,) = np.nonzero(pieces.keys.any(0))
    free = min(used[0], KEYS - 1 - used[-1])
    if config.transpose > free:
        raise ValueError(
            f"`transpose` must be at most {free}, as far as all keys stay on the "
            f"piano, but got {config.transpose}"
        )
    train = [roll for roll, held_out in zip(rolls, tested, strict=True) if not held_out]
    test = [roll for roll, held_out in zip(rolls, tested, strict=True) if held_out]
    return train, test


def cut(rolls: Rolls, starts: np.ndarray, shifts: np.ndarray, steps: int) -> Steps:
    """Returns the steps [start, start + steps) of each piece, moved by some keys.

    The input at a step are the keys of the step before: none, before the first. Where a
    piece has ended there are no labels.
    """
    xs, labels = np.zeros((2, steps, len(rolls), KEYS), np.float32)
    mask = np.zeros(xs.shape[:2], bool)
    for n, (roll, start, shift) in enumerate(zip(rolls, starts, shifts, strict=True)):
        moved = np.roll(roll, shift, axis=-1)
        shown = moved[start : start + steps]
        before = moved[max(start - 1, 0) : start + len(shown) - 1]
        labels[: len(shown), n] = shown
        xs[len(shown) - len(before) : len(shown), n] = before
        mask[: len(shown), n] = True
    return Steps(xs, labels, mask)


def _make(config: Chorales, pieces: data.Pieces) -> Any:
    """Returns the task. From here on JAX is needed."""
    from experiments.tasks.scored import HeldOut, make_task

    train, test = split(pieces, config)
    lengths = np.array([len(roll) for roll in train])

    def draw(random: np.random.Generator, batch_size: int) -> Steps:
        # Every step of the music is as likely as any other.
        chosen = random.choice(len(train), batch_size, p=lengths / lengths.sum())
        latest = np.maximum(lengths[chosen] - config.window, 0)
        starts = random.integers(latest + 1)
        high = config.transpose
        shifts = random.integers(-high, high + 1, size=batch_size)
        return cut([train[n] for n in chosen], starts, shifts, config.window)

    # Of the pieces to look at, the first steps of those that are long enough.
    by_length = sorted(test, key=len, reverse=True)[:PROBED]
    none = np.zeros(len(by_length), int)
    probed = cut(by_length, none, none, min(PROBED_STEPS, len(by_length[-1])))
    held_out = HeldOut(_make_evaluator(config, train, test), probed)
    arrays = {"keys": pieces.keys, "lengths": pieces.lengths}
    return make_task(config, draw, "keys_cross_entropy", held_out=held_out)._replace(
        data={"source": pieces.source, "sha256": data.digest(arrays)}
    )


def _make_evaluator(config: Chorales, train: Rolls, test: Rolls) -> Any:
    """Returns `params` to nats per step, beside those of predictions that count."""
    import jax

    from experiments.tasks.scored import LOSSES, make_loss

    none, longest = np.zeros(len(test), int), max(map(len, test))
    steps = cut(test, none, none, longest)
    loss = make_loss(config.network({}).body, LOSSES["keys_cross_entropy"])
    nats = jax.jit(lambda params: loss(params, None, steps)[0])
    counted = counted_nats(train, test)
    return lambda params: {"test_nats": float(nats(params)), **counted}


def counted_nats(train: Rolls, test: Rolls) -> dict[str, float]:
    """Returns nats per step if each key is predicted by counts of the training pieces.

    `frequency` counts how often the key sounds; `key_before` also whether it sounded at
    the step before. Half a count of each kind is added.
    """
    then, now = _pairs(train)
    frequency = (now.sum(0) + 0.5) / (len(now) + 1)
    after = [
        ((now & (then == sounded)).sum(0) + 0.5) / ((then == sounded).sum(0) + 1)
        for sounded in (False, True)
    ]
    before, keys = _pairs(test)
    return {
        "frequency": _nats(keys, frequency),
        "key_before": _nats(keys, np.where(before, after[1], after[0])),
    }


def _pairs(rolls: Rolls) -> tuple[np.ndarray, np.ndarray]:
    """Returns the keys of the step before each step, and those of the step."""
    silent = np.zeros((1, KEYS), np.uint8)
    before = [np.concatenate([silent, roll[:-1]]) for roll in rolls]
    return np.concatenate(before) > 0, np.concatenate(rolls) > 0


def _nats(keys: np.ndarray, probability: Float[np.ndarray, "..."]) -> float:
    likelihood = np.where(keys, probability, 1 - probability)
    return float(-np.log(likelihood).sum(-1).mean())
