"""The gradient on its way back: against the lecture's products, dense Jacobians, and
identities."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

import jaxrnn
from jaxrnn import flow
from tests.cases import LSTM_FIRST, each_cell, problem

LINEAR = jaxrnn.make_elman("identity")
# Without the network with relu, whose units may all be off: the adjoint is zero then.
ALIVE = each_cell(others=pytest.mark.slow, without=("indrnn",))
# Also without the sLSTM, on whose scale no output depends: J[t] has no inverse.
INVERTIBLE = each_cell(others=pytest.mark.slow, without=("indrnn", "slstm"))


def last_output(last, hs):
    del last
    return jnp.sum(jnp.sin(hs[-1]))


def one_sequence(cell, size=9, hidden=5):
    return problem(cell, size, (), hidden=hidden)


def dense_jacobians(cell, case):
    """J[1] … J[T] of one sequence, `[D, D]` each, by forward mode."""
    flat, unflatten = ravel_pytree(case.state)

    def step(flat, x):
        after, _ = cell.step(case.params, unflatten(flat), cell.drive(case.params, x))
        return ravel_pytree(after)[0]

    jacobian, found = jax.jit(jax.jacfwd(step)), []
    for x in case.xs:
        found.append(np.asarray(jacobian(flat, x)))
        flat = step(flat, x)
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["tanh", "logistic"])
def test_the_profile_is_the_lecture_s_product(name):
    """w₂ wₘ^i ḟ(w₂ h[T]) Π_{j<i} ḟ(z[T-j]), in plain numbers."""
    f = {"tanh": math.tanh, "logistic": lambda z: 1 / (1 + math.exp(-z))}[name]
    slope = {"tanh": lambda y: 1 - y * y, "logistic": lambda y: y * (1 - y)}[name]
    w1, wm, w2, xs = 0.7, -1.3, 0.9, np.random.default_rng(0).normal(size=30)
    hs = [0.4]
    for x in xs:
        hs.append(f(w1 * x + wm * hs[-1]))
    y = f(w2 * hs[-1])
    expected = [w2 * slope(y)]
    for h in hs[:1:-1]:
        expected.append(expected[-1] * wm * slope(h))
    params = jaxrnn.ElmanParams(
        jnp.full((1, 1), w1), jnp.full((1, 1), wm), jnp.zeros(1)
    )
    activation = {"tanh": jnp.tanh, "logistic": jax.nn.sigmoid}[name]
    profile = flow.adjoint_profile(
        lambda last, hs: activation(w2 * last.h).sum(),
        jaxrnn.make_elman(name),
        params,
        jaxrnn.ElmanState(jnp.full(1, 0.4)),
        jnp.asarray(xs)[:, None],
    )
    np.testing.assert_allclose(profile, np.abs(expected), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
def test_the_profile_of_each_sequence(cell):
    case = problem(cell)
    together = flow.adjoint_profile(last_output, cell, *case[:3])
    chex.assert_shape(together, (7, 3))
    for b in range(3):
        alone = flow.adjoint_profile(
            last_output,
            cell,
            case.params,
            jax.tree.map(lambda s, b=b: s[b], case.state),
            case.xs[:, b],
        )
        np.testing.assert_allclose(together[:, b], alone, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
def test_contributions_of_all_lags_are_the_gradient(cell):
    """And each is what BPTT gives where one step's parameters alone are moved."""
    case = problem(cell, 6)
    terms = flow.lag_gradients(last_output, cell, *case[:3])

    def loss(params):
        return last_output(*jaxrnn.unroll(cell, params, *case[1:3]))

    total = jax.tree.map(lambda d: d.sum(0), terms)
    chex.assert_trees_all_close(
        total, jax.grad(loss)(case.params), rtol=1e-10, atol=1e-13
    )

    def by_step(params):
        """With parameters of its own for each step, `[T, ...]`."""
        state = case.state
        for t, x in enumerate(case.xs):
            state, _ = jaxrnn.step(
                cell, jax.tree.map(lambda p, t=t: p[t], params), state, x
            )
        return jnp.sum(jnp.sin(state.h))

    own = jax.tree.map(lambda p: jnp.broadcast_to(p, (6, *p.shape)), case.params)
    expected = jax.tree.map(lambda d: d[::-1], jax.jit(jax.grad(by_step))(own))
    chex.assert_trees_all_close(terms, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_a_contraction_of_nine_tenths():
    """A linear network with 0.9 Q, Q orthogonal: every exponent is ln 0.9, at every
    lag."""
    case = problem(LINEAR, 40, ())
    params = case.params._replace(w_hh=0.9 * jnp.linalg.qr(case.params.w_hh)[0])
    arguments = LINEAR, params, case.state, case.xs
    exponents = flow.lyapunov_spectrum(*arguments)
    np.testing.assert_allclose(exponents, np.full(5, math.log(0.9)), rtol=1e-12)
    profile = flow.adjoint_profile(lambda last, hs: hs[-1].sum(), *arguments)
    np.testing.assert_allclose(
        np.diff(np.log(profile)), np.full(39, math.log(0.9)), rtol=1e-9
    )
    horizon = flow.memory_horizon(profile, 0.05)
    assert horizon.rate == pytest.approx(0.9, rel=1e-12)
    assert horizon.lag == math.ceil(math.log(0.05) / math.log(0.9))
    values = flow.jacobian_product_svd(*arguments, 5)
    np.testing.assert_allclose(values, np.full(5, 40 * math.log(0.9)), rtol=1e-12)


@pytest.mark.usefixtures("x64")
@INVERTIBLE
def test_exponents_add_up_to_the_volume(cell):
    """Σ_k exponent k = mean over t of log |det J[t]|: for any T, however the
    directions turn."""
    case = one_sequence(cell)
    spectrum = flow.lyapunov_spectrum(cell, *case[:3])
    volumes = [np.linalg.slogdet(j)[1] for j in dense_jacobians(cell, case)]
    np.testing.assert_allclose(spectrum.sum(), np.mean(volumes), rtol=1e-9)
    later = flow.lyapunov_spectrum(cell, *case[:3], transient=4)
    np.testing.assert_allclose(later.sum(), np.mean(volumes[4:]), rtol=1e-9)
    chex.assert_shape(flow.lyapunov_spectrum(cell, *case[:3], 2), (2,))


@pytest.mark.usefixtures("x64")
@INVERTIBLE
def test_singular_values_of_the_product(cell):
    case = one_sequence(cell)
    product = np.linalg.multi_dot(dense_jacobians(cell, case)[::-1])
    expected = np.log(np.linalg.svd(product, compute_uv=False)[:3])
    got = flow.jacobian_product_svd(cell, *case[:3], 3, iterations=200)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("factors", [(0.1, 0.1, 0.1), (0.9, 0.5, 0.1), (3.0, 1.0, 0.2)])
def test_singular_values_beyond_the_range_of_floats(factors):
    """0.1^200 is not a float32, its logarithm is; nor is 0.1^200 / 0.9^200."""
    turned = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (3, 3)))[0]
    w_hh = turned @ jnp.diag(jnp.array(factors)) @ turned.T
    params = jaxrnn.ElmanParams(jnp.ones((1, 3)), w_hh, jnp.zeros(3))
    values = flow.jacobian_product_svd(LINEAR, params, None, jnp.ones((200, 1)), 3)
    np.testing.assert_allclose(values, 200 * np.log(factors), rtol=1e-4, atol=0.02)


