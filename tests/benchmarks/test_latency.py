"""The streams that `benchmarks.latency` times, and its table."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from benchmarks import latency, problem

pytestmark = pytest.mark.usefixtures("as_users_see_it")


@pytest.mark.parametrize("cell", problem.CELLS)
def test_each_call_goes_on_from_the_state_before(cell):
    given = problem.make(cell, problem.Shape(1, 2, 3, 4))
    xs = jnp.broadcast_to(given.xs, (5, 2, 3))
    _, expected = jaxrnn.unroll(problem.CELLS[cell], given.params, None, xs)
    for make in latency.CONTESTANTS.values():
        call = make(given).functions["forward"]
        ys = [call() for _ in range(5)]
        assert all(isinstance(y, np.ndarray) for y in ys)
        np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-6)


def test_the_table_has_a_row_for_each_cell_and_size(capsys):
    sizes = ["--sizes", "1,2,3 2,3,4", "--cell", "gru,elman", "--rounds", "2"]
    assert latency.main(sizes) == 0
    printed = capsys.readouterr().out
    assert "missing" not in printed
    head, _, *rows = [line for line in printed.splitlines() if line[:1] == "|"]
    assert all(name in head for name in latency.CONTESTANTS)
    shown = [[word.strip() for word in row.split("|")[1:-1]] for row in rows]
    assert [row[:2] for row in shown] == [
        [cell, size] for cell in ("gru", "elman") for size in ("1 2 3", "2 3 4")
    ]
    for row in shown:
        for figure in row[2:]:
            median, low, high = map(float, figure.translate(UNITS).split())
            assert 0 < low <= median <= high


UNITS = str.maketrans({"(": " ", ")": " ", "t": " ", "o": " "})


@pytest.mark.parametrize("sizes", ["1,2", "1,2,0", "", "a,b,c"])
def test_sizes_that_make_no_sense(sizes, capsys):
    with pytest.raises(SystemExit) as stop:
        latency.main(["--sizes", sizes])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert "--sizes: must be sizes B,I,H, each at least 1, such as" in line
