"""How far back does a trained network learn? A page of figures about a run's gradients.

    python -m experiments.microscope RUN_DIR

opens a finished run of any experiment, and looks at held-out sequences, at a loss at their last
step, with the parameters of every checkpoint of the run. It leaves `microscope/index.html` in the
run's folder, and beside it the figures and the numbers that they show, as CSV:

    profile.csv         the adjoint's norm at every lag, at every checkpoint
    horizon.csv         the lag at which 1 % of it is left, and the factor by which it shrinks
    contributions.csv   what each lag contributes to the gradient of the recurrent matrix
    spectrum.csv        the leading Lyapunov exponents
    gates.csv           how many steps each unit's forget gate holds
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxrnn
from experiments import trained
from experiments.record import write_csv
from experiments.task import Task
from jaxrnn import flow
from jaxrnn.ops.norms import norm

SHARE = 0.01  # of the adjoint at lag 0: where the horizon is said to lie
EXPONENTS, OF_SEQUENCES = (
    16,
    8,
)  # the leading Lyapunov exponents, averaged over so many sequences


class Snapshot(NamedTuple):
    """A checkpoint under the microscope: T steps back from a loss at the last one."""

    step: int
    profile: np.ndarray
    """The adjoint's norm `[T]` by lag, the mean over sequences."""
    horizon: flow.MemoryHorizon

    @property
    def reach(self) -> int:
        """The horizon's lag; T, if more than its share is left to the end."""
        return len(self.profile) if self.horizon.lag is None else self.horizon.lag


class Anatomy(NamedTuple):
    """One of the two checkpoints, the first and the last, that are taken apart."""

    snapshot: Snapshot
    contribution: np.ndarray
    """‖term i of dR̂/dW_hh‖ / ‖dR̂/dW_hh‖ `[T]`."""
    missing: np.ndarray
    """‖Σ of the terms from lag i on‖ / ‖dR̂/dW_hh‖ `[T]`: the relative error of a gradient whose
    backward pass stops after i steps; 1 at i = 0. NaN where dR̂/dW_hh is 0 or not finite."""
    exponents: np.ndarray
    """`[k, sequences]`, in nats per step, over the second half of each sequence."""
    holds: np.ndarray
    """Time constants `[H]` of the gates that keep the state, in steps; `[0]` for a cell without."""

    @property
    def step(self) -> int:
        """Of the checkpoint."""
        return self.snapshot.step


class Findings(NamedTuple):
    """All that there is to show."""

    name: str
    snapshots: list[Snapshot]
    anatomies: list[Anatomy]
    lost: list[int]
    """Steps after which the loss's gradient was 0, or not finite: there is nothing to see."""


def snapshots(task: Task, params: dict[int, Any]) -> list[Snapshot]:
    """Of the parameters after each step, where the adjoint at lag 0 is not 0, and is finite.

    Raises:
      ValueError: if the sequences have fewer than 4 steps, or none of the adjoints is so.
    """

    @jax.jit
    def profile(params: Any) -> Array:
        xs, loss = task.probe(params)
        norms = flow.adjoint_profile(loss, task.cell, params.cell, None, xs)
        return jnp.mean(norms, axis=1)

    profiles = {step: np.asarray(profile(p), np.float64) for step, p in params.items()}
    lags = min(map(len, profiles.values()))
    if lags < 4:
        raise ValueError(
            f"it takes sequences of 4 steps to see how an error fades, but this run's have {lags}: "
            "train with a longer `lag`, `length` or text."
        )
    kept = {step: norms for step, norms in profiles.items() if 0 < norms[0] < np.inf}
    if not kept:
        raise ValueError(
            "the gradient of the loss is 0 or not finite at every checkpoint."
        )
    return [
        Snapshot(s, norms, flow.memory_horizon(norms, SHARE))
        for s, norms in kept.items()
    ]


def time_constants(cell: jaxrnn.Cell, params: Any, xs: Array) -> Array:
    """After how many steps the gate f (LSTM) or z (GRU) has let a unit's memory fall to 1/e, `[H]`.

    That is -1 / the mean of its logarithm over all steps and sequences of `xs [T, B, I]`: what is
    kept over n steps is a product of n gates. Of a cell without gates, `[0]`.
    """
    if not isinstance(params, jaxrnn.LSTMParams | jaxrnn.GRUParams):
        return jnp.zeros(0)
    hidden = len(params.w_hh)
    _, hs = jaxrnn.unroll(cell, params, None, xs)
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
    # i f g o; r z n: of both cells the second gate.
    keep = slice(hidden, 2 * hidden)
    z = cell.drive(params, xs)[..., keep] + before @ params.w_hh[:, keep]
    return -1 / jnp.mean(jax.nn.log_sigmoid(z), axis=(0, 1))


