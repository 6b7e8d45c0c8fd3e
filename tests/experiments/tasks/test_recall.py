"""Recall: episodes, and endless streams of them, however they are cut."""

import numpy as np
import pytest

from experiments.config.load import load_config
from experiments.tasks import Config
from experiments.tasks.sequences import TRAINING, numbered


@pytest.mark.parametrize("lag", [1, 2, 9])
def test_an_episode(lag):
    config = load_config(Config, "configs/recall/lstm.toml", [f"lag={lag}"])
    steps = config.draw(numbered(1234, 0), 200)
    ids = steps.xs.argmax(-1)
    np.testing.assert_array_equal(steps.labels[-1], ids[0])
    assert ids[0].max() < 4 and (ids[-1] == 8).all()
    assert ((ids[1:-1] >= 4) & (ids[1:-1] < 8)).all()
    assert steps.mask[-1].all() and steps.mask.sum() == 200


@pytest.mark.parametrize("window", [1, 4, 50])
def test_a_stream(window):
    """However it is cut: the label at a question is the symbol `lag` steps before."""
    lag, symbols, streams, size = 3, 4, 5, 200
    path = "configs/truncation/recall_stream_lstm.toml"
    config = load_config(Config, path, [f"lag={lag}", f"window={window}"])
    numbers = range(size // window)
    windows = [config.cut(n, window, streams, TRAINING) for n in numbers]
    xs, labels, mask = (np.concatenate(a) for a in zip(*windows, strict=True))
    # Each step is a symbol, or a question.
    question = xs[..., -1] == 1
    np.testing.assert_array_equal(xs[..., :-1].sum(-1), 1 - question)
    shown = xs[..., :symbols].any(-1)
    for b in range(streams):
        asked = np.flatnonzero(question[:, b])
        assert (np.diff(asked) == lag + 1).all() and asked[0] <= lag
        known = asked[asked >= lag]
        at = np.flatnonzero(shown[:, b])[: len(known)]
        np.testing.assert_array_equal(at, known - lag)
        np.testing.assert_array_equal(np.flatnonzero(mask[:, b]), known)
        expected = xs[known - lag, b, :symbols].argmax(-1)
        np.testing.assert_array_equal(labels[known, b], expected)
    assert len({tuple(q) for q in question.T}) > 1, "each starts at a place of its own"
    assert 4 == len(np.unique(xs[shown].argmax(-1))), "all symbols are shown"
