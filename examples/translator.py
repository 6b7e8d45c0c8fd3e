"""A translator from words to digits: an encoder, a decoder, and beam search.

"forty two thousand seven" becomes "42007". Both sides have many lengths, and zeros have
no words. One GRU reads the words; its last state, that after each number's own last
word, is the first state of another GRU, which writes digits until it writes the end.

In training the decoder reads the right digits (teacher forcing), of which a growing
share is replaced by digits of its own (scheduled sampling,
`jaxrnn.decoding.scheduled_inputs`). To translate, it takes the likeliest digit at each
step (`greedy`), or keeps the 4 likeliest beginnings (`beam_search`). Both searches run
in compiled loops. A tenth of all numbers is kept for the test.

The baseline is a decoder without the encoder's state, which has to guess.

    command   python examples/translator.py
    time      24 s on two cores of an AMD EPYC
    result    98.6% of new numbers are right, by beam search 99.1%; without encoder 0.0%

`--quick` is a short run, the one that the tests make.

Sources: Sutskever, Vinyals & Le (2014), arXiv:1409.3215; scheduled sampling: Bengio et
al. (2015), arXiv:1506.03099.
"""

import argparse
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxrnn

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = [*SMALL, *TENS, "hundred", "thousand"]
BEGIN, END = 10, 11  # after the ten digits
LIMIT, MOST_WORDS, MOST_DIGITS = 10**6, 9, 6
WIDTH = 4
UNITS = 128
NEW = np.random.default_rng(0).random(LIMIT) < 0.1  # numbers kept for the test

vocabulary = END + 1
encoder = jaxrnn.layers.stack(
    jaxrnn.layers.embedding(len(WORDS), 32), jaxrnn.layers.recurrent(jaxrnn.gru, UNITS)
)
decoder = jaxrnn.layers.stack(
    jaxrnn.layers.embedding(vocabulary, 32),
    jaxrnn.layers.recurrent(jaxrnn.gru, UNITS),
    jaxrnn.layers.dense(vocabulary),
)


class Params(NamedTuple):
    """The encoder's, if there is one, and the decoder's."""

    encoder: Any
    decoder: Any


class Batch(NamedTuple):
    """Padded ids, time first, of words `[9, B]` and digits `[7, B]`, and lengths `[B]`.

    In training, `share` of the digits that the decoder reads are its own.
    """

    words: Array
    word_counts: Array
    digits: Array
    digit_counts: Array
    share: Array
    seed: Array


class Result(NamedTuple):
    """The share of new numbers of which every digit is right."""

    greedy: float
    beam: float
    without_encoder: float