def anatomies(
    task: Task, params: dict[int, Any], of: Sequence[Snapshot]
) -> list[Anatomy]:
    """Takes the gradients at some snapshots apart."""
    cell = task.cell

    @jax.jit
    def apart(params: Any) -> tuple[Array, Array, Array]:
        xs, loss = task.probe(params)
        terms = flow.lag_gradients(loss, cell, params.cell, None, xs).w_hh

        def add(tail: Array, term: Array) -> tuple[Array, Array]:
            tail = tail + term
            return tail, norm(jnp.stack([term.ravel(), tail.ravel()]), axis=-1)

        _, norms = lax.scan(add, jnp.zeros_like(terms[0]), terms, reverse=True)
        width = sum(
            leaf.size for leaf in jax.tree.leaves(cell.initial_state(params.cell, ()))
        )
        # The directions begin at random: half of the steps turn them to where they are stretched.
        options = {"count": min(EXPONENTS, width), "transient": len(xs) // 2}
        spectrum = partial(flow.lyapunov_spectrum, cell, params.cell, None, **options)
        exponents = jax.vmap(spectrum, in_axes=1, out_axes=1)(xs[:, :OF_SEQUENCES])
        return norms, exponents, time_constants(cell, params.cell, xs)

    found = []
    for snapshot in of:
        norms, exponents, holds = (
            np.asarray(a, np.float64) for a in apart(params[snapshot.step])
        )
        whole = norms[0, 1] if 0 < norms[0, 1] < np.inf else np.nan
        contribution, missing = (norms / whole).T
        found.append(Anatomy(snapshot, contribution, missing, exponents, holds))
    return found


def look(run: Path) -> Findings:
    """All measurements of a run.

    Raises:
      ConfigError, CheckpointError: if it is not the folder of a run.
      ValueError, OSError: if its data are not there, or a sequence has fewer than 4 steps.
    """
    _, task, params = trained.load(run)
    taken = snapshots(task, params)
    ends = taken[:: max(1, len(taken) - 1)]
    lost = [step for step in params if step not in {s.step for s in taken}]
    return Findings(run.name, taken, anatomies(task, params, ends), lost)


def write(findings: Findings, folder: Path) -> None:
    """The numbers, as CSV."""
    anatomies = findings.anatomies
    write_csv(
        folder / "profile.csv",
        ["step", "lag", "norm"],
        (
            (s.step, lag, norm)
            for s in findings.snapshots
            for lag, norm in enumerate(s.profile)
        ),
    )
    write_csv(
        folder / "horizon.csv",
        ["step", "lag", "rate"],
        ((s.step, *s.horizon) for s in findings.snapshots),
    )
    write_csv(
        folder / "contributions.csv",
        ["step", "lag", "contribution", "missing_from_here"],
        (
            (a.step, lag, *both)
            for a in anatomies
            for lag, both in enumerate(zip(a.contribution, a.missing, strict=True))
        ),
    )
    write_csv(
        folder / "spectrum.csv",
        ["step", "exponent", "sequence", "nats_per_step"],
        (
            (a.step, *place, e)
            for a in anatomies
            for place, e in np.ndenumerate(a.exponents)
        ),
    )
    if anatomies[0].holds.size:
        write_csv(
            folder / "gates.csv",
            ["step", "unit", "time_constant"],
            (
                (a.step, unit, tau)
                for a in anatomies
                for unit, tau in enumerate(a.holds)
            ),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    from experiments import microscope_page  # which shows what this module finds

    parser = argparse.ArgumentParser(
        prog="python -m experiments.microscope",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a run")
    given = parser.parse_args(argv)
    try:
        findings = look(given.run)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = given.run / "microscope"
    folder.mkdir(exist_ok=True)
    write(findings, folder)
    for sentence in microscope_page.write(findings, folder):
        print(sentence)
    print(f"The page is {folder / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
