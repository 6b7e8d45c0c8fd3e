"""Calls that once were silent or obscure: now refused, or made to do what was meant.

The id of a case is the call. The words are the argument, what was got, and the cure.
"""

import pickle
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import checks, flow, initializers, layers, losses
from jaxrnn.cells.weights import drive
from tests.cases import softsign, softsign_slope
from tests.cells.test_own_cell import leaky

pytestmark = pytest.mark.usefixtures("as_users_see_it")

KEY = jax.random.key(0)
T, B, IN, H, V = 7, 3, 4, 5, 6
LSTM, GRU = (cell.init(KEY, IN, H) for cell in (jaxrnn.lstm, jaxrnn.gru))
ELMAN = jaxrnn.elman.init(KEY, IN, H)
XS = jnp.ones((T, B, IN))
DENSE = layers.dense(V).init(KEY, H)
IDS = jnp.zeros((T, B), int)
LENGTHS = jnp.array([3, 7, 0])
LOGITS = jnp.ones((T, B, V))
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
INTEGER = "must be an integer"
# Cells of a user's own: without a `w_ih`; that multiply vectors; that do so going back.
BARE = jaxrnn.lstm._replace(init=lambda *given: BareParams(*jaxrnn.lstm.init(*given)))
HALF = leaky._replace(drive=lambda params, xs: drive(xs, params.w_ih, xs.dtype))


class BareParams(NamedTuple):
    w: Any
    w_hh: Any
    b: Any


def unroll(params=LSTM, xs=XS, state=None, cell=jaxrnn.lstm, **options):
    return jaxrnn.unroll(cell, params, state, xs, **options)


def traced(call, *arguments):
    """Calls with these arguments traced."""
    return jax.jit(call)(*arguments)


def windows(loss_fn, state=None):
    fn = jaxrnn.truncated_value_and_grad(loss_fn, 2)
    return fn(LSTM, state, XS)


def loss_fn(params, state, xs):
    state, hs = jaxrnn.unroll(jaxrnn.lstm, params, state, xs)
    return hs.sum(), state


def donated():
    """An array whose memory was given to another."""
    array = jnp.ones((T, B, IN))
    array.delete()
    return array


def transposed(*names):
    return LSTM._replace(**{name: getattr(LSTM, name).T for name in names})


PARAMETERS = {
    "bias=None": (
        lambda: unroll(LSTM._replace(b=None)),
        r"`params.b` must be an array, but got None. To leave it out, give zeros",
    ),
    "b_hn=None": (
        lambda: unroll(GRU._replace(b_hn=None), cell=jaxrnn.gru),
        r"`params.b_hn` must be an array, but got None. .*zeros",
    ),
    "initial_state with bias=None": (
        lambda: jaxrnn.lstm.initial_state(LSTM._replace(b=None), (B,)),
        r"`b` must have shape \(20,\) .* but got \(\)",
    ),
    "initial_state with b_hn=None": (
        lambda: jaxrnn.gru.initial_state(GRU._replace(b_hn=None), (B,)),
        r"`b_hn` must have shape \(H,\) = \(5,\), but got \(\)",
    ),
    "ensemble parameters": (
        lambda: unroll(jax.tree.map(lambda p: jnp.stack([p] * 8), LSTM)),
        r"`params` must be those of one network, but got .*\(8, 4, 20\).* jax.vmap",
    ),
    "weights not transposed": (
        lambda: unroll(transposed("w_ih", "w_hh")),
        r"`w_ih` must have shape \(4, 20\) .* H = 5 .* got \(20, 4\). Transpose it: "
        r"w_ih.T",
    ),
    "w_hh not transposed": (
        lambda: unroll(transposed("w_hh")),
        r"`w_hh` must have shape \(5, 20\) .* got \(20, 5\). Transpose it: w_hh.T",
    ),
    "w_ih not transposed": (
        lambda: unroll(transposed("w_ih")),
        r"`w_ih` must have shape \(4, 20\) .* got \(20, 4\). Transpose it: w_ih.T",
    ),
    "donated parameters": (
        lambda: unroll(LSTM._replace(w_hh=donated())),
        r"`params.w_hh` was donated to an earlier call, which reuses its memory. Use "
        r"what",
    ),
}

