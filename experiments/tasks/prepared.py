"""A series as a network reads it, and forecasts that need no training."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from experiments.data import Series
from experiments.tasks.sequences import Steps


class Prepared(NamedTuple):
    """A series as the network reads it, and its forecasts that need no training."""

    values: Float[np.ndarray, "N C"]
    """NaN where a value is missing, as in all that follows from one."""
    inputs: Float[np.ndarray, "N I"]
    """What the base left of each value, over `reading`, and 1. Missing: 0 and 0."""
    simple: Mapping[str, Float[np.ndarray, "N L C"]]
    """Forecasts of the next L steps, by name."""
    base: Float[np.ndarray, "N L C"]
    """What the outputs are added to."""
    cut: int
    """The first step that is held out. All that follows is of the steps before it."""
    mean: Float[np.ndarray, " C"]
    deviation: Float[np.ndarray, " C"]
    reading: Float[np.ndarray, " C"]
    """Root mean square of what the base leaves of the next value."""
    spread: Float[np.ndarray, " C"]
    """The same, of the next L values."""


def prepare(
    series: Series,
    cut: int,
    leads: int,
    period: int = 0,
    base: Literal["mean", "last", "period"] = "mean",
) -> Prepared:
    """Returns a series with its scales and its simple forecasts.

    Args:
      series: what was read.
      cut: the first step that is held out.
      leads: L, the steps that are forecast.
      period: the period of one of the simple forecasts; 0: there is no such forecast.
      base: what the outputs are added to; `period` needs a period.

    Raises:
      ValueError: a column has no values to train on, or none to test with.
    """
    values = series.values.astype(float)
    known = ~np.isnan(values)
    mean = _mean(values[:cut])
    deviation = _size(values[:cut] - mean)

    # Forecasts that need no training.
    simple = {"persistence": repeated(values, 1, leads)}
    if period:
        simple["periodic"] = repeated(values, period, leads)
    bases = {
        "mean": np.broadcast_to(mean, simple["persistence"].shape),
        "last": simple["persistence"],
        "period": simple.get("periodic"),
    }
    added = bases[base]

    # What the base leaves to the network, before the cut.
    left = targets(values, np.arange(cut), leads, cut) - added[:cut]
    trained, tested = (~np.isnan(left)).any((0, 1)), known[cut:].any(0)
    _check(series.columns, np.asarray(trained), np.asarray(tested), cut)
    spread = _size(left.reshape(-1, left.shape[-1]))

    # What it left of each value that is read.
    read = np.full_like(values, np.nan)
    read[1:] = values[1:] - added[:-1, 0]
    reading = _size(read[:cut])
    there = ~np.isnan(read)
    inputs = np.concatenate([np.where(there, read / reading, 0), there], axis=1)
    scales = mean, deviation, reading, spread
    return Prepared(values, inputs, simple, added, cut, *scales)


def repeated(
    values: Float[np.ndarray, "N C"], period: int, leads: int
) -> Float[np.ndarray, "N L C"]:
    """Returns the forecasts that the series goes on as one period before.

    At step t the forecast of step t + k is the value at t + k - j · period, with the
    smallest j for which that step is not after t and its value is known; NaN if there
    is none. A period of 1 repeats the last value.
    """
    count, columns = values.shape
    # The steps of one phase, one below the other; the last known of them at each.
    periods = -(-count // period)
    padded = np.full((periods * period, columns), np.nan)
    padded[:count] = values
    steps = np.where(np.isnan(padded), -1, np.arange(len(padded))[:, None])
    by_phase = steps.reshape(periods, period, columns)
    latest = np.maximum.accumulate(by_phase, axis=0).reshape(-1, columns)
    known = np.take_along_axis(padded, np.maximum(latest, 0), axis=0)
    known[latest < 0] = np.nan
    # Forecast of t + k, as far back as it takes.
    ahead = np.arange(1, leads + 1)
    shown = np.arange(count)[:, None] + ahead - period * -(-ahead // period)
    return np.where((shown >= 0)[..., None], known[np.maximum(shown, 0)], np.nan)


def targets(
    values: Float[np.ndarray, "N C"], at: Int[np.ndarray, "*T"], leads: int, end: int
) -> Float[np.ndarray, "*T L C"]:
    """Returns the values of the steps after `at`: NaN from the step `end` on."""
    later = at[..., None] + np.arange(1, leads + 1)
    inside = later < end
    return np.where(inside[..., None], values[np.where(inside, later, 0)], np.nan)


def windows(
    prepared: Prepared, starts: Int[np.ndarray, " B"], steps: int, end: int
) -> Steps:
    """Returns windows of the series. Nothing from the step `end` on is a label."""
    at = starts + np.arange(steps)[:, None]
    leads = prepared.base.shape[1]
    left = targets(prepared.values, at, leads, end) - prepared.base[at]
    labels = (left / prepared.spread).reshape(*at.shape, -1)
    mask = ~np.isnan(labels)
    inputs = prepared.inputs[at].astype(np.float32)
    return Steps(inputs, np.where(mask, labels, 0).astype(np.float32), mask)


def root_mean_square(
    errors: Float[np.ndarray, "..."], axis: int | tuple[int, ...]
) -> Float[np.ndarray, "..."]:
    """Returns it over the errors that are known: NaN where none are."""
    known = ~np.isnan(errors)
    count = known.sum(axis)
    squares = np.where(known, np.square(errors), 0).sum(axis)
    return np.where(count > 0, np.sqrt(squares / np.maximum(count, 1)), np.nan)


def _mean(values: Float[np.ndarray, "N C"]) -> Float[np.ndarray, " C"]:
    """Returns the mean of what is known; 0 if nothing is."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)


def _size(values: Float[np.ndarray, "N C"]) -> Float[np.ndarray, " C"]:
    """Returns the root mean square; 1 for zeros and where nothing is known."""
    size = root_mean_square(values, axis=0)
    return np.where(size > 0, size, 1)


def _check(
    columns: tuple[str, ...], trained: np.ndarray, tested: np.ndarray, cut: int
) -> None:
    """Raises unless every column has values in both parts."""
    for column, in_training, in_test in zip(columns, trained, tested, strict=True):
        if not in_training or not in_test:
            part = "after" if in_training else "before"
            raise ValueError(
                f"`{column}` must have values to forecast before and after step {cut}, "
                f"but has none {part} it. Change `data.held_out`, or leave the column "
                "out."
            )
