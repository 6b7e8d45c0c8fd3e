"""What a rule's program looks like: its arrays, its products, and memory without T."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

import jaxrnn
from benchmarks.online import CASES, CELLS, RULES, cost
from jaxrnn import online
from tests.cases import FIELD
from tests.test_structure import equations

INPUTS, HIDDEN = 3, 5
# No axis of a parameter is D = 10 or 5 twice: any [D, D] is a Jacobian's.
GATED = {"lstm": jaxrnn.lstm, "gru": jaxrnn.gru}
LOCAL = {"uoro": online.uoro(), "snap": online.snap(), "rflo": online.rflo()}
LOCAL["eprop"] = online.eprop(0.5)


def arguments(rule, cell, batch=(), size=None):
    """Shapes of a step's arguments, or of a run's of `size` steps."""

    def make():
        params = cell.init(jax.random.key(0), INPUTS, HIDDEN)
        state = cell.initial_state(params, batch)
        key = jax.random.key(0)
        if size is None:
            x, trace = jnp.zeros((*batch, INPUTS)), rule.init(cell, params, state)
            return params, state, x, trace, key, state
        xs = jnp.zeros((size, *batch, INPUTS))
        targets = jnp.zeros((size, *batch, state.h.shape[-1]))
        return params, state, xs, targets, key

    return jax.eval_shape(make)


def step_of(rule):
    def step(params, state, x, trace, key, g):
        state, trace = rule.update(params, state, x, trace, key)
        return state, trace, rule.gradient(params, trace, g)

    return step


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("rule", LOCAL)
def test_the_jacobian_is_never_formed(rule, name):
    """No array has two axes like the state's, and none more numbers than the trace of
    the largest weight; RTRL's program has such an array."""
    rule, cell = LOCAL[rule], GATED[name]

    def shapes(rule):
        given = arguments(rule, cell)
        jaxpr = jax.make_jaxpr(step_of(rule))(*given).jaxpr
        width = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(given[1]))
        found = [v.aval.shape for e in equations(jaxpr) for v in e.outvars]
        most = max(math.prod(leaf.shape) for leaf in jax.tree.leaves(given[0]))
        return [shape for shape in found if shape.count(width) > 1], found, width, most

    jacobians, found, width, most = shapes(rule)
    assert not jacobians
    units = width // HIDDEN  # of one or two numbers
    assert max(map(math.prod, found)) <= units**2 * most
    assert shapes(online.rtrl())[0]


@pytest.mark.parametrize("rule", ["snap", "rflo"])
def test_local_rules_take_as_many_products_as_a_unit_has_numbers(rule):
    """Rows that the recurrent matrix of an LSTM multiplies going back: 2, not D."""
    rule = LOCAL[rule]
    given = arguments(rule, jaxrnn.lstm)
    jaxpr = jax.make_jaxpr(step_of(rule))(*given).jaxpr
    products = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
    rows = [
        math.prod(product.outvars[0].aval.shape) // HIDDEN
        for product in products
        if (4 * HIDDEN, HIDDEN) in [v.aval.shape for v in product.invars]
    ]
    assert rows and max(rows) == 2


@pytest.mark.parametrize("name", ["uoro", "kf_rtrl", "ok(2)", "snap", "rtrl", "dni"])
def test_memory_does_not_depend_on_the_number_of_steps(name):
    """What XLA plans for beside arguments and results, at T and at 8 T."""
    rule = RULES[name].estimator
    cell = online.synthesizing(jaxrnn.elman) if name == "dni" else jaxrnn.elman

    def run(params, state, xs, targets, key):
        carry = online.online_start(rule, cell, params, state, key)
        fn = online.online_value_and_grad(rule, squares)
        return fn((params, ()), carry, online.Batch(xs, targets))[1]

    temporary = [
        jax.jit(run)
        .lower(*arguments(rule, cell, (2,), size))
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for size in (16, 128)
    ]
    assert temporary[0] == temporary[1]


def squares(rest, h, target):
    return jnp.sum((h - target) ** 2)


@functools.cache
def counted(cell, name, hidden):
    (rule,) = [r for c, n, r in CASES if (c, n) == (cell, name)]
    return cost(rule, CELLS[cell], hidden)


# Where an exponent is within 0.1 of its limit.
SIZES = {"rtrl": (48, 96), "kf_rtrl": (64, 128), "ok(1)": (64, 128), "ok(2)": (64, 128)}


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        pytest.param(
            cell, name, marks=pytest.mark.slow if name in ("ok(2)", "eprop") else ()
        )
        for cell, name, _ in CASES
    ],
)
def test_cost_grows_with_the_hidden_size_as_in_theory(cell, name):
    """Operations by a power of H within 0.3, the trace's bytes too."""
    (rule,) = [r for c, n, r in CASES if (c, n) == (cell, name)]
    small, large = SIZES.get(name, (128, 256))
    for field, theory in (("operations", rule.operations), ("trace", rule.memory)):
        more = counted(cell, name, large)[field] / counted(cell, name, small)[field]
        assert abs(math.log2(more) - theory) < 0.3


@pytest.mark.parametrize(
    ("name", "few"), [("indrnn", 1), ("min_gru", 1), ("lru", 2), ("min_lstm", 1)]
)
def test_rtrl_of_separate_units_costs_a_multiple_of_the_parameters(name, few):
    """No array is larger than k² numbers for each, k of a unit."""
    cell, rule = FIELD[name], online.rtrl()
    hidden = 64

    def make():
        params = cell.init(jax.random.key(0), INPUTS, hidden)
        state = cell.initial_state(params, ())
        trace = rule.init(cell, params, state)
        return params, state, jnp.zeros(INPUTS), trace, None, state

    given = jax.eval_shape(make)
    jaxpr = jax.make_jaxpr(step_of(rule))(*given).jaxpr
    widest = max(math.prod(v.aval.shape) for e in equations(jaxpr) for v in e.outvars)
    largest = max(math.prod(p.shape) for p in jax.tree.leaves(given[0]))
    assert widest <= few**2 * max(largest, 2 * hidden)
