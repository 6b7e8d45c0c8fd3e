"""Windows of a series, its scales, and forecasts that need no training."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Series
from experiments.tasks import prepared

NAN = np.nan


def series_of(*columns):
    values = np.array(columns, np.float32).T
    return Series(values, tuple("abc"[: len(columns)]), "a toy")


def test_the_last_value_is_repeated():
    values = np.array([[NAN], [3.0], [NAN], [5.0]])
    forecasts = prepared.repeated(values, 1, 2)
    np.testing.assert_array_equal(
        forecasts[..., 0], [[NAN, NAN], [3, 3], [3, 3], [5, 5]]
    )


def test_a_period_is_repeated():
    """A missing value is replaced by the one a period earlier still."""
    values = np.array([[0.0], [1], [2], [10], [NAN], [12]])
    forecasts = prepared.repeated(values, 3, 4)
    expected = [  # of the next four steps, at each step
        [NAN, NAN, 0, NAN],
        [NAN, 0, 1, NAN],
        [0, 1, 2, 0],
        [1, 2, 10, 1],
        [2, 10, 1, 2],
        [10, 1, 12, 10],
    ]
    np.testing.assert_array_equal(forecasts[..., 0], expected)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([NAN, 1.0, 2.0, 3.0]), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 7),
)
def test_a_forecast_looks_as_far_back_as_it_must(values, period, leads):
    """By its definition, value by value."""
    found = prepared.repeated(np.array(values)[:, None], period, leads)
    for t in range(len(values)):
        for k in range(1, leads + 1):
            back = range(t + k - period, -1, -period)
            seen = [values[s] for s in back if s <= t and not np.isnan(values[s])]
            np.testing.assert_array_equal(found[t, k - 1, 0], seen[0] if seen else NAN)


@pytest.mark.parametrize("base", ["mean", "last", "period"])
def test_base_and_labels_give_the_values_back(base):
    random = np.random.default_rng(0)
    values = random.standard_normal((2, 30)) * [[3], [70]] + [[5], [-100]]
    values[1, 7] = NAN
    made = prepared.prepare(series_of(*values), cut=20, leads=3, period=4, base=base)
    starts = np.array([6, 9, 14])
    xs, labels, mask = prepared.windows(made, starts, 6, 20)
    assert xs.shape == (6, 3, 4) and labels.shape == mask.shape == (6, 3, 6)
    for t, n in np.ndindex(6, 3):
        now = starts[n] + t
        read = xs[t, n, :2] * made.reading + made.base[now - 1, 0]
        there = ~np.isnan(values[:, now])
        np.testing.assert_array_equal(xs[t, n, 2:], there)
        np.testing.assert_allclose(
            np.where(there, read, 0), np.where(there, values[:, now], 0), rtol=1e-4
        )
        told = labels[t, n].reshape(3, 2) * made.spread + made.base[now]
        for k, c in np.ndindex(3, 2):
            later = now + k + 1
            known = later < 20 and not np.isnan(values[c, later])
            assert mask[t, n].reshape(3, 2)[k, c] == known
            if known:
                np.testing.assert_allclose(told[k, c], values[c, later], rtol=1e-4)


def test_labels_have_the_scale_of_what_the_base_leaves():
    values = np.random.default_rng(0).standard_normal((1, 400)).cumsum(axis=1)
    for base in ("mean", "last"):
        made = prepared.prepare(series_of(*values), cut=300, leads=1, base=base)
        steps = prepared.windows(made, np.array([0]), 300, 300)
        for scaled in (steps.labels[steps.mask], steps.xs[1:, 0, 0]):
            np.testing.assert_allclose(np.square(scaled).mean(), 1, rtol=1e-3)


@pytest.mark.parametrize("base", ["mean", "last", "period"])
def test_nothing_that_is_held_out_is_trained_on(base):
    """Neither as a label nor in a scale."""
    values = np.random.default_rng(0).standard_normal((1, 30))
    other = values.copy()
    other[:, 20:] = 1e6
    trained_on = [
        prepared.windows(
            prepared.prepare(series_of(*each), cut=20, leads=5, period=3, base=base),
            np.arange(11), 10, 20,
        )
        for each in (values, other)
    ]  # fmt: skip
    for first, second in zip(*trained_on, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_constant_column_is_only_shifted():
    made = prepared.prepare(series_of([2.0] * 9, range(9)), cut=6, leads=1)
    assert made.deviation[0] == made.reading[0] == made.spread[0] == 1
    assert not made.inputs[:, 0].any()


@pytest.mark.parametrize(
    "values, part",
    [
        ([NAN] * 6 + [1, 2, 3], "before"),
        ([1] + [NAN] * 5 + [1, 2, 3], "before"),
        ([1] * 6 + [NAN] * 3, "after"),
    ],
)
def test_a_column_without_values_is_refused(values, part):
    with pytest.raises(ValueError, match=f"`b` must have .* but has none {part} it"):
        prepared.prepare(series_of(range(9), values), cut=6, leads=1)


def test_errors_that_are_missing_do_not_count():
    errors = np.array([[[3.0, NAN]], [[4, NAN]]])
    found = prepared.root_mean_square(errors, axis=0)
    np.testing.assert_array_equal(found, [[np.sqrt(12.5), NAN]])