INPUTS = {
    "complex xs": (
        lambda: unroll(xs=XS.astype(complex)),
        r"dtype of `params`, float32, but got complex64. Give real and imaginary parts",
    ),
    "images in integers": (
        lambda: unroll(xs=XS.astype(jnp.uint8)),
        r"integer `xs` are ids, .* got uint8 of shape \(7, 3, 4\) and no `state`. If "
        r"the last axis holds features, cast them: xs.astype\('float32'\). If it is a "
        r"batch axis, give a state for it: cell.initial_state\(params, \(3, 4\)\)",
    ),
    "one id": (
        lambda: unroll(xs=3),
        r"integer `xs` are ids and must have shape \(T, \*B\), .* got int32 of shape "
        r"\(\). One step: jaxrnn.step",
    ),
    "ids for one sequence's features": (
        lambda: unroll(xs=IDS, state=jaxrnn.lstm.initial_state(LSTM, ())),
        r"integer `xs` are ids, .* \(7, 3\) and a `state` for batch axes \(\). If the",
    ),
    "step of integers [T, B]": (
        lambda: jaxrnn.step(jaxrnn.lstm, LSTM, None, IDS),
        r"integer `x` are ids, \(\*B\), .* and no `state`. .* cast them: x.astype",
    ),
    "ids for a cell without w_ih": (
        lambda: unroll(BARE.init(KEY, IN, H), IDS, cell=BARE),
        r"integer `xs` are ids, which select rows of `params.w_ih`, but BareParams has "
        r"none. Cast numbers: xs.astype\('float32'\)",
    ),
    "ids for a drive that multiplies": (
        lambda: unroll(leaky.init(KEY, IN, H), IDS, cell=leaky),
        r"the cell's `drive` does not take them. Call jaxrnn.cells.weights.drive in",
    ),
    "ids for a drive that multiplies one by one": (
        lambda: unroll(LSTM, IDS, cell=jaxrnn.lstm._replace(drive=lambda p, xs: xs)),
        r"`drive` does not take them: for \(2, 3\) it must return \(2, 3, G\), but "
        r"returned \[\(2, 3\)\]. Call jaxrnn.cells.weights.drive",
    ),
    "ids for a param_vjp that multiplies": (
        lambda: jax.grad(lambda p: unroll(p, IDS, cell=HALF)[1].sum())(
            HALF.init(KEY, IN, H)
        ),
        r"`param_vjp` must return a gradient of each parameter's shape, .*For ids: Call"
        r" jaxrnn.cells.weights.drive",
    ),
    "the spectrum of ids of a batch": (
        lambda: flow.lyapunov_spectrum(jaxrnn.lstm, LSTM, None, IDS),
        r"`xs` must be one sequence, \(T, I\) or ids \(T,\), but got \(7, 3\)",
    ),
    "xs=None": (
        lambda: unroll(xs=None),
        r"`xs` must be an array, but got None. A network without inputs takes zeros",
    ),
    "xs of a string": (
        lambda: unroll(xs="abc"),
        "`xs` must be an array, but got 'abc'",
    ),
    "xs a ragged list": (
        lambda: unroll(xs=[[[1.0] * IN], [[1.0]]]),
        r"`xs` must be an array, but got a list. Pad sequences .*lengths_to_mask",
    ),
    "xs donated": (
        lambda: unroll(xs=donated()),
        r"`xs` was donated to an earlier call, .* jax.tree.map\(jnp.copy, xs\)",
    ),
    "step of a whole [T, B, I]": (
        lambda: jaxrnn.step(jaxrnn.lstm, LSTM, None, XS),
        r"`state` must be given for an `x` with several batch axes, .* jaxrnn.unroll",
    ),
    "step with mask='all'": (
        lambda: jaxrnn.step(jaxrnn.lstm, LSTM, None, XS[0], mask="all"),
        "`mask` must be an array, but got 'all'",
    ),
    "a donated reset_state": (
        lambda: unroll(
            reset=jnp.ones((T, B), bool),
            reset_state=jaxrnn.LSTMState(jnp.ones((B, H)), donated()),
        ),
        "`reset_state.c` was donated to an earlier call",
    ),
    "step of x=None": (
        lambda: jaxrnn.step(jaxrnn.lstm, LSTM, None, None),
        "`x` must be an array, but got None. A network without inputs takes zeros",
    ),
    "mask='all'": (
        lambda: unroll(mask="all"),
        "`mask` must be an array, but got 'all'",
    ),
    "reset='all'": (
        lambda: unroll(reset="all"),
        "`reset` must be an array, but got 'all'",
    ),
    "gamma='all'": (
        lambda: unroll(gamma="all"),
        "`gamma` must be an array, but got 'all'",
    ),
    "a donated state": (
        lambda: unroll(state=jaxrnn.LSTMState(jnp.ones((B, H)), donated())),
        "`state.c` was donated to an earlier call",
    ),
}

