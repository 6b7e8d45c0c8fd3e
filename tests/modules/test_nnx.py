"""`jaxrnn.modules.nnx` beside `flax.nnx`: values, training, checkpoints, refusals."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrnn.modules import nnx as ours
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

CELLS = {
    "lstm": nnx.LSTMCell,
    "optimized_lstm": nnx.OptimizedLSTMCell,
    "gru": nnx.GRUCell,
    "simple": nnx.SimpleCell,
}
# Every option is on somewhere; those of the cell, those of the call.
CASES = {
    "lstm": (nnx.LSTMCell, {}, {"reverse": True}),
    "optimized_lstm": (
        nnx.OptimizedLSTMCell,
        {"activation_fn": jax.nn.soft_sign, "gate_fn": jax.nn.hard_sigmoid},
        {"reverse": True, "keep_order": True, "seq_lengths": LENGTHS},
    ),
    "gru": (nnx.GRUCell, {}, {"seq_lengths": LENGTHS, "return_carry": True}),
    "simple": (nnx.SimpleCell, {"residual": True}, {"time_major": True}),
}


def make(cell, dtype=float, **options):
    """A cell with biases that are not zero."""
    made = cell(
        INPUTS, HIDDEN, dtype=dtype, param_dtype=dtype, **options, rngs=nnx.Rngs(0)
    )
    nnx.update(made, jittered(nnx.state(made, nnx.Param)))
    return made


def carry_of(cell):
    """An initial carry that is not zero."""
    carry = cell.initialize_carry((BATCH, INPUTS), nnx.Rngs(0))
    return jittered(carry)


@pytest.mark.usefixtures("x64")
@each_case(CASES, slow="lstm")
def test_trains_as_flax_does(name):
    """The loss of every step, all gradients, the parameters in the end."""
    kind, of_cell, of_call = CASES[name]
    cell = make(kind, **of_cell)
    graph, params = nnx.split(cell, nnx.Param)
    xs, carry = inputs(), carry_of(cell)
    weights = valid() if "seq_lengths" in of_call else 1.0
    if of_call.get("time_major"):
        xs = jnp.moveaxis(xs, 0, 1)

    def loss(rnn, params):
        layer = rnn(nnx.merge(graph, params), rngs=False)
        got = layer(xs, initial_carry=carry, **of_call)
        if of_call.get("return_carry"):
            last, got = got
            return distance(got, weights) + distance(last)
        return distance(got, weights)

    check_same_training(
        functools.partial(loss, ours.RNN), functools.partial(loss, nnx.RNN), params
    )


@pytest.mark.usefixtures("x64")
@each_case(["simple", "optimized_lstm"], slow="optimized_lstm")
def test_every_way_to_call(name):
    """All lengths, orders and layouts: the outputs and the last carry."""
    cell = make(CELLS[name])
    carry = carry_of(cell)

    @nnx.jit(static_argnums=0)
    def results(rnn, cell, carry, xs):
        layer, found = rnn(cell, return_carry=True), {}
        for lengths in (None, LENGTHS):
            for reverse, keep_order in ((False, False), (True, False), (True, True)):
                for time_major in (False, True):
                    last, hs = layer(
                        jnp.moveaxis(xs, 0, 1) if time_major else xs,
                        initial_carry=None if time_major else carry,
                        seq_lengths=lengths,
                        reverse=reverse,
                        keep_order=keep_order,
                        time_major=time_major,
                    )
                    hs = jnp.moveaxis(hs, 0, 1) if time_major else hs
                    key = f"{lengths is None} {reverse} {keep_order} {time_major}"
                    found[key] = last, hs if lengths is None else hs * valid()
        return found

    got, expected = (results(rnn, cell, carry, inputs()) for rnn in (ours.RNN, nnx.RNN))
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_both_directions():
    cells = make(nnx.GRUCell), make(nnx.SimpleCell)

    def run(rnn):
        layer = ours.Bidirectional(rnn(cells[0]), rnn(cells[1]), return_carry=True)
        last, hs = layer(inputs(), seq_lengths=LENGTHS)
        return last, hs * valid()

    chex.assert_trees_all_close(run(ours.RNN), run(nnx.RNN), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_reset_is_a_call_of_its_own():
    """At step 3 of all sequences: what Flax does in two calls, the second without the
    carry."""
    cell = make(nnx.OptimizedLSTMCell)
    xs, carry = inputs(), carry_of(cell)
    reset = jnp.zeros((BATCH, TIME), bool).at[:, 3].set(True)
    got = ours.RNN(cell, return_carry=True)(xs, initial_carry=carry, reset=reset)
    host = nnx.RNN(cell, return_carry=True)
    _, before = host(xs[:, :3], initial_carry=carry)
    last, after = host(xs[:, 3:])
    expected = last, jnp.concatenate([before, after], axis=1)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


def test_a_random_initial_carry_is_the_same_one():
    """Drawn call by call from the layer's stream, which is part of its state."""
    layers = []
    for rnn in (ours.RNN, nnx.RNN):
        with pytest.warns(UserWarning, match="carry_init"):
            cell = make(nnx.GRUCell, carry_init=jax.random.normal)
        layers.append(rnn(cell, rngs=nnx.Rngs(carry=3)))
    xs, before = inputs(), None
    for _ in range(2):
        got, expected = (layer(xs) for layer in layers)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert before is None or jnp.abs(got - before).max() > 0.1
        before = got
    chex.assert_trees_all_equal(*(nnx.to_pure_dict(nnx.state(r)) for r in layers))


