"""What all configs share: caps on what can be asked for, and rules about cells."""

import pytest

from experiments.config.load import ConfigError, load_config
from experiments.tasks import TASKS, Config

RECALL = "configs/recall/gru.toml"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "model.hidden_size=99999999999999999999",
            "`model.hidden_size` must be `int` <=",
        ),
        ("lag=1000000000000000", "`lag` must be `int` <= 1000000000, but got"),
        ("evaluations=1000000000", "`evaluations` must be `int` <= 1000000"),
        ("optimizer.learning_rate=1e300", "`optimizer.learning_rate` must be `float`"),
        ("optimizer.b2=1", "`optimizer.b2` must be `float` <= 0.9999999, but got 1"),
        ("optimizer.b2=0.99999999", "`optimizer.b2` must be `float` <= 0.9999999"),
        ("optimizer.learning_rate=1e-320", "`optimizer.learning_rate` must be `float`"),
        ("optimizer.clip=1e-40", "`optimizer.clip` must be `float` >= 1.2e-38"),
        ("model.layers=101", "`model.layers` must be `int` <= 100"),
        ("optimizer.second_moment=0.9", "unknown key `optimizer.second_moment`"),
        ("model.activation=relu", '`activation` applies only to `cell = "elman"`'),
        ("model.identity=1", '`identity` applies only to `cell = "elman"`'),
    ],
)
def test_a_wrong_setting_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Config, RECALL, [setting])


def test_a_matrix_cannot_begin_in_two_ways():
    both = ["model.cell=elman", "model.identity=1.0", "model.spectral_radius=1.0"]
    with pytest.raises(ConfigError, match="either `identity` or `spectral_radius`"):
        load_config(Config, RECALL, both)


def test_every_task_has_a_tag_and_is_complete():
    tags = [task.__struct_config__.tag for task in TASKS]
    assert len(set(tags)) == len(tags) and None not in tags
    for task in TASKS:
        for method in ("sizes", "network", "make"):
            assert getattr(task, method).__qualname__.split(".")[0] != "Experiment"
