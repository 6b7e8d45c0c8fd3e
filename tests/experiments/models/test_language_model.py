"""The language model: sampling, generation, and which products are in bfloat16."""

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


def test_sampling_draws_from_the_model(tiny_language_model):
    """Reading id by id is `prime`, and the first draw's frequencies are the
    softmax's."""
    body, params = tiny_language_model
    ids, model = jnp.array([1, 4, 2]), language_model.folded(body, params)
    read = jax.jit(lambda state, id: language_model.read(body, model, state, id))
    state = body.initial_state(params.cell, ())
    for id in ids:
        state, logits = read(state, id)
    primed = jax.jit(lambda ids: language_model.prime(body, model, ids))(ids)
    np.testing.assert_allclose(primed[1], logits, rtol=1e-5)

    @jax.jit
    def draw(keys, temperature):
        def one(key):
            drawn = language_model.sample(
                body, model, key, state, logits, 1, temperature
            )
            return drawn[2][0]

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(1), 4000)
    expected = np.exp(np.asarray(logits, np.float64) / 0.7)
    got = np.bincount(draw(keys, 0.7), minlength=5) / 4000
    # Three standard deviations of a frequency of 4,000 draws are below 0.024.
    np.testing.assert_allclose(got, expected / expected.sum(), atol=0.024)
    # However cold, even where float32 has no such number, the likeliest is drawn.
    for cold in (1e-7, 1e-40, 1e-300):
        assert set(np.asarray(draw(keys, cold))) == {int(np.argmax(logits))}


def test_the_prompt_is_one_that_the_model_knows():
    assert generation.choose_prompt(b"\n :EMORXY") == b"ROMEO:"
    assert generation.choose_prompt(b"\n abc") == b"\n"
    assert generation.choose_prompt(b" abc") == b" "
    assert generation.choose_prompt(b"abc") == b"a"
