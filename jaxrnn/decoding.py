"""Sequences out of a network: greedy, sampled, and found by beam search.

The network is any `jaxrnn.layers.Layer` that reads ids and returns logits, and has a
`step`. With ids i[t], logits z[t] and the state s[t],

    i[t]        is chosen from  softmax(z[t-1])                                     (1)
    s[t], z[t]  = step(s[t-1], i[t])                                                (2)

until every sequence has its end id, or for `size` steps, in one compiled loop. The
state s[0] and the logits z[0] are those after a prompt, `[T, *B]`, which `unroll` reads
in parallel:

    state, logits = net.unroll(params, None, prompt)
    found = decoding.greedy(net, params, state, logits[-1], 50)

Dropout is off in all searches. `scheduled_inputs` mixes such choices into the inputs of
training. Calls outside `jit` are compiled once for each network and each kind of
arguments.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Integer, PRNGKeyArray

from jaxrnn import arguments, checks
from jaxrnn.arguments import Given
from jaxrnn.layers import base
from jaxrnn.layers.base import Layer
from jaxrnn.ops import placement
from jaxrnn.ops.ids import are_ids
from jaxrnn.ops.products import accumulation_dtype
from jaxrnn.ops.selection import select, with_axes_of

NO_END = -1  # what no id equals


class Decoded(NamedTuple):
    """Sequences of ids, N = `size` steps; a beam search adds a last batch axis, K.

    Attributes:
      ids: int32 `[N, *B]`, time first. After its end id, a sequence repeats it.
      lengths: int32 `[*B]`, the number of ids, the end id included.
      scores: `[*B]`, log-probabilities of the sequences under the network, (1), float32
        or wider.
      state: the state after each sequence's last id, leaves `[*B, ...]`.
      logits: `[*B, V]`, the prediction after it, from which a call may go on.
    """

    ids: Int[Array, "N *B"]
    lengths: Int[Array, "*B"]
    scores: Float[Array, "*B"]
    state: Any
    logits: Float[Array, "*B V"]


def greedy(
    layer: Layer,
    params: Any,
    state: Any,
    logits: Float[Array, "*B V"],
    size: int,
    *,
    end: int | None = None,
) -> Decoded:
    """Returns the sequences whose every id is the likeliest one.

    Args:
      layer: reads ids and returns logits. Static, and so are `size` and `end`.
      params: the layer's parameters.
      state: the state after the prompt, leaves `[*B, ...]`.
      logits: the prediction after the prompt, `[*B, V]`, any number of batch axes.
      size: N, the number of ids at most.
      end: the id that ends a sequence, 0 ≤ end < V; None: there is none.

    Returns:
      The ids `[N, *B]`, with their lengths and scores.

    Raises:
      TypeError: if `layer` is not a Layer or has no `step`, or a dtype does not fit.
      ValueError: if a shape or an option does not fit.
    """
    given = _admit(layer, params, state, logits, size, end)
    return _decode(layer, given, None, size, NO_END if end is None else end, None)


def sample(
    layer: Layer,
    params: Any,
    state: Any,
    logits: Float[Array, "*B V"],
    size: int,
    key: PRNGKeyArray,
    *,
    temperature: Float[Array, ""] | float = 1.0,
    top_k: int | None = None,
    top_p: Float[Array, ""] | float | None = None,
    end: int | None = None,
) -> Decoded:
    """Returns sequences whose every id is drawn from the network's prediction.

    The logits are divided by the temperature first; then the k likeliest ids are kept,
    and of those the nucleus. One key serves the whole batch. For a key per sequence,
    call `jax.vmap`. Under `jax.shard_map` one key draws the same numbers in each part
    of the batch: give each part `jax.random.fold_in(key, jax.lax.axis_index(axis))`.

    Args:
      layer: as in `greedy`, and so are `params`, `state`, `logits`, `size` and `end`.
      key: a random key; a call that continues another one needs a key of its own.
      temperature: ≥ 0; below 1, likely ids become likelier, and at 0 the likeliest is
        drawn.
      top_k: the number of ids that are kept (`keep_top_k`), static; None: all.
      top_p: the mass of the nucleus (`keep_nucleus`), 0 < p ≤ 1; None: all.

    Returns:
      The ids `[N, *B]`, with their lengths and scores. The scores are those of the
      network, whatever the temperature and the restrictions.

    Raises:
      TypeError, ValueError: as `greedy`, and if an option does not fit.
    """
    given = _admit(layer, params, state, logits, size, end)
    arguments.key("key", key)
    top_k = None if top_k is None else checks.positive("top_k", top_k)
    temperature = _number("temperature", temperature)
    if checks.is_known(temperature) and not temperature >= 0:
        raise ValueError(f"`temperature` must be ≥ 0, but got {temperature}.")
    mass = None if top_p is None else _mass("top_p", top_p)
    drawing = _Drawing(key, temperature, mass)
    return _decode(layer, given, drawing, size, NO_END if end is None else end, top_k)


def beam_search(
    layer: Layer,
    params: Any,
    state: Any,
    logits: Float[Array, "*B V"],
    size: int,
    width: int,
    *,
    end: int | None = None,
    length_penalty: Float[Array, ""] | float = 0.0,
) -> Decoded:
    """Returns the likeliest sequences that a beam of `width` finds, the best first.

    Each step extends the K sequences of the beam by every id, and keeps the K best.
    Sequences that have ended stay in the beam as long as they are among the best. Width
    1 is `greedy`; a width of V^(N-1) finds the likeliest sequence of all.

    Args:
      layer: as in `greedy`, and so are `params`, `state`, `logits`, `size` and `end`.
      width: K, the number of sequences in the beam, static.
      length_penalty: α, by which sequences are compared: log-probability / length^α.
        0 prefers the likeliest, and so the short; 1 compares means per id.

    Returns:
      The ids `[N, *B, K]`, lengths, scores (without the penalty), state and logits,
      each with the beam as its last batch axis: `ids[..., 0]` are the best sequences.
      If there are fewer than K different sequences, the rest have the score -∞.

    Raises:
      TypeError, ValueError: as `greedy`, and if an option does not fit.

    Source: Graves (2012), arXiv:1211.3711, section 2.4; the penalty: Wu et al. (2016),
    arXiv:1609.08144, section 7, here with length^α.
    """
    given = _admit(layer, params, state, logits, size, end)
    width = checks.positive("width", width)
    penalty = _number("length_penalty", length_penalty)
    return _search(layer, given, penalty, size, NO_END if end is None else end, width)


def keep_top_k(logits: Float[Array, "*B V"], k: int) -> Float[Array, "*B V"]:
    """Returns the logits with -∞ for all but the k largest; of equal ones, the first.

    Raises:
      TypeError, ValueError: if `k` is not an integer ≥ 1.

    Source: Fan, Lewis & Dauphin (2018), arXiv:1805.04833.
    """
    k = checks.positive("k", k)
    logits = checks.array("logits", logits)
    kept, ids = lax.top_k(logits, min(k, logits.shape[-1]))
    return _only(logits, kept, ids)


def keep_nucleus(
    logits: Float[Array, "*B V"], p: Float[Array, ""] | float
) -> Float[Array, "*B V"]:
    """Returns the logits with -∞ for all but the smallest set of probability ≥ p.

    Raises:
      TypeError, ValueError: if `p` is not a number above 0 and at most 1.

    Source: Holtzman et al. (2020), arXiv:1904.09751.
    """
    mass = _mass("p", p)
    logits = checks.array("logits", logits)
    ordered, ids = lax.top_k(logits, logits.shape[-1])
    each = jax.nn.softmax(ordered.astype(accumulation_dtype(logits.dtype)))
    before = jnp.cumsum(each, axis=-1) - each
    # Rounded sums may reach 1 before the last id.
    kept = jnp.where((before < mass) | (mass >= 1), ordered, -jnp.inf)
    return _only(logits, kept, ids)


def scheduled_inputs(
    layer: Layer,
    params: Any,
    state: Any,
    ids: Integer[Array, "T *B"],
    share: Float[Array, ""] | float,
    key: PRNGKeyArray,
    *,
    mask: Bool[Array, "T *B"] | None = None,
    noise_key: PRNGKeyArray | None = None,
) -> Integer[Array, "T *B"]:
    """Returns inputs for scheduled sampling: ids of which a share is the network's own.

    With probability `share`, independently at each step, the id is replaced by one that
    is drawn from the network's prediction at the step before. Training then calls
    `unroll` with the ids that are returned, from the same state. No gradient goes
    through a draw, so this is the gradient of scheduled sampling, by the hand-written
    backward pass; it costs one forward loop more. A share of 0 is teacher forcing.

    Args:
      layer: as in `greedy`. Static.
      params: the layer's parameters.
      state: the state before the first step; None: the initial one.
      ids: what teacher forcing would read, `[T, *B]`.
      share: the probability of the network's own ids, between 0 and 1. Not static: a
        schedule compiles once.
      key: a random key. Under `jax.shard_map`, fold the axis index into it, as for
        `sample`.
      mask: as in `unroll`. A sequence's first step that is not masked is never
        replaced.
      noise_key: the key that `unroll` will get, if dropout is on.

    Raises:
      TypeError, ValueError: if an argument is not of this kind.

    Source: Bengio et al. (2015), "Scheduled sampling for sequence prediction with
    recurrent neural networks", arXiv:1506.03099.
    """
    base.checked("layer", layer)
    arguments.key("key", key)
    ids = checks.array("ids", ids)
    if not are_ids(ids) or not ids.ndim:
        raise TypeError(
            f"`ids` must be integers, [T, *B], but got {ids.dtype} of shape "
            f"{ids.shape}."
        )
    mask = base.step_mask("mask", mask, ids, "(T, *B)")
    mask = jnp.ones(ids.shape, bool) if mask is None else mask
    chance = _number("share", share)
    if checks.is_known(chance) and not 0 <= chance <= 1:
        raise ValueError(f"`share` must be between 0 and 1, but got {chance}.")
    if state is None:
        state = layer.initial_state(params, ids.shape[1:])
    constant = lax.stop_gradient((params, state))
    return _mix(layer, *constant, ids, chance, key, mask, noise_key)


class _Given(NamedTuple):
    """The arguments of every search, as arrays."""

    params: Any
    state: Any
    logits: Array


class _Drawing(NamedTuple):
    """How ids are drawn."""

    key: Array
    temperature: Array
    top_p: Array | None


class _Path(NamedTuple):
    """Sequences under way, leaves `[*B, ...]`: what a loop carries."""

    going: Bool[Array, "*B"]
    lengths: Int[Array, "*B"]
    scores: Float[Array, "*B"]
    state: Any
    logits: Float[Array, "*B V"]


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _decode(
    layer: Layer,
    given: _Given,
    drawing: _Drawing | None,
    size: int,
    end: int,
    top_k: int | None,
) -> Decoded:
    """Chooses one id per step: the likeliest, or one that is drawn."""

    def choose(t: Array, logits: Array) -> Array:
        if drawing is None:
            return jnp.argmax(logits, axis=-1)
        logits = _tempered(logits, drawing.temperature)
        logits = logits if top_k is None else keep_top_k(logits, top_k)
        if drawing.top_p is not None:
            logits = keep_nucleus(logits, drawing.top_p)
        return jax.random.categorical(jax.random.fold_in(drawing.key, t), logits)

    def over_step(t: Array, path: _Path) -> tuple[_Path, Array]:
        ids = jnp.where(path.going, choose(t, path.logits), end).astype(jnp.int32)
        logp = jnp.take_along_axis(_log_softmax(path.logits), ids[..., None], axis=-1)
        scores = path.scores + jnp.where(path.going, logp[..., 0], 0)
        return _read(layer, given.params, path, ids, scores, end), ids

    start = _start(given.state, given.logits)
    path, ids = _loop(over_step, start, jnp.full_like(start.lengths, end), size)
    return Decoded(ids, *path[1:])


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _search(
    layer: Layer, given: _Given, penalty: Array, size: int, end: int, width: int
) -> Decoded:
    """Keeps the `width` best of all extensions of a beam, the last batch axis."""
    axis = given.logits.ndim - 1  # of the beam
    vocabulary = given.logits.shape[-1]

    def repeated(a: Array) -> Array:
        return jnp.repeat(jnp.expand_dims(a, axis), width, axis)

    def over_step(t: Array, path: _Path) -> tuple[_Path, tuple[Array, Array]]:
        # All extensions; the only one of a sequence that has ended is itself.
        stay = jnp.where(jnp.arange(vocabulary) == end, 0, -jnp.inf)
        logp = jnp.where(path.going[..., None], _log_softmax(path.logits), stay)
        totals = path.scores[..., None] + logp
        lengths = (path.lengths + path.going).astype(totals.dtype)
        compared = totals / lengths[..., None] ** penalty.astype(totals.dtype)
        # The best of them, and the sequences that they extend.
        flat = (*compared.shape[:axis], -1)
        best = lax.top_k(compared.reshape(flat), width)[1]
        scores = jnp.take_along_axis(totals.reshape(flat), best, axis)
        parents = best // vocabulary
        path = jax.tree.map(partial(_along, axis, parents), path)
        ids = jnp.where(path.going, best % vocabulary, end).astype(jnp.int32)
        return _read(layer, given.params, path, ids, scores, end), (ids, parents)

    # One sequence at first, or all would be alike.
    start = _start(*jax.tree.map(repeated, (given.state, given.logits)))
    one = jnp.where(jnp.arange(width) == 0, start.scores, -jnp.inf)
    start = start._replace(scores=one)
    beam = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), one.shape)
    blank = jnp.full_like(beam, end), beam
    path, (ids, parents) = _loop(over_step, start, blank, size)

    # Backwards along the parents.
    def back(at: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        ids, parents = step
        return _along(axis, at, parents), _along(axis, at, ids)

    at = placement.varying_alike((beam, parents))[0]
    ids = lax.scan(back, at, (ids, parents), reverse=True)[1]
    return Decoded(ids, *path[1:])


@partial(jax.jit, static_argnums=0)
def _mix(
    layer: Layer,
    params: Any,
    state: Any,
    ids: Array,
    share: Array,
    key: Array,
    mask: Array,
    noise_key: Array | None,
) -> Array:
    """Replaces ids by draws, in a loop of steps."""
    step = partial(layer.step, params, key=noise_key)
    shape = jax.eval_shape(step, state, ids[0])[1]

    def over_step(carry: Any, inputs: Any) -> Any:
        state, logits, begun = carry
        t, given, there = inputs
        choosing, drawing = jax.random.split(jax.random.fold_in(key, t))
        own = jax.random.bernoulli(choosing, share, given.shape) & begun
        drawn = jax.random.categorical(drawing, logits).astype(given.dtype)
        read = jnp.where(own, drawn, given)
        state, predicted = step(state, read, mask=there)
        return (state, select(there, predicted, logits), begun | there), read

    carry = state, jnp.zeros(shape.shape, shape.dtype), jnp.zeros(ids.shape[1:], bool)
    carry, ids, mask = placement.varying_alike((carry, ids, mask))
    steps = jnp.arange(ids.shape[0])
    return lax.scan(over_step, carry, (steps, ids, mask))[1]


def _loop(
    over_step: Callable[[Array, _Path], tuple[_Path, Any]],
    start: _Path,
    blank: Any,
    size: int,
) -> tuple[_Path, Any]:
    """Runs at most `size` steps, and stops when every sequence has ended.

    Returns the last path, and what the steps returned, leaves `[N, *B]`; `blank` for
    those that did not run.
    """

    def unfinished(carry: Any) -> Array:
        t, path, _ = carry
        return (t < size) & jnp.any(path.going)

    def body(carry: Any) -> Any:
        t, path, rows = carry
        path, row = over_step(t, path)
        rows = jax.tree.map(lambda all, new: all.at[t].set(new), rows, row)
        return t + 1, path, rows

    rows = jax.tree.map(lambda a: jnp.broadcast_to(a, (size, *a.shape)), blank)
    carry = jnp.zeros((), jnp.int32), *placement.varying_alike((start, rows))
    return lax.while_loop(unfinished, body, carry)[1:]


def _start(state: Any, logits: Array) -> _Path:
    """Returns the paths before their first ids."""
    batch = logits.shape[:-1]
    scores = jnp.zeros(batch, accumulation_dtype(logits.dtype))
    return _Path(
        jnp.ones(batch, bool), jnp.zeros(batch, jnp.int32), scores, state, logits
    )


def _read(
    layer: Layer, params: Any, path: _Path, ids: Array, scores: Array, end: int
) -> _Path:
    """Returns the paths after (2); those that have ended stay as they are."""
    after = layer.step(params, path.state, ids)
    state, logits = select(path.going, after, (path.state, path.logits))
    going = path.going & (ids != end)
    return _Path(going, path.lengths + path.going, scores, state, logits)


def _along(axis: int, at: Array, a: Array) -> Array:
    """Returns the entries `at [*B, K]` of `a [*B, K, ...]` along its beam."""
    return jnp.take_along_axis(a, with_axes_of(a, at), axis)


def _only(logits: Array, kept: Array, ids: Array) -> Array:
    """Returns `kept [*B, k]` where `ids [*B, k]` are among the V, and -∞ elsewhere."""
    nothing = jnp.full_like(logits, -jnp.inf)
    return jnp.put_along_axis(
        nothing, ids, kept.astype(logits.dtype), axis=-1, inplace=False
    )


def _log_softmax(logits: Array) -> Array:
    return jax.nn.log_softmax(logits.astype(accumulation_dtype(logits.dtype)))


def _tempered(logits: Array, temperature: Array) -> Array:
    """Returns the logits over the temperature; at 0, the largest alone is not -∞."""
    # Below 0, so that a low temperature makes no +∞.
    below = logits - jnp.max(logits, axis=-1, keepdims=True)
    divided = below / jnp.where(temperature > 0, temperature, 1).astype(logits.dtype)
    return jnp.where(temperature > 0, divided, keep_top_k(logits, 1))


def _admit(
    layer: Given, params: Given, state: Given, logits: Given, size: Given, end: Given
) -> _Given:
    """Returns the arguments as arrays; raises unless they fit one another."""
    base.checked("layer", layer)
    checks.positive("size", size)
    logits = checks.array("logits", logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating) or not logits.ndim:
        raise TypeError(
            f"`logits` must be floating, [*B, V], but got {logits.dtype} of shape "
            f"{logits.shape}. They are the last ones of the prompt: logits[-1]."
        )
    *batch, vocabulary = logits.shape
    if end is not None and arguments.integer("end", end, 0) >= vocabulary:
        raise ValueError(f"`end` must be below V = {vocabulary}, but got {end}.")
    params, state = jax.tree.map(jnp.asarray, checks.unwrapped((params, state)))
    # The step must give back what it takes.
    ids = jax.ShapeDtypeStruct(tuple(batch), jnp.int32)
    made = f"`logits` {logits.shape} require (those after a prompt are its last ones)"
    fresh = jax.eval_shape(lambda p: layer.initial_state(p, tuple(batch)), params)
    cure = (
        "Both come from a prompt: state, logits = layer.unroll(params, None, prompt)."
    )
    checks.same_state(state, fresh, made, cure=cure)
    _, expected = jax.eval_shape(layer.step, params, state, ids)
    cure = "The last layer must return them: layers.dense(vocabulary)."
    checks.same_state(logits, expected, "`layer.step` returns", "logits", cure)
    return _Given(params, state, logits)


def _number(name: str, got: Given) -> Array:
    """Returns `got` as a floating scalar; raises otherwise."""
    number = checks.array(name, got)
    if number.shape or number.dtype == jnp.bool_:
        raise TypeError(
            f"`{name}` must be one number, but got {arguments.describe(got)}. For one "
            "per sequence, call jax.vmap."
        )
    return number.astype(jnp.promote_types(number.dtype, jnp.float32))


def _mass(name: str, got: Given) -> Array:
    """Returns `got` as a floating scalar; raises unless 0 < got ≤ 1."""
    number = _number(name, got)
    if checks.is_known(number) and not 0 < number <= 1:
        raise ValueError(f"`{name}` must be above 0 and at most 1, but got {number}.")
    return number
