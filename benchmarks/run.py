"""Forward and whole gradient: `unroll`, each `store`, against a plain scan under autodiff.

    python -m benchmarks.run [--rounds 9] [--out benchmarks.json]

Prints milliseconds (medians; the spread is in the JSON), the ratio to the plain scan, and the
bytes of temporaries of the gradient. The plain scan has its projection hoisted out of the loop:
it is `unroll_autodiff`, and already better than a scan over the raw inputs.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import jaxrnn
from benchmarks import measure
from jaxrnn.bptt import Store

CELLS = {"elman": jaxrnn.elman, "lstm": jaxrnn.lstm, "gru": jaxrnn.gru}
GRID = [(64, 32, 32, 256), (128, 32, 128, 256), (512, 16, 64, 64)]  # T, B, I, H


def contestants() -> dict[str, Any]:
    ours = {
        f"store={store}": lambda *args, store=store: jaxrnn.unroll(*args, store=store)
        for store in get_args(Store)
    }
    return {"plain scan": jaxrnn.unroll_autodiff, **ours}


def compare(cell: jaxrnn.Cell, shape: tuple[int, int, int, int], rounds: int) -> dict[str, Any]:
    """Every contestant's times and bytes at one point of the grid."""
    size, batch, inputs, hidden = shape
    params = cell.init(jax.random.key(0), inputs, hidden)
    xs = jax.random.normal(jax.random.key(1), (size, batch, inputs))
    forwards, gradients = {}, {}
    for name, unroll in contestants().items():

        def outputs(params, xs, unroll=unroll):
            return unroll(cell, params, None, xs)[1]

        def loss(params, xs, outputs=outputs):
            return jnp.sum(outputs(params, xs) ** 2)

        forwards[name] = jax.jit(outputs).lower(params, xs).compile()
        gradients[name] = jax.jit(jax.grad(loss, (0, 1))).lower(params, xs).compile()
    times = {
        kind: measure.interleaved(
            {name: lambda f=f: f(params, xs) for name, f in programs.items()}, rounds
        )
        for kind, programs in {"forward": forwards, "gradient": gradients}.items()
    }
    return {
        name: {
            "forward_ms": times["forward"][name],
            "gradient_ms": times["gradient"][name],
            "temporary_bytes": gradients[name].memory_analysis().temp_size_in_bytes,
        }
        for name in gradients
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds to take the median of: 9")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    arguments = parser.parse_args(argv)
    console = Console()
    facts = measure.machine() | {"matmul_gflops": round(measure.matmul_peak(), 1)}
    console.print(facts)
    results = []
    for cell_name, cell in CELLS.items():
        for shape in GRID:
            points = compare(cell, shape, arguments.rounds)
            results.append({"cell": cell_name, "shape": shape, "contestants": points})
            table = Table(
                "", "forward ms", "ratio", "gradient ms", "ratio", "MiB",
                title=f"{cell_name}, (T, B, I, H) = {shape}", title_justify="left",
            )  # fmt: skip
            plain = points["plain scan"]
            for name, point in points.items():
                forward, gradient = point["forward_ms"].median, point["gradient_ms"].median
                table.add_row(
                    name,
                    f"{forward:.2f}",
                    f"{forward / plain['forward_ms'].median:.2f}",
                    f"{gradient:.2f}",
                    f"{gradient / plain['gradient_ms'].median:.2f}",
                    f"{point['temporary_bytes'] / 2**20:.1f}",
                )
            console.print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": facts, "results": results}, indent=2))


if __name__ == "__main__":
    main()
