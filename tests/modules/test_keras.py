"""`jaxrnn.modules.keras` beside `keras.layers`: training, files, Keras' tests."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from tests.modules.training import (
    BATCH,
    HIDDEN,
    INPUTS,
    LENGTHS,
    TIME,
    check_same_training,
    distance,
    each_case,
    inputs,
    jittered,
)

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
if keras.config.backend() != "jax":
    pytest.skip("Keras was imported with another backend", allow_module_level=True)

from jaxrnn.modules import keras as ours  # noqa: E402

# Of Keras' arrays, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")

MASK = jnp.arange(TIME) < LENGTHS[:, None]
# Every option is on somewhere. Keras' own tanh returns float32 for float64.
TANH = {"activation": jnp.tanh}
CASES = {
    "lstm": (
        "LSTM",
        {"activation": "softsign", "recurrent_activation": "hard_sigmoid"},
        {"mask": MASK},
    ),
    "gru": ("GRU", {"go_backwards": True, **TANH}, {"mask": MASK[..., None]}),
    "reset_before": ("GRU", {"reset_after": False, **TANH}, {}),
    "simple": ("SimpleRNN", {"activation": "relu", "use_bias": False}, {}),
    "zeros": ("SimpleRNN", {"zero_output_for_mask": True, **TANH}, {"mask": MASK}),
}


def pair(kind, **options):
    """Ours and Keras' layer, built, with equal weights and biases that are not zero."""
    layers = [
        getattr(module, kind)(HIDDEN, **options) for module in (ours, keras.layers)
    ]
    for layer in layers:
        layer.build((BATCH, TIME, INPUTS))
    weights = [np.asarray(w) for w in jittered(layers[1].get_weights())]
    for layer in layers:
        layer.set_weights(weights)
    return layers


def states_of(layer):
    """Initial states that are not zero."""
    return [jittered(jnp.zeros((BATCH, HIDDEN))) for _ in layer.state_size]


@pytest.mark.usefixtures("x64")
@each_case(CASES, slow="simple")
def test_trains_as_keras_does(name):
    """From equal weights: the loss of every step, all gradients, the weights in the
    end."""
    kind, of_layer, of_call = CASES[name]
    of_layer = {key: value for key, value in of_layer.items() if value is not None}
    options = {"return_sequences": True, "return_state": True, "dtype": "float64"}
    layers = pair(kind, **options, **of_layer)
    xs = inputs()

    others = [variable.value for variable in layers[0].non_trainable_variables]

    def loss(layer, weights):
        results, _ = layer.stateless_call(
            weights, others, xs, initial_state=states_of(layer), **of_call
        )
        return distance(results)

    weights = [variable.value for variable in layers[0].trainable_variables]
    check_same_training(*(functools.partial(loss, layer) for layer in layers), weights)


@pytest.mark.parametrize("last_step", [True, False])
def test_the_last_output(last_step):
    """Of sequences that end early, and of one without any step, whose state is its
    output."""
    xs, mask = inputs(), MASK.at[2].set(False)
    results = []
    for layer in pair("LSTM", return_sequences=not last_step, return_state=True):
        results.append(layer(xs, mask=mask, initial_state=states_of(layer)))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_states_are_kept_from_call_to_call():
    """With `stateful`, until they are reset."""
    xs, results = inputs(), []
    for layer in pair("GRU", stateful=True):
        first, second = layer(xs), layer(xs)
        layer.reset_state()
        results.append((first, second, layer(xs)))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)
    first, second, third = results[0]
    np.testing.assert_array_equal(first, third)
    assert jnp.abs(first - second).max() > 1e-3


def batches():
    """Sequences of words that end early, and whether the first word is among the first
    ten."""
    random = np.random.default_rng(0)
    words = random.integers(1, 20, (8, TIME))
    labels = (words[:, :1] < 10).astype("float32")
    words[:4, 4:] = 0
    return words, labels


