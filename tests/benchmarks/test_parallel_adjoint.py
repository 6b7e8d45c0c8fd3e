"""The contestants that `benchmarks.parallel_adjoint` times, and its table."""

import pytest

from benchmarks import parallel_adjoint

pytestmark = pytest.mark.usefixtures("as_users_see_it")


def test_the_table_has_a_row_for_each_cell_and_size(capsys):
    sizes = ["--sizes", "5,1,2,4", "--cell", "indrnn,gru", "--rounds", "2"]
    assert parallel_adjoint.main(sizes) == 0
    printed = capsys.readouterr().out
    assert "missing" not in printed
    head, _, *rows = [line for line in printed.splitlines() if line[:1] == "|"]
    assert "gradient, scan, ms" in head
    shown = [[word.strip() for word in row.split("|")[1:-1]] for row in rows]
    assert [row[:2] for row in shown] == [["indrnn", "5 1 2 4"], ["gru", "5 1 2 4"]]
    for row in shown:
        assert len(row) == 8 and all(row)
        assert all(float(figure.split()[0]) > 0 for figure in row[2:6])


@pytest.mark.parametrize("sizes", ["1,2,3", "1,2,0,4", "", "a,b,c,d"])
def test_sizes_that_make_no_sense(sizes, capsys):
    with pytest.raises(SystemExit) as stop:
        parallel_adjoint.main(["--sizes", sizes])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert "--sizes: must be sizes T,B,I,H, each at least 1, such as" in line
