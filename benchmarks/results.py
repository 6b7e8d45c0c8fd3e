"""What a run leaves, written after every point, and the ratios that are read from it.

{"machine": {…}, "variant": "", "points": [{
    "cell": "lstm", "shape": [T, B, I, H], "rounds": 9,
    "peak_gflops": {"gradient": 400.0, "forward": 400.0},
    "failed": {NAME: REASON, …},
    "contestants": {NAME: {
        "difference": 1e-6 or null,     # from jaxrnn's results, as a share of the largest
        "unlike": "",                   # why they are not compared
        "cosine": 1.0, "error": 1e-3,   # of bfloat16's dR̂/dx, against float32's
        "gradient": {
            "ms": [LOW, MEDIAN, HIGH],  # quartiles over the rounds
            "share": 0.5,               # of the peak of a matrix product in the same rounds
            "temporary_bytes": 1000 or null, "compile_seconds": 1.0 or null},
        "forward": {…}}}}]}
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks import measure


class Comparison(NamedTuple):
    """One contestant against others: against the best of them, point by point."""

    label: str
    ours: str
    others: tuple[str, ...]
    kinds: tuple[str, ...] = ("gradient", "forward")
    field: str = "ms"


JAX_PEERS = (
    *("flax-nnx", "flax-linen", "haiku", "equinox", "keras"),
    *("scan", "scan-hoisted", "checkpoint", "checkpoint-hoisted"),
)
COMPARISONS = (
    Comparison("best JAX peer", "jaxrnn", JAX_PEERS),
    Comparison("PyTorch", "jaxrnn", ("pytorch",)),
    Comparison("PyTorch, ours with a device per core", "jaxrnn-cores", ("pytorch",)),
    Comparison("PyTorch, both in bfloat16", "jaxrnn-bfloat16", ("pytorch-bfloat16",)),
    Comparison("float32, ours in bfloat16", "jaxrnn-bfloat16", ("jaxrnn",)),
    Comparison("onnxruntime", "jaxrnn", ("onnxruntime",), ("forward",)),
    Comparison(
        "Flax NNX's bytes", "jaxrnn", ("flax-nnx",), ("gradient",), "temporary_bytes"
    ),
    Comparison(
        "checkpoint's bytes, ours with boundaries",
        "jaxrnn-boundaries",
        ("checkpoint", "checkpoint-hoisted"),
        ("gradient",),
        "temporary_bytes",
    ),
    Comparison("without lengths, ours with them", "jaxrnn-ragged", ("jaxrnn",)),
    Comparison("without resets, ours with them", "jaxrnn-resets", ("jaxrnn",)),
)


def value(
    point: dict[str, Any], name: str, kind: str, field: str = "ms"
) -> float | None:
    """A figure of a contestant at a point, the median of its times; None if there is none."""
    found = point["contestants"].get(name, {}).get(kind, {}).get(field)
    return found[1] if isinstance(found, list | tuple) else found


def ratio(point: dict[str, Any], comparison: Comparison, kind: str) -> float | None:
    """Ours by the best of the others, below 1 where ours is better; None if either is missing."""
    ours = value(point, comparison.ours, kind, comparison.field)
    unlike = {
        name for name, record in point["contestants"].items() if record.get("unlike")
    }
    # Who solves another equation is no measure, unless ours does too.
    equals = [
        o for o in comparison.others if o not in unlike or comparison.ours in unlike
    ]
    others = [value(point, other, kind, comparison.field) for other in equals]
    others = [other for other in others if other]
    return ours / min(others) if ours is not None and others else None


def ratios(
    points: Sequence[dict[str, Any]], comparison: Comparison, kind: str
) -> dict[tuple[str, tuple[int, ...]], float]:
    """By (cell, shape), for every point that has both sides."""
    found = {(p["cell"], tuple(p["shape"])): ratio(p, comparison, kind) for p in points}
    return {at: r for at, r in found.items() if r is not None}


class Summary(NamedTuple):
    """The geometric means of a comparison's ratios, of all points and by cell; the extremes."""

    comparison: Comparison
    kind: str
    mean: float
    best: float
    worst: float
    by_cell: dict[str, float]
    points: int


def summaries(points: Sequence[dict[str, Any]]) -> Iterator[Summary]:
    """Every comparison that the points allow."""
    for comparison in COMPARISONS:
        for kind in comparison.kinds:
            found = ratios(points, comparison, kind)
            if not found:
                continue
            by_cell = {
                cell: measure.geometric_mean(
                    r for (c, _), r in found.items() if c == cell
                )
                for cell in dict.fromkeys(cell for cell, _ in found)
            }
            every = found.values()
            mean = measure.geometric_mean(every)
            yield Summary(
                comparison, kind, mean, min(every), max(every), by_cell, len(every)
            )


def start(
    path: Path, facts: dict[str, Any], variant: str, resume: bool
) -> dict[str, Any]:
    """The results to add to: new ones, or, to resume, those in the file.

    Raises:
      ValueError: if the file's results are of another machine, other versions or another variant.
      FileNotFoundError: if there is no file to resume.
    """
    if not resume:
        return {"machine": facts, "variant": variant, "points": []}
    results = json.loads(path.read_text())
    for what, now in (("machine", facts), ("variant", variant)):
        if results[what] != now:
            raise ValueError(
                f"{path} must be of the same {what} to be gone on with: it has {results[what]}, "
                f"this run {now}. Write to another file with --out."
            )
    return results


def done(results: dict[str, Any], cell: str, shape: Sequence[int]) -> bool:
    """Whether the point is there already."""
    return any(
        p["cell"] == cell and list(p["shape"]) == list(shape) for p in results["points"]
    )


def console() -> Console:
    """A terminal or a file, wide enough for the tables."""
    wide = Console()
    wide.width = max(wide.width, 110)
    return wide


def write(path: Path, results: dict[str, Any]) -> None:
    """Writes them whole or not at all, so that an interruption leaves the points before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)
