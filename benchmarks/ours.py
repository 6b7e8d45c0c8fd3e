"""jaxrnn's columns: as users get it, with each other `store`, and with one device per core."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxrnn
from benchmarks import contest, problem
from jaxrnn.bptt import Store

DEFAULT = inspect.signature(jaxrnn.unroll).parameters["store"].default
OTHERS = tuple(store for store in get_args(Store) if store != DEFAULT)


def make(of: problem.Problem, **options: Any) -> contest.Contestant:
    """`jaxrnn.unroll` on one device."""
    return contest.compiled(_model(of, **options), of.xs)


def make_store(of: problem.Problem, store: str) -> contest.Contestant:
    """The gradient with a `store` that is not the default; forward alone nothing is stored."""
    return contest.compiled(_model(of, store=store), of.xs, ("gradient",))


def make_cores(of: problem.Problem) -> contest.Contestant:
    """One device per core, the batch split over as many as divide it.

    The gradient of the parameters is summed over the devices once, after the recursion.
    """
    devices = math.gcd(of.shape.B, jax.device_count())
    mesh = jax.make_mesh((devices,), ("batch",), devices=jax.devices()[:devices])
    split = P(None, "batch")
    params = jax.device_put(of.params, NamedSharding(mesh, P()))
    xs = jax.device_put(of.xs, NamedSharding(mesh, split))
    outputs = _model(of).outputs
    # Parameters are alike on all devices, and so is their gradient: `grad` adds the sum itself.
    gradient = jax.grad(contest.make_loss(outputs), argnums=(0, 1))
    functions = {"forward": (outputs, split), "gradient": (gradient, (P(), split))}
    programs = {
        kind: contest.compile(
            jax.shard_map(function, mesh=mesh, in_specs=(P(), split), out_specs=out_specs),
            params,
            xs,
            devices=devices,
        )
        for kind, (function, out_specs) in functions.items()
    }
    return contest.Contestant(programs)


def make_ragged(of: problem.Problem) -> contest.Contestant:
    """With `problem.ragged`'s lengths."""
    lengths = jnp.asarray(problem.ragged(of.shape))
    return make(of, mask=jaxrnn.lengths_to_mask(lengths, of.shape.T))


def make_resets(of: problem.Problem) -> contest.Contestant:
    """With `problem.resets`' episodes."""
    return make(of, reset=jnp.asarray(problem.resets(of.shape)))


def _model(of: problem.Problem, **options: Any) -> contest.Model:
    def outputs(params, xs):
        return jaxrnn.unroll(problem.CELLS[of.cell], params, None, xs, **options)[1]

    return contest.Model(outputs, of.params)


def _with_store(store: str) -> Callable[[problem.Problem], contest.Contestant]:
    return lambda of: make_store(of, store)


CONTESTANTS: Mapping[str, Callable[[problem.Problem], contest.Contestant]] = {
    "jaxrnn": make,
    **{f"jaxrnn-{store}": _with_store(store) for store in OTHERS},
    "jaxrnn-cores": make_cores,
}
