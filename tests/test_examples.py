"""The examples: each runs in its short form, and reaches what it is there to show.

The thresholds lie between what the network has to reach and what its baseline can.
"""

import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FILES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
EXECUTED = {
    "ei_rate_network", "forecaster", "online_stream", "ppo_tmaze", "tagger",
    "translator",
}  # fmt: skip


def load(name):
    """Returns an example as a module, whatever else is named `examples`."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FILES[name])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here_and_shown_in_the_docs():
    page = (ROOT / "docs" / "examples.md").read_text()
    shown = re.findall(r'^--8<-- "examples/(\w+)\.py"$', page, re.MULTILINE)
    assert set(FILES) == EXECUTED
    assert sorted(shown) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_page_gives_the_result_at_the_head(name):
    """Word for word, beside the command."""
    head = FILES[name].read_text().split('"""')[1]
    page = (ROOT / "docs" / "examples.md").read_text()
    (command,) = re.findall(r"^    command +(.*)$", head, re.MULTILINE)
    (result,) = re.findall(r"^    result +(.*)$", head, re.MULTILINE)
    assert command == f"python examples/{name}.py"
    assert f"    {command}\n" in page
    assert re.search(rf"`{name}\.py`.*{re.escape(result)} \|$", page, re.MULTILINE)


def test_the_tagger_reads_in_both_directions(capsys):
    tagger = load("tagger")
    other, matched, unmatched = tagger.TAGS
    assert tagger.tags_of("a)(b(ab))(") == [
        other, unmatched, matched, other, matched, other, other, matched, matched,
        unmatched,
    ]  # fmt: skip

    result = tagger.main(["--quick"])
    # The forward GRU stays near 0.8 in the full run too.
    assert result.bidirectional > 0.95
    assert result.forward_alone < 0.9
    assert f"{result.bidirectional:.1%}" in capsys.readouterr().out


def test_the_agent_with_memory_finds_the_goal(capsys):
    ppo = load("ppo_tmaze")
    result = ppo.main(["--quick"])
    assert result.recurrent > 0.95
    assert abs(result.memoryless - 0.5) < 0.1
    assert f"{result.recurrent:.1%}" in capsys.readouterr().out


def test_the_maze():
    """A walk through a corridor of two cells, with steps into walls, and its end."""
    ppo = load("ppo_tmaze")
    maze = ppo.Maze(jnp.zeros(2, int), jnp.array([ppo.LEFT, ppo.RIGHT]))
    np.testing.assert_array_equal(ppo.look(maze, 2), [[1, 0, 0, 1], [0, 1, 0, 1]])
    rewards, ends = [], []
    for action in (ppo.LEFT, ppo.AHEAD, ppo.AHEAD, ppo.AHEAD, ppo.LEFT):
        seen = ppo.look(maze, 2)
        maze, reward, done = ppo.move(jax.random.key(0), maze, jnp.full(2, action), 2)
        rewards.append(reward)
        ends.append(done)
    np.testing.assert_array_equal(seen, [[0, 0, 1, 1], [0, 0, 1, 1]])
    wall = np.float32(-0.05)
    np.testing.assert_array_equal(
        rewards, [[wall, wall], [0, 0], [0, 0], [wall, wall], [1, 0]]
    )
    np.testing.assert_array_equal(ends, [[False, False]] * 4 + [[True, True]])
    np.testing.assert_array_equal(maze.place, [0, 0])


def test_the_advantages_are_sums_over_the_rest_of_an_episode():
    """A[t] = Σ_k (γ λ)ᵏ δ[t+k], over the steps up to the episode's end."""
    ppo = load("ppo_tmaze")
    random = np.random.default_rng(0)
    size, end = 6, 3
    reward, value = random.normal(size=(2, size))
    after = 0.7
    rollout = ppo.Rollout(
        *[jnp.zeros((size, 1))] * 4,
        value=jnp.asarray(value, jnp.float32)[:, None],
        reward=jnp.asarray(reward, jnp.float32)[:, None],
        done=(jnp.arange(size) == end)[:, None],
    )
    following = np.append(value[1:], after)
    following[end] = 0
    delta = reward + ppo.DISCOUNT * following - value
    expected = [
        sum(
            (ppo.DISCOUNT * ppo.GAE_DECAY) ** (k - t) * delta[k]
            for k in range(t, (end if t <= end else size - 1) + 1)
        )
        for t in range(size)
    ]
    actual = ppo.advantages(rollout, jnp.array([after]))
    np.testing.assert_allclose(actual[:, 0], expected, rtol=1e-5)


