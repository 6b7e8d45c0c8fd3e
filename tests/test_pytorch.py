"""Stacks of layers beside PyTorch's modules, by files that `golden/make_pytorch` wrote.

PyTorch itself is not needed: the files hold weights, packed sequences, and its answers.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import layers
from tests import cases

FILES = sorted((Path(__file__).parent / "golden").glob("*.npz"))
LENGTHS = np.array([5, 3, 1])
CELLS = cases.CELLS | {"projected": jaxrnn.make_lstm(projection=2)}
# Each cell, each depth, and both ways at two layers; the rest is behind `slow`.
FAST = {f"{cell}_{depth}" for cell, depth in zip(CELLS, "1321", strict=True)}
FAST |= {f"{cell}_2_bidirectional" for cell in CELLS}


def both_ways(name, got):
    """The trees of PyTorch's directions, by layer: one, or both."""
    return layers.BothWays(*got) if "bidirectional" in name else got[0]


def suffixes(name):
    """The endings of PyTorch's names: for each layer, one for each direction."""
    depth = int(name.split("_")[1])
    ways = ("", "_reverse") if "bidirectional" in name else ("",)
    return [[f"l{n}{way}" for way in ways] for n in range(depth)]


def params_of(name, cell, file):
    """Ours from PyTorch's: transposed, and its two biases added up."""

    def one(suffix):
        w_ih, w_hh = (file[f"weight_{kind}_{suffix}"].T for kind in ("ih", "hh"))
        b_ih, b_hh = (file[f"bias_{kind}_{suffix}"] for kind in ("ih", "hh"))
        if cell != "gru":
            return packed(cell, file, f"weight_hr_{suffix}", w_ih, w_hh, b_ih + b_hh)
        inside = np.arange(b_hh.size) < 2 * w_hh.shape[0]
        b_hn = b_hh[2 * w_hh.shape[0] :]
        return jaxrnn.GRUParams(w_ih, w_hh, b_ih + inside * b_hh, b_hn)

    return tuple(both_ways(name, [one(s) for s in ss]) for ss in suffixes(name))


def grads_of(name, cell, file):
    """As `params_of`: each of the two biases has the gradient of their sum."""

    def one(suffix):
        w_ih, w_hh, b_ih, b_hh = (
            file[f"d_{kind}_{suffix}"].T
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        if cell == "gru":
            return jaxrnn.GRUParams(w_ih, w_hh, b_ih, b_hh[2 * w_hh.shape[0] :])
        return packed(cell, file, f"d_weight_hr_{suffix}", w_ih, w_hh, b_ih)

    return tuple(both_ways(name, [one(s) for s in ss]) for ss in suffixes(name))


def packed(cell, file, projection, w_ih, w_hh, b):
    """The parameters of a cell with one bias, and with a projection if it has one."""
    if cell == "projected":
        return jaxrnn.LSTMVariantParams(w_ih, w_hh, b, None, file[projection].T)
    kind = {"lstm": jaxrnn.LSTMParams, "elman": jaxrnn.ElmanParams}[cell]
    return kind(w_ih, w_hh, b)


def states_of(name, cell, file, h, c):
    """PyTorch's arrays `[layers · directions, B, H]`, cut into states."""

    def one(n):
        if cell in ("lstm", "projected"):
            return jaxrnn.LSTMState(file[h][n], file[c][n])
        return {"gru": jaxrnn.GRUState, "elman": jaxrnn.ElmanState}[cell](file[h][n])

    numbers = iter(range(len(file[h])))
    return tuple(
        both_ways(name, [one(next(numbers)) for _ in ss]) for ss in suffixes(name)
    )


def test_every_file_is_there():
    assert len(FILES) == len(CELLS) * 3 * 2


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
    name, file = path.stem, np.load(path)
    cell = name.split("_")[0]
    memory = "c0" if "c0" in file else "h0"  # as wide as the layer, unlike a projection
    layer = layers.recurrent(CELLS[cell], file[memory].shape[-1])
    if "bidirectional" in name:
        layer = layers.bidirectional(layer)
    net = layers.stack(*[layer] * len(suffixes(name)))
    mask = jaxrnn.lengths_to_mask(jnp.asarray(LENGTHS), len(file["xs"]))

    def loss_of(params, state, xs):
        last, ys = net.unroll(params, state, xs, mask=mask)
        loss = jnp.sum(jnp.sin(ys))
        for states in jax.tree.leaves(last, is_leaf=lambda s: hasattr(s, "h")):
            loss += sum(jnp.sum(jnp.cos(s + n)) for n, s in enumerate(states))
        return loss, (last, ys)

    given = params_of(name, cell, file), states_of(name, cell, file, "h0", "c0")
    by = jax.jit(jax.value_and_grad(loss_of, (0, 1, 2), has_aux=True))
    (_, results), grads = by(*jax.tree.map(jnp.asarray, given), jnp.asarray(file["xs"]))
    expected = states_of(name, cell, file, "hn", "cn"), file["ys"]
    expected_grads = (
        grads_of(name, cell, file),
        states_of(name, cell, file, "d_h0", "d_c0"),
        file["d_xs"],
    )
    # No gradient of such a module is nearly zero everywhere.
    assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(expected_grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        (results, grads),
        (expected, expected_grads),
    )
