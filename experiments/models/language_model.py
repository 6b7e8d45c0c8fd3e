"""A character-level language model: embedding, cell, softmax over what comes next."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax import Array
from jaxtyping import Float, PRNGKeyArray

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


def generator(
    body: layers.Layer, params: LanguageModelParams
) -> tuple[layers.Layer, ModelParams]:
    """Returns the layer that maps ids to logits `[..., V]`, and its parameters.

    They are `folded`. The state is a pair: the body's, and the readout's `()`.
    """
    net = layers.stack(body, layers.dense(params.readout.b.size))
    return net, folded(body, params)


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


def bits(nats: float) -> float:
    """Converts a loss in nats to bits."""
    return nats / math.log(2)
