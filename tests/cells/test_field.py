"""The cells of the field against their papers' equations, written out for one sequence
in NumPy; the associative scan; names and arguments of the factories."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn.cells.activations import ACTIVATIONS
from tests.cases import FIELD, each_once, problem, steps, value_and_grads

SIZE = 9


def logistic(z):
    return 1 / (1 + np.exp(-z))


def hard_logistic(z):
    return np.clip(z / 6 + 0.5, 0, 1)


def softsign(z):
    return z / (1 + np.abs(z))


def normalized(a):
    return (a - a.mean()) / np.sqrt(a.var() + 1e-5)


def gru_before(p, state, x, phi=np.tanh, sigma=logistic):
    """Cho et al. (2014)."""
    (h,) = state
    w_r, w_z, w_n = np.split(p.w_ih, 3, 1)
    v_r, v_z = np.split(p.w_rz, 2, 1)
    b_r, b_z, b_n = np.split(p.b, 3)
    r, z = sigma(x @ w_r + h @ v_r + b_r), sigma(x @ w_z + h @ v_z + b_z)
    return ((1 - z) * phi(x @ w_n + (r * h) @ p.w_n + b_n) + z * h,)


def gru_after(p, state, x, phi=np.tanh, sigma=logistic):
    (h,), u = state, x @ p.w_ih + p.b
    (u_r, u_z, u_n), (q_r, q_z, q_n) = np.split(u, 3), np.split(h @ p.w_hh, 3)
    r, z = sigma(u_r + q_r), sigma(u_z + q_z)
    return ((1 - z) * phi(u_n + r * (q_n + p.b_hn)) + z * h,)


def mgu(p, state, x):
    """Zhou et al. (2016)."""
    (h,), (u_f, u_n) = state, np.split(x @ p.w_ih + p.b, 2)
    f = logistic(u_f + h @ p.w_f)
    return ((1 - f) * h + f * np.tanh(u_n + (f * h) @ p.w_n),)


def lstm(p, state, x, coupled=False, phi=np.tanh, sigma=logistic):
    """Sak et al. (2014), with whatever of it there is."""
    h, c = state
    parts = np.split(x @ p.w_ih + h @ p.w_hh + p.b, 3 if coupled else 4)
    z_f, z_g, z_o = parts[-3:]
    peepholes = np.zeros(3 * len(c)) if p.peepholes is None else p.peepholes
    peeks = np.split(peepholes, len(peepholes) // len(c))
    f = sigma(z_f + peeks[-2] * c)
    i = 1 - f if coupled else sigma(parts[0] + peeks[0] * c)
    c = f * c + i * phi(z_g)
    y = sigma(z_o + peeks[-1] * c) * phi(c)
    return (y if p.w_hr is None else y @ p.w_hr), c


def indrnn(p, state, x):
    """Li et al. (2018)."""
    return (np.maximum(0, x @ p.w_ih + p.w_hh * state.h + p.b),)


def leaky(p, state, x):
    """τ dh/dt = -h + tanh(…), one step of Euler's method; 1/τ = σ(a)."""
    tau = 2.5 if p.a is None else 1 + np.exp(-p.a)
    r = np.tanh(x @ p.w_ih + state.h @ p.w_hh + p.b)
    return (state.h + (r - state.h) / tau,)


def lru(p, state, x):
    """Orvieto et al. (2023), in complex numbers."""
    size = len(p.nu)
    eigenvalues = np.exp(-np.exp(p.nu) + 1j * np.exp(p.theta))
    b = p.w_ih[:, :size] + 1j * p.w_ih[:, size:]
    s = eigenvalues * (state.h[:size] + 1j * state.h[size:]) + np.exp(p.g) * (x @ b)
    return (np.concatenate([s.real, s.imag]),)


def min_gru(p, state, x):
    """Feng et al. (2024), section 3.1."""
    z, n = np.split(x @ p.w_ih + p.b, 2)
    return ((1 - logistic(z)) * state.h + logistic(z) * n,)


def min_lstm(p, state, x):
    """Feng et al. (2024), section 3.2."""
    f, i, n = np.split(x @ p.w_ih + p.b, 3)
    f, i = logistic(f), logistic(i)
    return (f / (f + i) * state.h + i / (f + i) * n,)


