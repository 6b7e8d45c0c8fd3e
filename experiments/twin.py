"""Trains a config here and in PyTorch, from the same weights and on the same batches.

    python -m experiments.twin configs/shakespeare/shakespeare_lstm.toml
    python -m experiments.twin configs/vowels/vowels_gru.toml --steps 100

It prints both losses now and then, and the largest difference of all steps. It takes
the language model and the classifiers, with one layer of Elman, LSTM or GRU in one
direction. PyTorch's modules have a second bias; where ours have none, it stays zero.
The command needs torch: `pip install 'jaxrnn[torch]'`.
"""
# pyright: reportMissingImports=false

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments import commands
from experiments.config.load import ConfigError, load_config
from experiments.config.schema import Experiment
from experiments.tasks import Config
from experiments.tasks.classified import Classified
from experiments.tasks.language_model import LanguageModel

# Losses are shown at every so many steps.
SHOWN = 10


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = commands.make_parser("twin", __doc__)
    parser.add_argument("config", help="a TOML file, see configs/")
    commands.add_settings(parser)
    help = "steps of training (default: 100)"
    parser.add_argument("--steps", type=int, default=100, help=help)
    arguments = parser.parse_args(argv)

    def body() -> int:
        config = load_config(Config, arguments.config, arguments.set)
        largest = 0.0
        for step, (ours, theirs) in enumerate(losses(config, arguments.steps), start=1):
            largest = max(largest, abs(ours - theirs))
            if step % SHOWN == 0:
                print(f"step {step}: {ours:.6f} here, {theirs:.6f} in PyTorch")
        print(f"the largest difference of {arguments.steps} losses is {largest:.1e}")
        return 0

    return commands.carry_out(body)


def losses(config: Experiment, steps: int) -> Iterator[tuple[float, float]]:
    """Yields our loss and PyTorch's, step by step.

    Raises:
      ConfigError: if there is no twin of such a config.
    """
    import jax
    import jax.numpy as jnp

    from experiments.models.readout import check_one_layer
    from experiments.training.progress import Trainer, start

    if not isinstance(config, LanguageModel | Classified):
        raise ConfigError("a twin is of the language model or of a classifier.")
    check_one_layer(config.model, "the twin")
    task = config.make(print)
    progress = start(config, task)
    trainer = Trainer(config, task, progress)
    # Copies: a step takes the learner's memory.
    params = jax.tree.map(jnp.array, progress.learner.params)
    theirs = _torch_steps(config, task.batch, params)
    try:
        for _ in range(steps):
            progress, measured = trainer.advance(progress)
            yield measured.loss, next(theirs)
    finally:
        trainer.close()


def _torch_steps(
    config: Experiment, batch_of: Callable[[int], Any], params: Any
) -> Iterator[float]:
    """Yields the losses of PyTorch's steps."""
    import torch

    from experiments.training.optimizer import learning_rate
    from jaxrnn import interop

    # The modules, with the same weights.
    cell, readout = params.cell, params.readout
    kinds = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    if config.model.cell not in kinds or config.model.activation not in (
        "tanh",
        "relu",
    ):
        raise ConfigError(f"PyTorch has no `model.cell = {config.model.cell}`.")
    options = {"nonlinearity": config.model.activation}
    options = options if config.model.cell == "elman" else {}
    rnn = kinds[config.model.cell](*cell.w_ih.shape[:1], len(cell.w_hh), **options)
    rnn.load_state_dict(interop.to_torch(cell))
    linear = torch.nn.Linear(*readout.w.shape)
    linear.load_state_dict({"weight": _tensor(readout.w).T, "bias": _tensor(readout.b)})
    learned = [*rnn.parameters(), *linear.parameters()]
    table: Any = None
    if isinstance(config, LanguageModel):
        table = torch.nn.Parameter(_tensor(params.embedding))
        learned.append(table)

    # One step: the loss, its gradient without our missing biases, clipped, and Adam.
    b2, clip = config.optimizer.b2, config.optimizer.clip
    adam = torch.optim.Adam(learned, betas=(0.9, b2), eps=1e-8)
    rate, state, number = learning_rate(config.optimizer), None, 0
    while True:
        fresh, batch = batch_of(number)
        if isinstance(config, LanguageModel):
            state = None if fresh is not None else state
            loss, state = _language_loss(torch, rnn, linear, table, state, batch)
        else:
            loss = _class_loss(torch, rnn, linear, batch)
        adam.zero_grad()
        loss.backward()
        gates = 2 if config.model.cell == "gru" else len(rnn.bias_hh_l0)
        rnn.bias_hh_l0.grad[: gates * rnn.hidden_size] = 0
        norm = sum(float((p.grad**2).sum()) for p in learned) ** 0.5
        for p in learned:
            p.grad *= min(1.0, clip / norm)
        adam.param_groups[0]["lr"] = float(np.asarray(rate(number)))
        adam.step()
        number += 1
        yield float(loss.detach())


def _language_loss(
    torch: Any, rnn: Any, linear: Any, table: Any, state: Any, batch: Any
) -> tuple[Any, Any]:
    """Returns the mean loss of the labels, and the state without its history."""
    ids, labels, mask = (torch.tensor(np.asarray(a)) for a in batch)
    hs, last = rnn(table[ids.long()], state)
    logits = linear(hs)[mask]
    loss = torch.nn.functional.cross_entropy(logits, labels.long()[mask])
    last = tuple(s.detach() for s in last) if isinstance(last, tuple) else last.detach()
    return loss, last


def _class_loss(torch: Any, rnn: Any, linear: Any, batch: Any) -> Any:
    """Returns the mean loss of sequences, by their last states."""
    xs, lengths, labels = (torch.tensor(np.asarray(a)) for a in batch)
    pack = torch.nn.utils.rnn.pack_padded_sequence
    _, last = rnn(pack(xs, lengths.long(), enforce_sorted=False))
    h = last[0] if isinstance(last, tuple) else last
    return torch.nn.functional.cross_entropy(linear(h[0]), labels.long())


def _tensor(array: Any) -> Any:
    import torch

    return torch.tensor(np.asarray(array))


if __name__ == "__main__":
    sys.exit(main())
