"""Whatever JAX does to a function, it can do to `unroll`, and the answer is the
oracle's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import jaxrnn
from tests.cases import (
    CELLS,
    LSTM_LOWEST,
    factors,
    loss,
    problem,
    steps,
    value_and_grads,
)

SIZE = 5
each_cell = LSTM_LOWEST


def small(cell, dtype=jnp.float64):
    return problem(cell, SIZE, (2,), inputs=2, hidden=3, dtype=dtype)


def both(cell, case, transform):
    """`transform` of the loss by `unroll` and by the oracle, compiled."""

    def by(unroll, **options):
        def loss_of(*args):
            return loss(unroll, cell, case, *args, **options)

        return jax.jit(transform(loss_of))(*case[:3])

    return by(jaxrnn.unroll, chunk=2), by(jaxrnn.unroll_autodiff)


def grad_of_a_scan(loss_of):
    """The loss at the end of three steps of gradient descent, each with its own inner
    gradient."""

    def outer(params, state, xs):
        def over_step(params, _):
            grads = jax.grad(loss_of)(params, state, xs)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

        params, _ = lax.scan(over_step, params, length=3)
        return loss_of(params, state, xs)

    return jax.grad(outer)


def in_a_while_loop(loss_of):
    """Gradient descent until the loss is small: a loop of unknown length around the
    gradient."""

    def descend(params, state, xs):
        def go_on(carry):
            number, _ = carry
            return number < 4

        def body(carry):
            number, params = carry
            grads = jax.grad(loss_of)(params, state, xs)
            return number + 1, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

        return lax.while_loop(go_on, body, (0, params))[1]

    return descend


def in_a_cond(loss_of):
    def either(params, state, xs):
        return lax.cond(
            jnp.sum(xs) > 0,
            loss_of,
            lambda *args: 2 * loss_of(*args),
            params,
            state,
            xs,
        )

    return jax.grad(either, (0, 1, 2))


TRANSFORMS = {
    "value_and_grad with aux": lambda loss_of: jax.value_and_grad(
        lambda *args: (loss_of(*args), args[1]), (0, 1, 2), has_aux=True
    ),
    "hessian by the state": lambda loss_of: jax.hessian(loss_of, argnums=1),
    "grad of grad": lambda loss_of: jax.grad(
        lambda *args: sum(
            jnp.sum(jnp.sin(g)) for g in jax.tree.leaves(jax.grad(loss_of)(*args))
        ),
        (0, 1, 2),
    ),
    "checkpoint": lambda loss_of: jax.grad(jax.checkpoint(loss_of), (0, 1, 2)),
    "scan": grad_of_a_scan,
    "while_loop": in_a_while_loop,
    "cond": in_a_cond,
    "vmap over the inputs": lambda loss_of: jax.vmap(
        jax.grad(lambda p, s, x: loss_of(p, s, x)), (None, None, 0)
    ),
}
# A stack of inputs to map over.
STACKED = {"vmap over the inputs"}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TRANSFORMS)
@each_cell
def test_transformed(cell, name):
    case = small(cell)
    if name in STACKED:
        case = case._replace(xs=jnp.stack([case.xs, case.xs[::-1], 2 * case.xs]))
    got, expected = both(cell, case, TRANSFORMS[name])
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


@each_cell
def test_exported_with_symbolic_sizes_for_every_platform(cell):
    """One artefact for CPU, GPU and TPU, any T and B, that can be differentiated when
    reloaded."""
    case = small(cell, jnp.float32)

    def loss_of(params, xs, mask, gamma):
        _, hs = jaxrnn.unroll(
            cell, params, None, xs, mask=mask, truncate=4, gamma=gamma
        )
        return jnp.sum(jnp.sin(hs))

    size, batch = export.symbolic_shape("T, B")
    shapes = (
        jax.eval_shape(lambda: case.params),
        jax.ShapeDtypeStruct((size, batch, 2), jnp.float32),
        jax.ShapeDtypeStruct((size, batch), jnp.bool_),
        jax.ShapeDtypeStruct((size,), jnp.float32),
    )
    platforms = ("cpu", "cuda", "tpu")
    exported = export.export(jax.jit(loss_of), platforms=platforms)(*shapes)
    reloaded = export.deserialize(exported.serialize(vjp_order=1))
    assert reloaded.platforms == platforms
    for size, batch in ((7, 3), (1, 1), (12, 2)):
        xs = jax.random.normal(jax.random.key(size), (size, batch, 2))
        gamma = jnp.asarray(factors(size, dtype=np.float32))
        args = case.params, xs, steps(0.7, size, (batch,)), gamma
        got = jax.grad(reloaded.call, (0, 1))(*args)
        expected = jax.grad(loss_of, (0, 1))(*args)
        chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("as_users_see_it")
def test_a_chunk_of_symbolic_sizes_is_refused():
    case = small(jaxrnn.lstm, jnp.float32)
    (size,) = export.symbolic_shape("T")
    xs = jax.ShapeDtypeStruct((size, 2, 2), jnp.float32)
    with pytest.raises(ValueError, match="`chunk` must be None where T"):
        jax.eval_shape(
            lambda x: jaxrnn.unroll(jaxrnn.lstm, case.params, None, x, chunk=2), xs
        )


@pytest.mark.parametrize("store", ["states", "residuals", "boundaries"])
@each_cell
def test_mixed_precision(cell, store):
    """Products in bfloat16, all else in float32; the gradient is float32's but for
    rounding."""
    case = problem(cell, 30, (8,), inputs=16, hidden=32, dtype=jnp.float32)
    options = {"store": store, "chunk": 7}
    value, exact = value_and_grads(jaxrnn.unroll, cell, case, **options)
    got_value, got = value_and_grads(
        jaxrnn.unroll, cell, case, compute_dtype=jnp.bfloat16, **options
    )
    chex.assert_trees_all_equal_dtypes(got, case[:3])
    # A rounding switches a unit of relu, and normalization multiplies it.
    share = 0.03 if cell in CELLS.values() else 0.1
    assert value.dtype == got_value.dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        a, b = np.ravel(a), np.ravel(b)
        # bfloat16 rounds to 2⁻⁹ = 0.2 % of each factor; the errors of a sum add up as a
        # random walk, and 30 steps carry them on.
        assert np.linalg.norm(a - b) < share * np.linalg.norm(b)
        assert a @ b > (1 - share**2) * np.linalg.norm(a) * np.linalg.norm(b)
    assert any(
        (a != b).any() for a, b in zip(*map(jax.tree.leaves, (got, exact)), strict=True)
    )


@each_cell
def test_mixed_precision_is_of_the_products_alone(cell):
    case = problem(cell, 4, (2,), dtype=jnp.float32)
    text = str(
        jax.make_jaxpr(
            jax.grad(
                lambda p: loss(
                    jaxrnn.unroll, cell, case, p, *case[1:3], compute_dtype=jnp.bfloat16
                )
            )
        )(case.params)
    )
    products = [line for line in text.splitlines() if " = dot_general[" in line]
    assert products and text.count("preferred_element_type=float32") == len(products)
    assert all(":f32[" in line for line in products)
    assert " = mul " in text
    for line in text.splitlines():
        if " = tanh " in line or " = mul " in line:
            assert ":bf16[" not in line


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
@each_cell
def test_saturated_gates_under_debug_nans(cell, magnitude):
    case = problem(cell, SIZE, dtype=jnp.float32)
    case = case._replace(xs=case.xs * 0 + magnitude)
    with jax.debug_nans(True):
        _, grads = value_and_grads(jaxrnn.unroll, cell, case, mask=steps(0.6, SIZE))
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