def test_adjoints_whose_squares_are_no_floats():
    """0.1^35 is a float32, its square is not; nor is that of 10^20."""
    for factor, size in ((0.1, 35), (10.0, 30)):
        params = jaxrnn.ElmanParams(jnp.ones((1, 3)), factor * jnp.eye(3), jnp.zeros(3))
        arguments = LINEAR, params, None, 1e-30 * jnp.ones((size, 1))
        profile = flow.adjoint_profile(lambda last, hs: hs[-1].sum(), *arguments)
        expected = math.sqrt(3) * factor ** np.arange(float(size))
        np.testing.assert_allclose(profile, expected, rtol=1e-5)
        omega = flow.vanishing_regularizer(lambda last, hs: hs[-1].sum(), *arguments)
        np.testing.assert_allclose(omega, size * (factor - 1) ** 2, rtol=1e-5)


@pytest.mark.usefixtures("x64")
@LSTM_FIRST
def test_the_profile_of_a_run_backwards(cell):
    case = one_sequence(cell)

    def first_output(last, hs):
        return last_output(last, hs[::-1])

    forwards = flow.adjoint_profile(last_output, cell, *case[:3])
    backwards = flow.adjoint_profile(
        first_output, cell, case.params, case.state, case.xs[::-1], reverse=True
    )
    np.testing.assert_allclose(backwards, forwards, rtol=1e-12)


