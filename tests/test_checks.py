"""Errors at the public door: the rule, what was got, the cure."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from tests.cases import CELLS, problem

pytestmark = pytest.mark.usefixtures("as_users_see_it")

CASE = problem(jaxrnn.lstm, 7, (3,), dtype=jnp.float32)
GRU = problem(jaxrnn.gru, 7, (3,), dtype=jnp.float32)


def call(cell=jaxrnn.lstm, params=CASE.params, state=CASE.state, xs=CASE.xs, **options):
    return jaxrnn.unroll(cell, params, state, xs, **options)


WRONG = {
    "not a cell": (
        {"cell": "lstm"},
        TypeError,
        r"`cell` must be a jaxrnn.Cell, such as jaxrnn.lstm, but got str",
    ),
    "another cell's parameters": (
        {"params": GRU.params, "state": None},
        TypeError,
        r"`params` must be the cell's own, LSTMParams, .* but got a GRUParams",
    ),
    "parameters in a dict": (
        {"params": CASE.params._asdict()},
        TypeError,
        r"LSTMParams, .* got a dict. Restored from a file as a dict\? "
        r"LSTMParams\(\*\*params\)",
    ),
    "parameters that do not fit": (
        {"params": CASE.params._replace(w_ih=GRU.params.w_ih), "state": None},
        ValueError,
        r"`w_ih` must have shape \(4, 20\) for 4 gate\(s\) of H = 5 "
        r"units, but got \(4, 15\)",
    ),
    "a scalar for a matrix": (
        {"params": CASE.params._replace(w_hh=jnp.ones(())), "state": None},
        ValueError,
        r"must have shape .* but got",
    ),
    "parameters of two dtypes": (
        {"params": CASE.params._replace(b=CASE.params.b.astype(jnp.bfloat16))},
        TypeError,
        r"one floating dtype, but got bfloat16, float32. Cast them",
    ),
    "integer parameters": (
        {"params": jax.tree.map(lambda p: p.astype(jnp.int32), CASE.params)},
        TypeError,
        r"one floating dtype, but got int32",
    ),
    "no parameters": ({"params": ()}, TypeError, "LSTMParams, .* but got a tuple"),
    "no input axis": (
        {"xs": CASE.xs[:, 0, 0]},
        ValueError,
        r"`xs` must have shape \(T, \*B, I\), .* but got \(7,\).*xs\[..., None\]",
    ),
    "integers for features": (
        {"xs": jnp.ones((7, 3, 4), jnp.int32)},
        ValueError,
        r"integer `xs` are ids, \(T, \*B\), but got int32 of shape \(7, 3, 4\) and a "
        r"`state` for batch axes \(3,\). If the last axis holds features, cast them: "
        r"xs.astype\('float32'\)",
    ),
    "bools for inputs": (
        {"xs": jnp.ones((7, 3, 4), bool)},
        TypeError,
        r"dtype of `params`, float32, but got bool. Cast numbers: "
        r"xs.astype\('float32'\)",
    ),
    "bools for ids": (
        {"xs": jnp.ones((7, 3), bool), "state": None},
        TypeError,
        r"dtype of `params`, float32, but got bool. .* Ids are integers: xs.astype",
    ),
    "ids of another batch": (
        {"xs": jnp.ones((7, 2), jnp.int32)},
        ValueError,
        r"`state.h` must have shape \(2, 5\), as `cell.initial_state` makes it",
    ),
    "another dtype": (
        {"xs": CASE.xs.astype(jnp.bfloat16)},
        TypeError,
        r"but got bfloat16. Cast one of them: xs.astype\('float32'\)",
    ),
    "another input size": (
        {"xs": CASE.xs[..., :3]},
        ValueError,
        r"input size I = 4 of `w_ih` \(4, 20\), but they have 3 "
        r"features. Make the parameters with",
    ),
    "a state that is none": (
        {"state": CASE.state.h},
        TypeError,
        r"`state` must be a LSTMState\('h', 'c'\), as `cell.initial_state` makes it",
    ),
    "another batch": (
        {"state": jaxrnn.lstm.initial_state(CASE.params, (2,))},
        ValueError,
        r"`state.h` must have shape \(3, 5\), as `cell.initial_state` "
        r"makes it.* but got \(2, 5\)",
    ),
    "a state of another dtype": (
        {"state": CASE.state._replace(c=CASE.state.c.astype(jnp.bfloat16))},
        TypeError,
        r"`state.c` must have dtype float32, as `cell.initial_state` "
        r".* but got bfloat16. Cast it",
    ),
    "batch first": (
        {"mask": jnp.ones((3, 7), bool)},
        ValueError,
        r"`mask` must have shape \(T, \*B\) = \(7, 3\), but got \(3, "
        r"7\). Time comes first: tran",
    ),
    "a mask without a batch": (
        {"mask": jnp.ones(7, bool)},
        ValueError,
        r"but got \(7,\). Broadcast it to the steps of `xs`: "
        r"jnp.broadcast_to\(mask, \(7, 3\)\)",
    ),
    "a mask of numbers": (
        {"mask": jnp.ones((7, 3))},
        TypeError,
        r"`mask` must be bool, but got float32. Compare: mask != 0; .*lengths_to_mask",
    ),
    "a reset of another shape": (
        {"reset": jnp.ones((6, 3), bool)},
        ValueError,
        r"`reset` must have shape \(T, \*B\) = \(7, 3\), but got \(6, 3\)",
    ),
    "a gamma without time": (
        {"gamma": jnp.ones(3)},
        ValueError,
        r"`gamma` must have shape \(T,\) or \(T, \*B\), \(7,\) or "
        r"\(7, 3\), but got \(3,\). One",
    ),
    "a gamma of bools": (
        {"gamma": jnp.ones(7, bool)},
        TypeError,
        r"`gamma` must be floating, but got bool: gamma.astype\(float\)",
    ),
    "truncate 0": (
        {"truncate": 0},
        ValueError,
        "`truncate` must be an integer ≥ 1, but got 0",
    ),
    "truncate True": ({"truncate": True}, ValueError, "an integer ≥ 1, but got True"),
    "truncate 2.0": (
        {"truncate": 2.0},
        TypeError,
        "`truncate` must be an integer, but got 2.0",
    ),
    "chunk -1": (
        {"chunk": -1},
        ValueError,
        "`chunk` must be an integer ≥ 1, but got -1",
    ),
    "a compute_dtype that does not float": (
        {"compute_dtype": jnp.int8},
        TypeError,
        r"`compute_dtype` must be a floating dtype, such as jnp.bfloat16, but got",
    ),
    "another store": (
        {"store": "gates"},
        ValueError,
        "`store` must be None or one of states, residuals, boundaries, but got 'gates'",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "words"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        call(**arguments)


def test_the_oracle_and_the_step_check_too():
    with pytest.raises(ValueError, match="`mask` must have shape"):
        jaxrnn.unroll_autodiff(jaxrnn.lstm, *CASE[:3], mask=jnp.ones((3, 7), bool))
    with pytest.raises(ValueError, match="`store` must be None or one of"):
        jaxrnn.unroll_autodiff(jaxrnn.lstm, *CASE[:3], store="gates")
    with pytest.raises(ValueError, match="input size I = 4"):
        jaxrnn.step(jaxrnn.lstm, CASE.params, CASE.state, CASE.xs[0, :, :2])
    with pytest.raises(
        ValueError, match=r"`x` must have shape \(\*B, I\), .* but got \(\)"
    ):
        jaxrnn.step(jaxrnn.lstm, CASE.params, CASE.state, jnp.ones(()))
    with pytest.raises(
        TypeError, match="`x` must have the dtype of `params`, float32, but got bool"
    ):
        jaxrnn.step(jaxrnn.lstm, CASE.params, CASE.state, jnp.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"integer `x` are ids, \(\*B\), .*\(3, 4\)"):
        jaxrnn.step(jaxrnn.lstm, CASE.params, CASE.state, jnp.ones((3, 4), int))
    with pytest.raises(TypeError, match="`lengths` must be integers, but got float32"):
        jaxrnn.lengths_to_mask(jnp.ones(3), 5)


def test_a_traced_option_is_told_to_be_static():
    with pytest.raises(TypeError, match="It is static: under `jit`"):
        jax.jit(lambda k: call(truncate=k))(3)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_sizes_of_zero(cell, sizes):
    with pytest.raises(ValueError, match="_size` must be an integer ≥ 1, but got 0"):
        cell.init(jax.random.key(0), *sizes)


def test_numpy_parameters_are_welcome():
    """In float64 too, where JAX has no float64: they are then float32, as every array
    of numpy."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), CASE.params)
    chex.assert_trees_all_equal(call(params=params), call())


