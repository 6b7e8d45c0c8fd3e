"""One loss on every output, and its gradient both ways: forwards and backwards."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxrnn
from jaxrnn import online


def loss_fn(rest, h, target):
    """The loss of a step, whose gradient by h is not zero where h is."""
    return jnp.sum(target * jnp.sin(rest * h + 0.3))


class Given(NamedTuple):
    """The arguments of both ways."""

    params: Any
    """Those of the cell, and a number of the loss."""
    state: Any
    batch: online.Batch
    reset_state: Any = None


def given(case, mask=None, reset=None, reset_state=None, last_only=False):
    """The arguments for a problem of `tests.cases`."""
    targets = case.on_hs.at[:-1].set(0) if last_only else case.on_hs
    batch = online.Batch(case.xs, targets, mask, reset)
    rest = jnp.asarray(1.2, case.on_hs.dtype)
    return Given((case.params, rest), case.state, batch, reset_state)


def backwards(cell, given, unroll=jaxrnn.unroll):
    """The loss and its gradient by backpropagation through time."""
    return _backwards(cell, unroll)(*given)


@functools.cache
def _backwards(cell, unroll):
    def value(params, state, batch, reset_state):
        options = batch._asdict() | {"reset_state": reset_state}
        xs, targets = options.pop("xs"), options.pop("targets")
        options = {name: a for name, a in options.items() if a is not None}
        _, hs = unroll(cell, params[0], state, xs, **options)
        return jax.vmap(loss_fn, (None, 0, 0))(params[1], hs, targets).sum()

    return jax.jit(jax.value_and_grad(value))


def forwards(rule, cell, given, key=None):
    """The loss and its gradient by a rule."""
    (value, _), grads = _forwards(rule, cell)(*given, key)
    return value, grads


@functools.cache
def _forwards(rule, cell):
    def value_and_grad(params, state, batch, reset_state, key):
        carry = online.online_start(rule, cell, params[0], state, key)
        estimate = online.online_value_and_grad(rule, loss_fn, reset_state)
        return estimate(params, carry, batch)

    return jax.jit(value_and_grad)
