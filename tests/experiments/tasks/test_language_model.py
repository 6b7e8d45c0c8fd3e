"""The language model's text: validation counts every character, windows go on."""

import jax
import numpy as np
import pytest

from experiments.config.load import load_config
from experiments.data import stream
from experiments.models import language_model
from experiments.models.readout import make_initial_state
from experiments.tasks import Config
from experiments.tasks import language_model as task


def test_validation_is_the_mean_over_every_held_out_character(tiny_language_model):
    """Against single steps along each row: in bits, without the last window's
    padding."""
    body, params = tiny_language_model
    random = np.random.default_rng(0)
    ids = random.integers(0, 5, 2 * task.HELD_OUT_WINDOW + 41)
    rows = 2
    windows = stream(ids, rows, task.HELD_OUT_WINDOW)
    assert not windows.mask.all()
    net, model = language_model.generator(body, params)
    read = jax.jit(lambda state, ids: net.step(model, state, ids))
    state, bits = net.initial_state(model, (rows,)), []
    flat = [a.reshape(-1, rows) for a in windows]
    for now, label, within in zip(*flat, strict=True):
        state, logits = read(state, now)
        logits = np.asarray(logits, np.float64)
        chosen = logits[np.arange(rows), label]
        each = (np.log(np.exp(logits).sum(-1)) - chosen) / np.log(2)
        bits += list(each[within])
    assert len(bits) == len(ids) - 1
    got = task.make_evaluator(body, ids)(params)["valid_bits"]
    np.testing.assert_allclose(got, np.mean(bits), rtol=1e-5)


def test_the_state_goes_on_but_at_the_start_of_the_text(tiny_language_model):
    windows, (_, params) = stream(np.arange(100) % 5, 2, 7), tiny_language_model
    initial_state = make_initial_state(TINY.model, 2)
    count, starts = len(windows.inputs), []
    for number in range(2 * count):
        state, (inputs, _, _) = task.window_of(windows, initial_state, number)
        np.testing.assert_array_equal(inputs, windows.inputs[number % count])
        starts.append(state is not None)
        if state is not None:
            assert state.h.shape == (2, len(params.cell.w_hh))
            assert not state.h.any() and not state.h.is_deleted()
            state.h.delete()  # the step takes it
    assert starts == [n % count == 0 for n in range(2 * count)]


TINY = load_config(
    Config,
    "configs/shakespeare/shakespeare_lstm.toml",
    ["model.cell=gru", "model.hidden_size=8", "embedding_size=3"],
)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.held_out=0"], "at least 2 held-out characters, but got 0"),
        (["window=1000000"], "`window` must be at most 80, the characters of each of"),
        (["optimizer.batch_size=3000"], "`window` must be at most 1,"),
        (["data.path=/nowhere/at/all"], "no text at /nowhere/at/all"),
    ],
)
def test_a_text_that_does_not_fit_is_refused(text, settings, words):
    path = "configs/shakespeare/shakespeare_lstm.toml"
    config = load_config(Config, path, [f"data.path={text}", *settings])
    with pytest.raises((ValueError, OSError), match=words):
        config.make(lambda sentence: None)