STATIC = {
    "reverse='no'": (
        lambda: unroll(reverse="no"),
        "`reverse` must be True or False, but got 'no'",
    ),
    "reverse=1": (
        lambda: unroll(reverse=1),
        "`reverse` must be True or False, but got 1",
    ),
    "reverse= traced": (
        lambda: traced(lambda r: unroll(reverse=r), True),
        r"`reverse` must be .* got a traced array, bool \(\). It is static: under "
        r"`jit`",
    ),
    "reverse= an array": (
        lambda: unroll(reverse=jnp.array(True)),
        r"`reverse` must be .* got an array, bool \(\). It is static: bool\(reverse\)",
    ),
    "compute_dtype=float8": (
        lambda: unroll(compute_dtype=jnp.float8_e4m3fn),
        r"`compute_dtype` must be a floating dtype, .* got float8_e4m3fn. Sums need 16",
    ),
    "compute_dtype=float64 without x64": (
        lambda: unroll(compute_dtype=jnp.float64),
        r"`compute_dtype` must be a dtype that JAX has enabled, .* float64. "
        r".*enable_x64",
    ),
    "lengths_to_mask(l, -4)": (
        lambda: jaxrnn.lengths_to_mask(LENGTHS, -4),
        "`size` must be an integer ≥ 0, but got -4",
    ),
    "lengths_to_mask(l, None)": (
        lambda: jaxrnn.lengths_to_mask(LENGTHS, None),
        r"`size` must be the number of time steps T, an integer, but got None. The "
        r"order",
    ),
    "lengths_to_mask swapped": (
        lambda: jaxrnn.lengths_to_mask(T, LENGTHS),
        r"`size` must be .* got an array, int32 \(3,\). The order is "
        r"lengths_to_mask\(len",
    ),
    "lengths_to_mask of a traced size": (
        lambda: traced(lambda size: jaxrnn.lengths_to_mask(LENGTHS, size), T),
        r"`size` must be .* It is static: under `jit`.* T is xs.shape\[0\]",
    ),
    "lengths_to_mask of words": (
        lambda: jaxrnn.lengths_to_mask("three", T),
        "`lengths` must be an array, but got 'three'",
    ),
}

