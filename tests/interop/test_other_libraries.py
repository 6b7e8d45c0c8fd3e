"""Weights of Flax, Equinox and Haiku beside these libraries: outputs and gradients.

The conversions are differentiated as well: both sides get the gradient of the other
library's own weights, so nothing is compared through a translation of the test's own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import interop

SIZE, BATCH, INPUTS, HIDDEN = 6, 2, 3, 4
XS = np.random.default_rng(0).normal(size=(SIZE, BATCH, INPUTS))


def with_noise(tree):
    """Biases that begin at zero, or all alike, would hide a mistake."""
    leaves, treedef = jax.tree.flatten(tree)
    random = np.random.default_rng(1)
    noisy = [jnp.asarray(a + 0.3 * random.normal(size=a.shape)) for a in leaves]
    return jax.tree.unflatten(treedef, noisy)


def linen(name):
    """Returns weights, the outputs for weights and inputs, and both conversions."""
    nn = pytest.importorskip("flax.linen")
    cell = getattr(nn, name)(HIDDEN, param_dtype=jnp.float64)
    rnn = nn.RNN(cell, time_major=True)
    weights = rnn.init(jax.random.key(0), XS)

    def back(params):
        return {"params": {"cell": interop.to_flax(params, cell)}}

    return weights, rnn.apply, interop.from_flax, back


def nnx(name):
    nnx = pytest.importorskip("flax.nnx")
    sizes = INPUTS, HIDDEN
    options = {"param_dtype": jnp.float64, "dtype": jnp.float64}
    cell = getattr(nnx, name)(*sizes, rngs=nnx.Rngs(0), **options)
    graph, state = nnx.split(nnx.RNN(cell, time_major=True, rngs=False))
    start = jnp.zeros((BATCH, HIDDEN))

    def outputs(weights, xs):
        rnn = nnx.merge(graph, weights)
        return rnn(xs, initial_carry=(start, start) if "LSTM" in name else start)

    def back(params):
        return {"cell": interop.to_flax(params, type(cell))}

    return state, outputs, interop.from_flax, back


def equinox(name, use_bias=True):
    eqx = pytest.importorskip("equinox")
    cell = getattr(eqx.nn, name)(
        INPUTS, HIDDEN, use_bias, jnp.float64, key=jax.random.key(0)
    )

    def outputs(cell, xs):
        def over_step(state, x):
            state = jax.vmap(cell)(x, state)
            return state, jax.tree.leaves(state)[0]

        zero = jnp.zeros((BATCH, HIDDEN))
        return jax.lax.scan(over_step, (zero, zero) if "LSTM" in name else zero, xs)[1]

    back = functools.partial(interop.to_equinox, use_bias=use_bias)
    return cell, outputs, interop.from_equinox, back


def haiku(name, **options):
    hk = pytest.importorskip("haiku")

    def run(xs):
        core = getattr(hk, name)(HIDDEN, **options)
        return hk.dynamic_unroll(core, xs, core.initial_state(BATCH))[0]

    transformed = hk.without_apply_rng(hk.transform(run))
    weights = transformed.init(jax.random.key(0), jnp.asarray(XS))
    back = functools.partial(interop.to_haiku, **options)
    return weights, transformed.apply, interop.from_haiku, back


NAMES = {
    linen: ["SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell"],
    nnx: ["SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell"],
    equinox: ["LSTMCell", "GRUCell"],
    haiku: ["VanillaRNN", "LSTM", "GRU"],
}
CASES = {
    f"{library.__name__}.{name}": functools.partial(library, name)
    for library, names in NAMES.items()
    for name in names
}
CASES["equinox.GRUCell, unbiased"] = functools.partial(equinox, "GRUCell", False)
CASES["haiku.VanillaRNN, one bias"] = functools.partial(
    haiku, "VanillaRNN", double_bias=False
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_equals_the_library(name):
    """Outputs and the gradient of all weights, and the weights back again."""
    weights, outputs, convert, back = CASES[name]()
    weights = with_noise(weights)
    marks = jnp.asarray(np.random.default_rng(2).normal(size=(SIZE, BATCH, HIDDEN)))

    def ours(weights, xs):
        net, params = convert(weights)
        return net.unroll(params, None, xs)[1]

    def both(weights):
        def loss(weights, outputs):
            ys = outputs(weights, jnp.asarray(XS))
            return jnp.sum(marks * jnp.sin(ys)), ys

        by = jax.value_and_grad(loss, has_aux=True)
        return by(weights, ours), by(weights, outputs)

    (found, grads), (expected, expected_grads) = jax.jit(both)(weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
        (found, jax.tree.leaves(grads)),
        (expected, jax.tree.leaves(expected_grads)),
    )
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(expected_grads))
    # Again in the library's layout: its own names, and the same numbers.
    returned = jax.tree.leaves_with_path(back(convert(weights)[1]))
    for (path, a), (other, b) in zip(
        returned, jax.tree.leaves_with_path(weights), strict=True
    ):
        if not name.startswith("nnx"):  # whose states have wrapped leaves
            assert path == other
        if "one bias" in name or "VanillaRNN" not in name:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
