"""The main job's training, in PyTorch and in Flax NNX beside ours: speed, and the same losses.

    python -m benchmarks.end_to_end [--cell lstm,gru] [--rounds 9] [--out FILE.json]

The model, the batches and the optimiser (clipping and schedule included) are those of
configs/shakespeare_lstm.toml, and ours is `experiments`' own code. First 100 steps from the same
weights must give the same losses; then everyone trains on, in turn, in blocks of 20 steps.
"""
# pyright: reportMissingImports=false

import argparse
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from rich.console import Console
from rich.table import Table

import jaxrnn
from benchmarks import measure, native, results
from experiments import config, data, language_model, schema, training
from experiments.models import cell_of
from jaxrnn import devices, train

CONFIG = "configs/shakespeare_lstm.toml"
CELLS = ("lstm", "gru")
BLOCK = 20  # steps in a turn: about half a second
CURVE = 100  # steps whose losses are compared
TOLERANCE = 1e-3  # nats: rounding grows along a trajectory

Step = Callable[[int], float]
"""One training step, on the window of this number: the loss in nats, once all is done."""


class Job(NamedTuple):
    """What everyone trains: the config, the initial weights and the batches."""

    settings: schema.LanguageModel
    params: language_model.LanguageModelParams
    windows: data.Windows

    @property
    def cell(self) -> jaxrnn.Cell:
        return cell_of(self.settings.model)


def make_job(cell: str) -> Job:
    """The main job, with this cell."""
    settings = config.load(schema.Config, CONFIG, [f'model.cell="{cell}"'])
    assert isinstance(settings, schema.LanguageModel)
    corpus = data.load_texts(settings.data.path)
    vocabulary = data.make_vocabulary(
        np.concatenate([text for _, text in corpus.texts])
    )
    learnt, _ = data.split_texts(corpus.texts, settings.data.held_out)
    windows = data.stream(
        data.encode(vocabulary, learnt), settings.optimizer.batch_size, settings.window
    )
    windows = data.Windows(*(a[:-1] for a in windows))  # the last one is partly masked
    params = language_model.init(
        jax.random.key(settings.seed),
        settings.model,
        len(vocabulary),
        settings.embedding_size,
    )
    return Job(settings, params, windows)


def ours(job: Job, number: int = 1, without_b_hn: bool = False) -> Step:
    """As `experiments` trains, on so many devices; `without_b_hn` leaves the GRU's at zero."""
    value_and_grad = jax.value_and_grad(
        language_model.make_loss(job.cell), has_aux=True
    )

    def frozen(params, state, batch):
        result, grads = value_and_grad(params, state, batch)
        still = grads.cell._replace(b_hn=jnp.zeros_like(grads.cell.b_hn))
        return result, grads._replace(cell=still)

    optimizer = training.make_optimizer(job.settings.optimizer)
    train_step = train.make_step(
        frozen if without_b_hn else value_and_grad, optimizer, jax.devices()[:number]
    )
    # A copy: the step takes its arguments' buffers.
    params = jax.tree.map(jnp.copy, job.params)
    state = job.cell.initial_state(params.cell, (job.settings.optimizer.batch_size,))
    learner = train.init_learner(params, optimizer)

    def step(number: int) -> float:
        nonlocal learner, state
        batch = tuple(a[number] for a in job.windows)
        learner, state, metrics = train_step(learner, state, batch)
        return float(metrics.loss)

    return step


def ours_on_cores(job: Job) -> Step:
    """One device per core, the batch split over them: what `experiments` does by default."""
    return ours(job, jax.device_count())


