"""A cell that breaks its contract is told which function returned what."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from tests.cells.test_own_cell import LeakyParams, LeakyState, leaky

pytestmark = pytest.mark.usefixtures("as_users_see_it")

PARAMS = leaky.init(jax.random.key(0), 3, 4)
XS = jnp.ones((6, 2, 3))


class Unnamed(NamedTuple):
    v: Any


def returning(name, change):
    """The leaky cell with a function whose result is changed."""
    function = getattr(leaky, name)
    return leaky._replace(**{name: lambda *given: change(function(*given))})


# What users wrote, and which errors of Python and JAX they met.
BROKEN = {
    # not enough values to unpack (expected 2, got 1)
    "a step that returns a state alone": (
        returning("step", lambda result: result[0]),
        TypeError,
        r"the cell's `step` must return a pair \(state, res\), but returned a "
        r"LeakyState. A step that keeps nothing returns state, \(\)",
    ),
    # too many values to unpack
    "a step that returns three things": (
        returning("step", lambda result: (*result, 0)),
        TypeError,
        r"`step` must return a pair \(state, res\), but returned a tuple",
    ),
    # 'tuple' object has no attribute 'h'
    "a state that is a tuple": (
        returning("initial_state", lambda state: (state.h,)),
        TypeError,
        "`initial_state` must return a state, a NamedTuple whose first field is `h`, "
        "but returned a tuple",
    ),
    "a state without h": (
        returning("initial_state", lambda state: Unnamed(state.h)),
        TypeError,
        r"`initial_state` must return a state, .* but returned a Unnamed\('v',\)",
    ),
    # pytree structure error: different types at key path
    "an adjoint that is an array": (
        returning("state_vjp", lambda adjoint: adjoint.h),
        TypeError,
        "`state_vjp` must return an adjoint like the state, a NamedTuple whose first "
        "field is `h`, but returned an array",
    ),
    "a step to another kind of state": (
        returning("step", lambda r: (jaxrnn.ElmanState(r[0].h), r[1])),
        TypeError,
        r"`step` must return a state, a LeakyState\('h',\), but returned a ElmanState",
    ),
    # scan got values with different leading axis sizes
    "a coefficient without time": (
        leaky._replace(
            linearize=lambda p, sp, s, r: (1 - r**2, jax.nn.sigmoid(p.a), r)
        ),
        ValueError,
        r"`linearize` must return arrays with the leading axes of its arguments, "
        r"\(3, 2\), but returned \[1\] \(4,\). Broadcast what is the same",
    ),
    "a drive without time": (
        returning("drive", lambda us: us[0]),
        ValueError,
        r"`drive` must return arrays with the leading axes .* but returned \(2, 4\)",
    ),
    # takes 1 positional argument but 3 were given
    "an init without sizes": (
        leaky._replace(init=lambda key: PARAMS),
        TypeError,
        r"`init` must take \(key, input_size, hidden_size\), but takes \(key\)",
    ),
    "parameters in a dict": (
        leaky._replace(init=lambda *sizes: {"w": jnp.ones(3)}),
        TypeError,
        "`init` must return a NamedTuple of arrays, but returned a dict",
    ),
    "a state of another shape": (
        returning("step", lambda r: (LeakyState(r[0].h[..., :2]), r[1])),
        ValueError,
        r"`step` must return `h` of shape \(2, 4\), but returned \(2, 2\)",
    ),
    "an adjoint of another dtype": (
        returning("state_vjp", lambda s: LeakyState(s.h.astype(jnp.bfloat16))),
        TypeError,
        r"`state_vjp` must return `h` in float(32|64), but returned bfloat16. Cast it",
    ),
    "gradients without dxs": (
        returning("param_vjp", lambda result: result[0]),
        TypeError,
        r"`param_vjp` must return a pair \(dparams, dxs\), but returned a LeakyParams",
    ),
    "a gradient of fewer axes": (
        returning("param_vjp", lambda r: (r[0]._replace(w_hh=r[0].b), r[1])),
        TypeError,
        "`param_vjp` must return a gradient of each parameter's shape",
    ),
    "a gradient by the inputs of another shape": (
        returning("param_vjp", lambda r: (r[0], r[1][0])),
        ValueError,
        r"`param_vjp` must return `dxs` of shape \(3, 2, 3\), but returned \(2, 3\)",
    ),
    "a function that is none": (
        leaky._replace(linearize=None),
        TypeError,
        r"`linearize` must take \(params, state_prev, state, res\), but is None",
    ),
}


@pytest.mark.parametrize(("cell", "error", "words"), BROKEN.values(), ids=BROKEN)
def test_which_function_returned_what(cell, error, words):
    for call in (
        lambda: jaxrnn.unroll(cell, PARAMS, None, XS),
        lambda: jaxrnn.check_cell(cell, 3, 4),
    ):
        with pytest.raises(error, match=words):
            call()


def test_the_step_alone_is_checked_too():
    cell, error, words = BROKEN["a step that returns a state alone"]
    with pytest.raises(error, match=words):
        jaxrnn.step(cell, PARAMS, None, XS[0])


def test_an_error_inside_a_function_says_whose_it_is():
    def param_vjp(params_t, xs, states_prev, lin, adjoints):
        return LeakyParams(*params_t), xs @ adjoints.h

    with pytest.raises(TypeError) as caught:
        jaxrnn.unroll(leaky._replace(param_vjp=param_vjp), PARAMS, None, XS)
    (note,) = [n for n in caught.value.__notes__ if "the cell's" in n]
    assert "the cell's `param_vjp`, called with params_t [[4, 3], [4, 4], [4]" in note


def test_a_right_cell_is_checked_once():
    """Per cell and kind of input: later calls, of any length, trace nothing for it."""
    calls = []

    def step(params, state, u):
        calls.append(u.shape)
        return leaky.step(params, state, u)

    cell = leaky._replace(step=step)
    for size in (6, 6, 5):
        jaxrnn.unroll(cell, PARAMS, None, XS[:size])
    # The stretch of three steps is the check's own.
    assert calls.count((3, 2, 4)) == 1
