"""The microscope's numbers are those of the library, computed once more."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from experiments.analysis import forwards, snapshots
from experiments.runs.open import open_run
from jaxrnn import flow
from jaxrnn.cells import CELLS


def read(folder, name):
    with (folder / "microscope" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def opened(recall_run):
    run = open_run(recall_run)
    return run.task(), run.checkpoints()


def test_the_numbers_are_the_library_s(recall_run, opened):
    """Of the last checkpoint."""
    task, saved = opened
    assert list(saved) == [0, 10, 20]
    params = saved[20]
    xs, loss = task.probe(params)

    @jax.jit
    def measured(cell):
        norms = flow.adjoint_profile(loss, jaxrnn.lstm, cell, None, xs).mean(axis=1)
        terms = flow.lag_gradients(loss, jaxrnn.lstm, cell, None, xs).w_hh
        gradient = jax.grad(lambda c: loss(*jaxrnn.unroll(jaxrnn.lstm, c, None, xs)))
        spectrum = flow.lyapunov_spectrum(
            jaxrnn.lstm, cell, None, xs[:, 3], 16, transient=6
        )
        return norms, terms, gradient(cell).w_hh, spectrum

    norms, terms, gradient, spectrum = map(np.asarray, measured(params.cell))
    shown = [float(x["norm"]) for x in read(recall_run, "profile") if x["step"] == "20"]
    np.testing.assert_allclose(shown, norms, rtol=1e-5)
    contributions = [x for x in read(recall_run, "contributions") if x["step"] == "20"]
    whole = np.linalg.norm(gradient)
    for lag in (0, 5, 12):
        row = contributions[lag]
        expected = np.linalg.norm(terms[lag]) / whole
        np.testing.assert_allclose(float(row["contribution"]), expected, rtol=1e-4)
        missing = np.linalg.norm(gradient - terms[:lag].sum(axis=0)) / whole
        got = float(row["missing_from_here"])
        np.testing.assert_allclose(got, missing, rtol=1e-3, atol=1e-6)
    rows = read(recall_run, "spectrum")
    shown = [x for x in rows if (x["step"], x["sequence"]) == ("20", "3")]
    exponents = [float(x["nats_per_step"]) for x in shown]
    np.testing.assert_allclose(exponents, spectrum, atol=1e-3)


@pytest.mark.parametrize("name", ["lstm", "gru", "elman"])
def test_time_constants_of_gates_that_are_known(name):
    """Without recurrent weights and input, every gate is σ(b), and a memory falls to
    1/e in -1 / log σ(b) steps."""
    cell = getattr(jaxrnn, name)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 3, 4))
    xs = jnp.zeros((9, 2, 3))
    if name == "elman":
        assert snapshots.time_constants(cell, params, xs).size == 0
        return
    # i f g o; r z n: of both cells the second gate.
    b = params.b.reshape(-1, 4).at[1].set(jnp.array([0.0, 1.0, 2.0, 5.0]))
    holds = snapshots.time_constants(cell, params._replace(b=b.ravel()), xs)
    expected = 1 / np.log1p(np.exp([-0.0, -1, -2, -5]))
    np.testing.assert_allclose(holds, expected, rtol=1e-5)
    assert np.isclose(holds[0], 1 / np.log(2))


def gates_kept(cell, params, xs):
    """The log of the keeping gate, step by step, from what the cell's step gives away.

    The LSTM's step leaves its gates behind. The GRU's z is what of h[t-1] stands in
    h[t].
    """
    state, logs = cell.initial_state(params, xs.shape[1:2]), []
    for x in xs:
        after, residuals = cell.step(params, state, cell.drive(params, x))
        if cell is jaxrnn.lstm:
            logs.append(jnp.log(residuals[:, 4:8]))
        else:
            u, q = x @ params.w_ih + params.b, state.h @ params.w_hh
            r = jax.nn.sigmoid(u[:, :4] + q[:, :4])
            n = jnp.tanh(u[:, 8:] + r * (q[:, 8:] + params.b_hn))
            logs.append(jnp.log((after.h - n) / (state.h - n)))
        state = after
    return jnp.stack(logs)


@pytest.mark.parametrize(("name", "rtol"), [("lstm", 1e-4), ("gru", 1e-3)])
def test_time_constants_are_those_of_the_cell_s_own_gates(name, rtol):
    cell = getattr(jaxrnn, name)
    params = cell.init(jax.random.key(0), 3, 4)
    xs = jax.random.normal(jax.random.key(1), (7, 5, 3))

    @jax.jit
    def both(params):
        logs = gates_kept(cell, params, xs)
        return snapshots.time_constants(cell, params, xs), logs

    holds, logs = both(params)
    np.testing.assert_allclose(holds, -1 / np.mean(logs, axis=(0, 1)), rtol=rtol)


def test_checkpoints_without_a_gradient_are_left_out(opened):
    task, saved = opened
    broken = saved | {10: jax.tree.map(lambda a: a * np.nan, saved[10])}
    assert [s.step for s in snapshots.snapshots(task, broken)] == [0, 20]
    zeros = {step: jax.tree.map(jnp.zeros_like, p) for step, p in saved.items()}
    with pytest.raises(ValueError, match="0 or not finite at every checkpoint"):
        snapshots.snapshots(task, zeros)
    short = task._replace(
        probe=lambda p: task.probe(p)._replace(xs=task.probe(p).xs[:3])
    )
    with pytest.raises(ValueError, match="needs sequences of at least 4 steps, but"):
        snapshots.snapshots(short, {0: saved[0]})


def test_rules_that_learn_forwards(recall_run, opened, monkeypatch):
    """One that is exact agrees with BPTT: it has the same loss and sequences."""
    task, saved = opened
    monkeypatch.setattr(forwards, "MEASURED", ("rtrl",))
    np.testing.assert_allclose(forwards.cosines(task, saved)["rtrl"], 1, rtol=1e-4)
    rows = read(recall_run, "forwards")
    assert [int(row["step"]) for row in rows] == 3 * [0, 10, 20]
    by_rule = {row["rule"]: float(row["cosine"]) for row in rows}
    assert list(by_rule) == ["snap1", "rflo", "uoro"]
    assert 1 > by_rule["snap1"] > by_rule["uoro"] > -1


@pytest.mark.parametrize(
    ("cell", "rules"),
    [("gru", ["snap1", "rflo", "uoro"]), ("layer_norm_gru", ["uoro"])],
)
def test_rules_that_do_not_take_a_cell_are_left_out(cell, rules):
    taken = [r for r in forwards.MEASURED if forwards._takes(r, CELLS[cell])]
    assert taken == rules
