"""Text from a language model, piece by piece."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments import data
from experiments.models import language_model
from jaxrnn import decoding, layers

# Characters per call of the compiled loop: the screen shows a line at a time.
PIECE = 64
# The prompt, if none is given and the model knows its characters.
PROMPT = b"ROMEO:"


def choose_prompt(vocabulary: bytes) -> bytes:
    """Returns a prompt that the model can read."""
    if set(PROMPT) <= set(vocabulary):
        return PROMPT
    return next((c for c in (b"\n", b" ") if c in vocabulary), vocabulary[:1])


def generate(
    body: layers.Layer,
    params: Any,
    vocabulary: bytes,
    prompt: bytes,
    length: int,
    seed: int,
    **options: Any,
) -> Iterator[bytes]:
    """Yields `length` bytes that follow the prompt, piece by piece.

    The options are those of `jaxrnn.decoding.sample`: `temperature`, `top_k`, `top_p`.

    Raises:
      ValueError: if the prompt is empty, or has a byte that the model does not know.
    """
    if not prompt:
        raise ValueError("the prompt must have at least one character.")
    unknown = sorted(set(prompt) - set(vocabulary))
    if unknown:
        raise ValueError(
            "the prompt has bytes that the model was not trained on, "
            f"{bytes(unknown)!r}. It knows {vocabulary!r}."
        )
    ids = data.encode(vocabulary, np.frombuffer(prompt, np.uint8))
    net, model = language_model.generator(body, params)
    state, logits = jax.jit(net.unroll)(model, None, ids)
    logits, key = logits[-1], jax.random.key(seed)
    for start in range(0, length, PIECE):
        key, now = jax.random.split(key)
        drawn = decoding.sample(net, model, state, logits, PIECE, now, **options)
        state, logits = drawn.state, drawn.logits
        ids = np.asarray(drawn.ids)[: length - start]
        yield data.decode(vocabulary, ids).tobytes()
