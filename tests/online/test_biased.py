"""SnAp, RFLO and e-prop against plain loops over dense Jacobians, in NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxrnn
from jaxrnn import online
from tests.cases import CELLS, FIELD, problem
from tests.online.runs import backwards, forwards, given, loss_fn

pytestmark = pytest.mark.usefixtures("x64")

SIZE, INPUTS, HIDDEN = 6, 3, 4
DENSE = {
    **CELLS,
    **{name: FIELD[name] for name in ("leaky", "peephole_lstm", "slstm")},
}
RFLO = online.rflo()


def each(*names, slow=()):
    marks = {name: pytest.mark.slow if name in slow else () for name in names}
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=marks[name]) for name in names]
    )


def dense_case(name, sparse=False):
    """One sequence; with `sparse`, unit i acts on unit i + 1 alone, by one gate."""
    case = problem(DENSE[name], SIZE, (), INPUTS, HIDDEN)
    if sparse:
        w_hh = np.zeros(case.params.w_hh.shape)
        for i in range(HIDDEN - 1):
            w_hh[i, (i * HIDDEN + i + 1) % w_hh.shape[1]] = 0.9
        w_hh = jnp.asarray(w_hh)
        case = case._replace(params=case.params._replace(w_hh=w_hh))
    return given(case)


@functools.cache
def jacobians(cell):
    """A step, and its J and M as dense matrices, by JAX's forward mode."""

    def step(theta, before, x):
        return cell.step(theta, before, cell.drive(theta, x))[0]

    def linearized(theta, before, x):
        flat_theta, theta_of = ravel_pytree(theta)
        flat, state_of = ravel_pytree(before)

        def flat_step(flat_theta, flat):
            return ravel_pytree(step(theta_of(flat_theta), state_of(flat), x))[0]

        m, j = jax.jacfwd(flat_step, (0, 1))(flat_theta, flat)
        return step(theta, before, x), j, m

    return jax.jit(linearized)


@jax.jit
def error(rest, h, target):
    return jax.grad(loss_fn, 1)(rest, h, target)


def in_a_loop(cell, given, kept=None, local=None, kappa=0.0):
    """The gradient by P ← mask ⊙ (J P + M), with a filter κ.

    Args:
      kept: the mask, `[D, |θ|]`.
      local: what stands for J, of the states before and after a step and its input.
    """
    (theta, rest), state, batch, _ = given
    influence = filtered = total = 0.0
    for x, target in zip(batch.xs, batch.targets, strict=True):
        after, j, m = jax.tree.map(np.asarray, jacobians(cell)(theta, state, x))
        if local is not None:
            j = np.asarray(local(theta, state, after, x))
        influence = (j @ influence if np.ndim(influence) else 0) + m
        influence = influence if kept is None else kept * influence
        filtered = kappa * filtered + influence
        g = np.zeros(len(j))
        g[: after.h.size] = error(rest, after.h, target)
        total = total + g @ filtered
        state = after
    return ravel_pytree(theta)[1](jnp.asarray(total))


def units(theta):
    """The unit of each number of the parameters: its column, modulo H."""
    columns = jax.tree.map(
        lambda p: np.broadcast_to(np.arange(p.shape[-1]) % HIDDEN, p.shape), theta
    )
    return np.concatenate([c.ravel() for c in jax.tree.leaves(columns)])


