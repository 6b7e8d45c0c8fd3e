"""`jaxrnn.modules.linen` beside `flax.linen`: values, training, checkpoints."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, serialization

from jaxrnn.modules import linen as ours
from tests.modules.training import (
    BATCH,
    HIDDEN,
    INPUTS,
    LENGTHS,
    TIME,
    check_same_training,
    distance,
    each_case,
    inputs,
    jittered,
    valid,
)

KEY = jax.random.key(1)
# Every option is on somewhere; those of the cell, those of the layer.
CASES = {
    "lstm": (linen.LSTMCell, {}, {"reverse": True}),
    "optimized_lstm": (
        linen.OptimizedLSTMCell,
        {"activation_fn": jax.nn.soft_sign, "gate_fn": jax.nn.hard_sigmoid},
        {"reverse": True, "keep_order": True},
    ),
    "gru": (linen.GRUCell, {}, {"return_carry": True}),
    "simple": (linen.SimpleCell, {"residual": True}, {"time_major": True}),
}
WITH_LENGTHS = {"optimized_lstm", "gru"}


def make(kind, **options):
    return kind(HIDDEN, param_dtype=float, **options)


def carry_of(cell):
    """An initial carry that is not zero."""
    return jittered(cell.initialize_carry(KEY, (BATCH, INPUTS)))


@pytest.mark.usefixtures("x64")
@each_case(CASES, slow="lstm simple")
def test_trains_as_flax_does(name):
    """From equal variables: the loss of every step, all gradients, the parameters in
    the end."""
    kind, of_cell, of_layer = CASES[name]
    cell = make(kind, **of_cell)
    layers = [rnn(cell, **of_layer) for rnn in (ours.RNN, linen.RNN)]
    xs, carry = inputs(), carry_of(cell)
    if of_layer.get("time_major"):
        xs = jnp.moveaxis(xs, 0, 1)
    lengths = LENGTHS if name in WITH_LENGTHS else None
    weights = 1.0 if lengths is None else valid()
    first, second = (layer.init(KEY, xs) for layer in layers)
    chex.assert_trees_all_equal(first, second)

    def loss(layer, variables):
        got = layer.apply(variables, xs, initial_carry=carry, seq_lengths=lengths)
        if layer.return_carry:
            last, got = got
            return distance(got, weights) + distance(last)
        return distance(got, weights)

    check_same_training(
        *(functools.partial(loss, layer) for layer in layers), jittered(first)
    )


@pytest.mark.usefixtures("x64")
def test_every_way_to_call():
    """All lengths, orders and layouts: the outputs and the last carry."""
    cell = make(linen.SimpleCell)
    carry, variables = carry_of(cell), linen.RNN(cell).init(KEY, inputs())

    @functools.partial(jax.jit, static_argnums=0)
    def results(rnn, variables, xs):
        found = {}
        for lengths in (None, LENGTHS):
            for reverse, keep_order in ((False, False), (True, False), (True, True)):
                for time_major in (False, True):
                    last, hs = rnn(cell).apply(
                        variables,
                        jnp.moveaxis(xs, 0, 1) if time_major else xs,
                        initial_carry=None if time_major else carry,
                        seq_lengths=lengths,
                        return_carry=True,
                        reverse=reverse,
                        keep_order=keep_order,
                        time_major=time_major,
                    )
                    hs = jnp.moveaxis(hs, 0, 1) if time_major else hs
                    key = f"{lengths is None} {reverse} {keep_order} {time_major}"
                    found[key] = last, hs if lengths is None else hs * valid()
        return found

    got, expected = (
        results(rnn, jittered(variables), inputs()) for rnn in (ours.RNN, linen.RNN)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


class Tagger(linen.Module):
    """A model of a user's own, in which the layers are the only difference."""

    rnn: type
    bidirectional: type

    @linen.compact
    def __call__(self, xs, lengths):
        forward, backward = (self.rnn(linen.GRUCell(HIDDEN)) for _ in range(2))
        hs = self.bidirectional(forward, backward)(xs, seq_lengths=lengths)
        return linen.Dense(2)(hs) * valid()


def test_checkpoints_are_readable_both_ways():
    """Bytes of one model, of layers in both directions, restore the other."""
    xs = inputs()
    models = (
        Tagger(ours.RNN, ours.Bidirectional),
        Tagger(linen.RNN, linen.Bidirectional),
    )
    for saved, read in (models, models[::-1]):
        variables = jittered(saved.init(KEY, xs, LENGTHS))
        blob = serialization.to_bytes(variables)
        start = read.init(jax.random.key(9), xs, LENGTHS)
        restored = serialization.from_bytes(start, blob)
        chex.assert_trees_all_equal(restored, variables)
    # From NumPy arrays, as they were read.
    got, expected = (model.apply(restored, xs, LENGTHS) for model in models)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_reset_starts_from_the_cells_own_carry():
    """At step 3 of all sequences: what Flax does in two calls, the second without the
    carry."""
    cell = make(linen.OptimizedLSTMCell, carry_init=linen.initializers.ones_init())
    host, layer = (rnn(cell, return_carry=True) for rnn in (linen.RNN, ours.RNN))
    xs, carry = inputs(), carry_of(cell)
    variables = jittered(host.init(KEY, xs))
    reset = jnp.zeros((BATCH, TIME), bool).at[:, 3].set(True)
    got = layer.apply(variables, xs, initial_carry=carry, reset=reset)
    _, before = host.apply(variables, xs[:, :3], initial_carry=carry)
    last, after = host.apply(variables, xs[:, 3:])
    expected = last, jnp.concatenate([before, after], axis=1)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


