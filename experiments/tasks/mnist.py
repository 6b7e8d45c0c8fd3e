"""Handwritten digits, read pixel by pixel or row by row.

Sources: Le, Jaitly & Hinton (2015), arXiv:1504.00941, section 4.2, for the pixels one
after another, and in a random order that is the same for all images.
"""

from typing import Any, Literal

import numpy as np
from msgspec import Struct

from experiments import data
from experiments.config.schema import Report, Seed, Share, Sizes
from experiments.data.mnist import SIDE
from experiments.tasks.classified import Classified, make_task

PIXELS = SIDE * SIDE


class Digits(Struct, frozen=True, forbid_unknown_fields=True):
    """What is read."""

    path: str = ""
    """A CSV file, or .csv.gz: an image a line, its digit last. Empty: fetched once."""
    held_out: Share = 0.2
    """The last share of the images of each digit, to test with."""


class Mnist(Classified, frozen=True, kw_only=True, tag_field="task", tag="mnist"):
    """An image is a sequence, and the last state decides which digit it shows."""

    reads: Literal["pixels", "rows"]
    """What a step is: one of 784 pixels, or one of 28 rows of 28."""
    permutation: Seed | None = None
    """Seed of a random order of the pixels, the same for all images. None: as they are,
    row by row."""
    data: Digits = Digits()

    def sizes(self) -> Sizes:
        inputs = SIDE if self.reads == "rows" else 1
        return Sizes(PIXELS // inputs, inputs, 10, "data.path")

    def make(self, report: Report) -> Any:
        report("Reading the images. The first time, they are fetched.")
        sets = split(data.load_mnist(self.data.path), self)
        report(sets.source)
        return make_task(self, sets, by_channel=False)


def split(images: data.Images, config: Mnist) -> data.Classification:
    """Returns the images as sequences, to train on and to test with.

    Raises:
      ValueError: a part would have no images.
    """
    order = np.arange(PIXELS)
    if config.permutation is not None:
        order = np.random.default_rng(config.permutation).permutation(PIXELS)
    tested = np.zeros(len(images.labels), bool)
    for digit in range(10):
        (same,) = np.nonzero(images.labels == digit)
        tested[same[len(same) - int(config.data.held_out * len(same)) :]] = True
    if tested.all() or not tested.any():
        raise ValueError(
            "there must be images to train on and to test with, but got "
            f"{len(tested)} images, of which {tested.sum()} are to test with. Change "
            "`data.held_out`, or give more images."
        )
    inputs = config.sizes().inputs
    steps = images.pixels.reshape(len(tested), PIXELS)[:, order]
    xs = steps.reshape(len(tested), -1, inputs).swapaxes(0, 1).astype(np.float32)
    lengths = np.full(len(tested), len(xs), np.int32)
    train, test = (
        data.Sequences(xs[:, chosen], lengths[chosen], images.labels[chosen])
        for chosen in (~tested, tested)
    )
    extent = f"{(~tested).sum()} images to train on, {tested.sum()} to test with"
    source = f"{config.data.path or 'MNIST'}: {extent}, {len(xs)} steps of {inputs}."
    return data.Classification(train, test, tuple("0123456789"), source)
