"""A character-level language model: embedding, cell, softmax over what comes next."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

import jaxrnn
from experiments.config.schema import Model
from experiments.models.readout import ModelParams, Network, init_cell, make_cell
from jaxrnn import layers, losses
from jaxrnn.ops import products

# Below this temperature the likeliest character is drawn anyway. Smaller divisors would
# overflow, or round to zero.
COLDEST = 1e-6


class LanguageModelParams(NamedTuple):
    """`embedding [V, I]`, the cell's parameters, and the readout from H to V."""

    embedding: Array
    cell: Any
    readout: layers.DenseParams


def make_network(model: Model, vocabulary: int, embedding_size: int) -> Network:
    """Returns the network that reads and predicts ids below `vocabulary`."""
    sizes = {"vocabulary": vocabulary, "embedding_size": embedding_size}
    return Network(make_cell(model), partial(init, model=model, **sizes))


def init(
    key: PRNGKeyArray, model: Model, vocabulary: int, embedding_size: int
) -> LanguageModelParams:
    """Returns initial parameters."""
    keys = jax.random.split(key, 3)
    return LanguageModelParams(
        layers.init_embedding(keys[0], vocabulary, embedding_size),
        init_cell(keys[1], model, embedding_size),
        layers.init_dense(keys[2], model.hidden_size, vocabulary),
    )


def folded(params: LanguageModelParams) -> ModelParams:
    """Returns the same model with the embedding folded into the cell, which reads ids.

    Its `w_ih` is `[V, G]`, the drive of every id but for the bias. So the product is
    with the V rows of a table, and not with every character.
    """
    w_ih = products.matmul(params.embedding, params.cell.w_ih)
    return ModelParams(params.cell._replace(w_ih=w_ih), params.readout)


def make_loss(
    cell: jaxrnn.Cell,
    reduction: Any = losses.masked_mean,
    compute_dtype: str | None = None,
) -> Any:
    """Returns `(params, state, (ids, labels, mask)) -> (loss in nats, state)`.

    Ids, labels and mask are `[T, B]`.
    """

    def loss(
        params: LanguageModelParams,
        state: Any,
        batch: tuple[Int[Array, "T B"], Int[Array, "T B"], Bool[Array, "T B"]],
    ) -> tuple[Float[Array, ""], Any]:
        ids, labels, mask = batch
        model = folded(params)
        # Windows are short, so memory is no concern: keep the gates, do not recompute.
        state, hs = jaxrnn.unroll(
            cell, model.cell, state, ids, store="residuals", compute_dtype=compute_dtype
        )
        logits = layers.dense(model.readout, hs)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return reduction(cross_entropy, logits, labels, mask), state

    return loss


def sample(
    cell: jaxrnn.Cell,
    model: ModelParams,
    key: PRNGKeyArray,
    state: Any,
    logits: Float[Array, " V"],
    length: int,
    temperature: Float[Array, ""] | float,
) -> tuple[Any, Float[Array, " V"], Int[Array, " length"]]:
    """Draws `length` ids, each from the prediction after the ones before it.

    Args:
      cell: the cell. Static, and so is `length`.
      model: the `folded` parameters.
      key: a random key.
      state: the state after everything before, leaves `[H]`.
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
        return read(cell, model, state, id), id

    (state, logits), ids = jax.lax.scan(
        over_step, (state, logits), jax.random.split(key, length)
    )
    return state, logits, ids


def read(
    cell: jaxrnn.Cell, model: ModelParams, state: Any, id: Int[Array, ""]
) -> tuple[Any, Float[Array, " V"]]:
    """Reads one id. Returns the state after it, and the prediction of the next one.

    The model's parameters are `folded`, as in `prime`.
    """
    state, h = jaxrnn.step(cell, model.cell, state, id)
    return state, layers.dense(model.readout, h)


def prime(
    cell: jaxrnn.Cell, model: ModelParams, ids: Int[Array, " T"]
) -> tuple[Any, Float[Array, " V"]]:
    """Reads ids from the zero state. Returns the state and the next prediction."""
    state, hs = jaxrnn.unroll(cell, model.cell, None, ids)
    return state, layers.dense(model.readout, hs[-1])


def bits(nats: float) -> float:
    """Converts a loss in nats to bits."""
    return nats / math.log(2)
