"""Writes PyTorch's curves for `tests/interop/test_training.py`. It needs torch.

    python -m tests.golden.make_pytorch_training

Each file holds initial weights, batches and the loss of every step of Adam, in float32:
an `nn.RNN`, `nn.LSTM` or `nn.GRU` learns to follow another one of its kind.
"""

from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent
STEPS, BATCHES, SIZE, BATCH, INPUTS, HIDDEN = 200, 8, 10, 4, 3, 6
RATE = 1e-2
MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}


def curve(cell: str) -> dict[str, np.ndarray]:
    """Returns the initial state dict, `xs`, `targets` and `losses`, by name."""
    torch.manual_seed(0)
    rnn, teacher = (MODULES[cell](INPUTS, HIDDEN) for _ in range(2))
    before = {name: a.clone().numpy() for name, a in rnn.state_dict().items()}
    xs = torch.randn(BATCHES, SIZE, BATCH, INPUTS)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(4.0)
        targets = torch.stack([teacher(x)[0] for x in xs])
    optimizer = torch.optim.Adam(rnn.parameters(), lr=RATE)
    losses = []
    for step in range(STEPS):
        n = step % BATCHES
        optimizer.zero_grad()
        loss = torch.mean((rnn(xs[n])[0] - targets[n]) ** 2)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    given = {"xs": xs.numpy(), "targets": targets.numpy(), "losses": np.array(losses)}
    return before | given


if __name__ == "__main__":
    for cell in MODULES:
        np.savez_compressed(FOLDER / f"training_{cell}.npz", **curve(cell))
