"""How far off truncated BPTT is on a trained language model, against the window.

    python -m experiments.truncation_bias RUN_DIR

For windows of 1, 2, 4, … characters: the relative error of the truncated gradient, and the cosine
between it and the exact one (full BPTT over all the characters, in checkpointed windows), on
held-out text that the model goes on reading, trained and as it was at initialisation. It leaves
`truncation_bias.png` and `truncation_bias.csv` in the run's folder, and tells the window that
`jaxrnn.adaptive_truncation` measures.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxrnn
from experiments import data, figures, language_model, record, trained
from jaxrnn import losses

NAME = "truncation_bias"
TOLERATED = (
    0.1  # the relative bias of one loss's gradient, for the window that is measured
)


class Bias(NamedTuple):
    """Of truncated BPTT with this window."""

    model: str
    """"trained", or as it was at "initialisation"."""
    part: str
    """"all" parameters, or "w_hh" alone."""
    window: int
    relative_error: float
    """‖truncated - exact‖ / ‖exact‖."""
    cosine: float


def measure(
    model: trained.TrainedLanguageModel,
    text: np.ndarray,
    sequences: int,
    warm: int,
    length: int,
) -> tuple[list[Bias], dict[str, jaxrnn.AdaptiveTruncation]]:
    """The bias for windows of 1, 2, 4, … < `length`, and what is measured adaptively.

    Args:
      model: the trained model.
      text: held-out bytes.
      sequences: B, so many stretches of the text.
      warm: characters that are read before the gradient begins.
      length: T, the characters of each stretch whose losses count.

    Raises:
      ValueError: if the text is too short.
    """
    ids = data.encode(model.vocabulary, text)
    each = warm + length + 1
    if len(ids) < sequences * each:
        raise ValueError(
            f"{sequences} sequences of {each} characters need {sequences * each}, but {len(ids)} "
            "are held out: ask for fewer or shorter ones."
        )
    rows = ids[: len(ids) // sequences * sequences].reshape(sequences, -1)[:, :each].T
    batch = rows[warm:-1], rows[warm + 1 :], np.ones((length, sequences), bool)
    loss_fn = language_model.make_loss(model.cell, losses.masked_sum)
    settings, key = model.settings, jax.random.key(model.settings.seed)
    sizes = len(model.vocabulary), settings.embedding_size
    initial = language_model.init(key, settings.model, *sizes)
    found, chosen = [], {}
    for name, params in {"initialisation": initial, "trained": model.params}.items():
        zeros = model.cell.initial_state(params.cell, (sequences,))
        before = rows[:warm], rows[1 : warm + 1], np.ones((warm, sequences), bool)
        _, state = jax.jit(loss_fn)(params, zeros, before)
        _, exact = jax.jit(jaxrnn.checkpointed_value_and_grad(loss_fn))(
            params, state, batch
        )
        for window in (2**k for k in range((length - 1).bit_length())):
            fn = jax.jit(jaxrnn.truncated_value_and_grad(loss_fn, window))
            _, grads = fn(params, state, batch)
            for part, of in {"all": lambda g: g, "w_hh": lambda g: g.cell.w_hh}.items():
                found.append(Bias(name, part, window, *_compared(of(grads), of(exact))))
        chosen[name] = jaxrnn.adaptive_truncation(loss_fn, TOLERATED)(
            params, state, batch
        )
    return found, chosen


def _compared(got: Any, exact: Any) -> tuple[float, float]:
    """The relative error and the cosine."""
    a, b = (
        np.concatenate(
            [np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)]
        )
        for tree in (got, exact)
    )
    norm = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / norm), float(
        a @ b / (np.linalg.norm(a) * norm)
    )


def plot(found: Sequence[Bias], path: Path) -> None:
    """Both measures against the window."""
    with figures.figure(path, 2, (9.0, 3.6)) as panels:
        for measured, axes in zip(("relative_error", "cosine"), panels, strict=True):
            for model, style in (("trained", "o-"), ("initialisation", "o:")):
                for part, colour in (("all", "C0"), ("w_hh", "C3")):
                    line = [b for b in found if (b.model, b.part) == (model, part)]
                    axes.plot(
                        [b.window for b in line],
                        [getattr(b, measured) for b in line],
                        style,
                        color=colour,
                        markersize=3,
                        label=f"{'all parameters' if part == 'all' else 'w_hh'}, {model}",
                    )
            axes.set_xscale("log", base=2)
            axes.set(xlabel="window (characters)", ylabel=measured.replace("_", " "))
        panels[0].set_yscale("log")
        panels[0].set_title("truncated BPTT against the exact gradient", loc="left")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.truncation_bias",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a language model's run")
    parser.add_argument(
        "--sequences", type=int, default=32, help="stretches of text: 32"
    )
    parser.add_argument(
        "--length", type=int, default=2048, help="characters of each: 2048"
    )
    parser.add_argument(
        "--warm", type=int, default=256, help="characters read before: 256"
    )
    given = parser.parse_args(argv)
    if min(given.sequences, given.warm) < 1 or given.length < 4:
        parser.error(
            "--sequences and --warm must be at least 1, and --length at least 4."
        )
    try:
        model = trained.load_language_model(given.run)
        corpus = data.load_texts(model.settings.data.path)
        _, held_out = data.split_texts(corpus.texts, model.settings.data.held_out)
        found, chosen = measure(
            model, held_out, given.sequences, given.warm, given.length
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record.write_csv(given.run / f"{NAME}.csv", Bias._fields, found)
    plot(found, given.run / f"{NAME}.png")
    print(
        "| window | relative error | cosine | of w_hh | cosine |\n| --- | --- | --- | --- | --- |"
    )
    of = {(b.part, b.window): b for b in found if b.model == "trained"}
    for window in dict.fromkeys(b.window for b in found):
        figures = [
            f"{value:.4f}"
            for part in ("all", "w_hh")
            for value in (of[part, window].relative_error, of[part, window].cosine)
        ]
        print(f"| {window} | {' | '.join(figures)} |")
    for name, one in chosen.items():
        enough = f"no K up to {given.length} is known to be enough"
        if one.window:
            enough = (
                f"K = {one.window} is enough (backprop = window + {one.window - 1})"
            )
        print(
            f"{name}: the adjoint of a loss shrinks by {one.rate:.4f} per character; for a bias of "
            f"{TOLERATED} of its gradient, {enough}."
        )
    print(f"All of it is in {given.run}/{NAME}.png and .csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
