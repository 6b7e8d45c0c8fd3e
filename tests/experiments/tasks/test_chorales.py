"""Music as a task: what is shown, what is asked for, and what counting achieves."""

import jax
import numpy as np
import pytest

from experiments import data
from experiments.config.load import ConfigError, load_config
from experiments.data import FetchError
from experiments.tasks import Config, chorales
from tests.experiments.conftest import TINY

CONFIG = "configs/chorales/chorales_gru.toml"
SMALL = (*TINY, "window=6", "transpose=2")


def config_of(*overrides):
    return load_config(Config, CONFIG, [*SMALL, *overrides])


def pieces(count=10):
    """Pieces of 4 to 8 steps, in each of which a scale goes up from a key of its
    own."""
    lengths = np.arange(count, dtype=np.int32) % 5 + 4
    starts = np.concatenate([30 + n + np.arange(x) for n, x in enumerate(lengths)])
    keys = (np.arange(88) == starts[:, None]).astype(np.uint8)
    return data.Pieces(keys, lengths, "scales")


def test_pieces_are_held_out_evenly():
    train, test = chorales.split(pieces(), config_of("data.held_out=0.4"))
    first = [np.flatnonzero(roll[0])[0] - 30 for roll in test]
    assert first == [2, 4, 7, 9] and len(train) == 6
    assert [len(roll) for roll in test] == [6, 8, 6, 8]


def test_the_keys_before_are_shown_and_those_now_asked_for():
    rolls = np.split(pieces().keys, np.cumsum(pieces().lengths)[:-1])[:3]
    xs, labels, mask = chorales.cut(rolls, np.array([0, 3, 1]), np.array([0, 2, -1]), 5)
    assert xs.shape == labels.shape == (5, 3, 88)
    np.testing.assert_array_equal(mask.sum(0), [4, 2, 5])
    np.testing.assert_array_equal(labels.sum(-1), mask)
    sounding = [np.flatnonzero(labels[:, n])[0] % 88 for n in range(3)]
    assert sounding == [30, 31 + 3 + 2, 32 + 1 - 1]
    # Nothing comes before the first step of a piece. Within one, its last step does.
    np.testing.assert_array_equal(xs[0].sum(-1), [0, 1, 1])
    np.testing.assert_array_equal(xs[0, 1], np.roll(labels[0, 1], -1))
    np.testing.assert_array_equal(
        xs[1:] * mask[1:, :, None], labels[:-1] * mask[1:, :, None]
    )


def test_a_batch_is_of_whole_steps_of_the_training_pieces(monkeypatch):
    monkeypatch.setattr(chorales.data, "load_chorales", lambda path: pieces())
    task = config_of("model.dropout=0.0").make(lambda sentence: None)
    _, batch = task.batch(0)
    assert batch.xs.shape == (6, 8, 88) and batch.mask[:4].all()
    np.testing.assert_array_equal(batch.labels.sum(-1), batch.mask)


def test_an_untrained_network_guesses(monkeypatch):
    """With a readout of zeros, each of 88 keys costs ln 2."""
    monkeypatch.setattr(chorales.data, "load_chorales", lambda path: pieces())
    task = config_of().make(lambda sentence: None)
    params = task.init(jax.random.key(0))
    zeros = jax.tree.map(np.zeros_like, params.readout)
    found = task.evaluate(params._replace(readout=zeros))
    np.testing.assert_allclose(found["test_nats"], 88 * np.log(2), rtol=1e-5)
    assert found["key_before"] > 0 and len(task.data["sha256"]) == 64


def test_counts_by_hand():
    """A key that alternates, one that always sounds, and 86 that never do."""
    roll = np.zeros((100, 88), np.uint8)
    roll[::2, 0] = 1
    roll[:, 1] = 1
    found = chorales.counted_nats([roll], [roll])
    rare = -np.log(100.5 / 101)
    np.testing.assert_allclose(found["frequency"], np.log(2) + 87 * rare, rtol=1e-12)
    # Silence before the first step: 1 of 51 for key 0, and the only one for key 1.
    after_silence, after_sound = -np.log(50.5 / 51), -np.log(50.5 / 51)
    alternating = (50 * after_silence + 50 * after_sound) / 100
    always = (-np.log(1.5 / 2) - 99 * np.log(99.5 / 100)) / 100
    expected = alternating + always + 86 * rare
    np.testing.assert_allclose(found["key_before"], expected, rtol=1e-12)


def test_keys_stay_on_the_piano():
    free = 88 - 1 - np.flatnonzero(pieces(50).keys.any(0))[-1]
    assert free == 1
    chorales.split(pieces(50), config_of("transpose=1"))
    with pytest.raises(ValueError, match=r"`transpose` must be at most 1, .* got 2"):
        chorales.split(pieces(50), config_of("transpose=2"))


@pytest.mark.parametrize("count, share", [(1, 0.5), (10, 0.0)])
def test_both_parts_must_have_pieces(count, share):
    with pytest.raises(ValueError, match=r"Change `data.held_out`, or give more"):
        chorales.split(pieces(count), config_of(f"data.held_out={share}"))


def test_the_future_may_not_be_read():
    with pytest.raises(ConfigError, match=r"`model.bidirectional` needs whole"):
        config_of("model.bidirectional=true")


def test_music_that_cannot_be_fetched(monkeypatch):
    def refused(*_):
        raise FetchError("no registry")

    monkeypatch.setattr(chorales.data, "load_chorales", refused)
    with pytest.raises(FetchError, match="no registry"):
        config_of().make(lambda sentence: None)