def model_of(module):
    """A model of a user's own: masks by an embedding, both directions, a stack."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Embedding(20, INPUTS, mask_zero=True),
            keras.layers.Bidirectional(module.LSTM(HIDDEN, return_sequences=True)),
            module.GRU(HIDDEN, dropout=0.3, seed=4),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy")
    return model


def test_a_model_is_fitted_as_with_keras_own_layers(tmp_path, monkeypatch):
    """The losses of 20 steps of `fit`, with dropout; then its file, both ways."""
    words, labels = batches()
    models = [model_of(ours), model_of(keras.layers)]
    options = {"batch_size": 8, "epochs": 20, "shuffle": False, "verbose": 0}
    losses = [model.fit(words, labels, **options).history["loss"] for model in models]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert losses[1][-1] < 0.8 * losses[1][0]

    expected = models[0].predict(words, verbose=0)
    models[0].save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert isinstance(again.layers[2], ours.GRU)
    np.testing.assert_allclose(again.predict(words, verbose=0), expected, rtol=1e-5)
    # Where jaxrnn is not imported, the file is read by Keras alone.
    hosts = {f"jaxrnn>{n}": getattr(keras.layers, n) for n in ("LSTM", "GRU")}
    with monkeypatch.context() as patch:
        for name in hosts:
            patch.delitem(keras.saving.get_custom_objects(), name)
        host = keras.models.load_model(tmp_path / "ours.keras", custom_objects=hosts)
    assert type(host.layers[2]) is keras.layers.GRU
    np.testing.assert_allclose(host.predict(words, verbose=0), expected, rtol=1e-4)

    # The other way round: the weights of a whole file, Adam's too.
    expected = models[1].predict(words, verbose=0)
    models[1].save(tmp_path / "keras.keras")
    models[0].load_weights(tmp_path / "keras.keras")
    np.testing.assert_allclose(models[0].predict(words, verbose=0), expected, rtol=1e-4)


def test_names_of_weights_are_the_same():
    names = [[w.path for w in layer.weights] for layer in pair("LSTM", name="rnn")]
    assert (
        names[0]
        == names[1]
        == [f"rnn/lstm_cell/{name}" for name in ("kernel", "recurrent_kernel", "bias")]
    )


# What Keras' own loop runs, and the reason that is given.
FALLBACKS = {
    "recurrent dropout": ({"recurrent_dropout": 0.4, "dropout": 0.3}, "recurrent_drop"),
    "dropout per gate": (
        {"dropout": 0.4, "implementation": 1, "use_cudnn": False},
        "implementation=1",
    ),
    "an activation": ({"activation": "gelu"}, "activation <function gelu"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_keras_own_loop_runs_the_rest(case):
    """With a warning that says why, and the same result."""
    options, reason = FALLBACKS[case]
    layer, host = pair("LSTM", seed=3, **options)
    with pytest.warns(UserWarning, match=f"own loop runs LSTM, because of.*{reason}"):
        got = layer(inputs(), training=True)
    np.testing.assert_allclose(got, host(inputs(), training=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["LSTM", "SimpleRNN"])
def test_dropout_of_inputs(name):
    """On `unroll`, from the seed of Keras: the same units are dropped."""
    layer, host = pair(name, dropout=0.5, seed=3)
    got, expected = (x(inputs(), training=True) for x in (layer, host))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert jnp.abs(got - layer(inputs())).max() > 1e-3


def test_mixed_precision():
    layers = pair("GRU", dtype="mixed_bfloat16", return_sequences=True)
    got, expected = (layer(inputs()) for layer in layers)
    assert got.dtype == expected.dtype == jnp.bfloat16
    # 2⁻⁸ is the rounding of a gate, and errors of several steps add up.
    np.testing.assert_allclose(*(np.float32(a) for a in (got, expected)), atol=2**-5)


def test_cudnn_is_refused():
    with pytest.raises(ValueError, match="`use_cudnn` must be 'auto' or False"):
        ours.LSTM(HIDDEN, use_cudnn=True)
    assert ours.GRU(HIDDEN).use_cudnn is False


def python(*arguments, backend):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_another_backend_is_refused():
    done = python("-c", "import jaxrnn.modules.keras", backend="numpy")
    assert "its backend is 'numpy'. Set the environment variable" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "simple_rnn", "bidirectional"])
def test_keras_own_tests_pass_with_our_layers(name):
    """They are part of its wheel, so of the version that is installed."""
    path = Path(keras.__file__).parent / "src/layers/rnn" / f"{name}_test.py"
    if not path.exists():
        pytest.skip(f"this Keras comes without {path.name}")
    options = ["-q", "-c", os.devnull, "-p", "no:cacheprovider", "-W", "ignore"]
    plugin = ["-p", "tests.modules.keras_tests_of_ours"]
    done = python("-m", "pytest", *options, *plugin, str(path), backend="jax")
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout + done.stderr
    calls = re.search(r"loops: .*'unroll': (\d+)", done.stdout)
    assert calls and int(calls[1]) > 0