def reached(theta, n):
    """Whether a number of the state is reached from a parameter in n steps."""
    gates = np.split(np.asarray(theta.w_hh), theta.w_hh.shape[1] // HIDDEN, axis=1)
    joined = sum(gate != 0 for gate in gates) > 0  # from row to column
    by_then = np.linalg.matrix_power(joined + np.eye(HIDDEN), n - 1) > 0
    return lambda places: by_then[units(theta)][:, places % HIDDEN].T


def assert_close(got, expected):
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@each("elman", "lstm", "gru", "leaky", "peephole_lstm", "slstm", slow=("slstm",))
def test_snap_1_keeps_the_blocks_on_the_diagonal(name):
    cell, case = DENSE[name], dense_case(name)
    size = ravel_pytree(case.state)[0].size
    kept = reached(case.params[0], 1)(np.arange(size))
    got = forwards(online.snap(1), cell, case)[1][0]
    assert_close(got, in_a_loop(cell, case, kept))
    exact = backwards(cell, case)[1][0]
    assert not np.allclose(got.w_ih, exact.w_ih)


@each("elman", "lstm", "gru")
def test_snap_2_keeps_the_pattern_of_two_steps(name):
    """Of sparse weights, a pattern that is neither that of one step nor full."""
    cell, case = DENSE[name], dense_case(name, sparse=True)
    size = ravel_pytree(case.state)[0].size
    kept = {n: reached(case.params[0], n)(np.arange(size)) for n in (1, 2, 9)}
    assert kept[1].sum() < kept[2].sum() < kept[9].sum()
    got = forwards(online.snap(2), cell, case)[1][0]
    assert_close(got, in_a_loop(cell, case, kept[2]))


# The Jacobian without the recurrent matrix, written out: the terms that its products
# leave, at the gates' values in the run.
def of_elman(theta, before, after, x):
    return np.zeros((HIDDEN, HIDDEN))


def of_leaky(theta, before, after, x):
    """h' = (1 - α) h + …"""
    return np.diag(1 - jax.nn.sigmoid(theta.a))


def of_gru(theta, before, after, x):
    """h' = … + z h."""
    z = x @ theta.w_ih + before.h @ theta.w_hh
    z = (z + ravel_pytree(theta.b)[0][: 3 * HIDDEN])[HIDDEN : 2 * HIDDEN]
    return np.diag(jax.nn.sigmoid(z))


def of_lstm(theta, before, after, x):
    """c' = f c + …, h' = o tanh(c')."""
    z = np.split(x @ theta.w_ih + before.h @ theta.w_hh + theta.b, 4)
    f, o = jax.nn.sigmoid(z[1]), jax.nn.sigmoid(z[3])
    none = np.zeros((HIDDEN, HIDDEN))
    to_h = np.diag(o * (1 - np.tanh(after.c) ** 2) * f)
    return np.block([[none, to_h], [none, np.diag(f)]])


LOCAL = {"elman": of_elman, "leaky": of_leaky, "gru": of_gru, "lstm": of_lstm}


@each(*LOCAL)
def test_rflo_drops_the_recurrent_matrix(name):
    cell, case = DENSE[name], dense_case(name)
    expected = in_a_loop(cell, case, local=LOCAL[name])
    assert_close(forwards(RFLO, cell, case)[1][0], expected)


@each("leaky", "lstm")
def test_eprop_filters_the_influence_of_rflo(name):
    cell, case = DENSE[name], dense_case(name)
    expected = in_a_loop(cell, case, local=LOCAL[name], kappa=0.6)
    assert_close(forwards(online.eprop(0.6), cell, case)[1][0], expected)
    unfiltered = forwards(online.eprop(), cell, case)
    assert_close(unfiltered, forwards(RFLO, cell, case))


def test_eprop_is_exact_for_a_leaky_readout_of_separate_units():
    """y[t] = κ y[t-1] + h[t] w, where the rule is given the error of y[t] alone."""
    kappa, cell = 0.7, jaxrnn.indrnn
    case = problem(cell, SIZE, (), INPUTS, HIDDEN)
    goals = jnp.cos(jnp.arange(SIZE))

    def readouts(params):
        theta, w = params
        hs = jaxrnn.unroll(cell, theta, case.state, case.xs)[1]
        before, found = jnp.zeros(()), []
        for h in hs:
            found.append((before, kappa * before + h @ w))
            before = found[-1][1]
        return [jnp.stack(ys) for ys in zip(*found, strict=True)]

    def whole(params):
        return jnp.sum((readouts(params)[1] - goals) ** 2)

    def of_step(w, h, target):
        before, goal = target
        return (kappa * before + h @ w - goal) ** 2

    params = case.params, case.on_hs[0]
    expected = jax.jit(jax.grad(whole))(params)[0]
    batch = online.Batch(case.xs, (readouts(params)[0], goals))
    rule = online.eprop(kappa)
    carry = online.online_start(rule, cell, case.params, case.state)
    fn = jax.jit(online.online_value_and_grad(rule, of_step))
    assert_close(fn(params, carry, batch)[1][0], expected)
