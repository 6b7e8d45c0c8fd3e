"""Temporal order: where the two symbols are, and which label they have."""

import numpy as np

from experiments.config.load import load_config
from experiments.tasks import Config
from experiments.tasks.sequences import numbered


def test_the_order_of_two_symbols():
    path = "configs/classical/temporal_order_gru.toml"
    steps = load_config(Config, path).draw(numbered(1234, 0), 2000)
    ids, shown = steps.xs.argmax(-1), steps.xs[..., 2:4].any(-1)
    for b in range(2000):
        (end,) = np.flatnonzero(steps.mask[:, b])
        first, second = np.flatnonzero(shown[:, b])
        assert 10 <= first <= 20 and 50 <= second <= 60 and 99 <= end <= 109
        assert ids[0, b] == 0 and ids[end, b] == 1
        assert (np.delete(ids[1:end, b], [first - 1, second - 1]) >= 4).all()
        assert steps.labels[end, b] == 2 * (ids[first, b] - 2) + ids[second, b] - 2
    ends = steps.mask.argmax(0)
    assert set(ends) == set(range(99, 110))
    assert set(steps.labels[ends, range(2000)]) == {0, 1, 2, 3}
