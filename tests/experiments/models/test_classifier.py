"""The classifier reads a sequence up to its end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from experiments.config.schema import Model
from experiments.data import Sequences
from experiments.models import classifier, readout

MODEL = Model(cell="gru", hidden_size=8)


@pytest.fixture(scope="module")
def params():
    network = readout.make_network(MODEL, 2, 3)
    return network.init(jax.random.key(0))


@jax.jit
def logits_of(params, xs, lengths):
    return classifier.logits_of(readout.make_body(MODEL), params, xs, lengths)


def test_it_looks_at_a_series_up_to_its_end(params):
    xs = jax.random.normal(jax.random.key(2), (6, 2, 2))
    logits = logits_of(params, xs, jnp.array([4, 6]))
    alone = logits_of(params, xs[:4, :1], jnp.array([4]))
    np.testing.assert_allclose(logits[0], alone[0], rtol=1e-5)
    garbage = logits_of(params, xs.at[4:, 0].set(jnp.nan), jnp.array([4, 6]))
    np.testing.assert_array_equal(garbage, logits)


def test_the_microscope_sees_series_of_one_length(params):
    """Those of the commonest length; by the logits of the classifier itself."""
    xs = np.random.default_rng(0).standard_normal((6, 4, 2)).astype(np.float32)
    lengths, labels = np.array([4, 6, 4, 5], np.int32), np.array([0, 1, 2, 0], np.int32)
    probed, loss = classifier.probe(Sequences(xs, lengths, labels), params)
    np.testing.assert_array_equal(probed, xs[:4, [0, 2]])
    logits = logits_of(params, jnp.asarray(xs), jnp.asarray(lengths))
    expected = -jax.nn.log_softmax(logits)[[0, 2], [0, 2]].sum()

    @jax.jit
    def value(cell_params):
        return loss(*jaxrnn.unroll(jaxrnn.gru, cell_params, None, probed))

    np.testing.assert_allclose(value(params.cell), expected, rtol=1e-5)


def test_both_ways_it_looks_at_a_series_up_to_its_end():
    """Two layers, both directions: padding changes nothing, the first step counts."""
    model = Model(cell="gru", hidden_size=4, layers=2, bidirectional=True, dropout=0.3)
    network = readout.make_network(model, 2, 3)
    params = network.init(jax.random.key(0))

    @jax.jit
    def logits_of(xs, lengths):
        return classifier.logits_of(network.body, params, xs, lengths)

    xs = jax.random.normal(jax.random.key(2), (6, 2, 2))
    logits = logits_of(xs, jnp.array([4, 6]))
    garbage = logits_of(xs.at[4:, 0].set(jnp.nan), jnp.array([4, 6]))
    np.testing.assert_array_equal(garbage, logits)
    alone = logits_of(xs[:4, :1], jnp.array([4]))
    np.testing.assert_allclose(logits[0], alone[0], rtol=1e-5, atol=1e-6)
    # In training, another step has other masks.
    loss = jax.jit(classifier.make_loss(network.body))
    batch = Sequences(np.asarray(xs), np.array([4, 6]), np.array([0, 1]))
    losses = [float(loss(params, None, (batch, np.uint32(n)))[0]) for n in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_what_is_read_out_is_dropped_too():
    """Of one layer, both directions: a readout that copies shows the features."""
    model = Model(cell="gru", hidden_size=4, bidirectional=True, dropout=0.25)
    network = readout.make_network(model, 2, 8)
    params = network.init(jax.random.key(0))
    copies = params.readout._replace(w=jnp.eye(8), b=jnp.zeros(8))
    params = params._replace(readout=copies)
    xs = jax.random.normal(jax.random.key(2), (6, 50, 2))
    lengths = jnp.full(50, 6)

    @jax.jit
    def logits_of(key):
        return classifier.logits_of(network.body, params, xs, lengths, key, 0.25)

    whole, dropped = logits_of(None), logits_of(jax.random.key(1))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-6)
    assert abs(float(jnp.mean(kept)) - 0.75) < 0.1  # four deviations of 400 features
