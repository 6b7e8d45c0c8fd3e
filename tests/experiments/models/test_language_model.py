"""The language model: sampling, generation, and which products are in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.models import generation, language_model


def test_products_in_bfloat16(tiny_language_model):
    """The cell's alone: the readout, and all that is not a product, stay in float32."""
    cell, params = tiny_language_model
    ids = jnp.zeros((6, 2), int)

    def products(compute_dtype):
        loss = language_model.make_loss(cell, compute_dtype=compute_dtype)
        text = str(jax.make_jaxpr(loss)(params, None, (ids, ids, ids == 0)))
        return text.count("preferred_element_type=float32"), text.count(":bf16[6,2,3]")

    assert products("bfloat16")[1] and not products("float32")[1]
    assert products("bfloat16")[0] == products("float32")[0]


def test_sampling_draws_from_the_model(tiny_language_model):
    """Reading id by id is `prime`, and the first draw's frequencies are the
    softmax's."""
    cell, params = tiny_language_model
    ids = jnp.array([1, 4, 2])
    read = jax.jit(lambda state, id: language_model.read(cell, params, state, id))
    state = cell.initial_state(params.cell, ())
    for id in ids:
        state, logits = read(state, id)
    primed = jax.jit(lambda ids: language_model.prime(cell, params, ids))(ids)
    np.testing.assert_allclose(primed[1], logits, rtol=1e-5)

    @jax.jit
    def draw(keys, temperature):
        def one(key):
            drawn = language_model.sample(
                cell, params, key, state, logits, 1, temperature
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