class Network(nnx.Module):
    """The language model of Flax NNX, with our weights."""

    def __init__(self, cell: str, params: language_model.LanguageModelParams) -> None:
        rngs = nnx.Rngs(0)
        inputs, hidden = params.cell.w_ih.shape[0], params.cell.w_hh.shape[0]
        make = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}[cell]
        recurrent = make(inputs, hidden, rngs=rngs)
        self.embedding = nnx.Embed(*params.embedding.shape, rngs=rngs)
        self.rnn = nnx.RNN(recurrent, time_major=True, return_carry=True, rngs=False)
        readout: Any = nnx.Linear(*params.readout.w.shape, rngs=rngs)
        self.embedding.embedding[...] = params.embedding
        recurrent.dense_i.kernel[...] = params.cell.w_ih
        recurrent.dense_h.kernel[...] = params.cell.w_hh
        (recurrent.dense_h if cell == "lstm" else recurrent.dense_i).bias[...] = (
            params.cell.b
        )
        readout.kernel[...] = params.readout.w
        readout.bias[...] = params.readout.b
        self.readout = readout

    def __call__(self, carry: Any, ids: jax.Array) -> tuple[Any, jax.Array]:
        rnn: Any = self.rnn  # what it returns depends on its options
        carry, hs = rnn(self.embedding(ids), initial_carry=carry)
        return carry, self.readout(hs)


def flax(job: Job) -> Step:
    """Flax NNX by its functional interface, faster than `nnx.jit`; the same optax optimiser."""
    graph, params = nnx.split(Network(job.settings.model.cell, job.params))
    params = jax.tree.map(jnp.copy, params)  # the step takes its arguments' buffers
    optimizer = training.make_optimizer(job.settings.optimizer)
    opt_state = optimizer.init(params)
    zeros = jnp.zeros(
        (job.settings.optimizer.batch_size, job.settings.model.hidden_size)
    )
    carry: Any = (zeros, zeros + 0) if job.settings.model.cell == "lstm" else zeros

    def loss_fn(params, carry, ids, labels):
        carry, logits = nnx.merge(graph, params)(carry, ids)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), carry

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def train_step(params, opt_state, carry, ids, labels):
        differentiated = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, carry), grads = differentiated(params, carry, ids, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, carry, loss

    def step(number: int) -> float:
        nonlocal params, opt_state, carry
        ids, labels = job.windows.inputs[number], job.windows.labels[number]
        params, opt_state, carry, loss = train_step(
            params, opt_state, carry, ids, labels
        )
        return float(loss)

    return step


def pytorch(job: Job, single_bias: bool = False) -> Step:
    """PyTorch, with its fused Adam.

    Args:
      job: what to train.
      single_bias: keep the second bias as it was. PyTorch's two biases are added up, and trained
        both, they learn twice as fast as one.
    """
    torch.set_num_threads(devices.cores())
    cell = job.settings.model.cell
    table, (w, b) = (torch.tensor(np.asarray(job.params.embedding)), job.params.readout)
    embedding = torch.nn.Embedding.from_pretrained(table, freeze=False)
    rnn = native.torch_rnn(cell, job.params.cell)
    readout = torch.nn.Linear(w.shape[0], w.shape[1])
    with torch.no_grad():
        readout.weight.copy_(torch.tensor(np.asarray(w.T)))
        readout.bias.copy_(torch.tensor(np.asarray(b)))
    if single_bias:
        trained = torch.zeros_like(rnn.bias_hh_l0)
        trained[len(trained) - (rnn.hidden_size if cell == "gru" else 0) :] = 1
        rnn.bias_hh_l0.register_hook(lambda gradient: gradient * trained)
    params = [p for module in (embedding, rnn, readout) for p in module.parameters()]
    settings = job.settings.optimizer
    betas = (0.9, settings.second_moment)
    optimizer = torch.optim.Adam(params, lr=0.0, betas=betas, fused=True)
    rates = _rates(settings)
    inputs = torch.tensor(job.windows.inputs, dtype=torch.int64)
    labels = torch.tensor(job.windows.labels, dtype=torch.int64)
    state: Any = None
    taken = 0

    def step(number: int) -> float:
        nonlocal state, taken
        optimizer.param_groups[0]["lr"] = float(rates[taken])
        taken += 1
        optimizer.zero_grad()
        hs, state = rnn(embedding(inputs[number]), state)
        logits = readout(hs).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels[number].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, settings.clip)
        optimizer.step()
        state = tuple(s.detach() for s in state) if cell == "lstm" else state.detach()
        return loss.item()

    return step