class ScannedRNN(linen.Module):
    """As recurrent policies have it: a scan that zeroes the carry at resets."""

    @functools.partial(
        linen.scan,
        variable_broadcast="params",
        in_axes=0,
        out_axes=0,
        split_rngs={"params": False},
    )
    @linen.compact
    def __call__(self, carry, x):
        inputs, resets = x
        zeros = self.initialize_carry(*carry.shape)
        carry = jnp.where(resets[:, None], zeros, carry)
        cell = linen.GRUCell(inputs.shape[-1], param_dtype=float)
        return cell(carry, inputs)

    @staticmethod
    def initialize_carry(batch_size, hidden_size):
        cell = linen.GRUCell(hidden_size, param_dtype=float)
        return cell.initialize_carry(jax.random.key(0), (batch_size, hidden_size))


class Policy(linen.Module):
    """The scan, inside a network."""

    rnn: type

    @linen.compact
    def __call__(self, carry, x):
        return self.rnn()(carry, x)


@pytest.mark.usefixtures("x64")
def test_scanned_rnn_is_the_scan_that_policies_write():
    """A carry from before, and episodes that start at many steps: the same names of
    variables, the same training, by the gradient of the carry too."""
    xs = jnp.moveaxis(inputs(), 0, 1)
    resets = jax.random.bernoulli(jax.random.key(2), 0.3, xs.shape[:2])
    carry = jax.random.normal(jax.random.key(3), (BATCH, INPUTS))
    doubles = functools.partial(linen.GRUCell, name="GRUCell_1", param_dtype=float)
    layer = functools.partial(ours.ScannedRNN, make_cell=doubles)
    first, second = (
        # Policies initialize with resets that are floats.
        Policy(rnn).init(KEY, carry, (xs, jnp.zeros(resets.shape)))
        for rnn in (layer, ScannedRNN)
    )
    chex.assert_trees_all_equal(first, second)

    def loss(rnn, params):
        variables, carry = params
        return distance(Policy(rnn).apply(variables, carry, (xs, resets)))

    check_same_training(
        functools.partial(loss, layer),
        functools.partial(loss, ScannedRNN),
        (jittered(first), carry),
    )


def test_scanned_rnn_as_it_comes():
    """Without arguments, and with another cell of another size."""
    xs = jnp.moveaxis(inputs(), 0, 1)
    resets = jnp.zeros((TIME, BATCH), bool)
    carry = ours.ScannedRNN.initialize_carry(BATCH, INPUTS)
    np.testing.assert_array_equal(carry, np.zeros((BATCH, INPUTS)))
    variables = ours.ScannedRNN().init(KEY, carry, (xs, resets))
    assert variables["params"]["GRUCell_1"]["hn"]["bias"].shape == (INPUTS,)
    rnn = ours.ScannedRNN(HIDDEN, linen.OptimizedLSTMCell)
    carry = linen.OptimizedLSTMCell(HIDDEN).initialize_carry(KEY, (BATCH, INPUTS))
    (last, hs), _ = rnn.init_with_output(KEY, carry, (xs, resets))
    assert hs.shape == (TIME, BATCH, HIDDEN)
    np.testing.assert_array_equal(last[1], hs[-1])


def test_partitioned_variables_are_read():
    """Boxes with names of mesh axes, as `linen.with_partitioning` makes them."""
    boxed = linen.with_partitioning(linen.initializers.ones_init(), (None, "model"))
    cell = linen.GRUCell(HIDDEN, kernel_init=boxed)
    xs = inputs()
    variables = linen.RNN(cell).init(KEY, xs)
    got, expected = (rnn(cell).apply(variables, xs) for rnn in (ours.RNN, linen.RNN))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_missing_variables_are_named_by_flax():
    with pytest.raises(Exception, match="collection is empty"):
        ours.RNN(linen.GRUCell(HIDDEN)).apply({}, inputs())


REFUSED = {
    "a convolution": (
        ours.RNN(linen.ConvLSTMCell(HIDDEN, (2, 2))),
        TypeError,
        "linen.GRUCell.*but got ConvLSTMCell",
    ),
    "an activation": (
        ours.RNN(linen.GRUCell(HIDDEN, activation_fn=jax.nn.gelu)),
        ValueError,
        "`activation_fn` must be the function.*tanh.*but got",
    ),
    "parameters of each step": (
        ours.RNN(
            linen.GRUCell(HIDDEN), variable_axes={"params": 0}, variable_broadcast=False
        ),
        ValueError,
        "share their parameters, but `variable_axes`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_results_is_refused(case):
    layer, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        layer.init(KEY, inputs())
