"""How gradients fade in a trained network: measurements on the checkpoints of a run."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxrnn
from experiments.analysis import forwards
from experiments.analysis.tables import write_csv
from experiments.models.readout import check_one_layer
from experiments.runs.open import Opened
from experiments.tasks.base import Task
from jaxrnn import flow
from jaxrnn.ops.norms import norm

# The memory's horizon is the lag at which this share of the adjoint is left.
SHARE = 0.01
# The number of leading Lyapunov exponents, and of sequences that they are measured on.
EXPONENTS, SEQUENCES = 16, 8


class Snapshot(NamedTuple):
    """The adjoint at one checkpoint, T steps back from a loss at the last step."""

    step: int
    profile: np.ndarray
    """The adjoint's norm `[T]` by lag, in the mean over sequences."""
    horizon: flow.MemoryHorizon

    @property
    def reach(self) -> int:
        """The horizon's lag, or T if more than `SHARE` is left at the end."""
        return len(self.profile) if self.horizon.lag is None else self.horizon.lag


class Anatomy(NamedTuple):
    """The gradient at one checkpoint, the first or the last, taken apart."""

    snapshot: Snapshot
    contribution: np.ndarray
    """‖term i of dR̂/dW_hh‖ / ‖dR̂/dW_hh‖ `[T]`."""
    missing: np.ndarray
    """‖Σ of the terms from lag i on‖ / ‖dR̂/dW_hh‖ `[T]`: the relative error of a
    gradient whose backward pass stops after i steps, 1 at i = 0. NaN where dR̂/dW_hh is
    0 or not finite."""
    exponents: np.ndarray
    """`[k, sequences]`, in nats per step, over the second half of each sequence."""
    holds: np.ndarray
    """Time constants `[H]` of the keeping gate, in steps. `[0]` without one."""

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self.snapshot.step


class Findings(NamedTuple):
    """All measurements of a run."""

    name: str
    snapshots: list[Snapshot]
    anatomies: list[Anatomy]
    lost: list[int]
    """Steps after which the gradient was 0 or not finite: nothing was measured."""
    cosines: Mapping[str, np.ndarray] = {}
    """By rule that learns forwards: the cosine of its gradient with BPTT's, `[N]`, one
    for each snapshot."""


