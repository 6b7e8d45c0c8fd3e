"""A cell that a user writes gets plain arrays, at every size and with every store."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from jaxrnn.ops import products
from tests.cases import problem, steps, value_and_grads


class LeakyParams(NamedTuple):
    w_ih: Any
    w_hh: Any
    b: Any
    a: Any
    """The rate of each unit is σ(a)."""


class LeakyState(NamedTuple):
    h: Any


def init(key, input_size, hidden_size, dtype=jnp.float32):
    keys = jax.random.split(key, 3)
    shapes = (input_size, hidden_size), (hidden_size, hidden_size), (hidden_size,)
    w_ih, w_hh, a = (
        0.5 * jax.random.normal(key, shape, dtype)
        for key, shape in zip(keys, shapes, strict=True)
    )
    return LeakyParams(w_ih, w_hh, jnp.zeros(hidden_size, dtype), a)


def initial_state(params, batch_shape):
    return LeakyState(jnp.zeros((*batch_shape, len(params.b)), params.b.dtype))


def drive(params, xs):
    return xs @ params.w_ih + params.b


def step(params, state, u):
    """`.T` and `.shape` as well, which give what they say."""
    assert params.w_hh.T.shape == params.w_hh.shape[::-1]
    r, rate = jnp.tanh(state.h @ params.w_hh + u), jax.nn.sigmoid(params.a)
    return LeakyState((1 - rate) * state.h + rate * r), r


def linearize(params, state_prev, state, r):
    rate = jax.nn.sigmoid(params.a)
    slopes = rate * (1 - rate) * (r - state_prev.h)
    return rate * (1 - r**2), jnp.broadcast_to(1 - rate, r.shape), slopes


def state_vjp(params_t, lin, adjoint):
    assert isinstance(params_t.w_hh, jax.Array)
    assert params_t.w_ih.shape[0] == params_t.w_hh.shape[1] == len(params_t.b)
    coefficient, kept, _ = lin
    delta = coefficient * adjoint.h
    back = delta @ params_t.w_hh + 0 * (params_t.w_hh.T @ delta.T).T
    return LeakyState(kept * adjoint.h + back)


def param_vjp(params_t, xs, states_prev, lin, adjoints):
    coefficient, _, slopes = lin
    delta = coefficient * adjoints.h
    leading = tuple(range(delta.ndim - 1))
    dparams = LeakyParams(
        jnp.tensordot(xs, delta, (leading, leading)),
        jnp.tensordot(states_prev.h, delta, (leading, leading)),
        delta.sum(leading),
        (slopes * adjoints.h).sum(leading),
    )
    return dparams, delta @ params_t.w_ih


leaky = jaxrnn.Cell(init, initial_state, drive, step, linearize, state_vjp, param_vjp)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("store", ["states", "residuals", "boundaries"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_equals_autodiff(size, store, monkeypatch):
    """`@` on the matrices, however they are stored for the loops."""
    if size == "large":  # as if every matrix outgrew the cache
        monkeypatch.setattr(products, "LARGE", 0)
    case = problem(leaky, 7, inputs=3, hidden=5 if size == "small" else 6)
    options = {"mask": steps(0.7, seed=1), "reset": steps(0.3, seed=2)}
    got = value_and_grads(jaxrnn.unroll, leaky, case, store=store, chunk=3, **options)
    expected = value_and_grads(jaxrnn.unroll_autodiff, leaky, case, **options)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_spectrum_of_an_own_cell():
    """Σ exponents is the mean log |det J[t]|, with J from autodiff."""
    case = problem(leaky, 8, batch=(), inputs=3, hidden=4)
    spectrum = jax.jit(functools.partial(jaxrnn.flow.lyapunov_spectrum, leaky))
    exponents = spectrum(case.params, case.state, case.xs)

    def next_h(h, x):
        return step(case.params, LeakyState(h), drive(case.params, x))[0].h

    @jax.jit
    def log_volume(h, x):
        _, log_det = jnp.linalg.slogdet(jax.jacobian(next_h)(h, x))
        return next_h(h, x), log_det

    h, logs = case.state.h, []
    for x in case.xs:
        h, log_det = log_volume(h, x)
        logs.append(log_det)
    chex.assert_trees_all_close(exponents.sum(), sum(logs) / 8, rtol=1e-9)
