"""The cells, problems and independent answers that the tests share."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import cells


def softsign(z):
    return z / (1 + jnp.abs(z))


def softsign_slope(z):
    return 1 / (1 + jnp.abs(z)) ** 2


CELLS = {"elman": jaxrnn.elman, "lstm": jaxrnn.lstm, "gru": jaxrnn.gru}
ACTIVATIONS = {
    **{name: jaxrnn.make_elman(name) for name in ("logistic", "relu", "identity")},
    "pair": jaxrnn.make_elman((softsign, softsign_slope)),
}
ALL_CELLS = CELLS | ACTIVATIONS
# The cells of the field: a core of the suite always runs, all of it behind `slow`.
FIELD = {
    **{name: cell for name, cell in cells.CELLS.items() if name not in CELLS},
    "softsign_gru": jaxrnn.make_gru(
        activation="softsign", gate_activation="hard_logistic"
    ),
    "fixed_leaky": jaxrnn.make_leaky(time_constant=2.5),
    "parallel_lru": jaxrnn.make_lru(parallel=True),
    "parallel_min_gru": jaxrnn.make_min_gru(parallel=True),
    "parallel_min_lstm": jaxrnn.make_min_lstm(parallel=True),
    "projected_lstm": jaxrnn.make_lstm(projection=3),
    "every_lstm": jaxrnn.make_lstm(
        peephole=True,
        coupled=True,
        projection=3,
        activation="softsign",
        gate_activation="hard_logistic",
    ),
}


def each_cell(lstm=(), others=(), field=pytest.mark.slow, without=()):
    """Parametrizes a test by the cell, with marks for the LSTM's case, for the Elman
    network's and the GRU's, and for those of the cells of the field; `without` names
    the cells that are left out."""
    marks = dict.fromkeys(FIELD, field) | dict.fromkeys(CELLS, others) | {"lstm": lstm}
    return pytest.mark.parametrize(
        "cell",
        [
            pytest.param(cell, id=name, marks=marks[name])
            for name, cell in (CELLS | FIELD).items()
            if name not in without
        ],
    )


# With the LSTM's case, whose state has two leaves, also on the lowest versions allowed.
LSTM_LOWEST = each_cell(lstm=pytest.mark.lowest)
# The same, with the cells of the field always.
EVERY_CELL = each_cell(lstm=pytest.mark.lowest, field=())
# With all cases but the LSTM's behind `slow`.
LSTM_FIRST = each_cell(others=pytest.mark.slow)


def each_once(names, first, second, lstm=()):
    """Parametrizes a test by pairs: each value of either once, behind `slow` all other
    pairs.

    Args:
      names: the two arguments of the test.
      first, second: their values by name.
      lstm: marks for the pairs of "lstm" that are not behind `slow`.
    """
    pairs = list(itertools.product(first, second))
    count = max(len(first), len(second))
    turns = zip(itertools.cycle(first), itertools.cycle(second), strict=False)
    chosen = set(itertools.islice(turns, count))

    def marks(pair):
        if pair not in chosen:
            return pytest.mark.slow
        return lstm if pair[0] == "lstm" else ()

    return pytest.mark.parametrize(
        names,
        [
            pytest.param(first[a], second[b], id=f"{a}-{b}", marks=marks((a, b)))
            for a, b in pairs
        ],
    )


# The cells whose hidden size is even: theirs is one more than asked for, if need be.
EVEN = FIELD["lru"], FIELD["parallel_lru"]


class Problem(NamedTuple):
    """Parameters, initial state, inputs, and the weights of a loss on every output and
    state."""

    params: Any
    state: Any
    xs: Any
    on_hs: Any
    on_last: Any


def problem(cell, size=7, batch=(3,), inputs=4, hidden=5, dtype=jnp.float64) -> Problem:
    """A random one. Weights are orthogonal, so the gradient is alive at every lag; no
    bias is 0."""
    draws = np.random.default_rng(0)

    def normal(shape, scale=1.0):  # of NumPy, which compiles nothing for a new shape
        return jnp.asarray(scale * draws.standard_normal(shape), dtype)

    hidden += hidden % 2 if cell in EVEN else 0
    params = cell.init(jax.random.key(0), inputs, hidden, dtype)
    params = jax.tree.map(
        lambda p: p if p.ndim == 2 else p + normal(p.shape, 0.3), params
    )
    state = jax.tree.map(
        lambda s: normal(s.shape, 0.5), cell.initial_state(params, batch)
    )
    if "n" in state._fields:  # the sLSTM divides by it: a sum of positive weights
        state = state._replace(n=0.5 + jnp.abs(state.n))
    on_last = jax.tree.map(lambda s: normal(s.shape), state)
    return Problem(
        params,
        state,
        normal((size, *batch, inputs)),
        normal((size, *batch, state[0].shape[-1])),
        on_last,
    )


def steps(probability, size=7, batch=(3,), seed=0):
    """Random bools `[T, *B]`."""
    return jnp.asarray(np.random.default_rng(seed).random((size, *batch)) < probability)


def factors(size=7, batch=(), seed=0, dtype=np.float64):
    """Random γ `[T, *B]` between ½ and 1½; NumPy's, for cases that are made before x64
    is on."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, (size, *batch)).astype(dtype)