def layer_norm_lstm(p, state, x):
    """Ba et al. (2016), eq. 20 to 22."""
    h, c = state
    in_part = p.gain_ih * normalized(x @ p.w_ih)
    i, f, g, o = np.split(in_part + p.gain_hh * normalized(h @ p.w_hh) + p.b, 4)
    c = logistic(f) * c + logistic(i) * np.tanh(g)
    return logistic(o) * np.tanh(p.gain_c * normalized(c) + p.b_c), c


def layer_norm_gru(p, state, x):
    """Ba et al. (2016); r and z are normalized together, n alone."""
    (h,) = state
    size = len(h)

    def both(y, gain):
        parts = normalized(y[: 2 * size]), normalized(y[2 * size :])
        return np.split(gain * np.concatenate(parts), 3)

    u_r, u_z, u_n = both(x @ p.w_ih, p.gain_ih)
    q_r, q_z, q_n = both(h @ p.w_hh, p.gain_hh)
    b_r, b_z, b_n = np.split(p.b, 3)
    r, z = logistic(u_r + q_r + b_r), logistic(u_z + q_z + b_z)
    n = np.tanh(u_n + b_n + r * (q_n + p.b_hn))
    return ((1 - z) * n + z * h,)


def slstm(p, state, x):
    """Beck et al. (2024), without the scale, which is multiplied in."""
    h, c, n, m = state
    i, f, z, o = np.split(x @ p.w_ih + h @ p.w_hh + p.b, 4)
    c = logistic(f) * c * np.exp(m) + np.exp(i) * np.tanh(z)
    n = logistic(f) * n * np.exp(m) + np.exp(i)
    return logistic(o) * c / n, c, n, np.zeros_like(m)


EQUATIONS = {
    "reset_before_gru": gru_before,
    "softsign_gru": lambda *given: gru_after(*given, phi=softsign, sigma=hard_logistic),
    "mgu": mgu,
    "peephole_lstm": lstm,
    "coupled_lstm": lambda *given: lstm(*given, coupled=True),
    "projected_lstm": lstm,
    "every_lstm": lambda *given: lstm(
        *given, coupled=True, phi=softsign, sigma=hard_logistic
    ),
    "indrnn": indrnn,
    "leaky": leaky,
    "fixed_leaky": leaky,
    "lru": lru,
    "parallel_lru": lru,
    "min_gru": min_gru,
    "parallel_min_gru": min_gru,
    "min_lstm": min_lstm,
    "parallel_min_lstm": min_lstm,
    "layer_norm_lstm": layer_norm_lstm,
    "layer_norm_gru": layer_norm_gru,
    "slstm": slstm,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FIELD)
def test_outputs_are_those_of_the_paper(name):
    cell = FIELD[name]
    case = problem(cell, SIZE, batch=())
    params, state = jax.tree.map(np.asarray, (case.params, case.state))
    hs = []
    for x in np.asarray(case.xs):
        state = type(case.state)(*EQUATIONS[name](params, state, x))
        hs.append(state.h)
    last, got = jaxrnn.unroll(cell, case.params, case.state, case.xs)
    np.testing.assert_allclose(got, np.stack(hs), rtol=1e-11, atol=1e-12)
    if name == "slstm":  # the memory without its scale
        np.testing.assert_allclose(last.c * np.exp(last.m), state.c, rtol=1e-11)
    elif len(state) == 2:
        np.testing.assert_allclose(last.c, state.c, rtol=1e-11)


# Each name's function, and the name of the gates' beside it: a gate has bounds.
NUMPY = {
    "tanh": (np.tanh, "hard_tanh"),
    "logistic": (logistic, "logistic"),
    "relu": (lambda z: np.maximum(z, 0), "hard_logistic"),
    "identity": (lambda z: z, "softsign"),
    "softsign": (softsign, "tanh"),
    "hard_logistic": (hard_logistic, "hard_logistic"),
    "hard_tanh": (lambda z: np.clip(z, -1, 1), "logistic"),
}
GATED = {
    "lstm": (jaxrnn.make_lstm, lstm),
    "gru": (jaxrnn.make_gru, gru_after),
    "reset_before_gru": (
        functools.partial(jaxrnn.make_gru, reset_after=False),
        gru_before,
    ),
}


