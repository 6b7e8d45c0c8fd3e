"""The bias of truncated BPTT on a trained language model, against the window."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxrnn
from experiments import data
from experiments.analysis.figures import figure
from experiments.analysis.tables import markdown, write_csv
from experiments.models import language_model
from experiments.models.readout import check_one_layer
from experiments.runs.open import Opened
from experiments.tasks.language_model import VOCABULARY
from jaxrnn import losses

# The tolerated relative bias of one loss's gradient, for the window that is measured.
TOLERATED = 0.1
UNTRAINED, TRAINED = "untrained", "trained"
PARTS = {"all": lambda grads: grads, "w_hh": lambda grads: grads.cell.w_hh}


class Bias(NamedTuple):
    """The bias of truncated BPTT with one window."""

    model: str
    """UNTRAINED or TRAINED."""
    part: str
    """"all" parameters, or "w_hh" alone."""
    window: int
    relative_error: float
    """‖truncated - exact‖ / ‖exact‖."""
    cosine: float


class Stretches(NamedTuple):
    """Held-out ids, B stretches of them."""

    before: Any
    """What is read before the gradient begins: ids, labels, mask `[W, B]`."""
    batch: Any
    """What the gradient is of: ids, labels, mask `[T, B]`."""


def read_stretches(run: Opened, sequences: int, warm: int, length: int) -> Stretches:
    """Reads B = `sequences` stretches of a run's held-out text.

    Each has `warm` characters to read first and `length` whose losses count.

    Raises:
      ValueError, OSError: if the text is missing, too short or another than the run's.
    """
    corpus = data.load_texts(run.config.data.path)
    _, held_out = data.split_texts(corpus.texts, run.config.data.held_out)
    ids = data.encode(bytes(run.artifacts[VOCABULARY]), held_out)
    each = warm + length + 1
    if len(ids) < sequences * each:
        raise ValueError(
            f"{sequences} sequences of {each} characters need {sequences * each}, but "
            f"{len(ids)} are held out. Ask for fewer or shorter ones."
        )
    rows = ids[: len(ids) // sequences * sequences].reshape(sequences, -1)[:, :each].T

    def scored(ids: np.ndarray) -> tuple[np.ndarray, ...]:
        return ids[:-1], ids[1:], np.ones(ids[1:].shape, bool)

    return Stretches(scored(rows[: warm + 1]), scored(rows[warm:]))


def measure(
    run: Opened, stretches: Stretches
) -> tuple[list[Bias], dict[str, jaxrnn.AdaptiveTruncation]]:
    """Returns the bias for windows of 1, 2, 4, …, and what is measured adaptively."""
    check_one_layer(run.config.model, "the bias")
    body, (length, sequences) = run.network.body, stretches.batch[0].shape
    loss_fn = language_model.make_loss(body, losses.masked_sum)

    # One program for each window, shared by both models.
    read = jax.jit(loss_fn)
    full = jax.jit(jaxrnn.checkpointed_value_and_grad(loss_fn))
    windows = [2**k for k in range((length - 1).bit_length())]
    cut = {w: jax.jit(jaxrnn.truncated_value_and_grad(loss_fn, w)) for w in windows}
    adaptive = jaxrnn.adaptive_truncation(loss_fn, TOLERATED)

    found, chosen = [], {}
    untrained = run.network.init(jax.random.key(run.config.seed))
    for name, params in {UNTRAINED: untrained, TRAINED: run.params()}.items():
        zeros = body.initial_state(params.cell, (sequences,))
        _, state = read(params, zeros, stretches.before)
        _, exact = full(params, state, stretches.batch)
        for window in windows:
            _, grads = cut[window](params, state, stretches.batch)
            for part, select in PARTS.items():
                numbers = _compared(select(grads), select(exact))
                found.append(Bias(name, part, window, *numbers))
        chosen[name] = adaptive(params, state, stretches.batch)
    return found, chosen


def _compared(got: Any, exact: Any) -> tuple[float, float]:
    """Returns the relative error and the cosine."""
    a, b = _flat(got), _flat(exact)
    norm = np.linalg.norm(b)
    error = float(np.linalg.norm(a - b) / norm)
    return error, float(a @ b / (np.linalg.norm(a) * norm))


def _flat(tree: Any) -> np.ndarray:
    leaves = [np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def write(found: Sequence[Bias], path: Path) -> None:
    """Writes all numbers as CSV."""
    write_csv(path, Bias._fields, found)


def plot(found: Sequence[Bias], path: Path) -> None:
    """Draws both measures against the window."""
    names = {"all": "all parameters", "w_hh": "w_hh"}
    with figure(path, 2, (9.0, 3.6)) as panels:
        for measured, axes in zip(("relative_error", "cosine"), panels, strict=True):
            for model, style in ((TRAINED, "o-"), (UNTRAINED, "o:")):
                for part, color in (("all", "C0"), ("w_hh", "C3")):
                    line = [b for b in found if (b.model, b.part) == (model, part)]
                    windows = [b.window for b in line]
                    values = [getattr(b, measured) for b in line]
                    look = {"color": color, "markersize": 3}
                    label = f"{names[part]}, {model}"
                    axes.plot(windows, values, style, label=label, **look)
            axes.set_xscale("log", base=2)
            axes.set(xlabel="window (characters)", ylabel=measured.replace("_", " "))
        panels[0].set_yscale("log")
        panels[0].set_title("truncated BPTT against the exact gradient", loc="left")


def table(found: Sequence[Bias]) -> str:
    """Returns the bias of the trained model by window, as a table in Markdown."""
    trained = {(b.window, b.part): b for b in found if b.model == TRAINED}
    lines = [["window", "relative error", "cosine", "of w_hh", "cosine"]]
    for window in dict.fromkeys(window for window, _ in trained):
        biases = [trained[window, part] for part in PARTS]
        numbers = [number for b in biases for number in (b.relative_error, b.cosine)]
        lines.append([str(window), *(f"{number:.4f}" for number in numbers)])
    return markdown(lines)


def describe(name: str, chosen: jaxrnn.AdaptiveTruncation, length: int) -> str:
    """Returns what was measured adaptively, in words."""
    enough = f"no K up to {length} is known to be enough"
    if chosen.window:
        backprop = f"backprop = window + {chosen.window - 1}"
        enough = f"K = {chosen.window} is enough ({backprop})"
    return (
        f"{name}: the adjoint of a loss shrinks by {chosen.rate:.4f} per character; "
        f"for a bias of {TOLERATED} of its gradient, {enough}."
    )
