"""`check_cell` finds the wrong formula, and passes the right cells."""

import re

import jax.numpy as jnp
import pytest

import jaxrnn
from tests.cases import LSTM_FIRST
from tests.cells.test_own_cell import LeakyState, leaky


@LSTM_FIRST
def test_right_cells_pass(cell):
    jaxrnn.check_cell(cell, 3, 4)


def no_leak(params_t, lin, adjoint):
    return LeakyState((lin[0] * adjoint.h) @ params_t.w_hh)


def transposed_product(params_t, lin, adjoint):
    coefficient, kept, _ = lin
    return LeakyState(kept * adjoint.h + (coefficient * adjoint.h) @ params_t.w_hh.T)


def h_for_r(params, state_prev, state, r):
    coefficient, kept, slopes = leaky.linearize(params, state_prev, state, r)
    return coefficient * (1 - state.h**2) / (1 - r**2), kept, slopes


def no_bias(params_t, *given):
    dparams, dxs = leaky.param_vjp(params_t, *given)
    return dparams._replace(b=0 * dparams.b), dxs


def wrong_slope(*given):
    coefficient, kept, slopes = leaky.linearize(*given)
    return coefficient, kept, 2 * slopes


def step_of_a_whole_batch(params, state, u):
    """The first axis is taken for the batch: on a stretch of time, it is time."""
    after, res = leaky.step(params, state, u)
    return LeakyState(after.h + jnp.mean(state.h, axis=0, keepdims=True)), res


def transposed_gradient(*given):
    dparams, dxs = leaky.param_vjp(*given)
    return dparams._replace(w_hh=dparams.w_hh.T), dxs


FAULTS = {
    "no leak": (
        {"state_vjp": no_leak},
        "`state_vjp` is wrong from λ.h to λ.h: .* Only the diagonal is",
    ),
    "transposed product": (
        {"state_vjp": transposed_product},
        "`state_vjp` is wrong: it transposes `w_hh`",
    ),
    "h for r": (
        {"linearize": h_for_r},
        r"`linearize` is wrong in `lin\[0\]`: with other values there, `state_vjp` and "
        "the gradients by w_ih, w_hh, b, dxs would be right",
    ),
    "no bias": (
        {"param_vjp": no_bias},
        "`param_vjp` is wrong for `b`: .* It returns zeros",
    ),
    "transposed gradient": (
        {"param_vjp": transposed_gradient},
        "`param_vjp` is wrong for `w_hh`: .* It is transposed",
    ),
    "no gradient of the rate": (
        {"linearize": wrong_slope},
        r"`param_vjp` is wrong for `a`: .* Or `linearize` is, in `lin\[2\]`",
    ),
    "two products": (
        {"state_vjp": no_leak, "param_vjp": no_bias},
        "`state_vjp` is wrong .*`param_vjp` is wrong for `b`",
    ),
    "rows in the wrong order": (
        {"step": step_of_a_whole_batch},
        "`step` must compute the same on a stretch of time .* as on one step",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(("functions", "words"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_formula_is_named(functions, words):
    with pytest.raises(ValueError, match=words) as caught:
        jaxrnn.check_cell(leaky._replace(**functions), 3, 5)
    # Nothing right is blamed.
    blamed = set(re.findall(r"`(\w+)` is wrong", str(caught.value)))
    assert blamed <= {*functions, "param_vjp"}
    assert "I = 3, H = 5" in str(caught.value)


def rows_from_either_end(params, xs):
    """Ids select rows, but -1 is the last one, and I too."""
    if jnp.issubdtype(xs.dtype, jnp.integer):
        return params.w_ih[xs.clip(-1, len(params.w_ih) - 1)]
    return xs @ params.w_ih


def numbers(params, xs):
    """Ids are numbers, not rows."""
    if jnp.issubdtype(xs.dtype, jnp.integer):
        return xs[..., None] * params.w_ih[0]
    return xs @ params.w_ih


def each_row_once(params_t, xs, *given):
    """Of an id that comes twice, the gradient of one step alone."""
    if not jnp.issubdtype(xs.dtype, jnp.integer):
        return jaxrnn.elman.param_vjp(params_t, xs, *given)
    dparams, _ = jaxrnn.elman.param_vjp(params_t, xs, *given)
    _, lin, adjoints = given
    rows = jnp.zeros_like(dparams.w_ih).at[xs].set(lin * adjoints.h, mode="drop")
    return dparams._replace(w_ih=rows), None


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ({"drive": numbers}, "`drive` is wrong for ids: they must stand"),
        (
            {"drive": rows_from_either_end},
            "`drive` is wrong for ids outside 0 … I - 1: they must stand for zeros",
        ),
        (
            {"param_vjp": each_row_once},
            "`param_vjp` is wrong for `w_ih` with ids: the gradient must be that of",
        ),
    ],
    ids=["numbers", "rows", "a sum"],
)
def test_a_cell_that_treats_ids_wrongly_is_named(functions, words):
    with pytest.raises(ValueError, match=words) as caught:
        jaxrnn.check_cell(jaxrnn.elman._replace(**functions), 3, 5)
    assert "Call jaxrnn.cells.weights.drive in `drive`" in str(caught.value)


def without_a_slope(*given):
    """All but the derivative of tanh c[t]."""
    lin = jaxrnn.lstm.linearize(*given)
    _, _, state, gates = given
    return lin._replace(h_to_c=gates[..., -state.h.shape[-1] :])


def without_a_path(params_t, lin, adjoint):
    """All but the way along the memory, from c[t] to c[t-1]."""
    back = jaxrnn.lstm.state_vjp(params_t, lin, adjoint)
    return back._replace(c=lin.f * adjoint.h * lin.h_to_c)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("functions", "words"),
    [
        (
            {"linearize": without_a_slope},
            "`linearize` is wrong in `lin.h_to_c`: .* and the gradients by w_ih, w_hh,",
        ),
        (
            {"state_vjp": without_a_path},
            "`state_vjp` is wrong from λ.c to λ.c: .* It returns zeros. This is at",
        ),
    ],
    ids=["a slope", "a path"],
)
def test_the_part_of_a_state_is_named(functions, words):
    with pytest.raises(ValueError, match=words):
        jaxrnn.check_cell(jaxrnn.lstm._replace(**functions), 3, 5)


def test_the_size_that_is_wrong_is_named():
    """A formula that is right for five units alone."""

    def state_vjp(params_t, lin, adjoint):
        back = leaky.state_vjp(params_t, lin, adjoint)
        return back if back.h.shape[-1] == 5 else LeakyState(2 * back.h)

    with pytest.raises(ValueError, match=r"`state_vjp` is wrong .* I = 4, H = 10"):
        jaxrnn.check_cell(leaky._replace(state_vjp=state_vjp), 3, 5)
