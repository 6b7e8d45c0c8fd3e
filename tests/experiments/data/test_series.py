"""CSV files are parsed strictly, and a missing value is missing."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import data
from experiments.data import series

CSV = """time,load, wind ,note
0,1,-2e-1,"a ""first"", quoted"
1,,.5,
2,NaN,3.,x
3,4, ? ,x
"""


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "toy.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_columns_are_read_by_name(write, start, end):
    content = start + CSV.replace("\n", end) + end
    path = write(content)
    values, columns, source = data.load_series("laser", path, ["wind", "load"])
    assert columns == ("wind", "load") and values.dtype == np.float32
    nan = np.nan
    expected = np.array([[-0.2, 1], [0.5, nan], [3, nan], [nan, 4]], np.float32)
    np.testing.assert_array_equal(values, expected)
    assert source.endswith("toy.csv: 4 steps of wind, load, 3 values missing.")


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "must have one column `load`, but has none"),
        ("loads\n1\n", "must have one column `load`, but has `loads`"),
        ("load,load\n1,2\n", "must have one column `load`, but has `load`, `load`"),
        ("load\n", "must have lines of numbers, but ends after the names"),
        ("load\n1\n2,3\n", "row 3: must have 1 cells, but got 2"),
        ("load\n1\n\n3\n", "row 4: must come without an empty row before it"),
        ("load\n1\nmany\n", "row 3, `load`: must be a number, but got 'many'"),
        ("load\n1_000\n", "row 2, `load`: must be a number, but got '1_000'"),
        ("load\n-inf\n", "row 2, `load`: must be a number, but got '-inf'"),
        ("load\n1e39\n", "row 2, `load`: must fit into a float32, but got 1e39"),
        ("load\n1e999\n", "row 2, `load`: must fit into a float32, but got 1e999"),
        ('load\n"1"2\n', "line 2: "),
        ('load\n"1\n', "line 2: unexpected end of data"),
        (b"load\n\xff\n", "must be text in UTF-8"),
        ("load\n" + "1" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_a_malformed_file_is_refused_with_its_row(write, content, message):
    with pytest.raises(ValueError, match=f"toy.csv.*{message}"):
        data.load_series("laser", write(content), ["load"])


def test_a_long_header_is_cut(write):
    content = ",".join(f"c{n}" for n in range(1000)) + "\n"
    with pytest.raises(ValueError, match=r"but has `c0`, .*, `c19`, …$"):
        data.load_series("laser", write(content), ["load"])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.load_series("laser", str(tmp_path / "none.csv"), ["load"])


characters = st.characters(exclude_categories=["Cs", "Cc"])
names = st.text(characters).map(str.strip).filter(lambda name: name != "a")
numbers = st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1), names)
def test_what_was_written_is_read(rows, name):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["a", name], *rows])
    file.seek(0)
    values = series.parse_csv(file, "toy.csv", [name, "a"])
    expected = [[np.nan if x is None else x for x in row[::-1]] for row in rows]
    np.testing.assert_array_equal(values, np.array(expected, np.float32))


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('a,1.e-\n\r" ?\0é'), max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    lines = io.StringIO("a" + text, newline="")
    try:
        values = series.parse_csv(lines, "toy.csv", ["a"])
    except ValueError:
        return
    assert values.ndim == 2 and values.shape[1] == 1 and not np.isinf(values).any()


HOURS = """date,temp
2010/03/14 01:00,1
2010/03/14 02:00,2
2010/03/14 04:00,4
"""


def test_an_hour_that_is_left_out_is_missing():
    for content in (HOURS, HOURS.replace(":00,", ":00:00,")):
        hours = series._every_hour(content.encode(), "toy.csv")
        np.testing.assert_array_equal(hours[:, 0], [1, 2, np.nan, 4])


@pytest.mark.parametrize("wrong", ["01:00", "02:00", "02:30"])
def test_hours_out_of_order_are_refused(wrong):
    with pytest.raises(ValueError, match=r"toy.csv must have a line per hour"):
        series._every_hour(HOURS.replace("04:00", wrong).encode(), "toy.csv")


@pytest.mark.network
def test_the_laser_is_what_it_was(load_or_skip):
    load_or_skip(series.SANTA_FE)
    values, columns, _ = data.load_series("laser")
    assert values.shape == (10093, 1) and columns == ("laser",)
    # The first values of data set A, as the competition gave them.
    np.testing.assert_array_equal(values[:5, 0], [86, 141, 95, 41, 22])
    assert values.min() >= 0 and values.max() == 255


@pytest.mark.network
@pytest.mark.parametrize("city", ["seattle", "san_francisco"])
def test_temperatures_are_what_they_were(load_or_skip, city):
    load_or_skip(series.TEMPERATURES)
    values, *_ = data.load_series(city)
    assert values.shape == (365 * 24, 1) and np.isnan(values).sum() == 1
    # A day is more like the one before it than like half a day before.
    day, half = (np.nanmean(np.square(values[n:] - values[:-n])) for n in (24, 12))
    assert day < 0.05 * half and 30 < np.nanmin(values) < np.nanmax(values) < 80
