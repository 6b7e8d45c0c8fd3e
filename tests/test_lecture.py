"""The library held to the lecture on training recurrent networks.

docs/derivation.md derives these equations, for a network of scalars whose weights are
W₁ (`w_ih`), Wₘ (`w_hh`) and W₂ (a `dense` layer), without biases:

    z[t] = w₁ x[t] + wₘ h[t-1],    h[t] = f(z[t]),    y[t] = f(w₂ h[t])

    ∂h[i]/∂wₘ = ḟ(z[i]) (h[i-1] + wₘ ∂h[i-1]/∂wₘ),     ∂h[0]/∂wₘ = 0                 (1)
    ∂y[t]/∂wₘ = Σ_{i=1…t}  w₂ ḟ(w₂ h[t]) · wₘ^{i-1} Π_{j=0…i-1} ḟ(z[t-j]) · h[t-i]   (2)
    ∂y[t]/∂h[t-i] = w₂ ḟ(w₂ h[t]) · wₘ^i Π_{j=0…i-1} ḟ(z[t-j])                       (3)

    λ[t] = w₂ ḟ(w₂ h[t]) ∂R̂/∂y[t] + wₘ ḟ(z[t+1]) λ[t+1],     λ[T+1] = 0
    dR̂/dwₘ = Σ_t λ[t] ḟ(z[t]) h[t-1]                                                 (4)

(1) is the page's (a), (2) its (b), (4) its (c), and (3) its (d).
"""

import itertools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxrnn
from jaxrnn.layers import DenseParams, dense
from jaxrnn.losses import masked_sum

pytestmark = pytest.mark.usefixtures("x64")

RTOL = 1e-10


class Scalars(NamedTuple):
    """The weights of the scalar network, and its first state."""

    w_1: float = 0.8
    w_m: float = 0.9
    w_2: float = 1.3
    h_0: float = 0.6


# f and ḟ of z, by their textbook forms, and nothing of jaxrnn.
ACTIVATIONS = {
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "logistic": (
        lambda z: 1 / (1 + np.exp(-z)),
        lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2,
    ),
    "relu": (lambda z: max(z, 0.0), lambda z: float(z > 0)),
    "identity": (lambda z: z, lambda z: 1.0),
}
each_activation = pytest.mark.parametrize("name", ["tanh", "logistic", "relu"])

SIZE = 7
# Not all of one sign, and yet no state of a relu dies.
XS = np.array([0.5, -0.3, 1.1, 0.2, -0.4, 0.9, 0.7])
LABELS = np.array([0.3, -0.8, 0.1, 0.9, 0.4, -0.2, 0.6])


# The lecture, in plain Python.


def forward(name, w, xs, fed_back=False):
    """z, h and y, each a list in which [t] is the lecture's [t]; fed back: x[t] =
    y[t-1], t > 1."""
    f, _ = ACTIVATIONS[name]
    zs, hs, ys = [None], [w.h_0], [None]
    for t in range(1, len(xs) + 1):
        x = ys[t - 1] if fed_back and t > 1 else xs[t - 1]
        zs.append(w.w_1 * x + w.w_m * hs[t - 1])
        hs.append(f(zs[t]))
        ys.append(f(w.w_2 * hs[t]))
    return zs, hs, ys


def by_recursion(name, w, xs, fed_back=False):
    """∂y[t]/∂wₘ for t = 1 … T by (1); an input y[t-1] depends on wₘ as well."""
    _, df = ACTIVATIONS[name]
    zs, hs, _ = forward(name, w, xs, fed_back)
    dh, dys = 0.0, []
    for i in range(1, len(xs) + 1):
        dx = dys[-1] if fed_back and i > 1 else 0.0
        dh = df(zs[i]) * (hs[i - 1] + w.w_m * dh + w.w_1 * dx)  # (1)
        dys.append(w.w_2 * df(w.w_2 * hs[i]) * dh)
    return np.array(dys)


def terms(name, w, xs, t):
    """The terms of the sum (2), of the lags i = 1 … t."""
    _, df = ACTIVATIONS[name]
    zs, hs, _ = forward(name, w, xs)
    at_output = w.w_2 * df(w.w_2 * hs[t])
    return [
        at_output
        * w.w_m ** (i - 1)
        * np.prod([df(zs[t - j]) for j in range(i)])
        * hs[t - i]
        for i in range(1, t + 1)
    ]


def factor(name, w, xs, t, i):
    """∂y[t]/∂h[t-i], (3)."""
    _, df = ACTIVATIONS[name]
    zs, hs, _ = forward(name, w, xs)
    slopes = np.prod([df(zs[t - j]) for j in range(i)])
    return w.w_2 * df(w.w_2 * hs[t]) * w.w_m**i * slopes


