"""JAX's other libraries, each with its own module; imported when they are asked for."""
# pyright: reportMissingImports=false

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import lax

from benchmarks.contest import Contestant, Maker, from_outputs
from benchmarks.peers.layout import weights
from benchmarks.peers.scans import zeros
from benchmarks.problem import Problem


def flax_cells(module: Any) -> dict[str, Any]:
    """Returns the cells of `flax.nnx` or `flax.linen`."""
    gated = {"lstm": module.OptimizedLSTMCell, "gru": module.GRUCell}
    return {"elman": module.SimpleCell, **gated}


def nnx_cell(cell: str, params: Any) -> Any:
    """Returns Flax NNX's cell with these weights, but for the GRU's `b_hn`."""
    from flax import nnx

    given = weights(params)
    sizes = len(given.w_ih), len(given.w_hh)
    made = flax_cells(nnx)[cell](*sizes, rngs=nnx.Rngs(0))
    made.dense_i.kernel[...], made.dense_h.kernel[...] = given.w_ih, given.w_hh
    with_bias = made.dense_h if made.dense_i.bias is None else made.dense_i
    with_bias.bias[...] = given.b
    return made


def flax_nnx(problem: Problem) -> Contestant:
    """`nnx.RNN`, time-major."""
    from flax import nnx

    cell = nnx_cell(problem.cell, problem.params)
    graph, params = nnx.split(nnx.RNN(cell, time_major=True, rngs=False))
    start = zeros(problem.cell, *problem.shape[1::2])

    def outputs(params, xs):
        return nnx.merge(graph, params)(xs, initial_carry=start)

    return from_outputs(outputs, params, problem.xs)


def flax_linen(problem: Problem) -> Contestant:
    """`nn.RNN`, time-major."""
    from flax import linen

    cell = problem.cell
    rnn = linen.RNN(flax_cells(linen)[cell](problem.shape.H), time_major=True)
    # A dense layer for each gate and side; its own tree decides which ones have a bias.
    given = {}
    w_ih, w_hh, b, _ = weights(problem.params)
    order = type(problem.params).gates.order
    gates = [gate * (len(order) > 1) for gate in order]
    parts = (np.split(a, len(gates), axis=-1) for a in (w_ih, w_hh, b))
    for gate, w_i, w_h, bias in zip(gates, *parts, strict=True):
        given["i" + gate] = {"kernel": w_i, "bias": bias}
        given["h" + gate] = {"kernel": w_h, "bias": bias}
    if cell == "gru":
        given["hn"]["bias"] = problem.params.b_hn
    empty = jax.eval_shape(rnn.init, jax.random.key(0), problem.xs)
    params = jax.tree_util.tree_map_with_path(
        lambda path, _: given[path[-2].key][path[-1].key], empty
    )
    return from_outputs(rnn.apply, params, problem.xs)


def haiku(problem: Problem) -> Contestant:
    """`hk.dynamic_unroll` of LSTM, GRU or VanillaRNN."""
    import haiku as hk

    cores = {"lstm": hk.LSTM, "gru": hk.GRU, "elman": hk.VanillaRNN}
    unlike = {"gru": "resets before the product", "elman": "relu instead of tanh"}
    _, batch, _, hidden = problem.shape

    def outputs(xs):
        core = cores[problem.cell](hidden)
        return hk.dynamic_unroll(core, xs, core.initial_state(batch))[0]

    transformed = hk.without_apply_rng(hk.transform(outputs))
    params: Any = transformed.init(jax.random.key(0), problem.xs)
    if problem.cell == "lstm":
        # One matrix for both products; 1 is added to the bias of the third gate, f.
        w_ih, w_hh, b, _ = weights(problem.params, "haiku")
        b[2 * hidden : 3 * hidden] -= 1
        params = {"lstm/linear": {"w": np.concatenate([w_ih, w_hh]), "b": b}}
    differs = unlike.get(problem.cell, "")
    return from_outputs(transformed.apply, params, problem.xs, unlike=differs)


def equinox(problem: Problem) -> Contestant | None:
    """LSTMCell or GRUCell, one sequence's step, under vmap in a scan; no Elman cell."""
    import equinox as eqx

    if problem.cell == "elman":
        return None
    make = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[problem.cell]
    cell: Any = make(problem.shape.I, problem.shape.H, key=jax.random.key(0))
    w_ih, w_hh, b, *b_n = problem.params

    def leaves(cell: Any) -> list[Any]:
        last = [cell.bias_n] if b_n else []
        return [cell.weight_ih, cell.weight_hh, cell.bias, *last]

    cell = eqx.tree_at(leaves, cell, [w_ih.T, w_hh.T, b, *b_n])

    def outputs(cell, xs):
        def over_step(state, x):
            state = jax.vmap(cell)(x, state)
            return state, state[0] if problem.cell == "lstm" else state

        return lax.scan(over_step, zeros(problem.cell, *problem.shape[1::2]), xs)[1]

    return from_outputs(outputs, cell, problem.xs)


def keras(problem: Problem) -> Contestant:
    """`keras.layers` LSTM, GRU or SimpleRNN on JAX, batch-major."""
    os.environ["KERAS_BACKEND"] = "jax"
    from keras import layers

    makers = {"lstm": layers.LSTM, "gru": layers.GRU, "elman": layers.SimpleRNN}
    size, batch, inputs, hidden = problem.shape
    layer = makers[problem.cell](hidden, return_sequences=True)
    layer.build((batch, size, inputs))
    w_ih, w_hh, b, b_hh = weights(problem.params, "keras")
    params = [w_ih, w_hh, np.stack([b, b_hh]) if problem.cell == "gru" else b]
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def outputs(params, xs):
        return layer.stateless_call(params, fixed, xs)[0]

    return from_outputs(outputs, params, problem.xs, batch_major=True)


CONTESTANTS: Mapping[str, Maker] = {
    **{"flax-nnx": flax_nnx, "flax-linen": flax_linen, "haiku": haiku},
    **{"equinox": equinox, "keras": keras},
}
