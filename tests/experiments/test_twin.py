"""PyTorch, from the same weights and on the same batches, has the same losses."""

import numpy as np
import pytest

from experiments import twin
from experiments.config.load import load_config
from experiments.tasks import Config
from tests.experiments.conftest import TINY_LANGUAGE, settings

LANGUAGE = "configs/shakespeare/shakespeare_lstm.toml"


@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_a_language_model(text, cell):
    """With its carried state, in two passes over the text."""
    pytest.importorskip("torch")
    keys = *TINY_LANGUAGE, f"data.path={text}", f"model.cell={cell}"
    config = load_config(Config, LANGUAGE, [*keys, "optimizer.batch_size=20"])
    ours, theirs = zip(*twin.losses(config, 12), strict=True)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert ours[-1] < 0.9 * ours[0]


def test_what_has_no_twin(capsys, text):
    for config, keys, words in (
        ("configs/recall/gru.toml", [], "the language model or of a classifier"),
        (LANGUAGE, ["model.layers=2", f"data.path={text}"], "networks of one layer"),
    ):
        assert twin.main([config, *settings(*keys)]) == 2
        assert words in capsys.readouterr().err
