"""Training in one program, and the data that it is done on, for any library's layer."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

BATCH, TIME, INPUTS, HIDDEN = 3, 7, 4, 5
STEPS = 20
# One sequence is whole, one ends early, one at once.
LENGTHS = jnp.array([TIME, 4, 1])


def each_case(cases: Iterable[str], slow: str) -> Any:
    """Parametrizes a test by the names of cases, those in `slow` behind the marker."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.slow if name in slow.split() else ())
            for name in cases
        ],
    )


class Run(NamedTuple):
    losses: jax.Array
    first_gradients: Any
    params: Any


@partial(jax.jit, static_argnums=0)
def train(loss_fn: Callable[[Any], jax.Array], params: Any) -> Run:
    """Returns the losses of 20 steps of Adam, the first gradients, the last
    parameters."""
    optimizer = optax.adam(3e-2)

    def over_step(carry, _):
        params, state = carry
        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), state), (loss, gradients)

    start = params, optimizer.init(params)
    (params, _), (losses, gradients) = jax.lax.scan(over_step, start, length=STEPS)
    return Run(losses, jax.tree.map(lambda g: g[0], gradients), params)


def check_same_training(ours: Callable, host: Callable, params: Any) -> Run:
    """Compares two losses of the same parameters, step by step, in float64."""
    got, expected = train(ours, params), train(host, params)
    chex.assert_trees_all_close(got, expected, rtol=1e-8, atol=1e-11)
    # Something was learned, by every parameter.
    assert expected.losses[-1] < 0.9 * expected.losses[0]
    for gradient in jax.tree.leaves(expected.first_gradients):
        assert jnp.abs(gradient).max() > 1e-6
    return got


def inputs(seed: int = 0, dtype: Any = float) -> jax.Array:
    """Batch-major inputs, `[B, T, I]`."""
    return jax.random.normal(jax.random.key(seed), (BATCH, TIME, INPUTS), dtype)


def valid() -> jax.Array:
    """1 at steps within `LENGTHS`, `[B, T, 1]`: only there do outputs mean the same."""
    return (jnp.arange(TIME) < LENGTHS[:, None])[..., None].astype(float)


def distance(tree: Any, weights: Any = 1.0) -> jax.Array:
    """A loss of everything in a tree, each entry with another target."""
    parts = [
        jnp.sum(weights * (a - jnp.cos(jnp.arange(a.size)).reshape(a.shape)) ** 2)
        for a in jax.tree.leaves(tree)
    ]
    return sum(parts, jnp.zeros(()))


def jittered(tree: Any) -> Any:
    """Noise on every leaf: biases that are zero would hide a wrong order of gates."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    noisy = [
        a + 0.3 * jax.random.normal(key, a.shape, a.dtype)
        for key, a in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)
