"""The optimizer clips, and its rate rises and falls."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config.schema import Optimizer
from experiments.training.optimizer import learning_rate, make_optimizer


def test_the_optimizer_clips_and_its_rate_rises_and_falls():
    config = Optimizer(
        steps=100, batch_size=1, learning_rate=0.1, warmup=0.1, final_rate=0.5
    )
    optimizer = make_optimizer(config)
    update, state, sizes = jax.jit(optimizer.update), optimizer.init(jnp.zeros(2)), []
    for number in range(100):
        # Adam's steps are larger while a gradient grows. Clipped, this one is constant.
        moved, state = update(jnp.array([3.0, 4.0]) * 1.2**number, state)
        sizes.append(float(jnp.abs(moved).max()))
    rates = np.array(sizes)
    assert rates[0] == 0 and (rates <= 0.1 * (1 + 1e-3)).all()
    np.testing.assert_allclose(rates[10], 0.1, rtol=1e-3)
    np.testing.assert_allclose(rates[-1], 0.05, rtol=0.02)
    # What is exported is the rate that is used: Adam's steps are as large as it.
    expected = [float(learning_rate(config)(number)) for number in (5, 10, 60)]
    np.testing.assert_allclose(rates[[5, 10, 60]], expected, rtol=1e-3)


def test_a_rise_over_all_steps_leaves_one_for_the_fall():
    """Otherwise optax refuses."""
    config = Optimizer(steps=2, batch_size=1, learning_rate=0.1, warmup=0.9)
    assert learning_rate(config)(0) == 0 and np.isclose(learning_rate(config)(1), 0.1)
