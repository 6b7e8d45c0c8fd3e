"""Training beside PyTorch: the same weights, batches and Adam give the same curve.

`golden/make_pytorch_training` wrote PyTorch's; where it is installed, it trains again.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrnn import interop

FOLDER = Path(__file__).parents[1] / "golden"
RATE = 1e-2
each_cell = pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])


def curve(given, two_biases):
    """The losses of Adam from the weights and batches of a file."""
    weights = {n: a for n, a in given.items() if n.startswith(("weight", "bias"))}
    net, params = interop.from_torch(weights, two_biases=two_biases)
    optimizer = optax.adam(RATE)

    def loss(params, xs, targets):
        _, ys = net.unroll(interop.one_bias(params), None, xs)
        return jnp.mean((ys - targets) ** 2)

    def step(learned, batch):
        params, state = learned
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    turns = np.arange(len(given["losses"])) % len(given["xs"])
    batches = jnp.asarray(given["xs"])[turns], jnp.asarray(given["targets"])[turns]
    start = params, optimizer.init(params)
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, start, batches)[1])())


@each_cell
def test_two_biases_train_as_in_pytorch(cell):
    given = dict(np.load(FOLDER / f"training_{cell}.npz"))
    assert len(given["losses"]) == 200
    np.testing.assert_allclose(curve(given, True), given["losses"], rtol=0, atol=1e-4)
    # One bias does not: this test would notice it.
    assert np.abs(curve(given, False) - given["losses"]).max() > 1e-3


@each_cell
def test_pytorch_itself_trains_so(cell):
    pytest.importorskip("torch")
    from tests.golden.make_pytorch_training import curve as theirs

    given = theirs(cell)
    np.testing.assert_allclose(curve(given, True), given["losses"], rtol=0, atol=1e-4)
