"""Synthetic gradients: what the synthesizer should learn is known for a linear cell."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxrnn
from jaxrnn import online
from jaxrnn.cells.check import check_cell
from jaxrnn.online import SynthesizerParams, synthesizing
from tests.cases import problem, steps, value_and_grads

pytestmark = pytest.mark.usefixtures("x64")

RULE = online.dni()
LINEAR = synthesizing(jaxrnn.make_elman("identity"))
SIZE, BATCH, HIDDEN = 40, 8, 3


def squares(rest, h, target):
    """Its gradient by h is h Q."""
    return 0.5 * jnp.sum(h @ rest * h)


def linear_case():
    """States that shrink by 0.6 a step, without inputs: all depends on the first."""
    case = problem(LINEAR, SIZE, (BATCH,), 2, HIDDEN)
    theta = case.params.cell
    theta = theta._replace(w_hh=0.6 * theta.w_hh, b=jnp.zeros(HIDDEN))
    root = np.random.default_rng(3).standard_normal((HIDDEN, HIDDEN))
    q = jnp.asarray(root @ root.T) / HIDDEN
    batch = online.Batch(jnp.zeros_like(case.xs), case.on_hs)
    return theta, q, case.state, batch


@jax.jit
def gradients(params, state, batch):
    """By the rule, a tree like the parameters of the cell with its synthesizer."""
    carry = online.online_start(RULE, LINEAR, params[0], state)
    return online.online_value_and_grad(RULE, squares)(params, carry, batch)[1][0]


def exact(theta, q, state, batch):
    """By backpropagation through time."""

    def value(theta):
        hs = jaxrnn.unroll(jaxrnn.make_elman("identity"), theta, state, batch.xs)[1]
        return squares(q, hs, None)

    return jax.jit(jax.grad(value))(theta)


def cosine(a, b):
    a, b = (ravel_pytree(tree)[0] for tree in (a, b))
    return jnp.vdot(a, b) / jnp.linalg.norm(a) / jnp.linalg.norm(b)


def test_the_synthesizer_that_predicts_the_future():
    """With s[t] = s[t-1] W and g = s Q, λ̂(s) = s A is right at every state if A =
    W (Q + A) Wᵀ. Then its error is zero, and the gradient is that of BPTT, as the last
    steps hardly count."""
    theta, q, state, batch = linear_case()
    w = np.asarray(theta.w_hh)
    both = np.kron(w, w)  # on matrices, row by row
    a = np.linalg.solve(np.eye(HIDDEN**2) - both, both @ np.asarray(q).ravel())
    params = SynthesizerParams(
        theta, jnp.asarray(a.reshape(HIDDEN, HIDDEN)), jnp.zeros(HIDDEN)
    )
    got = gradients((params, q), state, batch)
    expected = exact(theta, q, state, batch)
    # W_ih has no inputs, and no gradient.
    scale = jnp.abs(expected.w_hh).max()
    chex.assert_trees_all_close(got.cell, expected, rtol=1e-6, atol=1e-7 * scale)
    chex.assert_trees_all_close((got.a, got.b), (0 * got.a, 0 * got.b), atol=1e-12)


def test_the_synthesizer_learns_by_its_own_gradient():
    """From zero, at which the rule is that of one step, to a cosine near 1."""
    theta, q, state, batch = linear_case()
    rest = jnp.zeros((HIDDEN, HIDDEN)), jnp.zeros(HIDDEN)
    optimizer = optax.sgd(0.002)

    @jax.jit
    def learned(rest):
        def update(carried, _):
            rest, opt_state = carried
            got = gradients((SynthesizerParams(theta, *rest), q), state, batch)
            updates, opt_state = optimizer.update((got.a, got.b), opt_state)
            return (optax.apply_updates(rest, updates), opt_state), None

        start = rest, optimizer.init(rest)
        return jax.lax.scan(update, start, length=4000)[0][0]

    expected = exact(theta, q, state, batch)
    before = gradients((SynthesizerParams(theta, *rest), q), state, batch)
    after = gradients((SynthesizerParams(theta, *learned(rest)), q), state, batch)
    assert cosine(before.cell, expected) < 0.93
    assert cosine(after.cell, expected) > 0.99


def of_one_step(theta, q, state, batch, mask):
    """The sum of the gradients of each step's loss by the step before it alone."""
    cell = jaxrnn.make_elman("identity")
    found = jax.tree.map(jnp.zeros_like, theta)
    for x, counts in zip(batch.xs, mask, strict=True):

        def value(theta, state=state, x=x, counts=counts):
            h = cell.step(theta, state, cell.drive(theta, x))[0].h
            return squares(q, jnp.where(counts[:, None], h, 0), None)

        found = jax.tree.map(jnp.add, found, jax.grad(value)(theta))
        after = cell.step(theta, state, cell.drive(theta, x))[0]
        state = jax.tree.map(
            lambda a, b, counts=counts: jnp.where(counts[:, None], a, b), after, state
        )
    return found


def test_without_a_prediction_it_is_the_gradient_of_one_step():
    """And where steps are masked, there is none, neither of θ nor of A and b."""
    theta, q, state, batch = linear_case()
    batch = jax.tree.map(lambda a: a[:4], batch)
    mask = steps(0.6, 4, (BATCH,), seed=1)
    zero = jnp.zeros((HIDDEN, HIDDEN)), jnp.zeros(HIDDEN)
    params = SynthesizerParams(theta, *zero), q
    got = gradients(params, state, batch._replace(mask=mask))
    expected = of_one_step(theta, q, state, batch, mask)
    chex.assert_trees_all_close(got.cell, expected, rtol=1e-10, atol=1e-12)
    # A prediction everywhere, and no step.
    params = SynthesizerParams(theta, zero[0] + 1, zero[1] + 1), q
    none = gradients(params, state, batch._replace(mask=jnp.zeros_like(mask)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(none))


def test_ids_stand_for_vectors():
    theta, q, state, batch = linear_case()
    params = SynthesizerParams(theta, 0.1 * q, q[0]), q
    ids = jnp.arange(SIZE * BATCH).reshape(SIZE, BATCH) * 3 % 2
    vectors = batch._replace(xs=jax.nn.one_hot(ids, 2, dtype=jnp.float64))
    got = gradients(params, state, batch._replace(xs=ids))
    chex.assert_trees_all_close(got, gradients(params, state, vectors), rtol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "lru"])
def test_the_cell_stays_what_it_is(name):
    """Backwards, its gradient is the cell's own, and that of A and b is zero."""
    cell = getattr(jaxrnn, name)
    case = problem(cell, 6, (2,), 3, 4)
    expected = value_and_grads(jaxrnn.unroll, cell, case)
    own = synthesizing(cell)
    made = own.init(jax.random.key(0), 3, 4, jnp.float64)
    assert not made.a.any() and not made.b.any()
    params = SynthesizerParams(case.params, made.a + 1, made.b + 1)
    got = value_and_grads(jaxrnn.unroll, own, case._replace(params=params))
    zeros = made.a, made.b
    value, (dparams, *others) = expected
    expected = value, (SynthesizerParams(dparams, *zeros), *others)
    chex.assert_trees_all_close(got, expected, rtol=1e-12, atol=1e-12)
    assert synthesizing(cell) == own  # so that `jit` does not trace twice


def test_the_cell_keeps_the_contract():
    check_cell(synthesizing(jaxrnn.elman), 3, 4)
