"""Trains a character-level language model by truncated BPTT over a stateful stream of windows."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxrnn
from experiments import data, language_model, schema, training
from experiments.cells import cell_of
from experiments.record import Run
from jaxrnn import losses

# The held-out text is read in as many rows at once, in windows as long: enough for the products
# to be efficient, few enough that the rows' cold starts do not count.
HELD_OUT_ROWS, HELD_OUT_WINDOW = 32, 256


def train(config: schema.LanguageModel, run: Run, console: Console) -> dict[str, float]:
    """Runs the whole experiment; returns the validation's bits per character."""
    console.print("Reading the text (the first time, it is fetched).")
    corpus = data.load_texts(config.data.path)
    console.print(corpus.source, markup=False)
    vocabulary = data.make_vocabulary(np.concatenate([text for _, text in corpus.texts]))
    run.write_json("vocabulary.json", list(vocabulary))
    learnt, held_out = data.split_texts(corpus.texts, config.data.held_out)
    if len(held_out) < 2:
        raise ValueError(
            f"validation needs 2 characters at least, but {len(held_out)} are held out: raise "
            "`data.held_out`, or give a longer text."
        )

    cell = cell_of(config.model)
    params = language_model.init(
        jax.random.key(config.seed),
        cell,
        len(vocabulary),
        config.embedding_size,
        config.model.hidden_size,
    )
    batch_size = config.optimizer.batch_size
    windows = data.stream(data.encode(vocabulary, learnt), batch_size, config.window)
    zeros = cell.initial_state(params.cell, (batch_size,))
    params, results = training.fit(
        run,
        console,
        config.optimizer,
        config.evaluations,
        params,
        training.Task(
            loss_fn=language_model.make_loss(cell, compute_dtype=config.model.compute_dtype),
            batches=_epochs(windows, zeros),
            evaluate=_evaluator(cell, data.encode(vocabulary, held_out)),
            per_step=batch_size * config.window,
            unit="characters",
            shown=lambda loss: {"bits": language_model.bits(loss)},
        ),
    )
    key = jax.random.key(config.seed)
    start = jnp.asarray(data.encode(vocabulary, held_out[:1]))
    state, logits = language_model.prime(cell, params, start)
    draw = jax.jit(language_model.sample, static_argnums=(0, 5))
    _, _, ids = draw(cell, params, key, state, logits, config.sample_length, config.temperature)
    text = data.decode(vocabulary, np.asarray(ids)).tobytes().decode(errors="replace")
    run.write("sample.txt", text)
    console.rule("a sample")
    console.print(text, markup=False, highlight=False)
    console.rule()
    return results


def _epochs(windows: data.Windows, zeros: Any) -> Iterator[tuple[Any, Any]]:
    """Window after window, again and again; the state starts from zeros at the text's start."""
    for number in itertools.cycle(range(len(windows.inputs))):
        # A new array each time: the training step takes the state's buffers.
        state = jax.tree.map(lambda z: z + 0, zeros) if number == 0 else None
        yield state, tuple(a[number] for a in windows)


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
