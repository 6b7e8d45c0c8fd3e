"""Spoken digits as a task: who is held out, and what is subtracted."""

import numpy as np
import pytest

from experiments import data
from experiments.config.load import ConfigError, load_config
from experiments.data import FetchError
from experiments.tasks import Config, digits
from experiments.tasks.digits import Recordings

CONFIG = "configs/digits/digits_bidirectional_gru.toml"


def recordings() -> data.Digits:
    """Ten takes of two digits by each speaker, of 2 to 4 steps and 3 channels."""
    labels, speakers, takes = (
        ids.ravel().astype(np.int32) for ids in np.indices((2, 6, 10))
    )
    lengths = (2 + takes % 3).astype(np.int32)
    xs = np.random.default_rng(0).standard_normal((4, 120, 3), np.float32)
    xs += 5 * speakers[:, None] + 10 * labels[:, None]
    xs[np.arange(4)[:, None] >= lengths] = 0
    return data.Digits(data.Sequences(xs, lengths, labels), speakers, takes)


def test_nothing_of_the_speaker_held_out_is_trained_on():
    whole = recordings()
    train, test, _, source = digits.split(whole, Recordings(held_out="lucas"))
    assert "100 recordings to train on, 20 to test with (lucas)" in source
    held_out = whole.speakers == data.SPEAKERS.index("lucas")
    np.testing.assert_array_equal(test.labels, whole.sequences.labels[held_out])
    np.testing.assert_array_equal(train.labels, whole.sequences.labels[~held_out])
    # Only a shift of each speaker: differences within a recording stay.
    for part, chosen in ((train, ~held_out), (test, held_out)):
        np.testing.assert_allclose(
            np.diff(part.xs[:2], axis=0),
            np.diff(whole.sequences.xs[:2, chosen], axis=0),
            rtol=1e-4,
            atol=1e-5,
        )


def test_takes_are_held_out_of_every_speaker():
    train, test, *_ = digits.split(recordings(), Recordings(held_out="takes"))
    np.testing.assert_array_equal(np.bincount(train.labels), [30, 30])
    np.testing.assert_array_equal(test.lengths, np.tile([2, 3, 4, 2, 3], 12))


@pytest.mark.parametrize("mean, apart", [("speaker", 10), ("recording", 0)])
def test_a_mean_is_subtracted_and_padding_stays_zero(mean, apart):
    """The speaker's mean leaves the digits apart; a recording's own does not."""
    held_out = Recordings(held_out="theo", mean=mean)
    _, (xs, lengths, labels), *_ = digits.split(recordings(), held_out)
    within = np.arange(4)[:, None] < lengths
    np.testing.assert_allclose(xs[within].mean(0), 0, atol=1e-5)
    assert not xs[~within].any()
    means = xs.sum(0) / lengths[:, None]
    between = means[labels == 1].mean() - means[labels == 0].mean()
    assert abs(between - apart) < 1
    assert np.allclose(means, 0, atol=1e-5) == (mean == "recording")


def test_a_long_recording_is_cut():
    train, test, *_ = digits.split(recordings(), Recordings(longest=3))
    assert len(train.xs) == len(test.xs) == test.lengths.max() == 3
    assert test.lengths.dtype == np.int32


def test_who_can_be_held_out():
    with pytest.raises(ConfigError, match=r"must be one of `george`, .*`takes`"):
        load_config(Config, CONFIG, ["data.held_out=george_michael"])


def test_recordings_that_cannot_be_fetched(monkeypatch):
    def refused(*_):
        raise FetchError("no registry")

    monkeypatch.setattr(digits.data, "load_digits", refused)
    with pytest.raises(FetchError, match="no registry"):
        load_config(Config, CONFIG).make(lambda sentence: None)
