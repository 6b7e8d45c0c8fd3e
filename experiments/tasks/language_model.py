"""A character-level language model, by truncated BPTT over a stream of windows."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from experiments import data
from experiments.config.schema import (
    Experiment,
    Positive,
    Rate,
    Report,
    Share,
    Sizes,
    check_forward,
)

VOCABULARY = "vocabulary.json"
# The rows in which the held-out text is read, and the characters of a window: enough
# for efficient products, few enough that the rows' cold starts do not count.
HELD_OUT_ROWS, HELD_OUT_WINDOW = 32, 256
# The stretches that the microscope looks at, and the characters of each.
PROBED, PROBED_STEPS = 32, 256


class Texts(Struct, frozen=True, forbid_unknown_fields=True):
    """What is read."""

    path: str = ""
    """A text file or a folder of them. Empty: the `source`."""
    source: Literal["shakespeare", "python"] = "shakespeare"
    """Shakespeare is fetched once. The source code of Python needs no download."""
    held_out: Share = 0.05
    """The last share of each text, for validation."""


class LanguageModel(
    Experiment, frozen=True, kw_only=True, tag_field="task", tag="language_model"
):
    """A step reads one window at B places of the text, with the state carried along."""

    artifacts = (VOCABULARY,)

    embedding_size: Positive
    window: Positive
    """Characters per window: the gradient reaches no further back."""
    sample_length: Annotated[int, Meta(ge=1, le=10**6)] = 500
    """Characters of the sample at the end."""
    temperature: Rate = 0.8
    """Temperature of the sample."""
    data: Texts = Texts()

    def __post_init__(self) -> None:
        check_forward(self.model)

    def sizes(self) -> Sizes:
        # Windows longer than the text are refused once the text has been read.
        return Sizes(1, self.embedding_size, 1, "embedding_size")

    def network(self, artifacts: Mapping[str, Any]) -> Any:
        from experiments.models import language_model

        known = artifacts[VOCABULARY]
        bytes_alone = isinstance(known, list) and set(known) <= set(range(256))
        if not bytes_alone or sorted(set(known)) != known or not known:
            raise ValueError("it must be an ascending list of bytes, 0 to 255")
        return language_model.make_network(self.model, len(known), self.embedding_size)

    def make(self, report: Report) -> Any:
        return _make(self, read_corpus(self, report))


class Corpus(NamedTuple):
    """A text as ids, in its two parts."""

    vocabulary: bytes
    windows: data.Windows
    """The training part, cut for the config's batches."""
    held_out: np.ndarray
    read: dict[str, str]
    """The source of the texts, and their SHA-256."""


