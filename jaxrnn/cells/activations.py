"""Activations by name, each with its derivative as a function of its own value.

For these f the slope ḟ(z) is a function of h = f(z) (tanh: 1 - h²), so a cell keeps
values, and no pre-activations, for the backward pass.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Activation(NamedTuple):
    """An elementwise function f, and its derivative: `[...]` to `[...]`."""

    value: Callable[[Array], Array]
    """`z -> h = f(z)`."""
    slope: Callable[[Array], Array]
    """`h -> ḟ(z)`."""


def _between(h: Array, low: float, high: float, slope: float) -> Array:
    return jnp.where((h > low) & (h < high), slope, 0).astype(h.dtype)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": Activation(jnp.tanh, lambda h: 1 - h * h),
    "logistic": Activation(jax.nn.sigmoid, lambda h: h * (1 - h)),
    "relu": Activation(jax.nn.relu, lambda h: (h > 0).astype(h.dtype)),
    "identity": Activation(lambda z: z, jnp.ones_like),
    "softsign": Activation(jax.nn.soft_sign, lambda h: (1 - jnp.abs(h)) ** 2),
    # Lines through (0, ½) of slope 1/6, and through 0 of slope 1, cut off.
    "hard_logistic": Activation(
        jax.nn.hard_sigmoid, lambda h: _between(h, 0.0, 1.0, 1 / 6)
    ),
    "hard_tanh": Activation(jax.nn.hard_tanh, lambda h: _between(h, -1.0, 1.0, 1.0)),
}


def check_name(name: str, got: object) -> str:
    """Returns `got` if it names an activation; raises otherwise.

    Raises:
      ValueError: if it is not a name in `ACTIVATIONS`.
    """
    if not isinstance(got, str) or got not in ACTIVATIONS:
        raise ValueError(
            f"`{name}` must be one of {', '.join(ACTIVATIONS)}, but got {got!r}."
        )
    return got