BEGIN = {
    "init(0, IN, H)": (
        lambda: jaxrnn.lstm.init(0, IN, H),
        r"`key` must be a random key, but got 0. Make one: jax.random.key\(0\)",
    ),
    "init(None, IN, H)": (
        lambda: jaxrnn.gru.init(None, IN, H),
        "`key` must be a random key, but got None",
    ),
    "init of many keys": (
        lambda: jaxrnn.elman.init(jax.random.split(KEY, 3), IN, H),
        r"`key` must be a single random key, but got shape \(3,\). .* call jax.vmap",
    ),
    "init(key, IN, -3)": (
        lambda: jaxrnn.lstm.init(KEY, IN, -3),
        f"`hidden_size` {INTEGER} ≥ 1, but got -3",
    ),
    "init(key, 3.0, 6.0)": (
        lambda: jaxrnn.elman.init(KEY, 3.0, 6.0),
        f"`input_size` {INTEGER}, but got 3.0",
    ),
    "init(key, '3', H)": (
        lambda: jaxrnn.gru.init(KEY, "3", H),
        f"`input_size` {INTEGER}, but got '3'",
    ),
    "init(dtype=int)": (
        lambda: jaxrnn.lstm.init(KEY, IN, H, dtype=int),
        "`dtype` must be a floating dtype, such as jnp.bfloat16, but got <class 'int'>",
    ),
    "initial_state(p, 4)": (
        lambda: jaxrnn.lstm.initial_state(LSTM, 4),
        r"`batch_shape` must be a tuple of integers, but got 4. .*: \(4,\)",
    ),
    "init of dense(3) for 0 inputs": (
        lambda: layers.dense(3).init(KEY, 0),
        f"`input_size` {INTEGER} ≥ 1, but got 0",
    ),
    "dense(-2)": (
        lambda: layers.dense(-2),
        f"`size` {INTEGER} ≥ 1, but got -2",
    ),
    "init of an embedding by 0": (
        lambda: layers.embedding(V, IN).init(0),
        "`key` must be a random key, but got 0",
    ),
    "chrono(0, p, 9)": (
        lambda: initializers.chrono(0, LSTM, 9.0),
        "`key` must be a random key, but got 0",
    ),
    "randomized_truncation(batch_shape=4)": (
        lambda: jaxrnn.randomized_truncation(KEY, T, 3.0, batch_shape=4),
        r"`batch_shape` must be a tuple of integers, but got 4. .*: \(4,\)",
    ),
    "identity(p, nan)": (
        lambda: initializers.identity(ELMAN, jnp.nan),
        "`scale` must be a finite number, but got nan",
    ),
    "identity(p, '2')": (
        lambda: initializers.identity(ELMAN, "2"),
        "`scale` must be a number, but got '2'",
    ),
    "identity of another cell's parameters": (
        lambda: initializers.identity(LSTM),
        "`params` must be ElmanParams, but got a LSTMParams",
    ),
    "spectral_radius(dict)": (
        lambda: initializers.spectral_radius(LSTM._asdict(), 0.9),
        "`params` must be a cell's, with a matrix `w_hh`, but got a dict",
    ),
    "spectral_radius of a matrix of no gates": (
        lambda: initializers.spectral_radius(LSTM._replace(w_hh=jnp.ones((5, 7))), 0.9),
        r"`params.w_hh` must have shape \(H, gates · H\), but got \(5, 7\)",
    ),
    "spectral_radius(NaN)": (
        lambda: initializers.spectral_radius(
            ELMAN._replace(w_hh=ELMAN.w_hh * jnp.nan), 1
        ),
        "`params.w_hh` must be finite, but holds NaN or infinity",
    ),
    "spectral_radius under jit": (
        lambda: traced(lambda p: initializers.spectral_radius(p, 0.9), LSTM),
        r"`params.w_hh` must be .* but is traced. `spectral_radius` runs on the host: "
        r"call",
    ),
}