@pytest.mark.parametrize("activation", ["swish", ("tanh", "tanh"), (jnp.tanh,), None])
def test_an_activation_that_is_none(activation):
    with pytest.raises(ValueError, match=r"`activation` must be .*pair \(f, df\)"):
        jaxrnn.make_elman(activation)


def test_forward_mode_alone_does_not_go_through():
    with pytest.raises(
        TypeError, match=r"Call jaxrnn.unroll_autodiff, the same function"
    ):
        jax.jvp(lambda xs: call(xs=xs)[1], (CASE.xs,), (CASE.xs,))


def test_adjoints_check_their_loss_and_options():
    arguments = jaxrnn.lstm, *CASE[:3]
    with pytest.raises(
        TypeError, match="`unroll` has no option msk, but chunk, compute_dtype"
    ):
        jaxrnn.adjoints(lambda last, hs: hs.sum(), *arguments, msk=None)
    with pytest.raises(
        TypeError, match=r"`loss` must return a loss .*float32 of shape \(3, 5\)"
    ):
        jaxrnn.adjoints(lambda last, hs: hs[-1], *arguments)
    with pytest.raises(
        TypeError, match=r"`loss` must return a loss .* but got a tuple"
    ):
        jaxrnn.adjoints(lambda last, hs: (hs.sum(), last), *arguments)
