"""The microscope on other runs: a stream, a cell without gates, a language model."""

import shutil

import jax
import numpy as np
import pytest

import jaxrnn
from experiments import microscope
from experiments.models.readout import read_out
from experiments.runs.open import open_run
from tests.experiments.conftest import TINY, make_run


@pytest.mark.parametrize(
    ("config", "shorter"),
    [
        ("truncation/recall_stream_lstm", "lag=12"),
        ("classical/adding_100_irnn", "length=20"),
    ],
)
def test_other_tasks(tmp_path, config, shorter, capsys):
    """A stream in windows; a cell without gates, whose units can die."""
    folder = make_run(tmp_path, config, *TINY, "evaluations=1", shorter).folder
    assert microscope.main(["--runs", str(tmp_path)]) == 0  # the newest
    assert "an error on its way back" in capsys.readouterr().out
    assert (folder / "microscope" / "gates.csv").exists() == ("lstm" in config)
    assert (folder / "microscope" / "index.html").read_text().endswith("</html>\n")


def test_the_character_after_a_stretch(language_run, tmp_path):
    """By the model's own loss, of the last character alone; and it draws its page."""
    run = open_run(language_run)
    task, params = run.task(), run.params()
    xs, loss = task.probe(params)
    # The embedding of each is its own.
    ids = np.asarray(xs @ params.embedding.T).argmax(-1)
    np.testing.assert_array_equal(params.embedding[ids], xs)
    labels = (ids[-1] + 1) % 4  # abcdabcd…

    @jax.jit
    def both(params):
        last, hs = jaxrnn.unroll(task.cell, params.cell, None, xs)
        return loss(last, hs), read_out(params.readout, hs[-1])

    got, logits = both(params)
    expected = -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].sum()
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert run.config.window != len(xs) == 256


def test_it_draws_the_page_of_a_language_model(language_run, tmp_path, capsys):
    folder = shutil.copytree(language_run, tmp_path / "run")
    for step in (20, 40):  # the first and the last are enough
        shutil.rmtree(folder / "checkpoints" / str(step))
    assert microscope.main([str(folder)]) == 0
    assert (folder / "microscope" / "gates.csv").exists()
