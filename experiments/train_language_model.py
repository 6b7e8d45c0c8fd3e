"""Trains a character-level language model by truncated BPTT over a stateful stream of windows."""

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from rich.console import Console

import jaxrnn
from experiments import data, language_model, models, schema
from experiments.record import Run
from experiments.task import Probe, Task
from jaxrnn import layers, losses

# The held-out text is read in as many rows at once, in windows as long: enough for the products
# to be efficient, few enough that the rows' cold starts do not count.
HELD_OUT_ROWS, HELD_OUT_WINDOW = 32, 256
# The microscope looks at so many stretches of so many characters.
PROBED, PROBED_STEPS = 32, 256


def make(config: schema.LanguageModel, console: Console) -> Task:
    """The task of a config; the results are the validation's bits per character."""
    console.print("Reading the text (the first time, it is fetched).")
    corpus = data.load_texts(config.data.path)
    console.print(corpus.source, markup=False)
    vocabulary = data.make_vocabulary(
        np.concatenate([text for _, text in corpus.texts])
    )
    learnt, held_out = data.split_texts(corpus.texts, config.data.held_out)
    if len(held_out) < 2:
        raise ValueError(
            f"validation needs 2 characters at least, but {len(held_out)} are held out: raise "
            "`data.held_out`, or give a longer text."
        )
    cell, batch_size = models.cell_of(config.model), config.optimizer.batch_size
    windows = data.stream(data.encode(vocabulary, learnt), batch_size, config.window)
    held_out = data.encode(vocabulary, held_out)

    def finish(run: Run, params: language_model.LanguageModelParams) -> None:
        state, logits = language_model.prime(cell, params, jnp.asarray(held_out[:1]))
        draw = jax.jit(language_model.sample, static_argnums=(0, 5))
        key = jax.random.key(config.seed)
        _, _, ids = draw(
            cell, params, key, state, logits, config.sample_length, config.temperature
        )
        text = (
            data.decode(vocabulary, np.asarray(ids)).tobytes().decode(errors="replace")
        )
        run.write("sample.txt", text)
        console.rule("a sample")
        console.print(text, markup=False, highlight=False)
        console.rule()

    return Task(
        cell=cell,
        init=partial(
            language_model.init,
            model=config.model,
            vocabulary=len(vocabulary),
            embedding_size=config.embedding_size,
        ),
        loss_fn=language_model.make_loss(
            cell, compute_dtype=config.model.compute_dtype
        ),
        batches=partial(_epochs, windows, cell, batch_size),
        evaluate=_evaluator(cell, held_out),
        probe=partial(_probe, held_out),
        per_step=batch_size * config.window,
        unit="characters",
        shown=lambda loss: {"bits": language_model.bits(loss)},
        leaves={"vocabulary.json": list(vocabulary)},
        finish=finish,
    )


def _epochs(
    windows: data.Windows,
    cell: jaxrnn.Cell,
    batch_size: int,
    params: language_model.LanguageModelParams,
) -> Iterator[tuple[Any, Any]]:
    """Window after window, again and again; the state starts from zeros at the text's start."""
    for number in itertools.cycle(range(len(windows.inputs))):
        # A new array each time: the training step takes the state's buffers.
        state = cell.initial_state(params.cell, (batch_size,)) if number == 0 else None
        yield state, tuple(a[number] for a in windows)


def _probe(ids: np.ndarray, params: language_model.LanguageModelParams) -> Probe:
    """Stretches from all over the held-out text; the loss of the character after each."""
    size = min(PROBED_STEPS, len(ids) - 1)
    starts = np.linspace(0, len(ids) - 1 - size, PROBED).astype(int)
    stretches = jnp.asarray(ids[starts + np.arange(size + 1)[:, None]])

    def loss(_: Any, hs: Array) -> Array:
        logits = layers.dense(params.readout, hs[-1])
        return jnp.sum(
            optax.softmax_cross_entropy_with_integer_labels(logits, stretches[-1])
        )

    return Probe(layers.embed(params.embedding, stretches[:-1]), loss)


def _evaluator(cell: jaxrnn.Cell, ids: np.ndarray) -> Any:
    """`params -> {"valid_bits": …}`: bits per character over the whole held-out text."""
    rows = max(1, min(HELD_OUT_ROWS, (len(ids) - 1) // HELD_OUT_WINDOW))
    windows = data.stream(ids, rows, min(HELD_OUT_WINDOW, len(ids) - 1))
    loss = jax.jit(language_model.make_loss(cell, losses.masked_sum))

    def evaluate(params: language_model.LanguageModelParams) -> dict[str, float]:
        state, nats = cell.initial_state(params.cell, (rows,)), 0.0
        for batch in zip(*windows, strict=True):
            part, state = loss(params, state, batch)
            nats += float(part)
        return {"valid_bits": language_model.bits(nats) / int(windows.mask.sum())}

    return evaluate
