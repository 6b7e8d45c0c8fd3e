"""An excitatory-inhibitory network that learns to decide, and its Lyapunov spectrum.

Two noisy inputs last 40 steps, and their means differ by a little. At the end the
network says which mean is higher. One step of input says next to nothing, so it has to
add evidence up. The best possible accuracy is known: that of whoever adds up all steps.

By Dale's law a neuron excites all the neurons it projects to, or inhibits them all.
That takes no new cell, only a map of the parameters: the optimizer moves a free matrix,
and the network runs with `sign[:, None] * softplus(free)`. JAX differentiates the map,
and the gradient through time stays exact. Rates are positive, and only the excitatory
neurons, four in five, are read.

The largest Lyapunov exponent is the mean logarithm of the factor by which a small
difference between two states grows per step. Below 0, the network forgets with a time
constant of -1 / exponent steps: two steps before training. To add up 40 steps it has to
forget more slowly than that, so training moves the exponent close to 0.

    command   python examples/ei_rate_network.py
    time      22 s on two cores of an AMD EPYC
    result    83.5% correct, of 86.4% possible; exponent -0.454 before, -0.003 after

`--quick` is a short run, the one that the tests make.

Source: Song, Yang & Wang (2016), PLoS Computational Biology 12, e1004792.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.scipy.stats import norm

import jaxrnn

STRENGTHS = (0.05, 0.1, 0.2, 0.4)  # the differences of the two means
NOISE = 0.5
EXCITATORY = 0.8

# Rates that are never 0, so that no Jacobian is singular.
cell = jaxrnn.make_elman((jax.nn.softplus, jax.nn.sigmoid))


class Free(NamedTuple):
    """What the optimizer moves: the cell's parameters before the map, and a readout."""

    cell: jaxrnn.ElmanParams
    w_out: Array


class Result(NamedTuple):
    """Accuracies on new trials, and Lyapunov exponents `[k]` before and after."""

    accuracy: float
    best_possible: float
    before: Array
    after: Array


def signs(units: int) -> Array:
    """Returns 1 for excitatory neurons and -1 for inhibitory ones, `[H]`."""
    return jnp.where(jnp.arange(units) < round(EXCITATORY * units), 1.0, -1.0)


def dale(q: jaxrnn.ElmanParams) -> jaxrnn.ElmanParams:
    """Returns the network's parameters: row i of `w_hh` has the sign of neuron i."""
    sign = signs(len(q.w_hh))
    return q._replace(w_hh=sign[:, None] * jax.nn.softplus(q.w_hh))


def init(key: Array, units: int) -> Free:
    """Draws a network in which excitation and inhibition balance."""
    key_cell, key_weights = jax.random.split(key)
    sign = signs(units)
    # Inhibitory neurons are fewer by this factor, so each is stronger by it.
    ratio = EXCITATORY / (1 - EXCITATORY)
    strength = jax.random.gamma(key_weights, 2.0, (units, units))
    strength *= jnp.where(sign > 0, 1.0, ratio)[:, None]
    params = cell.init(key_cell, 2, units)
    params = params._replace(w_hh=sign[:, None] * strength)
    params = jaxrnn.initializers.spectral_radius(params, 1.0)
    q = params._replace(w_hh=jnp.log(jnp.expm1(jnp.abs(params.w_hh))))
    return Free(q, jnp.zeros((units, 2)))


def draw(key: Array, trials: int, steps: int) -> tuple[Array, Array, Array]:
    """Returns inputs `[T, B, 2]`, the higher input `[B]`, and the difference `[B]`."""
    key_choice, key_strength, key_noise = jax.random.split(key, 3)
    choice = jax.random.randint(key_choice, (trials,), 0, 2)
    strength = jax.random.choice(key_strength, jnp.array(STRENGTHS), (trials,))
    means = strength[:, None] * (jax.nn.one_hot(choice, 2) - 0.5)
    noise = NOISE * jax.random.normal(key_noise, (steps, trials, 2))
    return means + noise, choice, strength


def logits_of(free: Free, xs: Array) -> Array:
    """Returns the logits of the two choices, `[B, 2]`."""
    last, _ = jaxrnn.unroll(cell, dale(free.cell), None, xs)
    excitatory = signs(last.h.shape[-1]) > 0
    return jnp.where(excitatory, last.h, 0.0) @ free.w_out


def loss_fn(free: Free, state: None, batch: tuple) -> tuple[Array, None]:
    xs, choice, _ = batch
    loss = optax.softmax_cross_entropy_with_integer_labels(logits_of(free, xs), choice)
    return loss.mean(), state


@jax.jit
def exponents(free: Free, key: Array) -> Array:
    """Returns the three largest Lyapunov exponents `[3]` during a long trial."""
    xs = draw(key, 1, 500)[0][:, 0]
    return jaxrnn.flow.lyapunov_spectrum(
        cell, dale(free.cell), None, xs, 3, transient=100
    )


def best_possible(strength: Array, steps: int) -> float:
    """Returns the accuracy of a perfect integrator.

    The sum of the differences of the inputs has mean T · strength and variance
    2 T · NOISE².
    """
    return float(norm.cdf(strength * (steps / 2) ** 0.5 / NOISE).mean())


def main(arguments: list[str] | None = None) -> Result:
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=verbatim)
    parser.add_argument("--quick", action="store_true", help="a short run")
    quick = parser.parse_args(arguments).quick
    units, steps, updates = (20, 10, 300) if quick else (100, 40, 2000)

    start = time.perf_counter()
    key_init, key_test, key_flow, key = jax.random.split(jax.random.key(0), 4)
    free = init(key_init, units)
    before = exponents(free, key_flow)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    learner = jaxrnn.train.init_learner(free, optimizer)
    step = jaxrnn.train.make_step(jax.value_and_grad(loss_fn, has_aux=True), optimizer)
    draw_batch = jax.jit(draw, static_argnums=(1, 2))
    for key_batch in jax.random.split(key, updates):
        learner, _, _ = step(learner, None, draw_batch(key_batch, 64, steps))

    xs, choice, strength = draw(key_test, 4000, steps)
    correct = logits_of(learner.params, xs).argmax(axis=-1) == choice
    result = Result(
        float(correct.mean()),
        best_possible(strength, steps),
        before,
        exponents(learner.params, key_flow),
    )
    print(f"accuracy            {result.accuracy:.1%} of new trials")
    print(f"perfect integrator  {result.best_possible:.1%}")
    for when, values in (("before", result.before), ("after", result.after)):
        print(f"exponents {when:6s} ", *(f"{value:6.3f}" for value in values))
    print(f"{time.perf_counter() - start:.0f} s")
    return result


if __name__ == "__main__":
    main()
