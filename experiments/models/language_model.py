"""A character-level language model: embedding, cell, softmax over what comes next."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from experiments.config.schema import Model
from experiments.models.readout import (
    ModelParams,
    Network,
    init_body,
    key_of,
    make_body,
    make_cell,
    read_out,
    width_of,
)
from jaxrnn import layers, losses

# Below this temperature the likeliest character is drawn anyway. Smaller divisors would
# overflow, or round to zero.
COLDEST = 1e-6


class LanguageModelParams(NamedTuple):
    """`embedding [V, I]`, the parameters of the body, and the readout to V."""

    embedding: Array
    cell: Any
    readout: layers.DenseParams


def make_network(model: Model, vocabulary: int, embedding_size: int) -> Network:
    """Returns the network that reads and predicts ids below `vocabulary`."""
    sizes = {"vocabulary": vocabulary, "embedding_size": embedding_size}
    make_params = partial(init, model=model, **sizes)
    return Network(make_cell(model), make_body(model), make_params)


def init(
    key: PRNGKeyArray, model: Model, vocabulary: int, embedding_size: int
) -> LanguageModelParams:
    """Returns initial parameters."""
    keys = jax.random.split(key, 3)
    return LanguageModelParams(
        layers.embedding(vocabulary, embedding_size).init(keys[0]).table,
        init_body(keys[1], model, embedding_size),
        layers.dense(vocabulary).init(keys[2], width_of(model)),
    )


def folded(body: layers.Layer, params: LanguageModelParams) -> ModelParams:
    """Returns the same model with the embedding folded into the body, which reads ids.

    The `w_ih` of its first layer is `[V, G]`, the drive of every id but for the bias.
    So the product is with the V rows of a table, and not with every character.
    """
    return ModelParams(body.fold(params.cell, params.embedding), params.readout)


def make_loss(body: layers.Layer, reduction: Any = losses.masked_mean) -> Any:
    """Returns `(params, state, (ids, labels, mask)) -> (loss in nats, state)`.

    Ids, labels and mask are `[T, B]`. A fourth entry, the number of the training step,
    turns dropout on.
    """

    def loss(
        params: LanguageModelParams,
        state: Any,
        batch: tuple[Any, ...],
    ) -> tuple[Float[Array, ""], Any]:
        ids, labels, mask, *number = batch
        model, key = folded(body, params), key_of(*number) if number else None
        state, hs = body.unroll(model.cell, state, ids, key=key)
        logits = read_out(model.readout, hs)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return reduction(cross_entropy, logits, labels, mask), state

    return loss


def sample(
    body: layers.Layer,
    model: ModelParams,
    key: PRNGKeyArray,
    state: Any,
    logits: Float[Array, " V"],
    length: int,
    temperature: Float[Array, ""] | float,
) -> tuple[Any, Float[Array, " V"], Int[Array, " length"]]:
    """Draws `length` ids, each from the prediction after the ones before it.

    Args:
      body: the recurrent layers. Static, and so is `length`.
      model: the `folded` parameters.
      key: a random key.
      state: the body's state after everything before, of one sequence.
      logits: the prediction of the first id, `[V]`.
      length: number of ids to draw.
      temperature: divides the logits. Below 1, likely characters become likelier; at
        `COLDEST` and below, the likeliest is drawn.

    Returns:
      The state and the logits to continue from, and the ids `[length]`.
    """
    temperature = jnp.maximum(temperature, COLDEST)

    def over_step(carry, key):
        state, logits = carry
        id = jax.random.categorical(key, logits / temperature)
        return read(body, model, state, id), id

    (state, logits), ids = jax.lax.scan(
        over_step, (state, logits), jax.random.split(key, length)
    )
    return state, logits, ids


def read(
    body: layers.Layer, model: ModelParams, state: Any, id: Int[Array, ""]
) -> tuple[Any, Float[Array, " V"]]:
    """Reads one id. Returns the state after it, and the prediction of the next one.

    The model's parameters are `folded`, as in `prime`.
    """
    state, h = body.step(model.cell, state, id)
    return state, read_out(model.readout, h)


def prime(
    body: layers.Layer, model: ModelParams, ids: Int[Array, " T"]
) -> tuple[Any, Float[Array, " V"]]:
    """Reads ids from the zero state. Returns the state and the next prediction."""
    state, hs = body.unroll(model.cell, None, ids)
    return state, read_out(model.readout, hs[-1])


def bits(nats: float) -> float:
    """Converts a loss in nats to bits."""
    return nats / math.log(2)
