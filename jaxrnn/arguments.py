"""Checks of single arguments that need no cell: integers, flags, dtypes, keys, sizes.

Cells are made below `checks`, which holds the checks of whole calls, and use these.
"""

import numbers
import operator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.export import SymbolicScope

Given: TypeAlias = Any
"""An argument as the caller passed it, before it is checked."""

STATIC = "It is static: under `jit`, close over it or name it in static_argnames."


def describe(got: Given) -> str:
    """Returns a few words that describe `got`, such as "an array, float32 (3, 4)"."""
    if isinstance(got, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        traced = "a traced" if isinstance(got, Tracer) else "an"
        return f"{traced} array, {got.dtype} {got.shape}"
    if got is None or isinstance(got, str | bool | int | float | complex):
        return repr(got)
    return f"a {type(got).__name__}"


def integer(name: str, got: Given, least: int) -> int:
    """Returns `got` as an int if it is an integer ≥ `least`; raises otherwise."""
    try:
        number = operator.index(got)
    except TypeError as error:
        cure = f" {STATIC}" if isinstance(got, Tracer) else ""
        what = got if isinstance(got, Tracer) else describe(got)
        raise TypeError(
            f"`{name}` must be an integer, but got {what}.{cure}"
        ) from error
    if isinstance(got, bool) or number < least:
        raise ValueError(f"`{name}` must be an integer ≥ {least}, but got {got!r}.")
    return number


def flag(name: str, got: Given) -> bool:
    """Returns `got` as a bool if it is True or False; raises `TypeError` otherwise."""
    if isinstance(got, bool | np.bool_):
        return bool(got)
    cure = ""
    if isinstance(got, Tracer):
        cure = f" {STATIC}"
    elif isinstance(got, jax.Array | np.ndarray):
        cure = f" It is static: bool({name})."
    raise TypeError(f"`{name}` must be True or False, but got {describe(got)}.{cure}")


def is_symbolic(size: Given) -> bool:
    """Returns whether a size is a symbolic dimension of `jax.export`."""
    return isinstance(getattr(size, "scope", None), SymbolicScope)


def floating(name: str, dtype: Given) -> jnp.dtype:
    """Returns `dtype` if it is a floating one of 16 bits or more; raises otherwise."""
    try:
        got = jnp.dtype(dtype)
    except TypeError:
        got = None
    rule = f"`{name}` must be a floating dtype, such as jnp.bfloat16"
    if got is None or not jnp.issubdtype(got, jnp.floating):
        raise TypeError(f"{rule}, but got {dtype!r}.")
    if got.itemsize < 2:
        raise TypeError(f"{rule}, but got {got}. Sums need 16 bits or more.")
    return got


def key(name: str, got: Given) -> None:
    """Raises unless `got` is one random key, of either kind that JAX has."""
    typed = raw = False
    if isinstance(got, jax.Array | np.ndarray):
        typed = jnp.issubdtype(got.dtype, jax.dtypes.prng_key)
        raw = got.dtype == jnp.uint32 and got.ndim > 0
    if not (typed or raw):
        raise TypeError(
            f"`{name}` must be a random key, but got {describe(got)}. "
            "Make one: jax.random.key(0)."
        )
    if got.ndim != (0 if typed else 1):
        raise ValueError(
            f"`{name}` must be a single random key, but got shape {got.shape}. "
            "For one result per key, call jax.vmap."
        )


def for_init(got: Given, dtype: Given, **sizes: Given) -> None:
    """Raises unless parameters can be drawn from a key, a dtype and sizes."""
    key("key", got)
    floating("dtype", dtype)
    for name, size in sizes.items():
        integer(name, size, 1)


def batch_shape(name: str, got: Given) -> tuple[Any, ...]:
    """Returns `got` as a tuple if it is a shape; raises otherwise."""
    if not isinstance(got, tuple | list):
        cure = f"One batch axis of that size: ({got},)." if isinstance(got, int) else ""
        raise TypeError(
            f"`{name}` must be a tuple of integers, but got {describe(got)}. {cure}"
        )
    return tuple(b if is_symbolic(b) else integer(name, b, 0) for b in got)


def share(name: str, got: Given) -> float:
    """Returns `got` as a float if it is a number in [0, 1); raises otherwise."""
    if isinstance(got, bool) or not isinstance(got, numbers.Real):
        raise TypeError(f"`{name}` must be a number, but got {describe(got)}.")
    number = float(got)
    if not 0 <= number < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1, but got {got!r}.")
    return number