@pytest.mark.usefixtures("x64")
@each_once(("cell", "activation"), GATED, {name: name for name in ACTIVATIONS})
def test_every_activation_of_gated_cells(cell, activation):
    """Outputs by NumPy, and gradients by autodiff."""
    (make, equations), (phi, gates) = cell, NUMPY[activation]
    cell = make(activation=activation, gate_activation=gates)
    case = problem(cell, 5, batch=())
    params, state = jax.tree.map(np.asarray, (case.params, case.state))
    hs = []
    for x in np.asarray(case.xs):
        given = params, state, x
        state = type(case.state)(*equations(*given, phi=phi, sigma=NUMPY[gates][0]))
        hs.append(state.h)
    _, got = jaxrnn.unroll(cell, *case[:3])
    np.testing.assert_allclose(got, np.stack(hs), rtol=1e-11, atol=1e-12)
    got, expected = (
        value_and_grads(unroll, cell, case)
        for unroll in (jaxrnn.unroll, jaxrnn.unroll_autodiff)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-12)


PARALLEL = {
    "lru": jaxrnn.make_lru,
    "min_gru": jaxrnn.make_min_gru,
    "min_lstm": jaxrnn.make_min_lstm,
}


@pytest.mark.parametrize("name", PARALLEL)
def test_the_associative_scan_is_the_loop_in_float32(name):
    """Values and every gradient, over 400 steps with masks, resets and cuts: to 1e-6 of
    each array's largest number."""
    make, size = PARALLEL[name], 400
    case = problem(make(), size, dtype=jnp.float32)
    options = {
        "mask": steps(0.8, size, seed=1),
        "reset": steps(0.02, size, seed=2),
        "truncate": 150,
        "chunk": 100,
    }
    parallel, one_by_one = (
        value_and_grads(jaxrnn.unroll, make(parallel=p), case, **options)
        for p in (True, False)
    )
    for got, expected in zip(
        jax.tree.leaves(parallel), jax.tree.leaves(one_by_one), strict=True
    ):
        scale = max(1e-3, float(np.abs(expected).max()))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * scale)


def test_a_symbolic_length_runs_as_a_loop():
    """An exported function of any T, and its gradient, equal the associative scan's."""
    cell = jaxrnn.make_min_gru(parallel=True)
    params = cell.init(jax.random.key(0), 2, 3)
    size, batch = jax.export.symbolic_shape("t, b")

    def run(params, xs):
        def loss(params):
            return (jaxrnn.unroll(cell, params, None, xs)[1] ** 2).sum()

        return jax.value_and_grad(loss)(params)

    shape = jax.ShapeDtypeStruct((size, batch, 2), jnp.float32)
    exported = jax.export.export(jax.jit(run))(params, shape)
    xs = jax.random.normal(jax.random.key(1), (9, 4, 2))
    chex.assert_trees_all_close(exported.call(params, xs), run(params, xs), rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["lru", "parallel_lru"])
def test_the_spectrum_of_the_lru_is_that_of_its_eigenvalues(name):
    """Twice log |μ| = -exp(ν) of each number: for its real and its imaginary part. The
    directions of the start count for a few parts in T = 400; the volume is exact."""
    case = problem(FIELD[name], 400, batch=())
    exponents = jaxrnn.flow.lyapunov_spectrum(FIELD[name], *case[:3])
    expected = np.sort(np.repeat(-np.exp(case.params.nu), 2))[::-1]
    np.testing.assert_allclose(np.sort(exponents)[::-1], expected, atol=0.01)
    np.testing.assert_allclose(exponents.sum(), expected.sum(), rtol=1e-9)


def test_a_reset_stops_what_is_infinite():
    """By selection, in the scan as in the loop: 0 times infinity would be NaN."""
    for cell in (jaxrnn.min_gru, jaxrnn.make_min_gru(parallel=True)):
        params = cell.init(jax.random.key(0), 2, 3)
        xs, reset = jnp.ones((6, 2)), jnp.arange(6) == 3
        start = cell.initial_state(params, ())._replace(h=jnp.full(3, jnp.inf))
        _, hs = jaxrnn.unroll(cell, params, start, xs, reset=reset)
        assert not np.isfinite(hs[:3]).any() and np.isfinite(hs[3:]).all()


