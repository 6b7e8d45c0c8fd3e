"""What a contestant is, and whether it computes what it should."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("gradient", "forward")

# Of the largest value: float32 over 1000 steps, with other sums in another order.
TOLERANCE = 1e-3


class Program(NamedTuple):
    """A function of no arguments, and what it cost to compile: None where it is not known.

    Forward it returns the outputs hs; "gradient" `(dparams, dxs)` of the sum of squares of hs.
    """

    call: Callable[[], Any]
    temporary_bytes: int | None = None
    compile_seconds: float | None = None
    text: str = ""
    """The optimised HLO of a JAX program."""


class Contestant(NamedTuple):
    """Programs by kind, "forward" and "gradient"; a kind may be missing."""

    programs: dict[str, Program]
    batch_major: bool = False
    """Whether its axes are `[B, T, ·]` instead of `[T, B, ·]`."""
    unlike: str = ""
    """In what its equations are not the library's; its results are then not compared."""


class Model(NamedTuple):
    """A JAX library's part: `outputs(params, xs) -> hs`, and its parameters."""

    outputs: Callable[[Any, Any], Any]
    params: Any
    batch_major: bool = False
    unlike: str = ""


def make_loss(outputs: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The sum of squares of the outputs: every output has its own cotangent."""
    return lambda params, xs: jnp.sum(outputs(params, xs) ** 2)


def compiled(model: Model, xs: Any, kinds: tuple[str, ...] = KINDS) -> Contestant:
    """A JAX library's programs, the gradient by `jax.grad`."""
    xs = jnp.swapaxes(xs, 0, 1) if model.batch_major else xs
    functions = {
        "forward": model.outputs,
        "gradient": jax.grad(make_loss(model.outputs), argnums=(0, 1)),
    }
    return Contestant(
        {kind: compile(functions[kind], model.params, xs) for kind in kinds},
        model.batch_major,
        model.unlike,
    )


def compile(function: Callable[..., Any], *arguments: Any) -> Program:
    """The compiled function on these arguments; the bytes are of all devices together."""
    devices = max(len(a.sharding.device_set) for a in jax.tree.leaves(arguments))
    began = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - began
    memory = program.memory_analysis()
    size = None if memory is None else devices * memory.temp_size_in_bytes
    return Program(lambda: program(*arguments), size, seconds, program.as_text() or "")


def difference(contestant: Contestant, reference: Contestant) -> float:
    """The largest difference of outputs or input gradients, as a share of the largest value."""
    differences = []
    for kind in contestant.programs:
        ours, theirs = (_time_major(kind, c) for c in (reference, contestant))
        differences.append(np.max(np.abs(theirs - ours)) / np.max(np.abs(ours)))
    return float(max(differences))


def gradient_error(
    contestant: Contestant, reference: Contestant
) -> tuple[float, float]:
    """Of the gradient by the inputs: its cosine with the reference's, and its relative error."""
    ours, theirs = (_time_major("gradient", c).ravel() for c in (reference, contestant))
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    norm = np.linalg.norm(ours)
    cosine = ours @ theirs / (norm * np.linalg.norm(theirs))
    return float(cosine), float(np.linalg.norm(theirs - ours) / norm)


def _time_major(kind: str, contestant: Contestant) -> np.ndarray:
    """hs, or dxs."""
    result = contestant.programs[kind].call()
    result = np.asarray(result[1] if kind == "gradient" else result)
    return np.swapaxes(result, 0, 1) if contestant.batch_major else result
