"""Exact gradients of long sequences: time and memory of every way to write them.

    python -m benchmarks.long                                 an LSTM, T = 10³ and 10⁴
    python -m benchmarks.long --lengths 1000,10000,100000,1000000     ten minutes and more
    python -m benchmarks.long --lengths 1000000 --contestants jaxrnn-checkpointed,windows

Everyone computes the sum of squares of the outputs of one sequence (B = 1) and its gradient with
respect to the parameters, so there is a loss at every step and no output need be kept. Who would
take more memory than `--limit` is compiled, which tells how much, and not run.
"""
# pyright: reportMissingImports=false

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from rich.table import Table

import jaxrnn
from benchmarks import contest, measure, peers, problem, results

Function = Callable[[Any, Any], tuple[Any, Any]]
"""`(params, xs) -> (loss, dparams)`."""

ROUNDS = 5


def by_jax(make: Callable[[problem.Problem], contest.Model | None]) -> Any:
    """JAX's own derivative of a model of `peers`."""

    def function(of: problem.Problem) -> Function:
        model = make(of)
        assert model is not None
        return jax.value_and_grad(contest.make_loss(model.outputs))

    return function


def windows(hoisted: bool) -> Any:
    """A plain scan over windows of √T steps under `jax.checkpoint`, and in it one over steps."""

    def function(of: problem.Problem) -> Function:
        window = _window(of.shape.T)

        def loss(params, xs):
            @jax.checkpoint
            def over_window(state, xs):
                def over_step(state, x):
                    u = x if hoisted else x @ params.w_ih + params.b
                    state = peers.textbook(of.cell, params, state, u)
                    return state, state[0] if of.cell == "lstm" else state

                us = xs @ params.w_ih + params.b if hoisted else xs
                state, hs = lax.scan(over_step, state, us)
                return state, jnp.sum(hs**2)

            cut = xs.reshape(-1, window, *xs.shape[1:])
            return jnp.sum(lax.scan(over_window, peers.zeros(of), cut)[1])

        return jax.value_and_grad(loss)

    return function


def equinox(of: problem.Problem) -> Function:
    """Equinox's checkpointed scan, the textbook's step in it."""
    from equinox.internal import scan

    def loss(params, xs):
        def over_step(state, x):
            state = peers.textbook(of.cell, params, state, x @ params.w_ih + params.b)
            return state, jnp.sum((state[0] if of.cell == "lstm" else state) ** 2)

        return jnp.sum(scan(over_step, peers.zeros(of), xs, kind="checkpointed")[1])

    return jax.value_and_grad(loss)


def unrolled(store: str | None) -> Any:
    """`jaxrnn.unroll` over all T steps, with this `store`."""

    def function(of: problem.Problem) -> Function:
        def loss(params, xs):
            return jnp.sum(_unroll(of, params, None, xs, store)[1] ** 2)

        return jax.value_and_grad(loss)

    return function


def checkpointed(levels: Callable[[int], Sequence[int]] | None = None) -> Any:
    """`jaxrnn.checkpointed_value_and_grad`, its windows as they come or of `levels(T)` steps."""

    def function(of: problem.Problem) -> Function:
        def loss_fn(params, state, xs):
            # A window is short: its memory is no matter, and the gates need not be computed twice.
            state, hs = _unroll(of, params, state, xs, "residuals")
            return jnp.sum(hs**2), state

        nested = None if levels is None else levels(of.shape.T)
        fn = jaxrnn.checkpointed_value_and_grad(loss_fn, windows=nested)

        def loss_and_grad(params, xs):
            start = problem.CELLS[of.cell].initial_state(params, (of.shape.B,))
            (loss, _), grads = fn(params, start, xs)
            return loss, grads

        return loss_and_grad

    return function


def _unroll(of: problem.Problem, params: Any, state: Any, xs: Any, store: Any) -> Any:
    return jaxrnn.unroll(problem.CELLS[of.cell], params, state, xs, store=store)


