"""Writes PyTorch's answers for `tests/interop/test_pytorch.py`. It needs torch.

    python -m tests.golden.make_pytorch

Each file holds the weights of an `nn.LSTM`, `nn.GRU` or `nn.RNN`, inputs with lengths,
initial states, and what PyTorch makes of them as a packed sequence: outputs, last
states, and the gradient of a loss with respect to all of these, in float64.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent
# Some sequences are shorter than the batch's longest.
SIZE, LENGTHS, INPUTS, HIDDEN = 5, (5, 3, 1), 3, 2
MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}


def answers(cell: str, depth: int, both: bool, **options: Any) -> dict[str, np.ndarray]:
    """Returns all arrays of one module, by name."""
    torch.manual_seed(10 * depth + both)
    options |= {"num_layers": depth, "bidirectional": both, "dtype": torch.float64}
    rnn = MODULES[cell](INPUTS, options.pop("hidden_size", HIDDEN), **options)
    xs = torch.randn(SIZE, len(LENGTHS), INPUTS, dtype=torch.float64)
    sizes = [rnn.proj_size or rnn.hidden_size, rnn.hidden_size][: 1 + (cell == "lstm")]
    shapes = [((1 + both) * depth, len(LENGTHS), size) for size in sizes]
    states = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    given = {"xs": xs, "h0": states[0]} | ({"c0": states[1]} if states[1:] else {})
    for tensor in given.values():
        tensor.requires_grad_()

    packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor(LENGTHS))
    packed, last = rnn(packed, tuple(states) if states[1:] else states[0])
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(packed)
    last = last if states[1:] else (last,)
    # A loss with a slope of its own at every output and state.
    loss = torch.sin(ys).sum() + sum(torch.cos(s + n).sum() for n, s in enumerate(last))
    given |= dict(rnn.named_parameters())
    grads = torch.autograd.grad(loss, list(given.values()))

    found = given | {f"d_{name}": g for name, g in zip(given, grads, strict=True)}
    found |= {"ys": ys} | {f"{name}n": s for name, s in zip("hc", last, strict=False)}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


if __name__ == "__main__":
    for cell in MODULES:
        for depth in (1, 2, 3):
            for both in (False, True):
                name = f"{cell}_{depth}{'_bidirectional' if both else ''}"
                found = answers(cell, depth, both)
                np.savez_compressed(FOLDER / f"{name}.npz", **found)
                if cell == "lstm":
                    found = answers(cell, depth, both, hidden_size=3, proj_size=2)
                    np.savez_compressed(FOLDER / f"{name}_projected.npz", **found)
    unbiased = answers("gru", 2, False, bias=False)
    np.savez_compressed(FOLDER / "gru_2_unbiased.npz", **unbiased)