def test_bfloat16_is_only_the_parameters_rounding():
    """The directions are turned in float32, whatever the parameters are."""
    case = problem(jaxrnn.elman, 30, (), dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), case)
    narrow, expected = (
        flow.lyapunov_spectrum(jaxrnn.elman, *c[:3], 3) for c in (case, wide)
    )
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, expected, atol=0.05)
    terms = flow.lag_gradients(last_output, jaxrnn.elman, *case[:3])
    chex.assert_trees_all_equal_dtypes(terms, wide.params)


def test_leading_exponents_where_others_are_not_there():
    """Units of a relu network are off now and then; the first exponent and its slope
    are finite."""
    cell = jaxrnn.make_elman("relu")
    params = cell.init(jax.random.key(0), 2, 6)
    xs = jax.random.normal(jax.random.key(1), (40, 2))
    assert (jaxrnn.unroll(cell, params, None, xs)[1] == 0).any()
    value, grads = jax.value_and_grad(
        lambda p: flow.lyapunov_spectrum(cell, p, None, xs, 1)[0]
    )(params)
    chex.assert_tree_all_finite((value, grads))


@pytest.mark.usefixtures("x64")
def test_the_profile_falls_as_the_first_exponent():
    """Of a random tanh network, over many steps."""
    size, hidden = 400, 40
    keys = jax.random.split(jax.random.key(1), 3)
    params = jaxrnn.elman.init(keys[0], 3, hidden, jnp.float64)
    w_hh = 0.9 / math.sqrt(hidden) * jax.random.normal(keys[1], (hidden, hidden))
    xs = 0.5 * jax.random.normal(keys[2], (size, 3))
    arguments = jaxrnn.elman, params._replace(w_hh=w_hh), None, xs
    first = float(flow.lyapunov_spectrum(*arguments, 1, transient=50)[0])
    profile = flow.adjoint_profile(last_output, *arguments)
    assert math.log(flow.memory_horizon(profile).rate) == pytest.approx(first, rel=0.05)


@pytest.mark.usefixtures("x64")
@ALIVE
def test_the_spectrum_is_differentiable(cell):
    case = one_sequence(cell, size=4, hidden=2)

    def flossing(params):
        return jnp.mean(flow.lyapunov_spectrum(cell, params, *case[1:3], 2) ** 2)

    check_grads(flossing, (case.params,), order=1, modes=["rev"], rtol=1e-4)