def words_of(number: int) -> list[str]:
    """Returns a number below a million in words."""
    if number >= 1000:
        rest = words_of(number % 1000) if number % 1000 else []
        return [*words_of(number // 1000), "thousand", *rest]
    if number >= 100:
        rest = words_of(number % 100) if number % 100 else []
        return [SMALL[number // 100], "hundred", *rest]
    if number >= 20:
        rest = [SMALL[number % 10]] if number % 10 else []
        return [TENS[number // 10 - 2], *rest]
    return [SMALL[number]]


def draw(random: np.random.Generator, size: int, new: bool, share: float) -> Batch:
    """Draws numbers, small ones more often, that are kept for the test, or are not."""
    numbers = (LIMIT * random.random(20 * size) ** 3).astype(int)
    numbers = numbers[NEW[numbers] == new][:size].tolist()
    words = [[WORDS.index(word) for word in words_of(n)] for n in numbers]
    digits = [[*map(int, str(n)), END] for n in numbers]
    seed = random.integers(2**31)
    return Batch(
        *padded(words, MOST_WORDS, 0),
        *padded(digits, MOST_DIGITS + 1, END),
        jnp.float32(share),
        jnp.uint32(seed),
    )


def padded(sequences: list[list[int]], size: int, fill: int) -> tuple[Array, Array]:
    """Returns sequences as ids `[T, B]`, T = `size`, and their lengths `[B]`."""
    ids = np.full((size, len(sequences)), fill, np.int32)
    for b, sequence in enumerate(sequences):
        ids[: len(sequence), b] = sequence
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    return jnp.asarray(ids), jnp.asarray(lengths)


def init(key: Array, with_encoder: bool) -> Params:
    keys = jax.random.split(key)
    own = encoder.init(keys[0]) if with_encoder else None
    return Params(own, decoder.init(keys[1]))


def encode(params: Params, batch: Batch) -> Any:
    """Returns the state from which the decoder starts; without an encoder, zeros."""
    if params.encoder is None:
        return decoder.initial_state(params.decoder, batch.word_counts.shape)
    mask = jaxrnn.lengths_to_mask(batch.word_counts, MOST_WORDS)
    state, _ = encoder.unroll(params.encoder, None, batch.words, mask=mask)
    return (*state, ())  # the decoder's readout has no state


def loss_fn(params: Params, state: None, batch: Batch) -> tuple[Array, None]:
    first = encode(params, batch)
    begin = jnp.full_like(batch.digits[:1], BEGIN)
    inputs = jaxrnn.decoding.scheduled_inputs(
        decoder,
        params.decoder,
        first,
        jnp.concatenate([begin, batch.digits[:-1]]),
        batch.share,
        jax.random.key(batch.seed),
    )
    _, logits = decoder.unroll(params.decoder, first, inputs)
    mask = jaxrnn.lengths_to_mask(batch.digit_counts, MOST_DIGITS + 1)
    loss = optax.softmax_cross_entropy_with_integer_labels
    return jaxrnn.losses.masked_mean(loss, logits, batch.digits, mask), state


@partial(jax.jit, static_argnames="width")
def translate(params: Params, batch: Batch, width: int) -> Array:
    """Returns the digits `[7, B]` that a beam finds; at width 0, a greedy search."""
    begin = jnp.full_like(batch.digits[0], BEGIN)
    state, logits = decoder.step(params.decoder, encode(params, batch), begin)
    start = decoder, params.decoder, state, logits, MOST_DIGITS + 1
    if width == 0:
        return jaxrnn.decoding.greedy(*start, end=END).ids
    return jaxrnn.decoding.beam_search(*start, width, end=END).ids[..., 0]


def train(with_encoder: bool, steps: int) -> Params:
    random = np.random.default_rng(1)
    schedule = optax.cosine_decay_schedule(5e-3, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    params = init(jax.random.key(0), with_encoder)
    learner = jaxrnn.train.init_learner(params, optimizer)
    step = jaxrnn.train.make_step(jax.value_and_grad(loss_fn, has_aux=True), optimizer)
    for n in range(steps):
        batch = draw(random, 64, new=False, share=0.25 * n / steps)
        learner, _, _ = step(learner, None, batch)
    return learner.params


def accuracy(params: Params, test: Batch, width: int) -> float:
    """Returns the share of numbers that are right, their end included."""
    right = translate(params, test, width) == test.digits
    return float(jnp.mean(jnp.all(right, axis=0)))


def main(arguments: list[str] | None = None) -> Result:
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=verbatim)
    parser.add_argument("--quick", action="store_true", help="a short run")
    steps = 300 if parser.parse_args(arguments).quick else 800

    start = time.perf_counter()
    test = draw(np.random.default_rng(2), 2000, new=True, share=0.0)
    params, alone = train(True, steps), train(False, steps)
    result = Result(
        greedy=accuracy(params, test, 0),
        beam=accuracy(params, test, WIDTH),
        without_encoder=accuracy(alone, test, WIDTH),
    )
    print(f"greedy search    {result.greedy:.1%} of new numbers are right")
    print(f"beam of {WIDTH}        {result.beam:.1%}")
    print(f"without encoder  {result.without_encoder:.1%}")
    print(f"{time.perf_counter() - start:.0f} s")
    return result


if __name__ == "__main__":
    main()
