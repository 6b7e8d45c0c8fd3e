"""Writes Keras's answers for `tests/interop/test_keras.py`. It needs keras.

    KERAS_BACKEND=jax python -m tests.golden.make_keras

Each file holds the weights of a layer, inputs `[B, T, I]`, the outputs, and the
gradient of a loss with respect to the weights, in float32.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

FOLDER = Path(__file__).parent
BATCH, SIZE, INPUTS, HIDDEN = 2, 5, 3, 4


def options(**changes: Any) -> dict[str, Any]:
    """Returns the arguments of a layer."""
    return {"units": HIDDEN, "return_sequences": True} | changes


def both_ways(**changes: Any) -> Any:
    """Returns a bidirectional GRU."""
    return keras.layers.Bidirectional(keras.layers.GRU(**options()), **changes)


LAYERS = {
    "simple_rnn": lambda: keras.layers.SimpleRNN(**options()),
    "lstm": lambda: keras.layers.LSTM(**options()),
    "gru": lambda: keras.layers.GRU(**options()),
    "gru_reset_before": lambda: keras.layers.GRU(**options(reset_after=False)),
    "bidirectional": lambda: both_ways(merge_mode="ave"),
    "activations": lambda: keras.layers.LSTM(
        **options(activation="softsign", recurrent_activation="hard_sigmoid")
    ),
    "unbiased": lambda: keras.layers.GRU(**options(use_bias=False)),
}


def built(name: str) -> Any:
    """Returns a layer with random weights, biases included."""
    random = np.random.default_rng(0)
    layer = LAYERS[name]()
    layer.build((BATCH, SIZE, INPUTS))
    shapes = [w.shape for w in layer.get_weights()]
    layer.set_weights([random.normal(scale=0.5, size=shape) for shape in shapes])
    return layer


def answers(layer: Any) -> dict[str, np.ndarray]:
    """Returns all arrays of one layer, by name."""
    xs = np.random.default_rng(1).normal(size=(BATCH, SIZE, INPUTS)).astype(np.float32)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def loss(weights: list[Any]) -> tuple[Any, Any]:
        ys, _ = layer.stateless_call(weights, fixed, jnp.asarray(xs))
        return jnp.sum(jnp.sin(ys)), ys

    weights = [variable.value for variable in layer.trainable_variables]
    grads, ys = jax.grad(loss, has_aux=True)(weights)
    found = {"xs": xs, "ys": np.asarray(ys)}
    found |= {f"w{n}": np.asarray(w) for n, w in enumerate(weights)}
    return found | {f"d_w{n}": np.asarray(g) for n, g in enumerate(grads)}


if __name__ == "__main__":
    for name in LAYERS:
        np.savez_compressed(FOLDER / f"keras_{name}.npz", **answers(built(name)))
