"""jaxrnn with cells made of the textbook's step: what a derived adjoint costs."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import jaxrnn
from benchmarks.contest import Contestant, Maker, from_outputs
from benchmarks.peers.scans import textbook
from benchmarks.problem import Problem
from jaxrnn.cells import CELLS


@cache
def derived_cell(name: str) -> jaxrnn.Cell:
    """Returns a cell like `CELLS[name]` whose adjoint is derived by JAX."""
    hand_written = CELLS[name]

    def step(params: Any, state: Any, x: Any) -> Any:
        plain = state if name == "lstm" else state.h
        after, _ = textbook(name, params, plain, x @ params.w_ih + params.b)
        return type(state)(*after) if name == "lstm" else type(state)(after)

    init, initial_state = hand_written.init, hand_written.initial_state
    return jaxrnn.cell_from_step(init, initial_state, step)


def unrolled(problem: Problem) -> Contestant:
    """`jaxrnn.unroll` with a derived cell."""

    def outputs(params, xs):
        return jaxrnn.unroll(derived_cell(problem.cell), params, None, xs)[1]

    return from_outputs(outputs, problem.params, problem.xs, True)


CONTESTANTS: Mapping[str, Maker] = {"jaxrnn-from-step": unrolled}
