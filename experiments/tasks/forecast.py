"""Forecasts of the next steps of a series, beside forecasts that need no training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from msgspec import Struct

from experiments import data
from experiments.config.schema import (
    Natural,
    Positive,
    Report,
    Share,
    Sizes,
    check_forward,
)
from experiments.tasks.prepared import (
    Prepared,
    prepare,
    root_mean_square,
    targets,
    windows,
)
from experiments.tasks.sequences import Scored, Steps

SCALES = "scales.json"
# Windows that the microscope looks at.
PROBED = 32
# The name of the network's own forecasts, beside those that need no training.
NETWORK = "network"


class Numbers(Struct, frozen=True, forbid_unknown_fields=True):
    """What is read."""

    source: data.Measured = "laser"
    """A series that is fetched once."""
    path: str = ""
    """A CSV file. Empty: the `source`."""
    columns: tuple[str, ...] = ()
    """Columns of the file, which are read and forecast."""
    held_out: Share = 0.2
    """The last share of the steps, to test with."""

    def __post_init__(self) -> None:
        if bool(self.path) != bool(self.columns):
            raise ValueError(
                "`path` needs `columns`, the names of what to read, and the other way "
                f"round, but got {self.path!r} and {list(self.columns)}"
            )
        if len({*self.columns}) < len(self.columns):
            raise ValueError(f"`columns` must differ, but got {list(self.columns)}")


class Forecast(Scored, frozen=True, kw_only=True, tag_field="task", tag="forecast"):
    """At each step, every column is forecast for each of the next `leads` steps.

    The network reads windows from anywhere in the first part of the series. It is
    tested on the last part, which it reads to the end without a reset. A missing value
    is read as 0, beside a number that says so, and is no label.
    """

    artifacts = (SCALES,)

    window: Positive
    """Steps of a window in training, and steps read before the test."""
    leads: Positive = 1
    """Steps that are forecast."""
    period: Natural = 0
    """Steps of a day, say: the value one period before is a forecast to compare with.
    0: there is none."""
    base: Literal["mean", "last", "period"] = "mean"
    """What the network's outputs are added to: the mean, the last value, or the value
    one period before. The network reads each value minus the forecast of it."""
    data: Numbers = Numbers()

    def __post_init__(self) -> None:
        check_forward(self.model)
        if self.base == "period" and not self.period:
            raise ValueError("`base` can be `period` if `period` is set, but it is 0")

    def sizes(self) -> Sizes:
        columns = len(self.data.columns) or 1
        return Sizes(self.window, 2 * columns, self.leads * columns, "window")

    def make(self, report: Report) -> Any:
        report("Reading the series. The first time, it is fetched.")
        source, path, columns = self.data.source, self.data.path, self.data.columns
        series = data.load_series(source, path, columns)
        report(series.source)
        return _make(self, series)


def first_held_out(config: Forecast, count: int) -> int:
    """Returns the first of `count` steps that is held out.

    Raises:
      ValueError: a part of the series is too short.
    """
    cut = count - int(config.data.held_out * count)
    if cut < config.window + 1 or count - cut < config.leads:
        raise ValueError(
            f"there must be more than `window` = {config.window} steps to train on, "
            f"and at least `leads` = {config.leads} to test with, but there are {cut} "
            f"and {count - cut}. Lower `window` or `leads`, change `data.held_out`, or "
            "give a longer series."
        )
    return cut


def _make(config: Forecast, series: data.Series) -> Any:
    """Returns the task. From here on JAX is needed."""
    from experiments.tasks.scored import HeldOut, make_task

    window, cut = config.window, first_held_out(config, len(series.values))
    prepared = prepare(series, cut, config.leads, config.period, config.base)
    errors = _make_errors(config, prepared)

    def draw(random: np.random.Generator, batch_size: int) -> Steps:
        starts = random.integers(cut - window + 1, size=batch_size)
        return windows(prepared, starts, window, cut)

    def evaluate(params: Any) -> dict[str, float]:
        return scores(errors(params), prepared.deviation)

    # Windows that end in the part that is held out, evenly spread.
    count = len(prepared.values)
    starts = np.linspace(cut - window, count - 1 - window, PROBED).astype(int)
    probed = windows(prepared, starts, window, count)
    scales = {
        "columns": list(series.columns),
        "mean": prepared.mean.tolist(),
        "reading": prepared.reading.tolist(),
        "spread": prepared.spread.tolist(),
    }
    held_out = HeldOut(evaluate, probed)
    return make_task(config, draw, "squared_errors", held_out=held_out)._replace(
        data={
            "source": series.source,
            "sha256": data.digest({"values": series.values}),
        },
        artifacts={SCALES: scales},
        finish=lambda params: {"forecast.txt": table(series.columns, errors(params))},
    )


def _make_errors(
    config: Forecast, prepared: Prepared
) -> Callable[[Any], dict[str, np.ndarray]]:
    """Returns `params` to the errors `[S, L, C]` of all forecasts that were held out.

    They are in the units of the file, and NaN where a forecast or the value is missing.
    """
    import jax
    import jax.numpy as jnp

    from experiments.models.readout import read_out

    # Nothing comes after the last step. The first forecast is made just before the cut.
    last, first = len(prepared.values) - 1, prepared.cut - 1
    start = max(prepared.cut - config.window, 0)
    xs = jnp.asarray(prepared.inputs[start:last, None], jnp.float32)
    made_at, body = np.arange(first, last), config.network({}).body
    values = targets(prepared.values, made_at, config.leads, last + 1)

    @jax.jit
    def outputs_of(params: Any) -> Any:
        _, hs = body.unroll(params.cell, None, xs)
        return read_out(params.readout, hs)[first - start :, 0]

    def errors(params: Any) -> dict[str, np.ndarray]:
        outputs = np.asarray(outputs_of(params)).reshape(values.shape)
        base = prepared.base[made_at]
        forecasts = {NETWORK: base + prepared.spread * outputs}
        forecasts |= {name: f[made_at] for name, f in prepared.simple.items()}
        found = {name: f - values for name, f in forecasts.items()}
        # All are compared on the same values.
        missing = np.isnan(list(found.values())).any(0)
        return {name: np.where(missing, np.nan, e) for name, e in found.items()}

    return errors


def scores(
    errors: Mapping[str, Float[np.ndarray, "S L C"]],
    deviation: Float[np.ndarray, " C"],
) -> dict[str, float]:
    """Returns root mean squared errors of the first and the last lead.

    They are in standard deviations of each column, so that columns can be averaged.
    """
    found = {}
    for name, error in errors.items():
        by_lead = root_mean_square(error / deviation, axis=(0, 2))
        key = "test_rmse" if name == NETWORK else name
        for lead in sorted({1, len(by_lead)}):
            found[f"{key}_{lead}"] = float(by_lead[lead - 1])
    return found


def table(
    columns: Sequence[str], errors: Mapping[str, Float[np.ndarray, "S L C"]]
) -> str:
    """Returns root mean squared errors by column and lead, in the file's units."""
    found = {name: root_mean_square(e, axis=0) for name, e in errors.items()}
    lines = ["root mean squared error", "  ".join(["lead", *errors, "of"])]
    for place, column in enumerate(columns):
        for lead in range(len(found[NETWORK])):
            numbers = (f"{f[lead, place]:{len(name)}.4g}" for name, f in found.items())
            lines.append("  ".join([f"{lead + 1:4d}", *numbers, column]))
    return "\n".join(lines) + "\n"
