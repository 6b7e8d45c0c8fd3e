"""The JAX libraries' columns: each with its own module and its own way of differentiating.

Every function gives a `contest.Model` with the problem's weights in the library's layout, or None
where the library has no such cell. A library is imported when it is asked for.
"""
# pyright: reportMissingImports=false

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import contest
from benchmarks.problem import Problem


def flax_nnx(of: Problem) -> contest.Model:
    """`nnx.RNN` of OptimizedLSTMCell, GRUCell or SimpleCell, time-major."""
    from flax import nnx

    cells = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "elman": nnx.SimpleCell}
    cell = cells[of.cell](of.shape.I, of.shape.H, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = of.params.w_ih
    cell.dense_h.kernel[...] = of.params.w_hh
    (cell.dense_i if cell.dense_i.bias is not None else cell.dense_h).bias[...] = (
        of.params.b
    )
    rnn = nnx.RNN(cell, time_major=True, rngs=False)
    graph, params = nnx.split(rnn)
    start = zeros(of)

    def outputs(params, xs):
        return nnx.merge(graph, params)(xs, initial_carry=start)

    return contest.Model(outputs, params)


def flax_linen(of: Problem) -> contest.Model:
    """`nn.RNN` of OptimizedLSTMCell, GRUCell or SimpleCell, time-major."""
    from flax import linen as nn

    cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}
    rnn = nn.RNN(cells[of.cell](of.shape.H), time_major=True)
    names = {"lstm": "ifgo", "gru": "rzn", "elman": ("",)}[of.cell]
    w_ih, w_hh, bs = (
        np.split(np.asarray(a), len(names), axis=-1) for a in of.params[:3]
    )
    given = {}
    for name, w_i, w_h, b in zip(names, w_ih, w_hh, bs, strict=True):
        given["i" + name] = {"kernel": w_i, "bias": b}
        given["h" + name] = {"kernel": w_h, "bias": b}
    if of.cell == "gru":
        given["hn"]["bias"] = of.params.b_hn
    empty = jax.eval_shape(rnn.init, jax.random.key(0), of.xs)
    # Of the two places for a bias, the cell has one.
    params = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(given[path[-2].key][path[-1].key]), empty
    )
    return contest.Model(rnn.apply, params)


def haiku(of: Problem) -> contest.Model:
    """`hk.dynamic_unroll` of LSTM, GRU or VanillaRNN."""
    import haiku as hk

    cores = {"lstm": hk.LSTM, "gru": hk.GRU, "elman": hk.VanillaRNN}

    def outputs(xs):
        core = cores[of.cell](of.shape.H)
        return hk.dynamic_unroll(core, xs, core.initial_state(of.shape.B))[0]

    transformed = hk.without_apply_rng(hk.transform(outputs))
    if (
        of.cell == "lstm"
    ):  # one matrix, gates in the order i g f o, the forget bias 1 apart
        w = _reordered(
            jnp.concatenate([of.params.w_ih, of.params.w_hh]), "ifgo", "igfo"
        )
        b = _reordered(of.params.b, "ifgo", "igfo")
        params = {
            "lstm/linear": {"w": w, "b": b.at[2 * of.shape.H : 3 * of.shape.H].add(-1)}
        }
        return contest.Model(transformed.apply, params)
    params = transformed.init(jax.random.key(0), of.xs)
    unlike = {"gru": "resets before the product", "elman": "relu instead of tanh"}[
        of.cell
    ]
    return contest.Model(transformed.apply, params, unlike=unlike)


def equinox(of: Problem) -> contest.Model | None:
    """LSTMCell or GRUCell, one sequence's step, vmapped in a scan; it has no Elman cell."""
    import equinox as eqx

    if of.cell == "elman":
        return None
    make = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[of.cell]
    cell = make(of.shape.I, of.shape.H, key=jax.random.key(0))
    biases = (
        (lambda c: [c.bias, c.bias_n]) if of.cell == "gru" else (lambda c: [c.bias])
    )
    cell = eqx.tree_at(
        lambda c: [c.weight_ih, c.weight_hh, *biases(c)],
        cell,
        [of.params.w_ih.T, of.params.w_hh.T, *of.params[2:]],
    )

    def outputs(cell, xs):
        def over_step(state, x):
            state = jax.vmap(cell)(x, state)
            return state, state[0] if of.cell == "lstm" else state

        return lax.scan(over_step, zeros(of), xs)[1]

    return contest.Model(outputs, cell)