def loss(unroll, cell, problem, params, state, xs, **options):
    """A smooth function of all outputs and of the last state, different in each."""
    options = {
        k: jnp.asarray(v) if isinstance(v, np.ndarray) else v
        for k, v in options.items()
    }
    last, hs = unroll(cell, params, state, xs, **options)
    ends = jax.tree.map(lambda w, s: jnp.sum(w * jnp.cos(s)), problem.on_last, last)
    return jnp.sum(problem.on_hs * jnp.sin(hs)) + sum(jax.tree.leaves(ends))


def value_and_grads(unroll, cell, problem, **options):
    """Of `loss`, with respect to params, state and xs, unless these are ids; compiled
    once per set of static options."""
    options = {k: v for k, v in options.items() if v is not None and v is not False}
    arrays = {k: v for k, v in options.items() if isinstance(v, jax.Array | np.ndarray)}
    static = tuple((k, v) for k, v in options.items() if k not in arrays)
    by = (0, 1) if jnp.issubdtype(problem.xs.dtype, jnp.integer) else (0, 1, 2)
    program = _compiled(unroll, cell, frozenset(static), by)
    return program(*problem[:3], problem, arrays)


@functools.cache
def _compiled(unroll, cell, static, by):
    def loss_of(params, state, xs, problem, arrays):
        return loss(unroll, cell, problem, params, state, xs, **dict(static), **arrays)

    return jax.jit(jax.value_and_grad(loss_of, by))


def unroll_by_hand(
    cell,
    params,
    state,
    xs,
    *,
    mask=None,
    reset=None,
    reset_state=None,
    reverse=False,
):
    """Every sequence on its own, in a Python loop, its masked steps left out; batch
    `(B,)`."""
    size, batch = xs.shape[:2]
    mask = np.ones((size, batch), bool) if mask is None else np.asarray(mask)
    reset = np.zeros((size, batch), bool) if reset is None else np.asarray(reset)
    if reset_state is None:
        reset_state = jax.tree.map(jnp.zeros_like, state)
    lasts, outputs = [], []
    for b in range(batch):
        first, anew = jax.tree.map(lambda s, b=b: s[b], (state, reset_state))
        now, hs = first, [jnp.zeros_like(first.h)] * size
        for t in reversed(range(size)) if reverse else range(size):
            now = anew if reset[t, b] else now
            if mask[t, b]:
                now, _ = cell.step(params, now, cell.drive(params, xs[t, b]))
                hs[t] = now.h
        lasts.append(now)
        outputs.append(jnp.stack(hs))
    return jax.tree.map(lambda *s: jnp.stack(s), *lasts), jnp.stack(outputs, axis=1)


def copied(tree):
    """Arrays that a step may take: it donates its arguments."""
    return jax.tree.map(jnp.copy, tree)


def once(value_and_grad):
    """The same, for one compilation: it fails if it is traced again."""
    traced = []

    def traced_once(*arguments):
        assert not traced
        traced.append(True)
        return value_and_grad(*arguments)

    return traced_once