def test_flossing_brings_the_exponents_to_zero():
    params = jaxrnn.elman.init(jax.random.key(0), 2, 8)._replace(w_hh=0.3 * jnp.eye(8))
    xs = 0.1 * jax.random.normal(jax.random.key(1), (20, 2))

    @jax.jit
    def spectrum(params):
        return flow.lyapunov_spectrum(jaxrnn.elman, params, None, xs, 3)

    @jax.jit
    def step(params):
        grads = jax.grad(lambda p: jnp.mean(spectrum(p) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    assert jnp.all(spectrum(params) < -1)
    for _ in range(60):
        params = step(params)
    assert jnp.all(jnp.abs(spectrum(params)) < 0.1)


def test_a_horizon_that_is_never_reached():
    assert flow.memory_horizon(np.ones(10)) == (None, pytest.approx(1))
    assert flow.memory_horizon(np.array([1.0, 0, 0, 0])) == (1, 0)
    averaged = flow.memory_horizon(
        np.array([[1, 3], [0.5, 1.5], [0.25, 0.75], [0.125, 0.375]]), 0.3
    )
    assert averaged == (2, pytest.approx(0.5))


WRONG = {
    "a batch": (lambda c: flow.lyapunov_spectrum(*c), "`xs` must be one sequence"),
    "too many": (
        lambda c: flow.lyapunov_spectrum(c[0], c[1], None, c[3][:, 0], 6),
        "`count` must be at most 5",
    ),
    "no steps": (
        lambda c: flow.lyapunov_spectrum(c[0], c[1], None, c[3][:0, 0]),
        "`transient` must be less than T = 0",
    ),
    "no step left": (
        lambda c: flow.lyapunov_spectrum(c[0], c[1], None, c[3][:, 0], 1, transient=7),
        "`transient` must be less than T = 7, but got 7",
    ),
    "no profile": (
        lambda c: flow.memory_horizon(np.zeros(9)),
        "begin above 0, but got 9 lags",
    ),
    "a share of 1": (
        lambda c: flow.memory_horizon(np.ones(9), 1.0),
        "`share` must be between 0",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(("call", "words"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call((jaxrnn.elman, *problem(jaxrnn.elman, dtype=jnp.float32)[:3]))


@pytest.mark.usefixtures("x64")
@ALIVE
def test_the_regularizer_against_dense_jacobians(cell):
    case = one_sequence(cell)
    omega = flow.vanishing_regularizer(last_output, cell, *case[:3])
    _, adjoints = jaxrnn.adjoints(last_output, cell, *case[:3])
    expected = 0.0
    for t, jacobian in enumerate(dense_jacobians(cell, case)):
        after = ravel_pytree(jax.tree.map(lambda a, t=t: a[t], adjoints))[0]
        expected += (
            np.linalg.norm(jacobian.T @ after) / np.linalg.norm(after) - 1
        ) ** 2
    np.testing.assert_allclose(omega, expected, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_regularizer_s_gradient_is_the_immediate_one():
    """By W_hh in J[t] = diag(1 - h²) W_hhᵀ alone, states and adjoints held fixed."""
    cell = jaxrnn.elman
    case = problem(cell, 6)
    _, adjoints = jaxrnn.adjoints(last_output, cell, *case[:3])
    hs = jaxrnn.unroll(cell, *case[:3])[1]

    def by_hand(w_hh):
        back = (adjoints.h * (1 - hs**2)) @ w_hh.T
        ratios = jnp.linalg.norm(back, axis=-1) / jnp.linalg.norm(adjoints.h, axis=-1)
        return jnp.mean(jnp.sum((ratios - 1) ** 2, axis=0))

    grads = jax.grad(
        lambda p: flow.vanishing_regularizer(last_output, cell, p, *case[1:3])
    )(case.params)
    expected = jax.tree.map(jnp.zeros_like, case.params)
    expected = expected._replace(w_hh=jax.grad(by_hand)(case.params.w_hh))
    chex.assert_trees_all_close(grads, expected, rtol=1e-10, atol=1e-13)


def test_a_regularizer_without_errors():
    """Sequences that the loss does not look at, and a matrix of zeros, cost no NaN."""
    case = problem(jaxrnn.elman, dtype=jnp.float32)
    params = case.params._replace(w_hh=jnp.zeros((5, 5)))

    def omega(params):
        loss = lambda last, hs: jnp.sum(hs[-1, 0])  # noqa: E731
        return flow.vanishing_regularizer(loss, jaxrnn.elman, params, *case[1:3])

    value, grads = jax.value_and_grad(omega)(params)
    assert value == pytest.approx(
        1 / 3
    )  # one step of one of three sequences has an error: (0 - 1)²
    chex.assert_tree_all_finite(grads)