AROUND = {
    "masked_mean swapped": (
        lambda: losses.masked_mean(LOGITS, IDS, CROSS_ENTROPY),
        r"`loss` must be a function .*an array.* The order is \(loss, outputs, labels",
    ),
    "masked_mean of labels that are a function": (
        lambda: losses.masked_mean(CROSS_ENTROPY, LOGITS, jnp.sum),
        "`labels` must be an array, but got a .* The order is",
    ),
    "masked_mean with transposed labels and no mask": (
        lambda: losses.masked_mean(CROSS_ENTROPY, LOGITS, IDS.T),
        r"`labels` must have the leading axes of `outputs` \(7, 3, 6\), .* got \(3, "
        r"7\). T",
    ),
    "masked_mean with transposed numbers and no mask": (
        lambda: losses.masked_mean(optax.squared_error, LOGITS, jnp.ones((B, T, V))),
        r"`labels` must have the leading axes of `outputs` .* got \(3, 7, 6\). Time "
        r"comes",
    ),
    "masked_sum with a mask of numbers": (
        lambda: losses.masked_sum(CROSS_ENTROPY, LOGITS, IDS, IDS),
        r"`mask` must be bool, but got int32. Compare: mask != 0",
    ),
    "masked_sum with a mask batch first": (
        lambda: losses.masked_sum(CROSS_ENTROPY, LOGITS, IDS, jnp.ones((B, T), bool)),
        r"leading axes .*but got \(3, 7\). Time comes first",
    ),
    "masked_sum of a loss per feature": (
        lambda: losses.masked_sum(
            optax.squared_error, LOGITS, LOGITS, jnp.ones((T, B), bool)
        ),
        "`loss` must return one number per step",
    ),
}

WHOLE = {
    "windows with loss_fn=None": (
        lambda: jaxrnn.truncated_value_and_grad(None, 2),
        r"`loss_fn` must be a function `\(params, state, batch\) -> \(loss, state\)`, "
        r".*None",
    ),
    "checkpoints with loss_fn=None": (
        lambda: jaxrnn.checkpointed_value_and_grad(None, 2),
        "`loss_fn` must be a function",
    ),
    "measured truncation with loss_fn=None": (
        lambda: jaxrnn.adaptive_truncation(None, 0.1),
        "`loss_fn` must be a function",
    ),
    "windows with the loss alone": (
        lambda: windows(lambda params, state, xs: xs.sum()),
        r"`loss_fn` must return \(loss, state\), but returned a traced array, float32 "
        r"\(\).",
    ),
    "windows with a state of another kind": (
        lambda: windows(lambda p, s, xs: (xs.sum(), xs[0]), jaxrnn.LSTMState(XS, XS)),
        r"`state` must be a traced array, float32 \(3, 4\), as `loss_fn` returns it, "
        r"but got a LSTMState. `loss_fn` must return the state after its batch. "
        r"`initial_state\(params, batch_shape\)` of the cell or the layer",
    ),
    "windows with no state for one": (
        lambda: windows(loss_fn),
        r"`state` must be a LSTMState\('h', 'c'\), as `loss_fn` returns it, but got "
        r"None.",
    ),
    "memory_horizon(3.0)": (
        lambda: flow.memory_horizon(3.0),
        "`profile` must have at least 4 lags",
    ),
    "memory_horizon('abc')": (
        lambda: flow.memory_horizon("abc"),
        "`profile` must be an array of numbers, but got 'abc'",
    ),
    "memory_horizon under jit": (
        lambda: traced(flow.memory_horizon, jnp.ones(9)),
        r"`profile` must be .* but is traced. `memory_horizon` runs on the host: call "
        r"it",
    ),
}

