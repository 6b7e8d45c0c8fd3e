"""Two processes that share the batch: each gets the gradients that one device gets
alone."""

import pickle
import time

import jax
import jax.numpy as jnp
import pytest

from tests import processes
from tests.cases import CELLS, problem
from tests.test_placement import BATCH, OPTIONS, SIZE, assert_close, one_device

pytestmark = pytest.mark.lowest

RANKS = 0, 1
TIMEOUT = (
    300  # seconds: it takes half a minute alone, several times that beside other tests
)


def run_both(problems, folder):
    """The gradients in each process. When one fails or is late, both end, and say what
    they did."""
    (folder / "problems").write_bytes(pickle.dumps(problems))
    started = []
    with processes.held_port() as port:
        deadline = time.monotonic() + TIMEOUT
        try:
            for rank in RANKS:
                files = folder / "problems", folder / f"gradients-{rank}"
                worker = "-m", "tests.two_processes_worker", port, rank, *files
                started.append(processes.start(worker, folder / f"log-{rank}"))
            codes = [None, None]
            # When one has failed, the other would wait for it.
            while None in codes and not any(codes) and time.monotonic() < deadline:
                time.sleep(0.1)
                codes = [process.poll() for process in started]
        finally:
            processes.end(started)
    if codes != [0, 0]:
        logs = "\n".join(
            (folder / f"log-{rank}").read_text(errors="replace") for rank in RANKS
        )
        pytest.fail(f"exit codes {codes}, None where it was ended from here:\n{logs}")
    return [pickle.loads((folder / f"gradients-{rank}").read_bytes()) for rank in RANKS]


def part(grads, rank):
    """What one process has of them: all of the parameters', its half of the batch of
    the others."""
    params, state, xs = grads
    half = BATCH[0] // 2
    rows = slice(rank * half, (rank + 1) * half)
    return params, jax.tree.map(lambda s: s[rows], state), xs[:, rows]


def test_two_processes_get_the_gradients_of_one_device(tmp_path):
    """One test for all cases: starting the processes takes longer than a case does."""
    problems, expected = {}, {}
    for cell_name, cell in CELLS.items():
        case = problem(cell, SIZE, BATCH, dtype=jnp.float32)
        for option_name, options in OPTIONS.items():
            name = cell_name, option_name
            arrays = {k: v for k, v in options.items() if isinstance(v, jax.Array)}
            static = {k: v for k, v in options.items() if k not in arrays}
            problems[name] = cell_name, *jax.device_get((case, arrays)), static
            expected[name] = one_device(cell, case, options)
    for rank, got in zip(RANKS, run_both(problems, tmp_path), strict=True):
        assert len(got) == 2 * len(expected)
        for (way, *name), grads in got.items():
            print(
                rank, way, *name
            )  # pytest shows which it was when the next line fails
            assert_close(grads, part(expected[tuple(name)], rank))
