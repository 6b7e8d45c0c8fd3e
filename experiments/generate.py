"""Streams text from a trained language model: `python -m experiments.generate RUN_DIR`.

python -m experiments.generate RUN_DIR --prompt "ROMEO:" --temperature 0.8
"""

import argparse
import codecs
import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import data, language_model, trained

# Characters that one call of the compiled loop draws: a line at a time reaches the screen.
PIECE = 64


def generate(
    run: Path, prompt: bytes, length: int, temperature: float, seed: int
) -> Iterator[bytes]:
    """Yields `length` bytes that follow the prompt, piece by piece.

    Raises:
      ConfigError, CheckpointError: if `run` is not the folder of a language model's run.
      ValueError: if the prompt is empty or has a byte that the model does not know.
    """
    _, vocabulary, cell, params = trained.load_language_model(run)
    if not prompt:
        raise ValueError("the prompt must have at least one character.")
    unknown = sorted(set(prompt) - set(vocabulary))
    if unknown:
        raise ValueError(
            f"the prompt has bytes that the model was not trained on, {bytes(unknown)!r}; it knows "
            f"{vocabulary!r}."
        )
    ids = data.encode(vocabulary, np.frombuffer(prompt, np.uint8))
    state, logits = jax.jit(language_model.prime, static_argnums=0)(cell, params, ids)
    draw = jax.jit(language_model.sample, static_argnums=(0, 5))
    key = jax.random.key(seed)
    for start in range(0, length, PIECE):
        key, now = jax.random.split(key)
        state, logits, ids = draw(cell, params, now, state, logits, PIECE, temperature)
        yield data.decode(vocabulary, np.asarray(ids)[: length - start]).tobytes()


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0, or 2 if it cannot be done as asked."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.generate", description=__doc__
    )
    parser.add_argument(
        "run", type=Path, help="the folder of a run: runs/NAME-DATE-TIME"
    )
    parser.add_argument(
        "--prompt", default="ROMEO:", help="what the text begins with: ROMEO:"
    )
    parser.add_argument(
        "--length", type=int, default=500, help="characters to draw: 500"
    )
    parser.add_argument("--temperature", type=float, default=0.8, help="above 0: 0.8")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, another text: 0"
    )
    arguments = parser.parse_args(argv)
    if not arguments.temperature > 0 or arguments.length < 0:
        parser.error("--temperature must be above 0, and --length at least 0.")
    if not 0 <= arguments.seed < 2**32:
        parser.error("--seed must be in 0 … 2³² - 1.")
    with contextlib.suppress(
        AttributeError
    ):  # a stream that is no terminal and no file
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces = generate(
        arguments.run,
        os.fsencode(arguments.prompt),
        arguments.length,
        arguments.temperature,
        arguments.seed,
    )
    try:
        first = next(pieces, b"")  # before the prompt: whatever is wrong, is wrong here
        print(arguments.prompt, end="")
        for piece in itertools.chain([first], pieces):
            print(decoder.decode(piece), end="", flush=True)
    except (KeyboardInterrupt, BrokenPipeError):  # enough: Ctrl-C, or `| head`
        sys.stdout = open(os.devnull, "w")  # the interpreter's last flush must not fail
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(decoder.decode(b"", final=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
