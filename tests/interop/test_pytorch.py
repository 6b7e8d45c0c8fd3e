"""Weights beside PyTorch's modules, by files that `golden/make_pytorch` wrote.

PyTorch itself is not needed: the files hold weights, packed sequences, and its answers.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import interop, layers
from tests.cases import CELLS

FILES = sorted((Path(__file__).parents[1] / "golden").glob("*_[123]*.npz"))
LENGTHS = np.array([5, 3, 1])
# Each cell, each depth, and both ways at two layers; the rest is behind `slow`.
FAST = {f"{cell}_{depth}" for cell, depth in zip(CELLS, "132", strict=True)}
FAST |= {"lstm_2_bidirectional_projected", "gru_2_unbiased"}
FAST |= {f"{cell}_2_bidirectional" for cell in CELLS}
STATES = {
    "elman": jaxrnn.ElmanState,
    "lstm": jaxrnn.LSTMState,
    "gru": jaxrnn.GRUState,
}


def weights_of(file, kind=""):
    """The state dict in a file, or with "d_" that of the gradient."""
    names = (name for name in file if name.startswith((f"{kind}weight", f"{kind}bias")))
    return {name.removeprefix(kind): file[name] for name in names}


def states_of(name, file, h, c):
    """PyTorch's arrays `[layers · directions, B, H]`, cut into states."""
    cell, depth, *options = name.split("_")
    arrays = (file[h], file[c]) if cell == "lstm" else (file[h],)
    states = [STATES[cell](*parts) for parts in zip(*arrays, strict=True)]
    if "bidirectional" in options:
        pairs = zip(states[::2], states[1::2], strict=True)
        states = [layers.BothWays(*pair) for pair in pairs]
    assert len(states) == int(depth)
    return tuple(states) if len(states) > 1 else states[0]


def without_biases(params):
    """The weights alone, of each layer."""
    return [(p.w_ih, p.w_hh) for p in params]


def test_every_file_is_there():
    assert len(FILES) == (3 + 1) * 3 * 2 + 1  # LSTMs with a projection, and a GRU


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=() if p.stem in FAST else pytest.mark.slow)
        for p in FILES
    ],
)
def test_equals_pytorch(path):
    """Outputs, last states, and the gradient of all weights, inputs and states."""
    file, two = np.load(path), "unbiased" not in path.stem
    net, params = interop.from_torch(weights_of(file), two_biases=two)
    # The layout is linear, so the gradient of PyTorch's weights is laid out like them.
    _, dparams = interop.from_torch(weights_of(file, "d_"), two_biases=two)
    mask = jaxrnn.lengths_to_mask(jnp.asarray(LENGTHS), len(file["xs"]))

    def loss_of(params, state, xs):
        last, ys = net.unroll(interop.one_bias(params), state, xs, mask=mask)
        loss = jnp.sum(jnp.sin(ys))
        for states in jax.tree.leaves(last, is_leaf=lambda s: hasattr(s, "h")):
            loss += sum(jnp.sum(jnp.cos(s + n)) for n, s in enumerate(states))
        return loss, (last, ys)

    given = params, states_of(path.stem, file, "h0", "c0")
    by = jax.jit(jax.value_and_grad(loss_of, (0, 1, 2), has_aux=True))
    (_, results), grads = by(*jax.tree.map(jnp.asarray, given), jnp.asarray(file["xs"]))
    if not two:  # PyTorch has no gradient of a bias that it lacks.
        grads = (without_biases(grads[0]), *grads[1:])
        dparams = without_biases(dparams)
    expected = states_of(path.stem, file, "hn", "cn"), file["ys"]
    expected_grads = (
        dparams,
        states_of(path.stem, file, "d_h0", "d_c0"),
        file["d_xs"],
    )
    # No gradient of such a module is nearly zero everywhere.
    assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(expected_grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        (results, grads),
        (expected, expected_grads),
    )
