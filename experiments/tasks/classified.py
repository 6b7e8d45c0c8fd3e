"""Whole sequences of different lengths, classified by their last state."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.config.schema import Experiment, Weight
from experiments.data import Classification, Sequences, digest
from experiments.tasks.sequences import numbered

SIZES = "sizes.json"
# Details of what is drawn: the noise of a batch, the order of an epoch.
NOISE, ORDER = 0, 1


class Classified(Experiment, frozen=True, kw_only=True):
    """A task whose network reads a whole sequence, and then answers."""

    artifacts = (SIZES,)

    input_noise: Weight = 0.0
    """Standard deviation of noise on the standardized inputs: sequences are few."""

    def network(self, artifacts: Mapping[str, Any]) -> Any:
        from experiments.models.readout import make_network

        sizes = artifacts[SIZES]
        return make_network(self.model, int(sizes["inputs"]), int(sizes["outputs"]))


def batch_of(
    sequences: Sequences, batch_size: int, seed: int, number: int
) -> Sequences:
    """Returns a batch by its number.

    Every sequence comes once per epoch. An epoch's last batch runs into the next epoch.
    """
    count, first = len(sequences.labels), number * batch_size
    epochs = range(first // count, (first + batch_size - 1) // count + 1)
    orders = [numbered(seed, e, detail=ORDER).permutation(count) for e in epochs]
    start = first - epochs[0] * count
    chosen = np.concatenate(orders)[start : start + batch_size]
    return Sequences(
        sequences.xs[:, chosen], sequences.lengths[chosen], sequences.labels[chosen]
    )


def with_noise(sequences: Sequences, noise: float, seed: int, number: int) -> Sequences:
    """Returns a batch, by its number, with noise on the inputs."""
    random = numbered(seed, number, detail=NOISE)
    xs = sequences.xs
    xs = xs + np.float32(noise) * random.standard_normal(xs.shape, np.float32)
    return sequences._replace(xs=xs)


def make_task(
    config: Classified,
    sets: Classification,
    *,
    by_channel: bool = True,
) -> Any:
    """Returns the task. From here on JAX is needed.

    Args:
      config: its config.
      sets: what is read.
      by_channel: whether each channel is standardized on its own. If not, all have one
        mean and deviation: the channels of an image are pixels, and those at its edge
        hardly vary.
    """
    from experiments.models import classifier, readout
    from experiments.tasks.base import Probe, Task

    mean, deviation = moments(sets.train, by_channel)

    def standardized(part: Sequences) -> Sequences:
        return part._replace(xs=(part.xs - mean) / deviation)

    test_set = standardized(sets.test)
    inputs, outputs = test_set.xs.shape[-1], len(sets.classes)
    artifacts = {SIZES: {"inputs": inputs, "outputs": outputs}}
    network, size = config.network(artifacts), config.optimizer.batch_size

    def batch(number: int) -> tuple[None, Any]:
        noise, seed = config.input_noise, config.seed
        drawn = batch_of(sets.train, size, seed, number)
        drawn = with_noise(standardized(drawn), noise, seed, number)
        return None, (drawn, np.uint32(number)) if config.model.dropout else drawn

    accuracy = classifier.make_accuracy(network.body, test_set)
    body = readout.make_body(config.model, compute_dtype=config.model.compute_dtype)
    loss_fn = classifier.make_loss(body, config.model.dropout)
    return Task(
        cell=network.cell,
        init=network.init,
        loss_fn=loss_fn,
        batch=batch,
        evaluate=lambda params: {"test_accuracy": float(accuracy(params))},
        probe=lambda params: Probe(*classifier.probe(test_set, params)),
        per_step=size,
        unit="sequences",
        data={"source": sets.source, "sha256": digest(_arrays(sets))},
        artifacts=artifacts,
    )


def _arrays(sets: Classification) -> dict[str, np.ndarray]:
    """Returns all arrays of the data, by name."""
    parts = {"train": sets.train, "test": sets.test}
    return {
        f"{part}.{name}": array
        for part, sequences in parts.items()
        for name, array in sequences._asdict().items()
    }


def moments(
    sequences: Sequences, by_channel: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation over all steps within the lengths.

    They are `[I]`, or scalars over all channels.
    """
    within = np.arange(len(sequences.xs))[:, None] < sequences.lengths
    steps, axis = sequences.xs[within], 0 if by_channel else None
    deviation = steps.std(axis)
    # A constant channel carries no information, and is only shifted.
    mean = np.asarray(steps.mean(axis))
    return mean, np.where(deviation > 0, deviation, np.float32(1))
