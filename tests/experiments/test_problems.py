"""Made-up sequences ask for what was shown; who knows nothing loses what is published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from experiments import config, problems, schema, synthetic, tasks
from experiments.training import Console

RANDOM = 1234


def draw(name, batch_size, **options):
    return getattr(problems, name)(np.random.default_rng(RANDOM), batch_size, **options)


@pytest.mark.parametrize("length", [2, 7, 100])
def test_adding(length):
    values, marks = np.moveaxis((steps := draw("adding", 500, length=length)).xs, -1, 0)
    assert (marks[: length // 2].sum(0) == 1).all() and (
        marks[length // 2 :].sum(0) == 1
    ).all()
    assert 0 <= values.min() and values.max() < 1 and set(np.unique(marks)) <= {0, 1}
    np.testing.assert_allclose(
        steps.labels[-1], np.sum(values, axis=0, where=marks == 1)
    )
    assert steps.mask[-1].all() and not steps.mask[:-1].any()


def test_a_constant_answer_to_the_sum_is_off_by_a_sixth():
    """The mean of (U + V - 1)² is 1/6, its square's 1/15: five standard errors of 20,000 sums."""
    steps = draw("adding", 20_000, length=4)
    error = np.mean((steps.labels[-1] - 1) ** 2)
    assert abs(error - 1 / 6) < 5 * np.sqrt((1 / 15 - 1 / 36) / 20_000)
    ones = jnp.ones((4, 20_000, 1))
    measured = synthetic.problem_of(task_of("adding_100_lstm")).measure(
        ones, jnp.asarray(steps.labels), jnp.asarray(steps.mask)
    )
    np.testing.assert_allclose(measured["test_error"], error, rtol=1e-5)


def task_of(name):
    return config.load(schema.Config, f"configs/classical/{name}.toml")


@pytest.mark.parametrize("delay", [1, 100])
def test_copying(delay):
    steps = draw("copying", 50, delay=delay)
    ids = steps.xs.argmax(-1)
    assert steps.xs.shape == (delay + 20, 50, 10) and (steps.xs.sum(-1) == 1).all()
    np.testing.assert_array_equal(steps.labels[-10:], ids[:10])
    assert ids[:10].max() < 8 and steps.mask.all()
    assert (ids[10 : delay + 9] == 8).all() and (ids[delay + 9] == 9).all()
    assert (ids[delay + 10 :] == 8).all() and (steps.labels[: delay + 10] == 8).all()


def test_who_remembers_nothing_copies_at_the_published_loss():
    """Certain of the blanks, and of the symbols only that they are eight: 10 ln 8 / (T + 20)."""
    steps = draw("copying", 64, delay=100)
    logits = np.full((120, 64, 9), -1e9, np.float32)
    logits[:110, :, 8] = 0
    logits[110:, :, :8] = 0
    measure = synthetic.problem_of(task_of("copying_100_lstm")).measure
    measured = measure(
        jnp.asarray(logits), jnp.asarray(steps.labels), jnp.asarray(steps.mask)
    )
    np.testing.assert_allclose(measured["test_loss"], 10 * np.log(8) / 120, rtol=1e-5)
    np.testing.assert_allclose(measured["accuracy"], np.mean(steps.labels[-10:] == 0))


def test_temporal_order():
    steps = draw("temporal_order", 2000)
    ids, shown = steps.xs.argmax(-1), steps.xs[..., 2:4].any(-1)
    for b in range(2000):
        (end,) = np.flatnonzero(steps.mask[:, b])
        first, second = np.flatnonzero(shown[:, b])
        assert 10 <= first <= 20 and 50 <= second <= 60 and 99 <= end <= 109
        assert ids[0, b] == 0 and ids[end, b] == 1
        assert (np.delete(ids[1:end, b], [first - 1, second - 1]) >= 4).all()
        assert steps.labels[end, b] == 2 * (ids[first, b] - 2) + ids[second, b] - 2
    ends = steps.mask.argmax(0)
    assert set(ends) == set(range(99, 110)) and set(
        steps.labels[ends, range(2000)]
    ) == {0, 1, 2, 3}


