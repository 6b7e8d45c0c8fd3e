"""Which numbers of a state depend on which: against Jacobians written out, dense."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxrnn
from jaxrnn.cells.exposed import exposed
from jaxrnn.layers import zoneout
from jaxrnn.structure import units
from tests.cases import EVERY_CELL, FIELD, problem

SEPARATE = {"indrnn", "lru", "min_gru", "min_lstm"}
SEPARATE |= {f"parallel_{name}" for name in ("lru", "min_gru", "min_lstm")}


class Params(NamedTuple):
    w_ih: Array
    w_hh: Array
    a: Array


class Two(NamedTuple):
    h: Array
    c: Array


def init(key, input_size, hidden_size, dtype=jnp.float32):
    keys, (i, h) = jax.random.split(key, 3), (input_size, hidden_size)
    draws = zip(keys, ((i, h), (h, h), (h,)), strict=True)
    return Params(*(jax.random.normal(k, shape, dtype) for k, shape in draws))


def zeros_for(fields):
    def initial_state(params, batch_shape):
        shape = (*batch_shape, params.w_ih.shape[1])
        return fields(*(jnp.zeros(shape, params.a.dtype) for _ in fields._fields))

    return initial_state


def cell_of(step, fields: Any = jaxrnn.ElmanState):
    return jaxrnn.cell_from_step(init, zeros_for(fields), step)


# Steps with the parameters above, H = 6, and the units that they have.
def each_alone(params, state, x):
    return jaxrnn.ElmanState(jnp.maximum(params.a * state.h + x @ params.w_ih, 0))


def rarely_mixed(params, state, x):
    """A branch that no probe with random numbers takes."""
    own = params.a * state.h + x @ params.w_ih
    return jaxrnn.ElmanState(jnp.where(own > 1e6, own + state.h @ params.w_hh, own))


def by_a_sum(params, state, x):
    return jaxrnn.ElmanState(x @ params.w_ih + params.a * jnp.sum(state.h))


def by_a_sort(params, state, x):
    """An operation that moves numbers, and not always to the same place."""
    return jaxrnn.ElmanState(jnp.sort(state.h) + x @ params.w_ih)


def memory_and_output(params, state, x):
    """The output is no part of the recursion, but of its unit."""
    forget, z = jax.nn.sigmoid(x @ params.w_ih + params.a * state.c), x @ params.w_ih
    c = forget * state.c + (1 - forget) * z
    return Two(jnp.tanh(c), c)


def in_heads(params, state, x):
    """Two heads of three units, each with a matrix of its own."""
    heads = params.w_hh[:3].reshape(2, 3, 3)
    z = jnp.einsum("ni,nij->nj", state.h.reshape(2, 3), heads).reshape(6)
    return jaxrnn.ElmanState(jnp.tanh(z + x @ params.w_ih))


def neighbors(params, state, x):
    """Every second unit reads the one after it."""
    pairs = jnp.stack([state.h[1::2] * params.a[:3], state.h[1::2]], axis=-1)
    return jaxrnn.ElmanState(jnp.tanh(pairs.reshape(6) + x @ params.w_ih))


def of_two_sizes(params, state, x):
    half = jnp.concatenate([state.h[:3] @ params.w_hh[:3, :3], state.h[3:]])
    return jaxrnn.ElmanState(jnp.tanh(half + x @ params.w_ih))


def without_a_state(params, state, x):
    del state
    return jaxrnn.ElmanState(jnp.tanh(x @ params.w_ih))


ONE = (tuple(range(6)),)
ALONE = tuple((n,) for n in range(6))
STEPS = {
    "alone": (cell_of(each_alone), ALONE),
    "rarely": (cell_of(rarely_mixed), ONE),
    "sum": (cell_of(by_a_sum), ONE),
    "sort": (cell_of(by_a_sort), ONE),
    "memory": (cell_of(memory_and_output, Two), tuple((n, n + 6) for n in range(6))),
    "heads": (cell_of(in_heads), ((0, 1, 2), (3, 4, 5))),
    "neighbors": (cell_of(neighbors), ((0, 1), (2, 3), (4, 5))),
    "sizes": (cell_of(of_two_sizes), ONE),
    "no state": (cell_of(without_a_state), ALONE),
    "zoneout": (zoneout(jaxrnn.indrnn, 0.3), ALONE),
    "zoneout, dense": (zoneout(jaxrnn.gru, 0.3), ONE),
    "exposed": (exposed(jaxrnn.min_gru), ALONE),
}


def dense_pattern(cell, case):
    """`[D, D]`: where some J[t] of many random states is not 0."""

    def jacobian(state, x):
        flat, unflatten = ravel_pytree(state)

        def step(flat):
            u = cell.drive(case.params, x)
            return ravel_pytree(cell.step(case.params, unflatten(flat), u)[0])[0]

        return jax.jacfwd(step)(flat)

    found = jax.jit(jax.vmap(jacobian))(case.state, case.xs[0])
    return np.asarray(jnp.any(found != 0, axis=0))


@pytest.mark.usefixtures("x64")
@EVERY_CELL
def test_the_units_are_those_of_dense_jacobians(cell):
    """Exact zeros between units; and within one no part is apart from the rest."""
    case = problem(cell, 1, (20,), hidden=6)
    found, pattern = units(cell, case.params, case.xs), dense_pattern(cell, case)
    assert sorted(n for unit in found for n in unit) == list(range(len(pattern)))
    between = np.ones_like(pattern)
    for unit in found:
        between[np.ix_(unit, unit)] = False
        joined = pattern[np.ix_(unit, unit)]
        joined = joined | joined.T | np.eye(len(unit), dtype=bool)
        assert np.linalg.matrix_power(joined.astype(float), len(unit)).all()
    assert not pattern[between].any()


def test_which_cells_have_separate_units():
    separate = {
        name
        for name, cell in (FIELD | {"lstm": jaxrnn.lstm, "gru": jaxrnn.gru}).items()
        if len(units(cell, cell.init(jax.random.key(0), 3, 6), jnp.zeros(3))) > 1
    }
    assert separate == SEPARATE
    params = jaxrnn.elman.init(jax.random.key(0), 3, 1)
    assert units(jaxrnn.elman, params, jnp.zeros(3)) == ((0,),)


def test_the_number_of_an_lru():
    params = jaxrnn.lru.init(jax.random.key(0), 3, 6)
    pairs = ((0, 3), (1, 4), (2, 5))
    assert units(jaxrnn.lru, params, jnp.zeros(3)) == pairs
    assert units(jaxrnn.lru, params, jnp.zeros((5, 2), jnp.int32)) == pairs  # ids


@pytest.mark.parametrize("name", STEPS)
def test_the_units_of_a_step(name):
    cell, expected = STEPS[name]
    params = cell.init(jax.random.key(0), 4, 6)
    assert units(cell, params, jnp.zeros((2, 4))) == expected
    if name.startswith("zoneout"):
        wide = jnp.zeros((2, 4 + 6))  # with masks beside x
        assert units(cell, params, wide) == expected


@pytest.mark.parametrize("name", ["indrnn", "own"])
def test_arguments_may_be_traced(name):
    """In `jit`, `vmap`, `grad` and `shard_map`, and in mixed precision."""
    cell = {"indrnn": jaxrnn.make_indrnn("tanh"), "own": cell_of(each_alone)}[name]
    params, xs = cell.init(jax.random.key(0), 4, 6), jnp.zeros((2, 4))
    many = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    seen = []

    def found(params, xs):
        # Of another kind each time, so that each is found anew.
        width = 4 + len(seen)
        grown = params._replace(w_ih=jnp.zeros((width, 6), jnp.bfloat16))
        seen.append(units(cell, grown, jnp.zeros((*xs.shape[:-1], width))))
        return jnp.sum(params.w_ih) * jnp.sum(xs)

    jax.eval_shape(found, params, xs)
    jax.eval_shape(jax.vmap(found, (0, None)), many, xs)
    jax.eval_shape(jax.grad(found), params, xs)
    with jax.set_mesh(mesh):
        program = jax.shard_map(
            lambda p, x: found(p, x)[None],
            in_specs=(P(), P("data")),
            out_specs=P("data"),
        )
        jax.eval_shape(program, params, jax.device_put(xs, P("data")))
    assert seen == [ALONE] * 4
