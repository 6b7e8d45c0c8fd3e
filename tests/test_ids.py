"""Ids as inputs: the results and the gradients are those of one-hot vectors."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from allpairspy import AllPairs

import jaxrnn
from tests.cases import CELLS, factors, problem, steps
from tests.cases import value_and_grads as by_cases

RTOL, ATOL = 1e-12, 1e-13
SIZE, INPUTS = 7, 4
each_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


def drawn(size=SIZE, batch=(3,), seed=3, dtype=np.int32):
    """Ids `[T, *B]`, some just outside 0 … I - 1."""
    random = np.random.default_rng(seed)
    return jnp.asarray(random.integers(-1, INPUTS + 1, (size, *batch)), dtype)


def twins(cell, size=SIZE, batch=(3,), mask=None, dtype=jnp.float64):
    """A problem with ids, far out of range where they are masked, and with vectors."""
    case, ids = problem(cell, size, batch, INPUTS, dtype=dtype), drawn(size, batch)
    vectors = jax.nn.one_hot(ids, INPUTS, dtype=dtype)
    if mask is not None:
        ids = jnp.where(mask, ids, jnp.where(ids % 2 == 0, -7, 10**6))
    return case._replace(xs=ids), case._replace(xs=vectors)


def value_and_grads(unroll, cell, case, **options):
    """By the parameters and the state alone."""
    value, grads = by_cases(unroll, cell, case, **options)
    return value, grads[:2]


AXES = {
    "store": ("states", "residuals", "boundaries"),
    "chunk": (3, None, 1),
    "batch": ((3,), (), (2, 3)),
    "mask": (True, False),
    "reset": (True, False),
    "reverse": (False, True),
    "gamma": (True, False),
    "dtype": (np.int32, np.int8, np.uint32),
}


SHARED = ((3,), True, True, False, True, np.int32)
REVERSED = ((2, 3), False, True, True, False, np.int8)


def cases():
    """Each cell and each store, behind `slow` each pair of options with each cell."""
    quick = [
        *(("lstm", (store, 3, *SHARED)) for store in AXES["store"]),
        ("lstm", ("states", None, *REVERSED)),
        ("elman", ("states", 3, *SHARED)),
        ("gru", ("boundaries", 3, *SHARED)),
    ]
    yield from quick
    for case in itertools.product(CELLS, map(tuple, AllPairs([*AXES.values()]))):
        if case not in quick:
            yield pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "options"), list(cases()))
def test_equal_one_hot_vectors(name, options):
    """Values and all gradients, whatever stands in a masked step; by the oracle too."""
    cell, options = CELLS[name], dict(zip(AXES, options, strict=True))
    batch, dtype = options.pop("batch"), options.pop("dtype")
    mask = steps(0.7, SIZE, batch, seed=1)
    arrays = {
        "mask": mask,
        "reset": steps(0.3, SIZE, batch, seed=2),
        "gamma": factors(SIZE, batch),
    }
    given = {k: arrays[k] for k in arrays if options.pop(k)}
    given |= {"reverse": options.pop("reverse"), "truncate": 3}
    small = dtype != np.int32 or "mask" not in given
    ids, vectors = twins(cell, SIZE, batch, None if small else mask)
    ids = ids._replace(xs=ids.xs.astype(dtype))
    got = value_and_grads(jaxrnn.unroll, cell, ids, **options, **given)
    expected = value_and_grads(jaxrnn.unroll_autodiff, cell, vectors, **given)
    chex.assert_trees_all_close(got, expected, rtol=RTOL, atol=ATOL)
    if options["store"] == "states":
        oracle = value_and_grads(jaxrnn.unroll_autodiff, cell, ids, **given)
        chex.assert_trees_all_close(oracle, expected, rtol=RTOL, atol=ATOL)
