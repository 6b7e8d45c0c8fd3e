"""Networks of layers, each by the library's own layers; the peers have no LRU."""
# pyright: reportMissingImports=false

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

import jaxrnn
from benchmarks.contest import Contestant, Maker, from_outputs
from benchmarks.networks import LINEAR, NETWORKS, Network
from benchmarks.peers import libraries, linear, native, ours
from benchmarks.peers.scans import zeros
from benchmarks.problem import Problem
from jaxrnn import cells, interop, layers

IN_PARALLEL = {"lru": jaxrnn.make_lru, "min_gru": jaxrnn.make_min_gru}


def unrolled(problem: Problem, network: Network, parallel: bool = False) -> Contestant:
    """`jaxrnn.layers`."""
    cell = cells.CELLS[network.cell]
    cell = IN_PARALLEL[network.cell](parallel=True) if parallel else cell
    one = layers.recurrent(cell, problem.shape.H)
    one = layers.bidirectional(one) if network.both_ways else one
    stacked, params = [], []
    for ways in problem.params:
        if network.dropout and stacked:
            stacked.append(layers.dropout(network.dropout))
            params.append(())
        stacked.append(one)
        params.append(layers.BothWays(*ways) if network.both_ways else ways[0])
    net = layers.stack(*stacked)

    def outputs(params, xs, key=None):
        return net.unroll(params, None, xs, key=key)[1]

    fixed = (jax.random.key(0),) if network.dropout else ()
    return from_outputs(outputs, tuple(params), problem.xs, fixed=fixed)


def on_cores(problem: Problem, network: Network) -> Contestant:
    """The batch split over the cores where that pays."""
    return ours.on_cores(problem, partial(unrolled, network=network))


def parallel(problem: Problem, network: Network) -> Contestant | None:
    """Ours with the steps of a chunk as an associative scan."""
    if network.cell not in LINEAR:
        return None
    return unrolled(problem, network, parallel=True)


def flax_nnx(problem: Problem, network: Network) -> Contestant | None:
    """`nnx.RNN`, `nnx.Bidirectional` and `nnx.Dropout`, time-major."""
    if network.cell in LINEAR:
        return None
    from flax import nnx

    start = zeros(network.cell, *problem.shape[1::2])
    start = (start, start) if network.both_ways else start

    def layer(ways: Any) -> Any:
        made = [libraries.nnx_cell(network.cell, params) for params in ways]
        rnns = [nnx.RNN(cell, time_major=True, rngs=False) for cell in made]
        return nnx.Bidirectional(*rnns, time_major=True) if rnns[1:] else rnns[0]

    class Stack(nnx.Module):
        def __init__(self) -> None:
            self.layers = nnx.List([layer(ways) for ways in problem.params])
            self.dropout = nnx.Dropout(network.dropout, rngs=nnx.Rngs(0))

        def __call__(self, xs: Any) -> Any:
            for number, layer in enumerate(self.layers):
                xs = self.dropout(xs) if number else xs
                xs = layer(xs, initial_carry=start)
            return xs

    graph, params, noise = nnx.split(Stack(), nnx.Param, ...)

    def outputs(params, xs, noise):
        # A copy, because drawing counts up the noise.
        return nnx.merge(graph, params, noise, copy=True)(xs)

    return from_outputs(outputs, params, problem.xs, fixed=(noise,))


def keras(problem: Problem, network: Network) -> Contestant | None:
    """`keras.Sequential` of LSTM or GRU, Bidirectional and Dropout, batch-major."""
    if network.cell in LINEAR:
        return None
    os.environ["KERAS_BACKEND"] = "jax"
    import keras as library
    from keras import layers

    size, batch, inputs, hidden = problem.shape
    make = layers.GRU if network.cell == "gru" else layers.LSTM
    model, params = library.Sequential(), []
    for ways in problem.params:
        if network.dropout and params:
            model.add(layers.Dropout(network.dropout))
        one = make(hidden, return_sequences=True)
        model.add(layers.Bidirectional(one) if network.both_ways else one)
        params += [array for way in ways for array in interop.to_keras(way)]
    model.build((batch, size, inputs))
    seeds = [variable.value for variable in model.non_trainable_variables]

    def outputs(params, xs, seeds):
        return model.stateless_call(params, seeds, xs, training=True)[0]

    facts = {"fixed": (seeds,), "batch_major": True}
    return from_outputs(outputs, params, problem.xs, **facts)


def pytorch(problem: Problem, network: Network) -> Contestant | None:
    """`torch.nn.LSTM` or `GRU` of several layers, time-major."""
    if network.cell in LINEAR:
        return None
    rnn = native.torch_rnn(network.cell, problem.params, network.dropout)
    return native.run_module(rnn, problem.xs)


def _maker(make: Callable[[Problem, Network], Contestant | None]) -> Maker:
    """Returns a maker whose contestants are compared without their dropout."""

    def of_network(problem: Problem) -> Contestant | None:
        network = NETWORKS[problem.cell]
        contestant = make(problem, network)
        if contestant is None or not network.dropout:
            return contestant
        quiet = make(problem, network._replace(dropout=0.0))
        return contestant._replace(without_noise=quiet)

    return of_network


CONTESTANTS: Mapping[str, Maker] = {
    "jaxrnn": _maker(unrolled),
    "jaxrnn-cores": _maker(on_cores),
    "jaxrnn-parallel": _maker(parallel),
    "flax-nnx": _maker(flax_nnx),
    "keras": _maker(keras),
    "pytorch": _maker(pytorch),
    **linear.CONTESTANTS,
}
