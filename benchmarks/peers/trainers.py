"""Training of the main job's language model in jaxrnn, Flax NNX and PyTorch."""
# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx

from benchmarks.peers import libraries, native, scans
from jaxrnn import devices, train

CONFIG = "configs/shakespeare/shakespeare_lstm.toml"

# One training step, on the batch of this number: waits for the loss in nats.
Step = Callable[[int], float]


class Job(NamedTuple):
    """What is trained, all of it made by `experiments`."""

    config: Any
    task: Any
    params: Any
    optimizer: optax.GradientTransformation
    rates: np.ndarray
    """The learning rate of each step."""


def make_job(cell: str, embedding: int = 32) -> Job:
    """Returns the main job, with this cell and an embedding of this width."""
    from experiments.config.load import load_config
    from experiments.tasks.language_model import LanguageModel
    from experiments.training.optimizer import learning_rate, make_optimizer

    changes = [f'model.cell="{cell}"', f"embedding_size={embedding}"]
    config = load_config(LanguageModel, CONFIG, changes)
    task, steps = config.make(print), np.arange(config.optimizer.steps)
    params = task.init(jax.random.key(config.seed))
    rates = np.asarray(learning_rate(config.optimizer)(steps))
    return Job(config, task, params, make_optimizer(config.optimizer), rates)


def ours(job: Job, number: int = 1, without_b_hn: bool = False) -> Step:
    """As `experiments` trains, on so many devices; `b_hn` may stay zero, as in Flax."""
    optimizer = job.optimizer
    if without_b_hn:
        still = jax.tree.map(lambda _: False, job.params)
        still = still._replace(cell=still.cell._replace(b_hn=True))
        optimizer = optax.chain(optax.masked(optax.set_to_zero(), still), optimizer)
    value_and_grad = jax.value_and_grad(job.task.loss_fn, has_aux=True)
    train_step = train.make_step(value_and_grad, optimizer, jax.devices()[:number])
    learner = train.init_learner(job.params, optimizer)
    state: Any = None

    def step(number: int) -> float:
        nonlocal learner, state
        start, batch = job.task.batch(number)
        state = state if start is None else start
        learner, state, metrics = train_step(learner, state, batch)
        return float(metrics.loss)

    return step


def on_cores(job: Job) -> Step:
    """One device per core, the batch split over them: the default of `experiments`."""
    return ours(job, jax.device_count())


class Network(nnx.Module):
    """The language model of Flax NNX, with our weights."""

    def __init__(self, cell: str, params: Any) -> None:
        rngs, (w, b) = nnx.Rngs(0), params.readout
        made = libraries.nnx_cell(cell, params.cell)
        self.embedding = nnx.Embed(*params.embedding.shape, rngs=rngs)
        self.rnn = nnx.RNN(made, time_major=True, return_carry=True, rngs=False)
        self.readout: Any = nnx.Linear(*w.shape, rngs=rngs)
        self.embedding.embedding[...] = params.embedding
        self.readout.kernel[...], self.readout.bias[...] = w, b

    def __call__(self, carry: Any, ids: jax.Array) -> tuple[Any, jax.Array]:
        rnn: Any = self.rnn  # its options determine the type of its result
        carry, hs = rnn(self.embedding(ids), initial_carry=carry)
        return carry, self.readout(hs)


def flax(job: Job) -> Step:
    """Flax NNX by its functional interface, which is faster than `nnx.jit`."""
    graph, params = nnx.split(Network(job.config.model.cell, job.params))
    sizes = job.config.optimizer.batch_size, job.config.model.hidden_size
    carry = jax.tree.map(jnp.copy, scans.zeros(job.config.model.cell, *sizes))
    # Copies: the step takes its arguments' buffers.
    learned = jax.tree.map(jnp.copy, (params, job.optimizer.init(params), carry))

    def loss_fn(params, carry, ids, labels):
        carry, logits = nnx.merge(graph, params)(carry, ids)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), carry

    @partial(jax.jit, donate_argnums=0)
    def train_step(learned, ids, labels):
        params, opt_state, carry = learned
        differentiated = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, carry), grads = differentiated(params, carry, ids, labels)
        updates, opt_state = job.optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, carry), loss

    def step(number: int) -> float:
        nonlocal learned
        _, (ids, labels, _) = job.task.batch(number)
        learned, loss = train_step(learned, ids, labels)
        return float(loss)

    return step


def pytorch(job: Job, single_bias: bool = False) -> Step:
    """PyTorch with its fused Adam.

    PyTorch adds two biases. If both are trained, they learn twice as fast as one:
    `single_bias` leaves the second one unchanged.
    """
    # The model, with our weights.
    torch.set_num_threads(devices.cores())
    config, cell = job.config.optimizer, job.config.model.cell
    (w, b), table = job.params.readout, torch.tensor(np.asarray(job.params.embedding))
    embedding = torch.nn.Embedding.from_pretrained(table, freeze=False)
    rnn = native.torch_rnn(cell, ((job.params.cell,),))
    readout = torch.nn.Linear(*w.shape)
    tensors = {"weight": torch.tensor(np.asarray(w.T))}
    readout.load_state_dict(tensors | {"bias": torch.tensor(np.asarray(b))})
    if single_bias:
        trained = torch.zeros_like(rnn.bias_hh_l0)
        if cell == "gru":
            trained[-rnn.hidden_size :] = 1  # b_hn
        rnn.bias_hh_l0.register_hook(lambda gradient: gradient * trained)
    # The optimizer. Its learning rate is set before each step.
    params = [p for module in (embedding, rnn, readout) for p in module.parameters()]
    optimizer = torch.optim.Adam(params, lr=0.0, betas=(0.9, config.b2), fused=True)
    state: Any = None

    def step(number: int) -> float:
        nonlocal state
        _, batch = job.task.batch(number)
        ids, labels = (torch.tensor(a, dtype=torch.int64) for a in batch[:2])
        optimizer.param_groups[0]["lr"] = float(job.rates[number % len(job.rates)])
        optimizer.zero_grad()
        hs, state = rnn(embedding(ids), state)
        logits = readout(hs).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, config.clip)
        optimizer.step()
        state = tuple(s.detach() for s in state) if cell == "lstm" else state.detach()
        return loss.item()

    return step


TRAINERS: Mapping[str, Callable[[Job], Step]] = {
    **{"jaxrnn": ours, "jaxrnn-cores": on_cores},
    **{"flax-nnx": flax, "pytorch": pytorch},
}
