"""Two known dependencies: what can be known of the labels, and how they are learned."""

import itertools
import json

import jax
import numpy as np
import optax
import pytest

from experiments.config.load import ConfigError, load_config
from experiments.models.online import RULES
from experiments.tasks import Config
from experiments.tasks.dependencies import cross_entropy
from experiments.tasks.sequences import numbered
from tests.experiments.conftest import make_run

PATH = "configs/online/dependencies.toml"
SMALL = ["model.hidden_size=6", "optimizer.batch_size=3", "first=2", "second=3"]


def load(*settings):
    return load_config(Config, PATH, [*SMALL, *settings])


@pytest.mark.parametrize(
    ("seen", "level"), [(1, "none"), (2, "first"), (3, "both"), (5, "both")]
)
def test_what_a_memory_can_reach(seen, level):
    """Over all histories of 5 bits, of which the last `seen` are known."""
    chances = {}
    for bits in itertools.product((0, 1), repeat=5):
        p = 0.5 + 0.5 * bits[-2] - 0.25 * bits[-3]
        chances.setdefault(bits[5 - seen :], []).append(p)
    groups = [np.mean(group) for group in chances.values()]
    both = np.array([groups, 1 - np.array(groups)])  # the chances of 1 and 0
    expected = -(both * np.log(np.where(both > 0, both, 1))).sum(0).mean()
    np.testing.assert_allclose(load().levels()[level], expected, rtol=1e-12)


def test_the_levels_are_apart():
    assert cross_entropy(0, 1) < cross_entropy(0) < cross_entropy(1) < cross_entropy()


@pytest.mark.parametrize("every", [1, 2, 200])
def test_a_stream(every):
    """However it is cut: the share of ones after each pair of bits is P(y = 1)."""
    config, size = load(f"every={every}"), 200
    batches = [config.cut(number, 20) for number in range(size // every)]
    xs, labels, mask = (np.concatenate(a) for a in zip(*batches, strict=True))
    assert mask[3:].all() and not mask[:3].any()
    bits = xs.argmax(-1)
    for first, second in itertools.product((0, 1), repeat=2):
        at = (bits[1:-2] == first) & (bits[:-3] == second)
        ones, chance = labels[3:][at], 0.5 + 0.5 * first - 0.25 * second
        assert set(ones) <= {0, 1}
        error = np.sqrt(chance * (1 - chance) / ones.size)
        assert abs(ones.mean() - chance) <= 4 * error


def test_held_out_labels_are_chances():
    config = load()
    steps = config.draw(numbered(0, 0), 100)
    bits = steps.xs.argmax(-1)
    np.testing.assert_allclose(
        steps.labels[-1], 0.5 + 0.5 * bits[-3] - 0.25 * bits[-4], rtol=1e-6
    )


@pytest.fixture(scope="module")
def backwards():
    """The loss of the first eight steps, and its gradient, by BPTT."""
    task = load("every=8", "rule=bptt").make(lambda sentence: None)
    params = task.init(jax.random.key(0))
    return params, jax.jit(task.value_and_grad)(params, *task.batch(0))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_learns_from_the_same_loss(rule, backwards):
    """The loss is that of BPTT, and so is the readout's gradient; the cell's is where
    the rule is exact."""
    params, ((loss, last), grads) = backwards
    task = load("every=8", f"rule={rule}").make(lambda sentence: None)
    state, (steps, number) = task.batch(0)
    (got, after), found = jax.jit(task.value_and_grad)(params, state, (steps, number))
    np.testing.assert_allclose(got, loss, rtol=1e-5)
    np.testing.assert_allclose(after[0].h, last.h, rtol=1e-4, atol=1e-6)
    apart = optax.tree.norm(optax.tree.sub(found.cell, grads.cell))
    apart /= optax.tree.norm(grads.cell)
    assert (apart < 1e-4) == (rule == "rtrl")
    np.testing.assert_allclose(found.readout.w, grads.readout.w, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["second=2"], "`second` must be above `first` = 2, but got 2"),
        (["model.layers=2"], "one layer in one direction"),
        (["model.compute_dtype=bfloat16"], 'must be "float32", but got "bfloat16"'),
        (["rule=rtrL"], "did you mean `rtrl`?"),
    ],
)
def test_what_is_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        load(*settings)
    assert words in str(error.value)


def test_a_rule_that_does_not_take_the_cell_is_refused_in_its_words():
    config = load("rule=snap1", "model.cell=layer_norm_gru")
    with pytest.raises(ValueError, match='`rule = "snap1"` does not fit: `cell` must'):
        config.make(lambda sentence: None)


@pytest.mark.slow
def test_a_rule_learns_what_lies_beyond_the_window(tmp_path):
    """RTRL knows some of the second bit in the end; BPTT, not even all of the first."""
    loss = {}
    for rule in ("rtrl", "bptt"):
        pairs = f"rule={rule}", "optimizer.steps=2000", "evaluations=1"
        folder = make_run(tmp_path / rule, "online/dependencies", *pairs).folder
        loss[rule] = json.loads((folder / "results.json").read_text())["test_loss"]
    assert cross_entropy(0, 1) < loss["rtrl"] < cross_entropy(0) < loss["bptt"]