REFUSED = PARAMETERS | INPUTS | STATIC | BEGIN | AROUND | WHOLE


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_in_our_words(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


class Param:
    """As `nnx.Param`: not an array, but one when asked."""

    def __init__(self, held):
        self.held = held

    def __jax_array__(self):
        return self.held

    def get_value(self):
        return self.held


class Boxed:
    """As the variables of other frameworks, that only have a `value`."""

    def __init__(self, held):
        self.value = held


@pytest.mark.parametrize("wrapper", [Param, Boxed])
def test_parameters_that_a_framework_wrapped(wrapper):
    """Leaf by leaf or whole, state and inputs too: all become the arrays inside."""
    state = jaxrnn.LSTMState(jnp.zeros((B, H)), jnp.ones((B, H)))
    expected = checks.sequence(jaxrnn.lstm, LSTM, state, XS, None, None)
    each, each_state = (type(tree)(*map(wrapper, tree)) for tree in (LSTM, state))
    for given in (each, wrapper(LSTM)):
        got = checks.sequence(jaxrnn.lstm, given, each_state, wrapper(XS), None, None)
        chex.assert_trees_all_equal(got, expected)

    def loss(params, readout, wrap):
        params, readout = (type(p)(*map(wrap, p)) for p in (params, readout))
        return layers.dense(V).unroll(readout, (), unroll(params)[1])[1].sum()

    # The gradient goes through: it is the program that plain arrays give.
    wrapped, plain = (
        str(jax.make_jaxpr(jax.grad(loss, (0, 1)), static_argnums=2)(LSTM, DENSE, wrap))
        for wrap in (wrapper, jnp.asarray)
    )
    assert wrapped == plain


def test_a_cell_is_an_argument_of_jit_and_vmap():
    """It has no leaves, so neither needs `static_argnums` or `in_axes`."""
    xs = XS[:2]
    ensemble = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), LSTM)
    over_networks = jax.vmap(jaxrnn.unroll, in_axes=(None, 0, None, None))
    _, several = jax.jit(over_networks)(jaxrnn.lstm, ensemble, None, xs)
    _, one = jax.jit(jaxrnn.unroll)(jaxrnn.lstm, LSTM, None, xs)
    chex.assert_trees_all_close(several[0], one, rtol=1e-6)
    assert jnp.abs(several[1] - one).max() > 0.01


PICKLED = {
    **{name: getattr(jaxrnn, name) for name in ("elman", "lstm", "gru")},
    "make_elman('relu')": jaxrnn.make_elman("relu"),
    "make_elman(pair)": jaxrnn.make_elman((softsign, softsign_slope)),
}


@pytest.mark.parametrize("cell", PICKLED.values(), ids=PICKLED)
def test_pickled_cells_are_the_same_cells(cell):
    """Equal, with equal hashes: `jit` does not trace twice."""
    again = pickle.loads(pickle.dumps(cell))
    assert again == cell and hash(again) == hash(cell)


def test_cells_that_differ_are_not_equal():
    cells = [jaxrnn.make_elman(name) for name in ("tanh", "relu")]
    assert cells[0] != cells[1]


def test_keys_and_sizes_of_every_kind_are_welcome():
    old = jax.random.PRNGKey(0)
    expected = jaxrnn.lstm.init(KEY, IN, H)
    chex.assert_trees_all_equal(
        jaxrnn.lstm.init(old, np.int64(IN), jnp.int32(H)), expected
    )
    several = jax.vmap(lambda key: jaxrnn.lstm.init(key, IN, H))(
        jax.random.split(KEY, 2)
    )
    assert several.b.shape == (2, 4 * H)
    assert jaxrnn.elman.init(KEY, IN, H, float).b.dtype == jnp.float32
    chex.assert_trees_all_equal(
        traced(lambda s: initializers.identity(ELMAN, s), 0.5),
        initializers.identity(ELMAN, 0.5),
    )


def test_a_mask_of_symbolic_size():
    """As `jax.export` has it where T is not known."""
    (size,) = jax.export.symbolic_shape("T")
    given = (jax.ShapeDtypeStruct(s, jnp.int32) for s in ((B,), (size, B)))
    program = jax.jit(lambda n, ids: jaxrnn.lengths_to_mask(n, ids.shape[0]))
    exported = jax.export.export(program)(*given)
    np.testing.assert_array_equal(
        exported.call(LENGTHS, IDS), jaxrnn.lengths_to_mask(LENGTHS, T)
    )