@pytest.mark.parametrize("first", [0.0, -1000.0])
def test_exponential_gates_do_not_overflow(first):
    """Inputs that open the gate i by e^1000: the newest content is all that counts. The
    first content is all there is, be its gate 1 or e^-1000."""
    cell = jaxrnn.slstm
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0), 2, 1))
    params = params._replace(w_ih=jnp.array([[1.0, 0, 0, 0], [0, 0, 1, 0]]))
    xs = jnp.array([[first, 0.5], [1000, -0.3], [0, 0.9], [2000, 0.7]])

    def loss(xs):
        _, hs = jaxrnn.unroll(cell, params, None, xs)
        return hs.sum(), hs

    grads, hs = jax.grad(loss, has_aux=True)(xs)
    expected = 0.5 * np.tanh([0.5, -0.3, -0.3, 0.7])
    np.testing.assert_allclose(hs[:, 0], expected, rtol=1e-6)
    assert np.isfinite(grads).all()


@pytest.mark.usefixtures("x64")
def test_variants_meet_in_what_they_share():
    """No peepholes, a projection by the identity, τ = 1, i = 1 - f by weights."""
    case = problem(jaxrnn.lstm)
    expected = jaxrnn.unroll(jaxrnn.lstm, *case[:3])
    zeros = jnp.zeros(15)
    for options, peepholes, w_hr in (
        ({"peephole": True}, zeros, None),
        ({"projection": 5}, None, jnp.eye(5)),
    ):
        params = jaxrnn.LSTMVariantParams(*case.params, peepholes, w_hr)
        state = case.state
        got = jaxrnn.unroll(jaxrnn.make_lstm(**options), params, state, case.xs)
        chex.assert_trees_all_close(got, expected, rtol=1e-12)

    # The logistic function of -z is 1 - σ(z).
    coupled = problem(jaxrnn.make_lstm(coupled=True))

    def with_input_gate(w):
        return jnp.concatenate([-w[..., :5], w], axis=-1)

    params = jaxrnn.LSTMParams(*map(with_input_gate, coupled.params[:3]))
    cell = jaxrnn.make_lstm(coupled=True)
    chex.assert_trees_all_close(
        jaxrnn.unroll(cell, *coupled[:3]),
        jaxrnn.unroll(jaxrnn.lstm, params, *coupled[1:3]),
        rtol=1e-12,
    )

    plain = problem(jaxrnn.elman)
    params = jaxrnn.LeakyParams(*plain.params, None)
    cell = jaxrnn.make_leaky(time_constant=1)
    _, hs = jaxrnn.unroll(cell, params, jaxrnn.LeakyState(plain.state.h), plain.xs)
    expected = jaxrnn.unroll(jaxrnn.elman, *plain[:3])[1]
    chex.assert_trees_all_close(hs, expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_each_unit_has_its_time_constant():
    """A network with fixed ones is that with trained ones set to them: 1/τ = σ(a)."""
    times = (1.5, 2.0, 4.0, 10.0, 100.0)
    case = problem(jaxrnn.leaky)
    trained = case.params._replace(a=-jnp.log(jnp.asarray(times) - 1))
    fixed, cell = trained._replace(a=None), jaxrnn.make_leaky(time_constant=times)
    value, expected = value_and_grads(
        jaxrnn.unroll, jaxrnn.leaky, case._replace(params=trained)
    )
    got, grads = value_and_grads(jaxrnn.unroll, cell, case._replace(params=fixed))
    expected = expected[0]._replace(a=None), *expected[1:]
    chex.assert_trees_all_close((got, grads), (value, expected), rtol=1e-10)


def test_initial_parameters():
    """What docstrings promise: biases, eigenvalues in the ring, time constants."""
    key = jax.random.key(0)
    ring = jaxrnn.make_lru(smallest=0.9, largest=0.99, phase=0.3).init(key, 3, 2000)
    modulus = np.exp(-np.exp(ring.nu))
    assert 0.899 < modulus.min() < 0.905 and 0.985 < modulus.max() < 0.9901
    assert 0 < np.exp(ring.theta).min() and 0.29 < np.exp(ring.theta).max() < 0.301
    np.testing.assert_allclose(np.exp(ring.g), np.sqrt(1 - modulus**2), rtol=1e-3)
    assert np.isfinite(jaxrnn.lru.init(key, 3, 2000).nu).all()

    assert not jaxrnn.leaky.init(key, 3, 4).a.any()  # τ = 1 + e⁰ = 2
    weights = jaxrnn.indrnn.init(key, 3, 1000).w_hh
    assert 0 <= weights.min() < 0.01 and 0.99 < weights.max() < 1
    for name in ("peephole_lstm", "coupled_lstm", "layer_norm_lstm", "slstm"):
        params = FIELD[name].init(key, 3, 4)
        order = params.gates.order
        bias = dict(zip(order, np.split(np.asarray(params.b), len(order)), strict=True))
        assert all((b == (gate == "f")).all() for gate, b in bias.items())
    params = FIELD["projected_lstm"].init(key, 3, 4)
    chex.assert_shape([params.w_hh, params.w_hr], [(3, 16), (4, 3)])


def test_units_of_minimal_cells_remember_as_drawn():
    """`chrono`, where a gate that admits content is 1 - that which keeps the state."""
    for cell, hidden in ((jaxrnn.min_gru, 50), (jaxrnn.min_lstm, 50), (jaxrnn.mgu, 50)):
        before = cell.init(jax.random.key(0), 1, hidden)
        params = jaxrnn.initializers.chrono(jax.random.key(1), before, 100.0)
        silent = jax.tree.map(lambda p: p if p.ndim == 1 else 0 * p, params)
        start = cell.initial_state(params, ())._replace(h=jnp.ones(hidden))
        after, _ = jaxrnn.step(cell, silent, start, jnp.zeros(1))
        times = after.h / (1 - after.h)  # τ of τ / (τ + 1)
        assert 0.99 < times.min() < 20 and 70 < times.max() < 99.1


def test_the_same_arguments_are_the_same_cell():
    assert jaxrnn.make_lstm() is jaxrnn.lstm
    assert jaxrnn.make_gru() is jaxrnn.gru
    assert jaxrnn.make_indrnn() is jaxrnn.indrnn
    assert jaxrnn.make_leaky(time_constant=3) is jaxrnn.make_leaky(time_constant=3.0)
    assert jaxrnn.make_lru() is jaxrnn.lru
    assert jaxrnn.make_lstm(peephole=True) is FIELD["peephole_lstm"]
    assert jaxrnn.make_min_gru(parallel=True) is FIELD["parallel_min_gru"]


@pytest.mark.parametrize("name", FIELD)
def test_a_cell_can_be_pickled(name):
    assert pickle.loads(pickle.dumps(FIELD[name])) == FIELD[name]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_of_activations(name):
    """As functions of the value, against autodiff, away from corners."""
    zs = jnp.linspace(-4.01, 4.03, 41)
    value, slope = ACTIVATIONS[name]
    expected = jax.vmap(jax.grad(lambda z: value(z)))(zs)
    np.testing.assert_allclose(slope(value(zs)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("as_users_see_it")
def test_wrong_arguments():
    with pytest.raises(
        ValueError, match=r"`activation` must be one of tanh, .*'swish'"
    ):
        jaxrnn.make_lstm(activation="swish")
    with pytest.raises(ValueError, match="`gate_activation` must be one of tanh"):
        jaxrnn.make_gru(gate_activation=jnp.tanh)
    with pytest.raises(TypeError, match="`peephole` must be True or False, but got 1"):
        jaxrnn.make_lstm(peephole=1)
    with pytest.raises(ValueError, match="`projection` must be an integer ≥ 1"):
        jaxrnn.make_lstm(projection=0)
    with pytest.raises(
        ValueError, match=r"at least 1, or a tuple of them, but got 0\.5"
    ):
        jaxrnn.make_leaky(time_constant=0.5)
    with pytest.raises(TypeError, match="`time_constant` must be a number of steps"):
        jaxrnn.make_leaky(time_constant="slow")
    with pytest.raises(ValueError, match="the moduli must be 0 ≤ `smallest`"):
        jaxrnn.make_lru(smallest=0.9, largest=0.5)
    with pytest.raises(ValueError, match="`phase` must be a number above 0, but got 0"):
        jaxrnn.make_lru(phase=0)
    with pytest.raises(ValueError, match=r"`hidden_size` must be even.* but got 5"):
        jaxrnn.lru.init(jax.random.key(0), 3, 5)
    with pytest.raises(ValueError, match="has 2 numbers, but there are 4 units"):
        cell = jaxrnn.make_leaky(time_constant=(2.0, 3.0))
        cell.initial_state(cell.init(jax.random.key(0), 3, 4), ())
    with pytest.raises(ValueError, match=r"`w_f` must have shape \(4, 4\), but got"):
        params = jaxrnn.mgu.init(jax.random.key(0), 3, 4)
        jaxrnn.mgu.initial_state(params._replace(w_f=jnp.ones((4, 3))), ())