def by_adjoint(name, w, xs, on_ys):
    """dR̂/dwₘ and dR̂/dh[0] from ∂R̂/∂y[t], by (4)."""
    _, df = ACTIVATIONS[name]
    zs, hs, _ = forward(name, w, xs)
    back, dw_m = 0.0, 0.0  # back: wₘ ḟ(z[t+1]) λ[t+1]
    for t in range(len(xs), 0, -1):
        adjoint = w.w_2 * df(w.w_2 * hs[t]) * on_ys[t - 1] + back  # (4)
        dw_m += adjoint * df(zs[t]) * hs[t - 1]
        back = w.w_m * df(zs[t]) * adjoint
    return dw_m, back


def by_differences(name, w, xs):
    """∂y[t]/∂wₘ by central differences."""
    step = 1e-5
    up, down = (
        np.array(forward(name, w._replace(w_m=w.w_m + d), xs)[2][1:])
        for d in (step, -step)
    )
    return (up - down) / (2 * step)


# The same network, made of jaxrnn.

OUTPUT = {"tanh": jnp.tanh, "logistic": jax.nn.sigmoid, "relu": jax.nn.relu}


def network(w):
    """The parameters of the cell and of the output, and the first state."""
    w_1, w_m, w_2, h_0 = (jnp.asarray(a, float).reshape(1, 1) for a in w)
    cell = jaxrnn.ElmanParams(w_1, w_m, jnp.zeros(1))
    return cell, DenseParams(w_2, jnp.zeros(1)), jaxrnn.ElmanState(h_0[0])


def outputs(name, w, xs, **options):
    """y [T]."""
    params, output, state = network(w)
    options = {"chunk": 3} | options
    _, hs = jaxrnn.unroll(
        jaxrnn.make_elman(name), params, state, xs[:, None], **options
    )
    return OUTPUT[name](dense(1).unroll(output, (), hs)[1])[:, 0]


def outputs_fed_back(name, w, xs):
    """y [T] where x[1] = xs[0] and x[t] = y[t-1]: step by step, as nothing else can
    be."""
    params, output, state = network(w)

    def over_step(carry, _):
        state, x = carry
        state, h = jaxrnn.step(jaxrnn.make_elman(name), params, state, x)
        y = OUTPUT[name](dense(1).step(output, (), h)[1])
        return (state, y), y

    return lax.scan(over_step, (state, xs[:1]), length=xs.shape[0])[1][:, 0]


def error(y, v):
    return (
        y - v
    ) ** 2 + 1  # not 0 at y = v, so that a label that is empty and counted shows


def assert_close(got, expected, rtol=RTOL):
    expected = jax.tree.map(np.asarray, expected)
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=0)


@each_activation
def test_the_gradient_of_every_output(name):
    """∂y[t]/∂wₘ for all t: the recursion, the expanded sum, differences and the
    library agree."""
    w = Scalars()
    ys, got = jax.jit(lambda w: (outputs(name, w, jnp.asarray(XS)), jacobian(name, w)))(
        w
    )
    assert_close(ys, np.array(forward(name, w, XS)[2][1:]))
    assert (np.abs(got) > 1e-3).all()  # alive
    assert_close(got, by_recursion(name, w, XS))  # (1)
    assert_close(
        got, np.array([sum(terms(name, w, XS, t)) for t in range(1, SIZE + 1)])
    )  # (2)
    # Its own error: 1e-10 of the third derivative, and rounding, 1e-16 / 1e-5.
    assert_close(got, by_differences(name, w, XS), rtol=1e-7)


def jacobian(name, w):
    return jax.jacrev(lambda w: outputs(name, w, jnp.asarray(XS)))(w).w_m


@each_activation
def test_one_pass_back_serves_all_labels(name):
    """dR̂/dwₘ of a whole loss: the sum over the outputs' gradients, and (4)."""
    w = Scalars()
    got = jax.jit(
        jax.grad(lambda w: jnp.sum(error(outputs(name, w, jnp.asarray(XS)), LABELS)))
    )(w)
    on_ys = 2 * (np.array(forward(name, w, XS)[2][1:]) - LABELS)
    assert_close(got.w_m, on_ys @ by_recursion(name, w, XS))
    dw_m, dh_0 = by_adjoint(name, w, XS, on_ys)
    assert_close((got.w_m, got.h_0), (dw_m, dh_0))


FEW = 5
KINDS = {
    # name: (inputs, fed back, the labels that may be there)
    "many-to-many": (XS[:FEW], False, range(FEW)),
    "many-to-one": (XS[:FEW], False, [FEW - 1]),
    "one-to-many": (np.where(np.arange(FEW) == 0, XS[:FEW], 0.0), False, range(FEW)),
    "one-to-many, fed back": (XS[:FEW], True, range(FEW)),
}