def _rates(settings: schema.Optimizer) -> np.ndarray:
    """`training.make_optimizer`'s learning rate at every step, from 0 on."""
    rise = round(settings.warmup * settings.steps)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if rise else settings.learning_rate,
        settings.learning_rate,
        rise,
        settings.steps,
        settings.learning_rate * settings.final_rate,
    )
    return np.asarray(schedule(np.arange(settings.steps)))


TRAINERS: dict[str, Callable[[Job], Step]] = {
    "jaxrnn": ours,
    "jaxrnn-cores": ours_on_cores,
    "flax-nnx": flax,
    "pytorch": pytorch,
}


def curves(job: Job, steps: int) -> dict[str, float]:
    """By how much everyone's losses differ from ours, at the step where they do most."""

    def losses(step: Step) -> np.ndarray:
        return np.array([step(number) for number in range(steps)])

    reference = losses(ours(job))
    gru = job.settings.model.cell == "gru"
    # Flax's GRU has no bias inside the reset.
    flax_reference = losses(ours(job, without_b_hn=True)) if gru else reference
    return {
        "jaxrnn-cores": float(np.max(np.abs(losses(ours_on_cores(job)) - reference))),
        "flax-nnx": float(np.max(np.abs(losses(flax(job)) - flax_reference))),
        "pytorch": float(
            np.max(np.abs(losses(pytorch(job, single_bias=True)) - reference))
        ),
    }


def speeds(job: Job, rounds: int, block: int) -> dict[str, measure.Timing]:
    """Milliseconds per block."""

    def blocks(step: Step) -> Callable[[], float]:
        taken = 0

        def call() -> float:
            nonlocal taken
            loss = math.nan
            for _ in range(block):
                loss = step(taken % len(job.windows.inputs))
                taken += 1
            return loss

        return call

    return measure.interleaved(
        {name: blocks(make(job)) for name, make in TRAINERS.items()}, rounds
    )


def compare(cell: str, rounds: int, block: int, steps: int) -> dict[str, Any]:
    """Differences of the losses and characters per second, by trainer."""
    job = make_job(cell)
    differences = curves(job, steps)
    characters = block * job.windows.inputs[0].size
    return {
        name: {
            "difference": differences.get(name, 0.0),
            "characters_per_second": [
                round(1e3 * characters / ms) for ms in timing[::-1]
            ],
        }
        for name, timing in speeds(job, rounds, block).items()
    }


def show(console: Console, cell: str, found: dict[str, Any]) -> None:
    """A cell's table."""
    table = Table(
        "", "characters/s", "low", "high", "jaxrnn is × as fast", "jaxrnn-cores", "Δ loss, nats",
        title=f"{cell}, the main job's training", title_justify="left",
    )  # fmt: skip
    rate = {name: record["characters_per_second"][1] for name, record in found.items()}
    for name, record in found.items():
        low, median, high = record["characters_per_second"]
        ratios = (
            f"{rate[ours] / rate[name]:.2f}" for ours in ("jaxrnn", "jaxrnn-cores")
        )
        difference = record["difference"]
        words = f"{difference:.1e}" + ("" if difference <= TOLERANCE else " (too much)")
        table.add_row(name, f"{median:,}", f"{low:,}", f"{high:,}", *ratios, words)
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 1 if the losses are not the same."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end", description=__doc__
    )
    parser.add_argument("--cell", default=",".join(CELLS), help=",".join(CELLS))
    parser.add_argument("--rounds", type=int, default=9, help="9")
    parser.add_argument(
        "--block", type=int, default=BLOCK, help=f"steps in a turn: {BLOCK}"
    )
    parser.add_argument(
        "--curve", type=int, default=CURVE, help=f"steps compared: {CURVE}"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/end_to_end.json")
    )
    arguments = parser.parse_args(argv)
    devices.one_per_core()
    console = results.console()
    facts = measure.machine()
    console.print(facts)
    cells: dict[str, Any] = {}
    for cell in arguments.cell.split(","):
        cells[cell] = compare(cell, arguments.rounds, arguments.block, arguments.curve)
        show(console, cell, cells[cell])
        results.write(arguments.out, {"machine": facts, "cells": cells})
    worst = max(
        record["difference"] for found in cells.values() for record in found.values()
    )
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
