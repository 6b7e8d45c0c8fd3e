"""The adding problem: two marks, one in each half, and their sum."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config.load import load_config
from experiments.tasks import Config, scored
from experiments.tasks.sequences import numbered


def adding(length):
    path = "configs/classical/adding_100_lstm.toml"
    return load_config(Config, path, [f"length={length}"])


def draw(batch_size, length):
    return adding(length).draw(numbered(1234, 0), batch_size)


@pytest.mark.parametrize("length", [2, 7, 100])
def test_the_sum_of_two_marked_numbers(length):
    steps = draw(500, length)
    values, marks = np.moveaxis(steps.xs, -1, 0)
    assert (marks[: length // 2].sum(0) == 1).all()
    assert (marks[length // 2 :].sum(0) == 1).all()
    assert 0 <= values.min() and values.max() < 1 and set(np.unique(marks)) <= {0, 1}
    sums = np.sum(values, axis=0, where=marks == 1)
    np.testing.assert_allclose(steps.labels[-1], sums)
    assert steps.mask[-1].all() and not steps.mask[:-1].any()


def test_a_constant_answer_to_the_sum_is_off_by_a_sixth():
    """The mean of (U + V - 1)² is 1/6, of its square 1/15: five standard errors."""
    steps = draw(20_000, 4)
    error = np.mean((steps.labels[-1] - 1) ** 2)
    assert abs(error - 1 / 6) < 5 * np.sqrt((1 / 15 - 1 / 36) / 20_000)
    ones, squared = jnp.ones((4, 20_000, 1)), scored.LOSSES["squared_error"]
    arrays = jnp.asarray(steps.labels), jnp.asarray(steps.mask)
    measured = scored.score(squared, ones, *arrays)["test_error"]
    np.testing.assert_allclose(measured, error, rtol=1e-5)
