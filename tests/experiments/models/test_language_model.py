"""The language model: its text, its gradient, and which products are in bfloat16."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxrnn
from experiments.config.schema import Model
from experiments.models import generation, language_model, readout


def test_products_in_bfloat16(tiny_language_model):
    """The cell's alone: the readout, and all that is not a product, stay in float32."""
    _, params = tiny_language_model
    ids = jnp.zeros((6, 2), int)

    def products(compute_dtype):
        body = readout.make_body(
            Model(cell="gru", hidden_size=8), compute_dtype=compute_dtype
        )
        loss = language_model.make_loss(body)
        text = str(jax.make_jaxpr(loss)(params, None, (ids, ids, ids == 0)))
        return text.count("preferred_element_type=float32"), text.count(":bf16[8,24]")

    assert products("bfloat16")[1] and not products("float32")[1]
    assert products("bfloat16")[0] == products("float32")[0]


def test_folding_the_embedding_changes_nothing(tiny_language_model):
    """The loss and the gradient are those of a network that reads embedded ids."""
    body, params = tiny_language_model
    random = np.random.default_rng(0)
    ids, labels = jnp.asarray(random.integers(0, 5, (2, 6, 2)))
    batch = ids, labels, jnp.asarray(random.random((6, 2)) < 0.7)

    def expected(params, state, batch):
        ids, labels, mask = batch
        xs = params.embedding[ids]
        state, hs = jaxrnn.unroll(jaxrnn.gru, params.cell, state, xs)
        logits = hs @ params.readout.w + params.readout.b
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return jaxrnn.losses.masked_mean(cross_entropy, logits, labels, mask), state

    got, expected = (
        jax.jit(jax.value_and_grad(loss, has_aux=True))(params, None, batch)
        for loss in (language_model.make_loss(body), expected)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-7)


def test_text_is_drawn_from_the_model(tiny_language_model):
    """At temperature 0, over several pieces, by a plain loop of the cell behind the
    embedding; warm, by the seed alone."""
    body, params = tiny_language_model
    vocabulary, prompt, length = b"abcde", b"bec", generation.PIECE + 6

    def text(seed, length=length, **options):
        arguments = vocabulary, prompt, length, seed
        return b"".join(generation.generate(body, params, *arguments, **options))

    step = jax.jit(lambda state, x: jaxrnn.step(jaxrnn.gru, params.cell, state, x))
    state, expected = body.initial_state(params.cell, ()), b""
    for byte in prompt:
        state, h = step(state, params.embedding[vocabulary.index(byte)])
    while len(expected) < length:
        likeliest = int(jnp.argmax(h @ params.readout.w + params.readout.b))
        expected += vocabulary[likeliest : likeliest + 1]
        state, h = step(state, params.embedding[likeliest])
    assert text(0, temperature=0.0) == text(1, temperature=0.0) == expected
    assert text(0, top_k=1) == expected and text(0, top_p=1e-6) == expected

    warm = text(0, temperature=1.5)
    assert warm == text(0, temperature=1.5) != text(1, temperature=1.5)
    assert text(0, length=9, temperature=1.5) == warm[:9]
    # Each piece has a key of its own, and the model hardly prefers any character.
    assert (
        set(warm) == set(vocabulary)
        and warm[: length - generation.PIECE] != warm[generation.PIECE :]
    )


def test_the_prompt_is_one_that_the_model_knows():
    assert generation.choose_prompt(b"\n :EMORXY") == b"ROMEO:"
    assert generation.choose_prompt(b"\n abc") == b"\n"
    assert generation.choose_prompt(b" abc") == b" "
    assert generation.choose_prompt(b"abc") == b"a"
