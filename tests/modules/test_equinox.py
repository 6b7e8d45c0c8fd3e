"""`jaxrnn.modules.equinox` beside a scan around Equinox's cells."""

import io

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.modules.training import (
    BATCH,
    HIDDEN,
    INPUTS,
    LENGTHS,
    TIME,
    check_same_training,
    distance,
    inputs,
)

eqx = pytest.importorskip("equinox")
ours = pytest.importorskip("jaxrnn.modules.equinox")

KEY = jax.random.key(1)
CELLS = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}


def make(name, **options):
    return CELLS[name](INPUTS, HIDDEN, key=KEY, **options)


def hidden_of(name, batch=()):
    """An initial state that is not zero."""
    h, c = jax.random.normal(jax.random.key(4), (2, *batch, HIDDEN))
    return (h, c) if name == "lstm" else h


def scanned(cell, xs, hidden):
    """One sequence, as Equinox's documentation runs it."""

    def over_step(hidden, x):
        hidden = cell(x, hidden)
        return hidden, jax.tree.leaves(hidden)[0]

    return jax.lax.scan(over_step, hidden, xs)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CELLS)
def test_trains_as_a_scan_does(name):
    """The scan under `vmap`, beside one call on the batch: the loss of every step, all
    gradients, the parameters in the end. The LSTM is without biases."""
    cell = make(name, use_bias=name == "gru")
    batch, hidden = inputs(), hidden_of(name, (BATCH,))

    def host(cell):
        return distance(jax.vmap(scanned, (None, 0, 0))(cell, batch, hidden))

    def layer(cell):
        last, hs = ours.RNN(cell)(jnp.moveaxis(batch, 1, 0), hidden)
        return distance((last, jnp.moveaxis(hs, 0, 1)))

    check_same_training(layer, host, cell)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CELLS)
def test_under_vmap(name):
    """One sequence at a time, in Equinox's habit."""
    layer, hidden = ours.RNN(make(name)), hidden_of(name, (BATCH,))
    got = jax.vmap(layer)(inputs(), hidden)
    expected = jax.vmap(scanned, (None, 0, 0))(make(name), inputs(), hidden)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_masks_resets_and_order():
    """Of one sequence, by the scan of its parts."""
    cell, xs, hidden = make("gru"), inputs()[0], hidden_of("gru")
    size, start = 5, 3
    steps = jnp.arange(TIME)
    got = ours.RNN(cell)(xs, hidden, mask=steps < size, reset=steps == start)
    _, before = scanned(cell, xs[:start], hidden)
    last, after = scanned(cell, xs[start:size], jnp.zeros(HIDDEN))
    padding = jnp.zeros((TIME - size, HIDDEN))
    expected = last, jnp.concatenate([before, after, padding])
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)
    last, hs = ours.RNN(cell)(xs, hidden, mask=steps < size, reverse=True)
    expected = scanned(cell, xs[:size][::-1], hidden)
    chex.assert_trees_all_close((last, hs[:size][::-1]), expected, rtol=1e-10)


@pytest.mark.parametrize("name", CELLS)
def test_checkpoints_are_readable_both_ways(name):
    """A file of a model with the cell, read into one with the layer, and back."""
    saved = make(name)
    layer = ours.RNN(CELLS[name](INPUTS, HIDDEN, key=jax.random.key(9)))

    def through_a_file(tree, like):
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, tree)
        file.seek(0)
        return eqx.tree_deserialise_leaves(file, like)

    read = through_a_file(saved, layer)
    chex.assert_trees_all_equal(read.cell, saved)
    chex.assert_trees_all_equal(through_a_file(read, layer.cell), saved)


def test_under_filter_jit():
    """As a part of a model, whose sizes are static."""
    layer, xs = ours.RNN(make("lstm")), jnp.moveaxis(inputs(), 1, 0)
    mask = jnp.arange(TIME)[:, None] < LENGTHS
    got = eqx.filter_jit(lambda layer, xs: layer(xs, mask=mask))(layer, xs)
    (h, c), hs = got
    assert hs.shape == (TIME, BATCH, HIDDEN) and c.shape == h.shape == (BATCH, HIDDEN)
    np.testing.assert_array_equal(h[1], hs[LENGTHS[1] - 1, 1])


class Other(eqx.nn.GRUCell):
    def __call__(self, input, hidden, *, key=None):
        return hidden


@pytest.mark.parametrize("cell", [eqx.nn.Linear, Other])
def test_other_cells_are_refused(cell):
    with pytest.raises(TypeError, match=f"LSTMCell.*but got {cell.__name__}"):
        ours.read_cell(cell(INPUTS, HIDDEN, key=KEY))
