"""A bidirectional tagger: is each bracket of a sequence matched?

Whether "(" is ever closed depends on what follows, and whether ")" closes anything on
what came before, so two GRUs read each sequence, one from either end. Sequences have 5
to 40 symbols and are trained in padded batches: `mask` keeps the padding out of states,
loss and gradient, and `reverse=True` starts at each sequence's own last symbol. Symbols
are integers, which select rows of `w_ih`; no embedding is needed.

The baseline is a single forward GRU with as many units, which has to guess what
follows.

    command   python examples/tagger.py
    time      23 s on two cores of an AMD EPYC
    result    99.9% of the brackets are tagged correctly; forward alone, 81.1%

`--quick` is a short run, the one that the tests make.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxrnn

SYMBOLS = "()ab"
OTHER, MATCHED, UNMATCHED = TAGS = range(3)
SHORTEST, LONGEST = 5, 40

cell = jaxrnn.gru


class Batch(NamedTuple):
    """Padded sequences, time first: symbols and tags `[T, B]`, and their lengths."""

    ids: Array
    tags: Array
    lengths: Array


class Params(NamedTuple):
    """A GRU for each direction, and the readout `[directions × H, tags]`."""

    forward: jaxrnn.GRUParams
    backward: jaxrnn.GRUParams | None
    w_out: Array
    b_out: Array


class Result(NamedTuple):
    """The share of brackets in new sequences that are tagged correctly."""

    bidirectional: float
    forward_alone: float


def tags_of(symbols: str) -> list[int]:
    """Returns the tag of every symbol, by a stack."""
    tags, unclosed = [OTHER] * len(symbols), []
    for at, symbol in enumerate(symbols):
        if symbol == "(":
            tags[at] = UNMATCHED
            unclosed.append(at)
        elif symbol == ")" and unclosed:
            tags[at] = tags[unclosed.pop()] = MATCHED
        elif symbol == ")":
            tags[at] = UNMATCHED
    return tags


def draw(random: np.random.Generator, size: int) -> Batch:
    """Draws `size` sequences of different lengths."""
    lengths = random.integers(SHORTEST, LONGEST + 1, size)
    ids = random.integers(len(SYMBOLS), size=(LONGEST, size), dtype=np.int32)
    tags = np.zeros_like(ids)
    for b, length in enumerate(lengths):
        symbols = "".join(SYMBOLS[i] for i in ids[:length, b])
        tags[:length, b] = tags_of(symbols)
    return Batch(jnp.asarray(ids), jnp.asarray(tags), jnp.asarray(lengths))


def init(key: Array, units: int, bidirectional: bool) -> Params:
    keys = jax.random.split(key, 3)
    forward, backward = (
        cell.init(key, len(SYMBOLS), units // (1 + bidirectional)) for key in keys[:2]
    )
    w_out = jax.random.normal(keys[2], (units, len(TAGS))) / units**0.5
    backward = backward if bidirectional else None
    return Params(forward, backward, w_out, jnp.zeros(len(TAGS)))


def logits_of(params: Params, batch: Batch) -> tuple[Array, Array]:
    """Returns the logits `[T, B, tags]`, and the mask `[T, B]` of the symbols."""
    mask = jaxrnn.lengths_to_mask(batch.lengths, len(batch.ids))
    _, hs = jaxrnn.unroll(cell, params.forward, None, batch.ids, mask=mask)
    if params.backward is not None:
        _, back = jaxrnn.unroll(
            cell, params.backward, None, batch.ids, mask=mask, reverse=True
        )
        hs = jnp.concatenate([hs, back], axis=-1)
    return hs @ params.w_out + params.b_out, mask


def loss_fn(params: Params, state: None, batch: Batch) -> tuple[Array, None]:
    logits, mask = logits_of(params, batch)
    loss = optax.softmax_cross_entropy_with_integer_labels
    return jaxrnn.losses.masked_mean(loss, logits, batch.tags, mask), state


@jax.jit
def accuracy(params: Params, batch: Batch) -> Array:
    """Returns the share of brackets that have the right tag."""
    logits, mask = logits_of(params, batch)
    brackets = mask & (batch.tags != OTHER)
    correct = jnp.argmax(logits, axis=-1) == batch.tags
    return jnp.mean(correct, where=brackets)


def train(bidirectional: bool, units: int, steps: int) -> float:
    """Trains a tagger; returns its accuracy on new sequences."""
    random = np.random.default_rng(0)
    test = draw(np.random.default_rng(1), 1000)
    # Clipping: where the loss is steep, one large step undoes many.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))
    params = init(jax.random.key(0), units, bidirectional)
    learner = jaxrnn.train.init_learner(params, optimizer)
    step = jaxrnn.train.make_step(jax.value_and_grad(loss_fn, has_aux=True), optimizer)
    for _ in range(steps):
        learner, _, _ = step(learner, None, draw(random, 64))
    return float(accuracy(learner.params, test))


def main(arguments: list[str] | None = None) -> Result:
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=verbatim)
    parser.add_argument("--quick", action="store_true", help="a short run")
    quick = parser.parse_args(arguments).quick
    units, steps = (32, 150) if quick else (64, 1500)

    start = time.perf_counter()
    result = Result(train(True, units, steps), train(False, units, steps))
    print(f"bidirectional  {result.bidirectional:.1%} of the brackets of new sequences")
    print(f"forward alone  {result.forward_alone:.1%}")
    print(f"{time.perf_counter() - start:.0f} s")
    return result


if __name__ == "__main__":
    main()
