"""Weights beside Keras's layers, by files that `golden/make_keras` wrote.

Where Keras is installed, the same layers answer for themselves. All is in float32.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import interop, layers

FOLDER = Path(__file__).parents[1] / "golden"
# What the arrays alone do not tell.
OPTIONS = {
    "simple_rnn": {},
    "lstm": {},
    "gru": {},
    "gru_reset_before": {},
    "bidirectional": {},
    "activations": {"activation": "softsign", "gate_activation": "hard_logistic"},
    "unbiased": {},
}
each_layer = pytest.mark.parametrize("name", OPTIONS)


def outputs_of(net, params, xs):
    """Our outputs, with the batch first, as in Keras."""
    _, ys = net.unroll(params, None, jnp.moveaxis(xs, 1, 0))
    return jnp.moveaxis(ys, 0, 1)


def converted(name, weights):
    """The layer and the parameters for arrays, of which JAX may take the gradient."""
    if name != "bidirectional":
        return interop.from_keras(weights, **OPTIONS[name])
    half = len(weights) // 2
    both = [interop.from_keras(w) for w in (weights[:half], weights[half:])]
    params = layers.BothWays(both[0][1], both[1][1])
    return layers.bidirectional(both[0][0], "mean"), params


@each_layer
def test_equals_keras(name):
    """Outputs and the gradient of all weights, and the weights back again."""
    file = np.load(FOLDER / f"keras_{name}.npz")
    count = sum(key.startswith("w") for key in file)
    weights = [jnp.asarray(file[f"w{n}"]) for n in range(count)]

    def loss(weights):
        net, params = converted(name, weights)
        ys = outputs_of(net, params, jnp.asarray(file["xs"]))
        return jnp.sum(jnp.sin(ys)), ys

    (_, ys), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights)
    np.testing.assert_allclose(ys, file["ys"], rtol=0, atol=1e-6)
    for n, grad in enumerate(grads):
        assert np.abs(grad).max() > 1e-2
        np.testing.assert_allclose(grad, file[f"d_w{n}"], rtol=1e-6, atol=2e-6)
    if name not in ("gru", "bidirectional"):  # where two biases have become one
        back = interop.to_keras(
            converted(name, weights)[1], use_bias=name != "unbiased"
        )
        jax.tree.map(np.testing.assert_array_equal, back, weights)


def test_two_biases_of_a_gru():
    file = np.load(FOLDER / "keras_gru.npz")
    weights = [file[f"w{n}"] for n in range(3)]
    _, two = interop.from_keras(weights, two_biases=True)
    for a, b in zip(interop.to_keras(two), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    _, one = interop.from_keras(weights)
    jax.tree.map(np.testing.assert_array_equal, interop.one_bias(two), one)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@each_layer
def test_a_layer_itself(name, monkeypatch):
    """From the layer, whose options need not be told, and into it."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    pytest.importorskip("keras")
    from tests.golden import make_keras

    layer = make_keras.built(name)
    answers = make_keras.answers(layer)
    net, params = interop.from_keras(layer)
    xs = jnp.asarray(answers["xs"])
    ys = outputs_of(net, params, xs)
    np.testing.assert_allclose(ys, answers["ys"], rtol=0, atol=1e-6)
    layer.set_weights(interop.to_keras(params, use_bias=name != "unbiased"))
    np.testing.assert_allclose(layer(xs), answers["ys"], rtol=0, atol=1e-6)


def arrays(gates=4, *, bias=True):
    shapes = [(3, gates * 5), (5, gates * 5), (gates * 5,)]
    return [np.zeros(shape, np.float32) for shape in shapes[: 2 + bias]]


class Backwards:
    """Stands for a layer with `go_backwards`."""

    go_backwards = True


GRU = jaxrnn.gru.init(jax.random.key(0), 3, 4)
REFUSED = {
    "missing": (
        lambda: interop.from_keras(arrays()[:1]),
        "must have recurrent_kernel, but got kernel",
    ),
    "too many": (
        lambda: interop.from_keras([*arrays(), np.zeros(3)]),
        "also got array 3",
    ),
    "mis-shaped": (
        lambda: interop.from_keras([*arrays()[:2], np.zeros((2, 20))]),
        r"bias in `source` must have shape \(20,\), but got \(2, 20\)",
    ),
    "one bias of two": (
        lambda: interop.from_keras(arrays(3), reset_after=True),
        r"bias in `source` must have shape \(2, 15\)",
    ),
    "two of one": (
        lambda: interop.from_keras(arrays(4), two_biases=True),
        "have one bias for each gate",
    ),
    "backwards": (
        lambda: interop.from_keras(Backwards()),
        "must not have `go_backwards`",
    ),
    "no layer": (lambda: interop.from_keras(3.0), "must be a keras.layers.SimpleRNN"),
    "no bias": (
        lambda: interop.to_keras(GRU._replace(b_hn=jnp.ones(4)), use_bias=False),
        "`b_hn` must be zero",
    ),
    "a projection": (
        lambda: interop.to_keras(
            jaxrnn.make_lstm(projection=2).init(jax.random.key(0), 3, 4)
        ),
        "must have no projection",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, words = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=words):
        call()