@pytest.mark.parametrize("lag", [1, 2, 9])
def test_an_episode_to_recall(lag):
    steps = draw("recall", 200, lag=lag, symbols=4)
    ids = steps.xs.argmax(-1)
    np.testing.assert_array_equal(steps.labels[-1], ids[0])
    assert (
        ids[0].max() < 4
        and (ids[-1] == 8).all()
        and ((ids[1:-1] >= 4) & (ids[1:-1] < 8)).all()
    )
    assert steps.mask[-1].all() and steps.mask.sum() == 200


@pytest.mark.parametrize("window", [1, 4, 50])
def test_a_stream_of_episodes(window):
    """However it is cut: the label at a question is the symbol `lag` steps before."""
    lag, symbols, batch, size = 3, 4, 5, 200
    random = np.random.default_rng(0)
    cut = problems.recall_stream(random, batch, lag, symbols, window)
    xs, labels, mask = (
        np.concatenate(parts)
        for parts in zip(*(next(cut) for _ in range(size // window)), strict=True)
    )
    question = xs[..., -1] == 1
    np.testing.assert_array_equal(
        xs[..., :-1].sum(-1), 1 - question
    )  # one symbol, or a question
    shown = xs[..., :symbols].any(-1)
    for b in range(batch):
        asked = np.flatnonzero(question[:, b])
        assert (np.diff(asked) == lag + 1).all() and asked[0] <= lag
        known = asked[asked >= lag]
        np.testing.assert_array_equal(
            np.flatnonzero(shown[:, b])[: len(known)], known - lag
        )
        np.testing.assert_array_equal(np.flatnonzero(mask[:, b]), known)
        np.testing.assert_array_equal(
            labels[known, b], xs[known - lag, b, :symbols].argmax(-1)
        )
    assert (
        len({tuple(q) for q in question.T}) > 1
    )  # sequences begin at places of their own


@pytest.mark.parametrize(
    "name",
    [
        "recall/lstm",
        "recall_lstm",
        "classical/adding_100_irnn",
        "classical/temporal_order_lstm",
    ],
)
def test_what_is_probed_is_the_loss_that_trains(name):
    """Of sequences with one label each, at their last step: their sum is B times the mean."""
    settings = config.load(schema.Config, f"configs/{name}.toml")
    task = tasks.make(settings, Console(quiet=True))
    params = task.init(jax.random.key(0))
    xs, loss = task.probe(params)
    batch = draw_as_probed(settings)
    np.testing.assert_array_equal(xs, batch.xs)
    assert batch.mask[-1].all() and batch.mask.sum() == xs.shape[1] == synthetic.PROBED
    trains, _ = task.loss_fn(params, None, batch)
    last, hs = jaxrnn.unroll(task.cell, params.cell, None, xs)
    np.testing.assert_allclose(loss(last, hs), synthetic.PROBED * trains, rtol=1e-5)


def draw_as_probed(settings):
    """The probe's sequences, by the seed that `synthetic.make` says is its own."""
    seed = np.random.SeedSequence(settings.seed).spawn(3)[2]
    drawn = synthetic.problem_of(settings).draw(
        np.random.default_rng(seed), synthetic.DRAWN
    )
    return synthetic._of_one_length(drawn)


def test_of_copying_the_last_symbol_is_probed():
    task = tasks.make(task_of("copying_100_gru"), Console(quiet=True))
    params = task.init(jax.random.key(0))
    xs, loss = task.probe(params)
    last, hs = jaxrnn.unroll(task.cell, params.cell, None, xs)
    logits = hs[-1] @ params.readout.w + params.readout.b
    shown = xs[9].argmax(-1)  # the tenth symbol, asked for at the last step
    expected = -jax.nn.log_softmax(logits)[np.arange(synthetic.PROBED), shown].sum()
    np.testing.assert_allclose(loss(last, hs), expected, rtol=1e-5)
