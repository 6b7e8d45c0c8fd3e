"""A plugin of pytest with which Keras' own tests run on our layers.

    KERAS_BACKEND=jax python -m pytest -p tests.modules.keras_tests_of_ours FILES

The last line says how many calls went to which loop: to see that it was ours.
"""

import keras
import pytest
from keras.src import layers

from jaxrnn.modules import keras as ours

LAYERS = ("LSTM", "GRU", "SimpleRNN")
CALLS = {"unroll": 0, "keras": 0}
# What a test of Keras asks that is not to be had here.
NOT_OURS = {
    "test_keeps_use_cudnn": "use_cudnn=True is refused",
    "test_fused_lstm_eligibility": "cuDNN's loop over both directions is not taken",
    "test_fused_gru_eligibility": "cuDNN's loop over both directions is not taken",
}


def counted(loop, function):
    def call(*args, **kwargs):
        CALLS[loop] += 1
        return function(*args, **kwargs)

    return call


def pytest_configure(config):
    config.addinivalue_line("markers", "requires_trainable_backend: as JAX is")
    for name in LAYERS:
        for module in (layers, keras.layers):
            setattr(module, name, getattr(ours, name))
    ours.run = counted("unroll", ours.run)
    layers.RNN.inner_loop = counted("keras", layers.RNN.inner_loop)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.originalname in NOT_OURS:
            item.add_marker(pytest.mark.skip(reason=NOT_OURS[item.originalname]))


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"loops: {CALLS}")