def read_corpus(config: LanguageModel, report: Report) -> Corpus:
    """Reads and splits the text of a config.

    Raises:
      ValueError, OSError: if it is missing, is not text, or is too short.
    """
    report("Reading the text. The first time, it is fetched.")
    texts = data.load_texts(config.data.path, config.data.source)
    report(texts.source)
    vocabulary = data.make_vocabulary(np.concatenate([text for _, text in texts.texts]))
    training, held_out = data.split_texts(texts.texts, config.data.held_out)
    if len(held_out) < 2:
        raise ValueError(
            "validation needs at least 2 held-out characters, but got "
            f"{len(held_out)}. Raise `data.held_out`, or give a longer text."
        )
    size, longest = config.optimizer.batch_size, len(training) - 1
    if config.window > -(-longest // size):
        raise ValueError(
            f"`window` must be at most {-(-longest // size)}, the characters of each "
            f"of the {size} rows of the text, but got {config.window}. Lower `window` "
            "or `optimizer.batch_size`, or give a longer text."
        )
    windows = data.stream(data.encode(vocabulary, training), size, config.window)
    # The names of files do not count: only what is in them, in their order.
    contents = {str(n): text for n, (_, text) in enumerate(texts.texts)}
    read = {"source": texts.source, "sha256": data.digest(contents)}
    return Corpus(vocabulary, windows, data.encode(vocabulary, held_out), read)


def _make(config: LanguageModel, corpus: Corpus) -> Any:
    """Returns the task. From here on JAX is needed."""
    from experiments.models import language_model, readout
    from experiments.tasks.base import Task

    artifacts = {VOCABULARY: list(corpus.vocabulary)}
    network = config.network(artifacts)
    # Windows are short, so memory is no concern: keep the gates, do not recompute.
    options = {"store": "residuals", "compute_dtype": config.model.compute_dtype}
    loss_fn = language_model.make_loss(readout.make_body(config.model, **options))
    initial_state = readout.make_initial_state(
        config.model, config.optimizer.batch_size
    )
    return Task(
        cell=network.cell,
        init=network.init,
        loss_fn=loss_fn,
        batch=partial(
            window_of, corpus.windows, initial_state, dropout=config.model.dropout
        ),
        evaluate=make_evaluator(network.body, corpus.held_out),
        probe=partial(_probe, corpus.held_out),
        per_step=config.optimizer.batch_size * config.window,
        unit="characters",
        train_metrics=lambda loss: {"bits": language_model.bits(loss)},
        data=corpus.read,
        artifacts=artifacts,
        finish=partial(_sample, config, corpus, network.body),
    )


def window_of(
    windows: data.Windows,
    initial_state: Callable[[], Any],
    number: int,
    dropout: float = 0.0,
) -> tuple[Any, Any]:
    """Returns a window, by its number over all passes through the text.

    The state starts from zeros at the start of the text. With dropout, the number is
    part of the batch.
    """
    place = number % len(windows.inputs)
    batch = tuple(a[place] for a in windows)
    batch = (*batch, np.uint32(number)) if dropout else batch
    return None if place else initial_state(), batch


def make_evaluator(body: Any, ids: np.ndarray) -> Any:
    """Returns `params -> {"valid_bits": …}`: bits per character over a whole text."""
    import jax

    from experiments.models import language_model
    from jaxrnn import losses

    rows = max(1, min(HELD_OUT_ROWS, (len(ids) - 1) // HELD_OUT_WINDOW))
    windows = data.stream(ids, rows, min(HELD_OUT_WINDOW, len(ids) - 1))
    loss = jax.jit(language_model.make_loss(body, losses.masked_sum))

    def evaluate(params: Any) -> dict[str, float]:
        state, nats = body.initial_state(params.cell, (rows,)), 0.0
        for batch in zip(*windows, strict=True):
            part, state = loss(params, state, batch)
            nats += float(part)
        return {"valid_bits": language_model.bits(nats) / int(windows.mask.sum())}

    return evaluate


def _probe(ids: np.ndarray, params: Any) -> Any:
    """Returns stretches of held-out text, and the loss of the character after each."""
    import jax.numpy as jnp
    import optax

    from experiments.models.readout import read_out
    from experiments.tasks.base import Probe

    size = min(PROBED_STEPS, len(ids) - 1)
    starts = np.linspace(0, len(ids) - 1 - size, PROBED).astype(int)
    stretches = jnp.asarray(ids[starts + np.arange(size + 1)[:, None]])

    def loss(_: Any, hs: Any) -> Any:
        logits = read_out(params.readout, hs[-1])
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return jnp.sum(cross_entropy(logits, stretches[-1]))

    return Probe(params.embedding[stretches[:-1]], loss)


def _sample(
    config: LanguageModel, corpus: Corpus, body: Any, params: Any
) -> dict[str, str]:
    """Returns text that follows the first character of the held-out text."""
    from experiments.models.generation import generate

    first = data.decode(corpus.vocabulary, corpus.held_out[:1]).tobytes()
    model = body, params, corpus.vocabulary
    pieces = generate(
        *model, first, config.sample_length, config.seed, temperature=config.temperature
    )
    return {"sample.txt": b"".join(pieces).decode(errors="replace")}