@pytest.mark.parametrize("name", ["tanh", "logistic"])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_labels(kind, name):
    """Of any subset of the labels, the gradient is the sum of theirs; of none, exactly
    zero."""
    xs, fed_back, possible = KINDS[kind]
    run = outputs_fed_back if fed_back else outputs
    w = Scalars()

    @jax.jit
    @jax.value_and_grad
    def loss_and_grad(w, labels, mask):
        return masked_sum(error, run(name, w, jnp.asarray(xs)), labels, mask)

    ys = np.array(forward(name, w, xs, fed_back)[2][1:])
    errors = ys - LABELS[:FEW]
    per_label = 2 * errors * by_recursion(name, w, xs, fed_back)
    for there in itertools.product(
        *([False, True] if t in possible else [False] for t in range(FEW))
    ):
        mask = np.array(there)
        empty = np.where(
            mask, LABELS[:FEW], np.nan
        )  # what stands for an empty label is no number
        loss, grad = loss_and_grad(w, jnp.asarray(empty), jnp.asarray(mask))
        assert_close(loss, np.sum(errors[mask] ** 2 + 1))
        # Operation by operation: within one program, and `a * mask` of jnp is one,
        # XLA:CPU makes a selection of a product with bools, which hides that NaN · 0 is
        # NaN.
        with jax.disable_jit():
            alone = masked_sum(
                error, jnp.asarray(ys), jnp.asarray(empty), jnp.asarray(mask)
            )
        assert_close(alone, np.sum(errors[mask] ** 2 + 1))
        assert_close(
            grad.w_m, np.sum(per_label[mask]), rtol=1e-9
        )  # a sum of both signs
        if not mask.any():
            chex.assert_trees_all_equal(
                (loss, grad), (0.0, Scalars(0.0, 0.0, 0.0, 0.0))
            )


@each_activation
def test_the_factor_of_a_state_some_steps_back(name):
    """∂y[t]/∂h[t-i] by starting at h[t-i] is the product (3)."""
    w = Scalars()
    _, hs, _ = forward(name, w, XS)
    by_start = jax.jit(jax.grad(lambda w, xs: outputs(name, w, xs)[-1]))
    for t, i in ((SIZE, 1), (SIZE, 4), (SIZE - 1, 4), (SIZE, SIZE)):
        got = by_start(w._replace(h_0=float(hs[t - i])), jnp.asarray(XS[t - i : t])).h_0
        assert_close(got, factor(name, w, XS, t, i))


def over_lags(name, w_m):
    """∂h[i]/∂h[0], the factor of i steps, for some i."""
    params, _, state = network(Scalars(w_m=w_m))

    @jax.jit
    @jax.grad
    def of_state(state, xs):
        return jaxrnn.unroll(jaxrnn.make_elman(name), params, state, xs)[1][-1, 0]

    return {
        i: of_state(state, jnp.asarray(np.resize(XS, (i, 1)))).h.item()
        for i in (1, 8, 40)
    }


@pytest.mark.parametrize(
    ("name", "w_m", "slope"), [("logistic", 2.0, 0.25), ("tanh", 0.9, 1.0)]
)
def test_the_gradient_vanishes(name, w_m, slope):
    """Below (wₘ max ḟ)^i, strictly, since no z stays where the slope is greatest; but
    never 0."""
    for i, got in over_lags(name, w_m).items():
        assert 0 < got < (w_m * slope) ** i


def test_the_gradient_explodes():
    """Linear, wₘ = 1.1: exactly 1.1^i."""
    for i, got in over_lags("identity", 1.1).items():
        assert_close(got, 1.1**i)


@each_activation
def test_truncation_leaves_the_recent_terms(name):
    """The second remedy: of y[T], with windows of k steps dividing T, the first k
    terms of (2)."""
    xs, w = XS[:6], Scalars()
    for k in (1, 2, 3, 6):
        got = jax.jit(
            jax.grad(lambda w, k=k: outputs(name, w, jnp.asarray(xs), truncate=k)[-1])
        )(w)
        assert_close(got.w_m, sum(terms(name, w, xs, 6)[:k]))


def test_a_gate_keeps_the_gradient():
    """The third remedy: with no way round by h, ∂c[T]/∂c[0] is the product of the
    forget gates."""
    size, forget = 100, 5.0
    params = jaxrnn.LSTMParams(
        w_ih=jnp.array([[0.3, 0.5, -0.7, 0.2]]),  # i f g o
        w_hh=jnp.zeros((1, 4)),
        b=jnp.array([0.0, forget, 0.0, 0.0]),
    )
    xs = np.resize(XS, (size, 1))

    @jax.jit
    @jax.grad
    def of_memory(c):
        state = jaxrnn.LSTMState(jnp.zeros(1), c)
        return jaxrnn.unroll(jaxrnn.lstm, params, state, jnp.asarray(xs))[0].c[0]

    got = of_memory(jnp.array([0.6]))
    assert_close(got[0], np.prod(1 / (1 + np.exp(-(0.5 * xs + forget)))))
    assert got[0] > 0.4  # 100 steps back; σ(5)^100 is a half
