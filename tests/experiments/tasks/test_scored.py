"""Tasks of labelled sequences: what is probed, and batches by their number."""

import jax
import numpy as np
import pytest

import jaxrnn
from experiments.config.load import load_config
from experiments.tasks import Config, scored
from experiments.tasks.sequences import PROBING, numbered

SMALL = ["model.hidden_size=8", "optimizer.batch_size=3"]
CASES = {
    "recall/elman_tanh": "lag=4",
    "truncation/recall_stream_lstm": "lag=4",
    "classical/adding_100_irnn": "length=6",
    "classical/temporal_order_lstm": "seed=0",
}


@pytest.fixture(scope="module", params=CASES)
def made(request):
    """A config, and the task made of it."""
    settings = [*SMALL, CASES[request.param]]
    config = load_config(Config, f"configs/{request.param}.toml", settings)
    return config, config.make(lambda sentence: None)


def test_what_is_probed_is_the_loss_that_trains(made):
    """One label each, at the last step: their sum is B times the mean."""
    config, task = made
    params = task.init(jax.random.key(0))
    xs, loss = task.probe(params)
    drawn = config.draw(numbered(config.seed, 0, PROBING), scored.DRAWN)
    batch = scored._of_one_length(drawn)
    np.testing.assert_array_equal(xs, batch.xs)
    assert batch.mask[-1].all() and batch.mask.sum() == xs.shape[1] == scored.PROBED
    trains, _ = task.loss_fn(params, None, batch)
    last, hs = jaxrnn.unroll(task.cell, params.cell, None, xs)
    np.testing.assert_allclose(loss(last, hs), scored.PROBED * trains, rtol=1e-5)


def test_a_batch_depends_on_its_number_alone(made):
    """Asked for in any order and by anyone: what exact resumption will rest on."""
    config, task = made
    again = config.make(lambda sentence: None)
    batches = [task.batch(number)[1] for number in range(4)]
    for number in (3, 0, 2):
        jax.tree.map(
            np.testing.assert_array_equal, again.batch(number)[1], batches[number]
        )
    assert not np.array_equal(batches[0].xs, batches[1].xs)
    other = load_config(Config, "configs/recall/elman_tanh.toml", [*SMALL, "seed=1"])
    same = load_config(Config, "configs/recall/elman_tanh.toml", SMALL)
    assert not np.array_equal(
        other.draw(numbered(other.seed, 0), 3).xs,
        same.draw(numbered(same.seed, 0), 3).xs,
    )


def test_only_a_stream_has_a_state_and_it_starts_once(made):
    config, task = made
    stream = type(config).__name__ == "RecallStream"
    starts = [task.batch(number)[0] is not None for number in range(3)]
    assert starts == [stream, False, False]
    if stream:
        first, second = task.batch(0)[0], task.batch(0)[0]
        assert not first.h.any() and first.h.shape == (3, 8)
        first.h.delete()  # the step takes it
        assert not second.h.any()
        params = task.init(jax.random.key(0))
        assert task.loss_fn(params, second, task.batch(0)[1])[1] is not None
