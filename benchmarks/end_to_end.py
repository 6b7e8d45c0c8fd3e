"""The main job's training in jaxrnn, PyTorch and Flax NNX: speed, and the same losses.

    python -m benchmarks.end_to_end [--cell lstm,gru] [--embedding 32] [--out FILE.json]

The model, the batches and the optimizer, with clipping and schedule, are those of
configs/shakespeare/shakespeare_lstm.toml; jaxrnn's part is the code of `experiments`.
In the first 100 steps from the same weights the losses must agree. Then all trainers
take turns from the start, in blocks of 20 steps.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command, measure, results, tables
from jaxrnn import devices

BLOCK = 20  # steps in a turn: about half a second
TOLERANCE = 1e-3  # nats: rounding errors grow along a trajectory


def differences(job: Any, steps: int) -> dict[str, float]:
    """Returns the largest difference of each trainer's losses from ours."""
    from benchmarks.peers import trainers

    def losses(step: Any) -> np.ndarray:
        return np.array([step(number) for number in range(steps)])

    reference = for_flax = losses(trainers.ours(job))
    if job.config.model.cell == "gru":  # Flax's has no bias inside the reset
        for_flax = losses(trainers.ours(job, without_b_hn=True))
    off = {
        "jaxrnn-cores": losses(trainers.on_cores(job)) - reference,
        "flax-nnx": losses(trainers.flax(job)) - for_flax,
        "pytorch": losses(trainers.pytorch(job, single_bias=True)) - reference,
    }
    return {name: float(np.max(np.abs(off[name]))) for name in off}


def compare(cell: str, embedding: int, rounds: int, steps: int) -> dict[str, Any]:
    """Returns differences of the losses and characters per second, by trainer."""
    from benchmarks.peers import trainers

    job = trainers.make_job(cell, embedding)
    off = differences(job, steps)

    def block(step: Any, numbers: Any) -> list[float]:
        return [step(next(numbers)) for _ in range(BLOCK)]

    blocks = {}
    for name, make in trainers.TRAINERS.items():
        step, numbers = make(job), itertools.count()
        blocks[name] = lambda step=step, numbers=numbers: block(step, numbers)
    found = {}
    for name, timing in measure.interleaved(blocks, rounds).items():
        rates = [round(1e3 * BLOCK * job.task.per_step / ms) for ms in timing[::-1]]
        off_by = off.get(name, 0.0)
        found[name] = {"difference": off_by, "characters_per_second": rates}
    return found


def rows(found: dict[str, Any]) -> list[list[str]]:
    """Returns the rows of a cell's table."""
    medians = {name: found[name]["characters_per_second"][1] for name in found}
    words = []
    for name, record in found.items():
        rates = record["characters_per_second"]
        row = [name, f"{rates[1]:,}", f"{rates[0]:,} … {rates[2]:,}"]
        for ours in ("jaxrnn", "jaxrnn-cores"):
            row.append(f"{medians[ours] / medians[name]:.2f}")
        words.append([*row, f"{record['difference']:.1e}"])
    return words


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 1 if the losses are not the same."""
    parser, cells = command.Parser("end_to_end", __doc__), ["lstm", "gru"]
    add = parser.add_argument
    add("--cell", type=command.names(cells), default=cells, help="lstm,gru")
    add("--embedding", type=command.at_least(1), default=32, help="its width: 32")
    add("--rounds", type=command.at_least(2), default=9, help="9")
    add("--curve", type=command.at_least(1), default=100, help="steps compared: 100")
    add("--out", type=Path, default=Path("runs/benchmarks/end_to_end.json"))
    options = parser.parse_args(argv)
    devices.one_per_core()
    found: dict[str, Any] = {"machine": measure.machine(), "cells": {}}
    head = ["", "characters/s", "quartiles", "jaxrnn is × as fast", "jaxrnn-cores"]
    worst = 0.0
    for cell in options.cell:
        sizes = options.embedding, options.rounds, options.curve
        compared = compare(cell, *sizes)
        found["cells"][cell] = compared
        results.write(options.out, found)
        title = f"{cell}, embedding of {options.embedding}, the main job's training"
        table = tables.terminal(title, [*head, "Δ loss, nats"], rows(compared))
        command.console().print(table)
        worst = max(worst, *(record["difference"] for record in compared.values()))
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main())
