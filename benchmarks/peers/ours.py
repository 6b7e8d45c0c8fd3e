"""jaxrnn's ways: as users get it, each `store`, all cores, bfloat16, checkpoints."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxrnn
from benchmarks.contest import Contestant, Maker, from_outputs
from benchmarks.problem import CELLS, Problem
from jaxrnn import devices


def unrolled(problem: Problem, unlike: str = "", **options: Any) -> Contestant:
    """`jaxrnn.unroll` with these options, on one device."""
    cell, forward = CELLS[problem.cell], "store" not in options

    def outputs(params, xs):
        return jaxrnn.unroll(cell, params, None, xs, **options)[1]

    return from_outputs(outputs, problem.params, problem.xs, forward, unlike=unlike)


def on_cores(
    problem: Problem, make: Callable[[Problem], Contestant] = unrolled
) -> Contestant:
    """As `jaxrnn.train` runs a step: the batch split over the cores where that pays."""
    over = devices.default_devices(problem.params)
    placed = devices.split((problem.params, None, problem.xs), over)
    params, _, xs = placed
    contestant = make(problem._replace(params=params, xs=xs))

    def traced(function):
        def call(*arguments):
            with devices.tracing(devices.split_of(placed)):
                return function(*arguments)

        return call

    functions = {kind: traced(f) for kind, f in contestant.functions.items()}
    return contestant._replace(functions=functions)


def ragged(problem: Problem) -> Contestant:
    """With lengths spread evenly over 1 … T, in random order."""
    size, batch, *_ = problem.shape
    lengths = np.ceil(np.linspace(1 / batch, 1, batch) * size).astype(np.int32)
    lengths = jnp.asarray(np.random.default_rng(0).permutation(lengths))
    mask = jaxrnn.lengths_to_mask(lengths, size)
    return unrolled(problem, "with lengths", mask=mask)


def resets(problem: Problem) -> Contestant:
    """With episodes that start at random, every √T steps on average."""
    size, batch, *_ = problem.shape
    reset = np.random.default_rng(0).random((size, batch)) < 1 / math.sqrt(size)
    return unrolled(problem, "with resets", reset=jnp.asarray(reset))


def checkpointed(problem: Problem, nested: bool = False) -> Contestant:
    """`jaxrnn.checkpointed_value_and_grad`; nested: windows of T^⅔ and T^⅓ steps."""
    cell, third = CELLS[problem.cell], problem.shape.T ** (1 / 3)
    windows = (round(third**2), round(third)) if nested else None

    def loss_fn(params, state, xs):
        # In a short window there is memory for the gates: save their recomputation.
        state, hs = jaxrnn.unroll(cell, params, state, xs, store="residuals")
        return jnp.sum(hs**2), state

    value_and_grad = jaxrnn.checkpointed_value_and_grad(loss_fn, windows=windows)

    def loss_and_grad(params, xs):
        start = cell.initial_state(params, (problem.shape.B,))
        (loss, _), grads = value_and_grad(params, start, xs)
        return loss, grads

    return Contestant({"parameters": loss_and_grad}, (problem.params, problem.xs))


IN_BFLOAT16 = {"unlike": "products in bfloat16", "compute_dtype": jnp.bfloat16}
CONTESTANTS: Mapping[str, Maker] = {
    "jaxrnn": unrolled,
    "jaxrnn-states": partial(unrolled, store="states"),
    "jaxrnn-boundaries": partial(unrolled, store="boundaries"),
    "jaxrnn-cores": on_cores,
    "jaxrnn-bfloat16": partial(unrolled, **IN_BFLOAT16),
    "jaxrnn-ragged": ragged,
    "jaxrnn-resets": resets,
}
LONG: Mapping[str, Maker] = {
    "jaxrnn-checkpointed": checkpointed,
    "jaxrnn-nested": partial(checkpointed, nested=True),
    "jaxrnn-states": CONTESTANTS["jaxrnn-states"],
    "jaxrnn-residuals": partial(unrolled, store="residuals"),
    "jaxrnn-boundaries": CONTESTANTS["jaxrnn-boundaries"],
}