def test_the_network_under_dales_law_learns_to_integrate(capsys):
    example = load("ei_rate_network")
    result = example.main(["--quick"])
    # The best accuracy of whoever looks at a single step.
    strengths = jnp.array(example.STRENGTHS)
    single = example.best_possible(strengths, 1)
    assert single < 0.65 < 0.9 * result.best_possible < result.accuracy
    # Three standard errors of a mean over 4000 trials.
    assert result.accuracy < result.best_possible + 3 * 0.5 / 4000**0.5
    assert result.before[0] < -0.5
    assert abs(result.after[0]) < 0.3
    assert f"{result.accuracy:.1%}" in capsys.readouterr().out


def test_the_map_keeps_dales_law():
    """For any free matrix, all weights of a neuron have its sign."""
    example = load("ei_rate_network")
    free = example.init(jax.random.key(0), 10).cell
    drawn = jax.random.normal(jax.random.key(1), free.w_hh.shape)
    w_hh = example.dale(free._replace(w_hh=5 * drawn)).w_hh
    assert (w_hh[:8] > 0).all() and (w_hh[8:] < 0).all()
    # And the first network's spectral radius is the one that was asked for.
    eigenvalues = np.linalg.eigvals(example.dale(free).w_hh)
    np.testing.assert_allclose(np.abs(eigenvalues).max(), 1.0, rtol=1e-4)


def test_the_forecaster_and_its_stream(capsys):
    forecaster = load("forecaster")
    result = forecaster.main(["--quick"])
    assert forecaster.NOISE < result.network < 0.8 * result.same_hour
    assert result.same_hour < result.last_value
    assert result.stream_difference < 1e-5
    assert f"{result.network:.3f}" in capsys.readouterr().out


def test_the_series_and_its_baselines():
    forecaster = load("forecaster")
    day, horizon = forecaster.DAY, forecaster.HORIZON
    series = forecaster.draw(np.random.default_rng(0), 1000, 300)
    assert abs(np.isnan(series).mean() - forecaster.MISSING) < 0.01

    # On hours counted from 0, with one gap: what lies k hours ahead, and what was last.
    hours = np.arange(4 * day, dtype=np.float32)[:, None]
    targets = forecaster.targets_of(jnp.asarray(hours))
    ahead = np.arange(1, horizon + 1)
    np.testing.assert_array_equal(targets[30, 0], 30 + ahead)
    assert jnp.isnan(targets[-1]).all()
    hours[[40, 41]] = np.nan
    np.testing.assert_array_equal(forecaster.last_value(hours)[41, 0], [39] * horizon)
    expected = 62 + ahead - day
    expected[ahead == 2] -= day  # hour 64, after hour 40, which is missing
    expected[ahead == 3] -= day
    np.testing.assert_array_equal(forecaster.same_hour(hours)[62, 0], expected)


def test_the_stream_that_changes(capsys):
    example = load("online_stream")
    result = example.main(["--quick"])
    assert example.NOISE < result.before < 0.3
    assert example.NOISE < result.after < 0.3
    # A forecast of 0 has an error of 1; one for the old pipe, of √2.
    assert result.frozen > 1 and result.window_1 > 1.3 * result.after
    assert f"{result.after:.3f}" in capsys.readouterr().out


def test_the_valve_and_the_sensor():
    example = load("online_stream")
    valve, sensor = example.draw(np.random.default_rng(0), 1000, 4)
    assert valve.shape == (1000, 1) and sensor.shape == (1000,)
    left = sensor[4:] - valve[:-4, 0]
    np.testing.assert_allclose(left.std(), example.NOISE, rtol=0.1)


def test_the_translator(capsys):
    translator = load("translator")
    result = translator.main(["--quick"])
    assert result.without_encoder < 0.01 and 0.4 < result.greedy < result.beam
    assert f"{result.beam:.1%}" in capsys.readouterr().out


def test_numbers_in_words():
    """Read back, by sums and products; those of the test are not drawn in training."""
    translator = load("translator")
    worth = {word: n for n, word in enumerate(translator.SMALL)}
    worth |= {word: 10 * n for n, word in enumerate(translator.TENS, 2)}

    def number_of(words):
        total = group = 0
        for word in words:
            if word == "thousand":
                total, group = 1000 * group, 0
            else:
                group = 100 * group if word == "hundred" else group + worth[word]
        return total + group

    for new in (True, False):
        batch = translator.draw(np.random.default_rng(0), 300, new, 0.0)
        for b in range(300):
            words = np.asarray(batch.words)[: batch.word_counts[b], b]
            number = number_of(translator.WORDS[i] for i in words)
            *digits, end = np.asarray(batch.digits)[: batch.digit_counts[b], b]
            assert "".join(map(str, digits)) == str(number) and end == translator.END
            assert translator.NEW[number] == new
        assert (batch.digits[batch.digit_counts - 1, np.arange(300)] == end).all()
    assert len(set(np.asarray(batch.digit_counts))) > 4
