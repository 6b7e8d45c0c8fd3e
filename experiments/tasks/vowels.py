"""Nine speakers, recognized by series of 7 to 29 steps, many-to-one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from experiments import data
from experiments.config.schema import Experiment, Report, Sizes, Weight
from experiments.tasks.sequences import numbered

SIZES = "sizes.json"
# Details of what is drawn: the noise of a batch, the order of an epoch.
NOISE, ORDER = 0, 1


class Series(Struct, frozen=True, forbid_unknown_fields=True):
    """What is read."""

    path: str = ""
    """A folder with the two .ts files. Empty: fetched once."""


class Vowels(Experiment, frozen=True, kw_only=True, tag_field="task", tag="vowels"):
    """Japanese Vowels, or a data set of the same form. The last state decides."""

    artifacts = (SIZES,)

    input_noise: Weight = 0.0
    """Standard deviation of noise on the standardized inputs: 270 series are few."""
    data: Series = Series()

    def sizes(self) -> Sizes:
        return Sizes(1, 1, 1, "data.path")

    def network(self, artifacts: Mapping[str, Any]) -> Any:
        from experiments.models.readout import make_network

        sizes = artifacts[SIZES]
        return make_network(self.model, int(sizes["inputs"]), int(sizes["outputs"]))

    def make(self, report: Report) -> Any:
        report("Reading the series. The first time, they are fetched.")
        vowels = data.load_vowels(self.data.path)
        report(vowels.source)
        return _make(self, vowels)


def batch_of(
    sequences: data.Sequences, batch_size: int, noise: float, seed: int, number: int
) -> data.Sequences:
    """Returns a batch by its number, with noise on the inputs.

    Every sequence comes once per epoch. An epoch's last batch runs into the next epoch.
    """
    count, first = len(sequences.labels), number * batch_size
    epochs = range(first // count, (first + batch_size - 1) // count + 1)
    orders = [numbered(seed, e, detail=ORDER).permutation(count) for e in epochs]
    start = first - epochs[0] * count
    chosen = np.concatenate(orders)[start : start + batch_size]
    xs = sequences.xs[:, chosen]
    random = numbered(seed, number, detail=NOISE)
    xs = xs + np.float32(noise) * random.standard_normal(xs.shape, np.float32)
    return data.Sequences(xs, sequences.lengths[chosen], sequences.labels[chosen])


def _moments(sequences: data.Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation `[I]` over all steps within the lengths."""
    within = np.arange(len(sequences.xs))[:, None] < sequences.lengths
    steps = sequences.xs[within]
    deviation = steps.std(0)
    # A constant channel carries no information, and is only shifted.
    return steps.mean(0), np.where(deviation > 0, deviation, 1)


def _make(config: Vowels, vowels: data.Classification) -> Any:
    """Returns the task. From here on JAX is needed."""
    from experiments.models import classifier, readout
    from experiments.tasks.base import Probe, Task

    mean, deviation = _moments(vowels.train)
    train_set, test_set = (
        part._replace(xs=(part.xs - mean) / deviation)
        for part in (vowels.train, vowels.test)
    )
    inputs, outputs = train_set.xs.shape[-1], len(vowels.classes)
    artifacts = {SIZES: {"inputs": inputs, "outputs": outputs}}
    network, size = config.network(artifacts), config.optimizer.batch_size

    def batch(number: int) -> tuple[None, Any]:
        noise, seed = config.input_noise, config.seed
        drawn = batch_of(train_set, size, noise, seed, number)
        return None, (drawn, np.uint32(number)) if config.model.dropout else drawn

    accuracy = classifier.make_accuracy(network.body, test_set)
    body = readout.make_body(config.model, compute_dtype=config.model.compute_dtype)
    loss_fn = classifier.make_loss(body)
    return Task(
        cell=network.cell,
        init=network.init,
        loss_fn=loss_fn,
        batch=batch,
        evaluate=lambda params: {"test_accuracy": float(accuracy(params))},
        probe=lambda params: Probe(*classifier.probe(test_set, params)),
        per_step=size,
        unit="sequences",
        artifacts=artifacts,
    )