def _window(size: int) -> int:
    """The divisor of T nearest to √T."""
    divisors = [k for k in range(1, size + 1) if size % k == 0]
    return min(divisors, key=lambda k: abs(math.log(k * k / size)))


def _thirds(size: int) -> tuple[int, int]:
    """About T^⅔ and T^⅓."""
    return round(size ** (2 / 3)), round(size ** (1 / 3))


CONTESTANTS: Mapping[str, Callable[[problem.Problem], Function]] = {
    "jaxrnn-checkpointed": checkpointed(),
    "jaxrnn-nested": checkpointed(_thirds),
    "jaxrnn-states": unrolled("states"),
    "jaxrnn-residuals": unrolled("residuals"),
    "jaxrnn-boundaries": unrolled("boundaries"),
    "windows": windows(hoisted=False),
    "windows-hoisted": windows(hoisted=True),
    "equinox-checkpointed": equinox,
    "scan": by_jax(peers.MODELS["scan"]),
    "checkpoint": by_jax(peers.MODELS["checkpoint"]),
}


def compare(
    of: problem.Problem, names: Sequence[str], rounds: int, limit: float
) -> dict[str, Any]:
    """By contestant: temporary bytes, seconds to compile, and milliseconds where it was run."""
    programs = {
        name: contest.compile(CONTESTANTS[name](of), of.params, of.xs) for name in names
    }
    running = {
        name: program.call
        for name, program in programs.items()
        if (program.temporary_bytes or 0) <= limit
    }
    reference = None
    for name, call in running.items():
        result = call()
        reference = result if reference is None else reference
        for got, expected in zip(
            *map(jax.tree.leaves, (result, reference)), strict=True
        ):
            difference = jnp.max(jnp.abs(got - expected)) / jnp.max(jnp.abs(expected))
            if not difference <= contest.TOLERANCE:  # NaN is none either
                raise ValueError(f"{name} computes {got}, not {expected}")
    times = measure.interleaved(running, rounds)
    return {
        name: {
            "temporary_bytes": program.temporary_bytes,
            "compile_seconds": program.compile_seconds,
            "ms": list(times[name]) if name in times else None,
        }
        for name, program in programs.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cell", choices=[*problem.CELLS], default="lstm")
    parser.add_argument("--lengths", default="1000,10000", help="T, such as 1000,10000")
    parser.add_argument("--inputs", type=int, default=64, help="I")
    parser.add_argument("--hidden", type=int, default=64, help="H")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--limit", type=float, default=4.0, help="GiB of temporaries: 4"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/long.json"))
    given = parser.parse_args(argv)
    names = given.contestants.split(",")
    if unknown := set(names) - set(CONTESTANTS):
        parser.error(
            f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CONTESTANTS)}"
        )
    console, points = results.console(), []
    console.print(measure.machine())
    for size in map(int, given.lengths.split(",")):
        shape = problem.Shape(size, 1, given.inputs, given.hidden)
        found = compare(
            problem.make(given.cell, shape), names, given.rounds, given.limit * 2**30
        )
        points.append({"cell": given.cell, "shape": shape, "contestants": found})
        console.print(_table(given.cell, size, found))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": measure.machine(), "points": points}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(f"All of it is in {given.out}")
    return 0


def _table(cell: str, size: int, found: Mapping[str, Any]) -> Table:
    table = Table(title=f"{cell}, T = {size:,}", title_justify="left")
    for column in ("", "µs a step", "low", "high", "MiB", "compile s"):
        table.add_column(column, justify="right" if column else "left")
    for name, one in found.items():
        low, median, high = one["ms"] or (math.nan,) * 3
        times = [f"{1e3 * ms / size:.2f}" for ms in (median, low, high)]
        memory = f"{one['temporary_bytes'] / 2**20:,.2f}"
        table.add_row(name, *times, memory, f"{one['compile_seconds']:.1f}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