@pytest.mark.parametrize("name", CELLS)
def test_checkpoints_are_readable_both_ways(name):
    """The state of one layer, as a plain dict, restores the other."""
    for first, second in ((ours.RNN, nnx.RNN), (nnx.RNN, ours.RNN)):
        saved = nnx.state(first(make(CELLS[name])))
        # A layer with other values, into which the saved ones are read.
        read = second(CELLS[name](INPUTS, HIDDEN, rngs=nnx.Rngs(5)))
        state = nnx.state(read)
        nnx.replace_by_pure_dict(state, nnx.to_pure_dict(saved))
        nnx.update(read, state)
        chex.assert_trees_all_equal(nnx.state(read), saved)


def test_products_in_bfloat16():
    """With a cell's `dtype`: the same dtypes as in Flax, and the same values but for
    rounding."""
    cell = nnx.OptimizedLSTMCell(INPUTS, HIDDEN, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    xs = inputs()
    got, expected = (r(cell, return_carry=True)(xs) for r in (ours.RNN, nnx.RNN))
    chex.assert_trees_all_equal_dtypes(got, expected)
    # 2⁻⁸ is the rounding of each gate in Flax.
    chex.assert_trees_all_close(got, expected, atol=2**-7)
    exact = ours.RNN(make(nnx.OptimizedLSTMCell))(xs)
    assert exact.dtype == jnp.float32


def test_integers_are_numbers():
    """Not ids, which `unroll` would take them for."""
    cell = make(nnx.GRUCell)
    xs = jnp.round(3 * inputs()).astype(int)
    np.testing.assert_allclose(
        ours.RNN(cell)(xs), nnx.RNN(cell)(xs), rtol=1e-5, atol=1e-6
    )


def test_padding_is_zero_and_an_empty_sequence_keeps_its_carry():
    """Where Flax returns what the cell makes of the padding, and the carry of the last
    step."""
    cell = make(nnx.GRUCell)
    carry = carry_of(cell)
    last, hs = ours.RNN(cell)(
        inputs(),
        initial_carry=carry,
        seq_lengths=jnp.array([0, 2, TIME]),
        return_carry=True,
    )
    assert not hs[0].any() and not hs[1, 2:].any() and hs[1, :2].all()
    np.testing.assert_array_equal(last[0], carry[0])


class Other(nnx.GRUCell):
    def __call__(self, carry, inputs):
        return carry, carry


class Renamed(nnx.GRUCell):
    pass


def test_a_subclass_that_computes_the_same_is_taken():
    xs = inputs()
    got, expected = (ours.RNN(make(k))(xs) for k in (Renamed, nnx.GRUCell))
    np.testing.assert_array_equal(got, expected)


def with_lora():
    cell = make(nnx.GRUCell)
    cell.dense_i = nnx.LoRALinear(INPUTS, 3 * HIDDEN, lora_rank=2, rngs=nnx.Rngs(0))
    return cell


def promote(arrays, /, *, dtype=None):
    return arrays


REFUSED = {
    "another cell": (lambda: make(Other), TypeError, "nnx.GRUCell.*but got Other"),
    "a layer inside": (with_lora, TypeError, "must be nnx.Linear, but got LoRALinear"),
    "an activation": (
        lambda: make(nnx.GRUCell, activation_fn=jax.nn.gelu),
        ValueError,
        "`activation_fn` must be the function.*tanh.*but got",
    ),
    "a gate": (
        lambda: make(nnx.LSTMCell, gate_fn=jax.nn.gelu),
        ValueError,
        "`gate_fn` must be the function",
    ),
    "promotion": (
        lambda: make(nnx.GRUCell, promote_dtype=promote),
        ValueError,
        "`promote_dtype` must be Flax's own",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_results_is_refused(case):
    cell, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        ours.RNN(cell())(inputs())


def test_steps_with_their_own_parameters_are_refused():
    axes = nnx.StateAxes({nnx.Param: 0, ...: nnx.Carry})
    layer = ours.RNN(make(nnx.GRUCell), state_axes=axes)
    with pytest.raises(ValueError, match="`state_axes`"):
        layer(inputs())
