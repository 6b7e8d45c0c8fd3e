"""Sequences to classify: every one comes once per epoch, by the batch's number."""

import jax
import numpy as np

from experiments.config.load import load_config
from experiments.data import Classification, Sequences
from experiments.tasks import Config, classified


def test_every_sequence_comes_once_per_epoch():
    labels = np.arange(10, dtype=np.int32)
    sequences = Sequences(np.zeros((3, 10, 2), np.float32), labels + 1, labels)
    drawn = [classified.batch_of(sequences, 4, 0, number) for number in range(5)]
    seen = np.concatenate([batch.labels for batch in drawn])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    for batch in drawn:
        np.testing.assert_array_equal(batch.lengths, batch.labels + 1)
    # A batch of more than two epochs: each sequence twice or three times.
    large = np.bincount(classified.batch_of(sequences, 25, 0, 3).labels)
    assert len(large) == 10 and set(large) == {2, 3}


def test_the_noise_is_the_batch_s_own():
    labels = np.zeros(4, np.int32)
    sequences = Sequences(np.zeros((50, 4, 6), np.float32), labels + 50, labels)
    first, again, second = (
        classified.with_noise(sequences, 0.5, 0, n).xs for n in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert first.dtype == np.float32 and abs(first.std() - 0.5) < 0.05


def test_one_layer_has_dropout_in_training_alone():
    """Another step has other masks; without its number there are none."""
    settings = "model.dropout=0.5", "model.hidden_size=4", "optimizer.batch_size=9"
    config = load_config(Config, "configs/vowels/vowels_gru.toml", settings)
    random, labels = np.random.default_rng(0), np.arange(9, dtype=np.int32)
    xs = random.standard_normal((3, 9, 2), np.float32)
    sequences = Sequences(xs, np.full(9, 3, np.int32), labels)
    names = tuple(map(str, labels))
    task = classified.make_task(
        config, Classification(sequences, sequences, names, "drawn")
    )
    params, (_, (batch, number)) = task.init(jax.random.key(0)), task.batch(7)
    loss = jax.jit(lambda batch: task.loss_fn(params, None, batch)[0])
    assert number == 7
    first, again, other = (float(loss((batch, np.uint32(n)))) for n in (7, 7, 8))
    assert first == again != other
    assert float(loss(batch)) not in (first, other)
