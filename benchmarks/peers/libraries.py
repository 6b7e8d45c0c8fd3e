"""JAX's other libraries, each with its own module; imported when they are asked for."""
# pyright: reportMissingImports=false

import os
from collections.abc import Mapping
from typing import Any

import jax
from jax import lax

from benchmarks.contest import Contestant, Maker, from_outputs
from benchmarks.peers.scans import zeros
from benchmarks.problem import Problem
from jaxrnn import interop


def flax_cells(module: Any) -> dict[str, Any]:
    """Returns the cells of `flax.nnx` or `flax.linen`."""
    gated = {"lstm": module.OptimizedLSTMCell, "gru": module.GRUCell}
    return {"elman": module.SimpleCell, **gated}


def nnx_cell(cell: str, params: Any) -> Any:
    """Returns Flax NNX's cell with these weights; its GRU has no `b_hn`."""
    from flax import nnx

    sizes = len(params.w_ih), len(params.w_hh)
    made = flax_cells(nnx)[cell](*sizes, rngs=nnx.Rngs(0))
    nnx.update(made, interop.to_flax(params, made))
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

    cell = flax_cells(linen)[problem.cell](problem.shape.H)
    rnn = linen.RNN(cell, time_major=True)
    params = {"params": {"cell": interop.to_flax(problem.params, cell)}}
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
        params = interop.to_haiku(problem.params)
    differs = unlike.get(problem.cell, "")
    return from_outputs(transformed.apply, params, problem.xs, unlike=differs)


def equinox(problem: Problem) -> Contestant | None:
    """LSTMCell or GRUCell, one sequence's step, under vmap in a scan; no Elman cell."""
    if problem.cell == "elman":
        return None
    cell = interop.to_equinox(problem.params)

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
    params = interop.to_keras(problem.params)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def outputs(params, xs):
        return layer.stateless_call(params, fixed, xs)[0]

    return from_outputs(outputs, params, problem.xs, batch_major=True)


CONTESTANTS: Mapping[str, Maker] = {
    **{"flax-nnx": flax_nnx, "flax-linen": flax_linen, "haiku": haiku},
    **{"equinox": equinox, "keras": keras},
}
