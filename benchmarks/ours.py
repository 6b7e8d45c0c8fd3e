"""jaxrnn's columns: as users get it, with each `store`, on all cores, in bfloat16."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

import jaxrnn
from benchmarks import contest, problem
from jaxrnn import devices


def make(of: problem.Problem, **options: Any) -> contest.Contestant:
    """`jaxrnn.unroll` on one device."""
    return contest.compiled(model(of, **options), of.xs)


def make_store(of: problem.Problem, store: str) -> contest.Contestant:
    """The gradient with this `store`; forward alone nothing is stored."""
    return contest.compiled(model(of, store=store), of.xs, ("gradient",))


def make_cores(of: problem.Problem) -> contest.Contestant:
    """As `jaxrnn.train` runs a step: over one device per core where that pays, the batch split."""
    over = devices.chosen(of.params)
    params, _, xs = devices.split((of.params, None, of.xs), over)
    return contest.compiled(model(of)._replace(params=params), xs)


def make_bfloat16(of: problem.Problem) -> contest.Contestant:
    """Products in bfloat16, all else in float32."""
    return make(of, compute_dtype=jnp.bfloat16)._replace(unlike="products in bfloat16")


def make_ragged(of: problem.Problem) -> contest.Contestant:
    """With `problem.ragged`'s lengths."""
    lengths = jnp.asarray(problem.ragged(of.shape))
    return make(of, mask=jaxrnn.lengths_to_mask(lengths, of.shape.T))


def make_resets(of: problem.Problem) -> contest.Contestant:
    """With `problem.resets`' episodes."""
    return make(of, reset=jnp.asarray(problem.resets(of.shape)))


def model(of: problem.Problem, **options: Any) -> contest.Model:
    """`jaxrnn.unroll` with these options."""

    def outputs(params, xs):
        return jaxrnn.unroll(problem.CELLS[of.cell], params, None, xs, **options)[1]

    return contest.Model(outputs, of.params)


def _with_store(store: str) -> Callable[[problem.Problem], contest.Contestant]:
    return lambda of: make_store(of, store)


CONTESTANTS: Mapping[str, Callable[[problem.Problem], contest.Contestant]] = {
    "jaxrnn": make,
    **{f"jaxrnn-{store}": _with_store(store) for store in ("residuals", "boundaries")},
    "jaxrnn-cores": make_cores,
    "jaxrnn-bfloat16": make_bfloat16,
}
