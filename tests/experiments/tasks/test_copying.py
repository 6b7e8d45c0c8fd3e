"""Copying memory: what is asked for, and what a model without memory loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from experiments.config.load import load_config
from experiments.tasks import Config, scored
from experiments.tasks.copying import BLANK
from experiments.tasks.sequences import numbered


def copying(*settings):
    path = "configs/classical/copying_100_gru.toml"
    return load_config(Config, path, settings)


def draw(batch_size, delay):
    return copying(f"delay={delay}").draw(numbered(1234, 0), batch_size)


@pytest.mark.parametrize("delay", [1, 100])
def test_ten_symbols_are_repeated(delay):
    steps = draw(50, delay)
    ids = steps.xs.argmax(-1)
    assert steps.xs.shape == (delay + 20, 50, 10) and (steps.xs.sum(-1) == 1).all()
    np.testing.assert_array_equal(steps.labels[-10:], ids[:10])
    assert ids[:10].max() < 8 and steps.mask.all()
    assert (ids[10 : delay + 9] == 8).all() and (ids[delay + 9] == 9).all()
    assert (ids[delay + 10 :] == 8).all() and (steps.labels[: delay + 10] == 8).all()


def test_a_model_without_memory_has_the_published_loss():
    """Certain of the blanks, and of the symbols only that they are eight."""
    steps = draw(64, 100)
    logits = np.full((120, 64, 9), -1e9, np.float32)
    logits[:110, :, 8] = 0
    logits[110:, :, :8] = 0
    measured = scored.score(
        scored.LOSSES["cross_entropy"],
        jnp.asarray(logits),
        jnp.asarray(steps.labels),
        jnp.asarray(steps.mask),
        uncounted=BLANK,
    )
    np.testing.assert_allclose(measured["test_loss"], 10 * np.log(8) / 120, rtol=1e-5)
    np.testing.assert_allclose(measured["accuracy"], np.mean(steps.labels[-10:] == 0))


def test_the_last_symbol_is_probed():
    config = copying("model.hidden_size=8", "delay=3")
    task = config.make(lambda sentence: None)
    params = task.init(jax.random.key(0))
    xs, loss = task.probe(params)
    last, hs = jaxrnn.unroll(task.cell, params.cell, None, xs)
    logits = hs[-1] @ params.readout.w + params.readout.b
    shown = xs[9].argmax(-1)  # the tenth symbol, asked for at the last step
    expected = -jax.nn.log_softmax(logits)[np.arange(scored.PROBED), shown].sum()
    np.testing.assert_allclose(loss(last, hs), expected, rtol=1e-5)
