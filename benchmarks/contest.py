"""Contestants, the check that they compute the same, and one point of a comparison."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.problem import Problem, flops

KINDS = ("gradient", "forward")

# As a share of the largest value: float32 over 1000 steps, summed in another order.
TOLERANCE = 1e-3


class Contestant(NamedTuple):
    """One way to solve a problem: functions by kind. The loss is the sum of hs squared.

    - "forward" returns hs;
    - "gradient" returns a tuple: first the gradient by the inputs, then the gradient by
      the parameters in the contestant's own layout, which is not compared;
    - "parameters" returns the loss and its gradient by the parameters, in our layout.
    """

    functions: dict[str, Callable[..., Any]]
    arguments: tuple[Any, ...] = ()
    """JAX compiles the functions for these; without arguments they run directly."""
    batch_major: bool = False
    """Whether its axes are `[B, T, ·]` instead of `[T, B, ·]`."""
    unlike: str = ""
    """How its equations differ from jaxrnn's; its results are then not compared."""
    without_noise: "Contestant | None" = None
    """The same one without its dropout, whose results are compared in its place."""


# None where the library has no such cell.
Maker = Callable[[Problem], Contestant | None]


def from_loss(loss: Any, params: Any, xs: Any) -> Contestant:
    """Returns the contestant of `loss(params, xs)`, differentiated by JAX."""
    arguments = jax.tree.map(jnp.asarray, (params, xs))
    return Contestant({"parameters": jax.value_and_grad(loss)}, arguments)


def from_outputs(
    outputs: Any,
    params: Any,
    xs: Any,
    forward: bool = True,
    fixed: tuple[Any, ...] = (),
    **facts: Any,
) -> Contestant:
    """Returns the contestant of `outputs(params, xs, *fixed) -> hs`, by JAX.

    `fixed` are arguments without a gradient, such as a random key: as constants they
    would let the compiler draw the numbers.
    """

    def loss(params, xs, *fixed):
        return jnp.sum(outputs(params, xs, *fixed) ** 2)

    xs = jnp.swapaxes(xs, 0, 1) if facts.get("batch_major") else xs
    functions, arguments, *_ = from_loss(loss, params, xs)
    functions["gradient"] = jax.grad(loss, argnums=(1, 0))
    functions |= {"forward": outputs} if forward else {}
    return Contestant(functions, (*arguments, *fixed), **facts)


def prepare(contestant: Contestant, kind: str) -> tuple[measure.Call, dict[str, Any]]:
    """Compiles one function. Returns it, and its costs: the bytes of all devices."""
    function, arguments = contestant.functions[kind], contestant.arguments
    if not arguments:
        return function, {"temporary_bytes": None, "compile_seconds": None}
    devices = max(len(a.sharding.device_set) for a in jax.tree.leaves(arguments))
    began = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds, memory = time.perf_counter() - began, program.memory_analysis()
    size = None if memory is None else devices * memory.temp_size_in_bytes
    costs = {"temporary_bytes": size, "compile_seconds": seconds}
    return lambda: program(*arguments), costs


def compare(
    problem: Problem,
    makers: Mapping[str, Maker],
    kinds: Sequence[str],
    rounds: int,
    seconds: float = math.inf,
    limit: float = math.inf,
) -> dict[str, Any]:
    """Times the contestants that agree with the first one: a point, as in `results`.

    Programs with more than `limit` temporary bytes are compiled, but not run; `rounds`
    and `seconds` of each kind are those of `measure.interleaved`.
    """
    # Compile and check everything; one library's failure must not end the comparison.
    records, costs, reference, failed = {}, {}, {}, {}
    calls: dict[str, dict[str, measure.Call]] = {kind: {} for kind in kinds}
    for name, make in makers.items():
        try:
            contestant = make(problem)
            if contestant is None:
                continue
            offered = [kind for kind in kinds if kind in contestant.functions]
            made = {kind: prepare(contestant, kind) for kind in offered}
            running = {
                kind: call
                for kind, (call, cost) in made.items()
                if (cost["temporary_bytes"] or 0) <= limit
            }
            compared = running
            if quiet := contestant.without_noise:
                compared = {kind: prepare(quiet, kind)[0] for kind in running}
            records[name] = _check(name, contestant, compared, reference)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        costs[name] = {kind: cost for kind, (_, cost) in made.items()}
        for kind, call in running.items():
            calls[kind][name] = call

    # Time everyone, with the matrix product that is the peak in the same rounds.
    product, work = measure.product()
    peaks = {}
    for kind in kinds:
        entered = calls[kind] | {"product": product}
        timings = measure.interleaved(entered, rounds, seconds)
        peaks[kind] = timings["product"].gflops(work)
        needed = flops(problem, kind)
        for name in records:
            if kind in costs[name]:
                ms = timings.get(name)
                share = ms and ms.gflops(needed) / peaks[kind]
                records[name][kind] = {"ms": ms, "share": share} | costs[name][kind]
    point = {"cell": problem.cell, "shape": problem.shape, "rounds": rounds}
    return point | {"peak_gflops": peaks, "failed": failed, "contestants": records}


def _check(
    name: str,
    contestant: Contestant,
    calls: Mapping[str, measure.Call],
    reference: dict[str, list[np.ndarray]],
) -> dict[str, Any]:
    """Returns the start of a record; the reference takes what it lacks.

    Raises:
      ArithmeticError: if a result is off by more than `TOLERANCE`, or NaN.
    """
    record: dict[str, Any] = {"difference": None, "unlike": contestant.unlike}
    for kind, call in calls.items():
        result = call()
        rounded = kind == "gradient" and name.endswith("-bfloat16")
        if contestant.unlike and not rounded:
            continue
        result = jax.tree.leaves(result[0] if kind == "gradient" else result)
        arrays = [np.asarray(a, np.float64) for a in result]
        if contestant.batch_major:
            arrays = [np.swapaxes(a, 0, 1) for a in arrays]
        if rounded:
            (theirs,), (ours,) = arrays, reference.get(kind, arrays)
            size, off = np.linalg.norm(ours), np.linalg.norm(theirs - ours)
            cosine = np.vdot(ours, theirs) / (size * np.linalg.norm(theirs))
            record |= {"cosine": float(cosine), "error": float(off / size)}
            continue
        expected = reference.setdefault(kind, arrays)
        for ours, theirs in zip(expected, arrays, strict=True):
            off = float(np.max(np.abs(theirs - ours)) / np.max(np.abs(ours)))
            if not off <= TOLERANCE:
                raise ArithmeticError(f"{kind} is off the first one's by {off:.1e}")
            record["difference"] = max(off, record["difference"] or 0.0)
    return record