def keras(of: Problem) -> contest.Model:
    """`keras.layers` LSTM, GRU or SimpleRNN with JAX below, batch-major as Keras is."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    layers = keras.layers
    make = {"lstm": layers.LSTM, "gru": layers.GRU, "elman": layers.SimpleRNN}[of.cell]
    layer = make(of.shape.H, return_sequences=True)
    layer.build((of.shape.B, of.shape.T, of.shape.I))
    weights = list(of.params[:3])
    if of.cell == "gru":  # gates in the order z r h, and two rows of biases
        w_ih, w_hh, b = (_reordered(w, "rzn", "zrn") for w in weights)
        b_h = jnp.zeros_like(b).at[2 * of.shape.H :].set(of.params.b_hn)
        weights = [w_ih, w_hh, jnp.stack([b, b_h])]
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def outputs(weights, xs):
        return layer.stateless_call(weights, fixed, xs)[0]

    return contest.Model(outputs, weights, batch_major=True)


def make_scan(hoisted: bool, checkpointed: bool) -> Callable[[Problem], contest.Model]:
    """The textbook's step in `lax.scan`.

    Args:
      hoisted: whether the inputs' projection is one product, before the loop.
      checkpointed: whether the step is computed again on the way back, by `jax.checkpoint`.
    """

    def model(of: Problem) -> contest.Model:
        def outputs(params, xs):
            def project(xs):
                return xs @ params.w_ih + params.b

            def over_step(state, x):
                state = textbook(of.cell, params, state, x if hoisted else project(x))
                return state, state[0] if of.cell == "lstm" else state

            over_step = jax.checkpoint(over_step) if checkpointed else over_step
            return lax.scan(over_step, zeros(of), project(xs) if hoisted else xs)[1]

        return contest.Model(outputs, of.params)

    return model


def textbook(cell: str, params: Any, state: Any, u: jax.Array) -> Any:
    """One step, as one would write it down; u is the drive."""
    if cell == "elman":
        return jnp.tanh(u + state @ params.w_hh)
    if cell == "lstm":
        h, c = state
        i, f, g, o = jnp.split(u + h @ params.w_hh, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c
    u_r, u_z, u_n = jnp.split(u, 3, axis=-1)
    q_r, q_z, q_n = jnp.split(state @ params.w_hh, 3, axis=-1)
    r, z = jax.nn.sigmoid(u_r + q_r), jax.nn.sigmoid(u_z + q_z)
    n = jnp.tanh(u_n + r * (q_n + params.b_hn))
    return (1 - z) * n + z * state


def zeros(of: Problem) -> Any:
    """The state's zeros in the order (h, c), or h alone; Flax's order is (c, h): as good."""
    zero = jnp.zeros((of.shape.B, of.shape.H))
    return (zero, zero) if of.cell == "lstm" else zero


def _reordered(a: jax.Array, gates: str, wanted: str) -> jax.Array:
    """The last axis' gates in another order."""
    parts = dict(zip(gates, jnp.split(a, len(gates), axis=-1), strict=True))
    return jnp.concatenate([parts[gate] for gate in wanted], axis=-1)


MODELS: Mapping[str, Callable[[Problem], contest.Model | None]] = {
    "flax-nnx": flax_nnx,
    "flax-linen": flax_linen,
    "haiku": haiku,
    "equinox": equinox,
    "keras": keras,
    "scan": make_scan(hoisted=False, checkpointed=False),
    "scan-hoisted": make_scan(hoisted=True, checkpointed=False),
    "checkpoint": make_scan(hoisted=False, checkpointed=True),
    "checkpoint-hoisted": make_scan(hoisted=True, checkpointed=True),
}


def make(name: str, of: Problem) -> contest.Contestant | None:
    """A JAX library's contestant; forward alone nothing is checkpointed."""
    model = MODELS[name](of)
    if model is None:
        return None
    kinds = ("gradient",) if name.startswith("checkpoint") else contest.KINDS
    return contest.compiled(model, of.xs, kinds)