def snapshots(task: Task, params: dict[int, Any]) -> list[Snapshot]:
    """Returns snapshots where the adjoint at lag 0 is finite and not 0.

    Raises:
      ValueError: if the sequences have fewer than 4 steps, or there is no such
        checkpoint.
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
            "the microscope needs sequences of at least 4 steps, but this run's have "
            f"{lags}. Train with a longer `lag`, `length` or text."
        )
    kept = {step: norms for step, norms in profiles.items() if 0 < norms[0] < np.inf}
    if not kept:
        raise ValueError(
            "the gradient of the loss is 0 or not finite at every checkpoint."
        )
    return [
        Snapshot(step, norms, flow.memory_horizon(norms, SHARE))
        for step, norms in kept.items()
    ]


def time_constants(cell: jaxrnn.Cell, params: Any, xs: Array) -> Array:
    """Returns after how many steps the keeping gate lets a memory fall to 1/e, `[H]`.

    That is -1 / the mean logarithm of the gate over all steps and sequences of
    `xs [T, B, I]`, because what is kept over n steps is a product of n gates. The gate
    is the one that the parameters declare, such as the LSTM's f or the GRU's z. A cell
    without one gives `[0]`.
    """
    gates = type(params).gates
    if gates.keep is None:
        return jnp.zeros(0)
    keep = gates.columns(gates.keep, len(params.w_hh))
    _, hs = jaxrnn.unroll(cell, params, None, xs)
    before = jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]])
    w_ih, w_hh, b = params.w_ih[:, keep], params.w_hh[:, keep], params.b[keep]
    z = xs @ w_ih + before @ w_hh + b
    return -1 / jnp.mean(jax.nn.log_sigmoid(z), axis=(0, 1))


def anatomies(
    task: Task, params: dict[int, Any], taken: Sequence[Snapshot]
) -> list[Anatomy]:
    """Takes the gradients at some snapshots apart."""
    cell = task.cell

    @jax.jit
    def apart(params: Any) -> tuple[Array, Array, Array]:
        # The norm of each lag's term, and of the sum of all terms from there on.
        xs, loss = task.probe(params)
        terms = flow.lag_gradients(loss, cell, params.cell, None, xs).w_hh

        def add(tail: Array, term: Array) -> tuple[Array, Array]:
            tail = tail + term
            return tail, norm(jnp.stack([term.ravel(), tail.ravel()]), axis=-1)

        _, norms = lax.scan(add, jnp.zeros_like(terms[0]), terms, reverse=True)

        # The exponents. Half of the steps turn the random first directions to those
        # that are stretched most.
        state = cell.initial_state(params.cell, ())
        width = sum(leaf.size for leaf in jax.tree.leaves(state))
        options = {"count": min(EXPONENTS, width), "transient": len(xs) // 2}
        spectrum = partial(flow.lyapunov_spectrum, cell, params.cell, None, **options)
        exponents = jax.vmap(spectrum, in_axes=1, out_axes=1)(xs[:, :SEQUENCES])
        return norms, exponents, time_constants(cell, params.cell, xs)

    found = []
    for snapshot in taken:
        measured = apart(params[snapshot.step])
        norms, exponents, holds = (np.asarray(a, np.float64) for a in measured)
        whole = norms[0, 1] if 0 < norms[0, 1] < np.inf else np.nan
        contribution, missing = (norms / whole).T
        found.append(Anatomy(snapshot, contribution, missing, exponents, holds))
    return found


def examine(run: Opened) -> Findings:
    """Makes all measurements of a run.

    Raises:
      CheckpointError: if a checkpoint is damaged.
      ValueError, OSError: if its data are missing, or a sequence has fewer than 4
        steps.
    """
    check_one_layer(run.config.model, "the microscope")
    task, params = run.task(), run.checkpoints()
    taken = snapshots(task, params)
    ends = taken[:: max(1, len(taken) - 1)]
    lost = [step for step in params if step not in {s.step for s in taken}]
    cosines = forwards.cosines(task, {s.step: params[s.step] for s in taken})
    apart = anatomies(task, params, ends)
    return Findings(run.folder.name, taken, apart, lost, cosines)


def write(findings: Findings, folder: Path) -> None:
    """Writes the numbers as CSV."""
    profile, contributions, spectrum, gates = [], [], [], []
    for snapshot in findings.snapshots:
        step = snapshot.step
        profile += [(step, lag, norm) for lag, norm in enumerate(snapshot.profile)]
    for anatomy in findings.anatomies:
        step = anatomy.step
        both = zip(anatomy.contribution, anatomy.missing, strict=True)
        contributions += [(step, lag, *pair) for lag, pair in enumerate(both)]
        exponents = np.ndenumerate(anatomy.exponents)
        spectrum += [(step, *place, exponent) for place, exponent in exponents]
        gates += [(step, unit, tau) for unit, tau in enumerate(anatomy.holds)]
    horizon = [(s.step, *s.horizon) for s in findings.snapshots]
    steps = [s.step for s in findings.snapshots]
    cosines = [
        (step, rule, cosine)
        for rule, along in findings.cosines.items()
        for step, cosine in zip(steps, along, strict=True)
    ]

    heads = {
        "profile": (["step", "lag", "norm"], profile),
        "horizon": (["step", "lag", "rate"], horizon),
        "contributions": (
            ["step", "lag", "contribution", "missing_from_here"],
            contributions,
        ),
        "spectrum": (["step", "exponent", "sequence", "nats_per_step"], spectrum),
        "gates": (["step", "unit", "time_constant"], gates),
        "forwards": (["step", "rule", "cosine"], cosines),
    }
    for name, (head, rows) in heads.items():
        if rows:
            write_csv(folder / f"{name}.csv", head, rows)
