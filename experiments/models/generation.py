"""Text from a language model, piece by piece."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments import data
from experiments.models import language_model
from jaxrnn import layers

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
    temperature: float,
    seed: int,
) -> Iterator[bytes]:
    """Yields `length` bytes that follow the prompt, piece by piece.

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
    model = jax.jit(language_model.folded, static_argnums=0)(body, params)
    state, logits = jax.jit(language_model.prime, static_argnums=0)(body, model, ids)
    draw = jax.jit(language_model.sample, static_argnums=(0, 5))
    key = jax.random.key(seed)
    for start in range(0, length, PIECE):
        key, now = jax.random.split(key)
        state, logits, ids = draw(body, model, now, state, logits, PIECE, temperature)
        yield data.decode(vocabulary, np.asarray(ids)[: length - start]).tobytes()
