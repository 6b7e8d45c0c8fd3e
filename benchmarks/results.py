"""What a run leaves, written after every point, and the ratios that are read from it.

{"machine": {…}, "points": [{
    "cell": "lstm",  # or a network of layers
    "shape": [T, B, I, H], "rounds": 9,
    "peak_gflops": {KIND: 400.0, …},
    "failed": {NAME: REASON, …},
    "contestants": {NAME: {
        "difference": 1e-6 or null,     # from the first one's, relative to the largest
        "unlike": "",                   # why they are not compared
        "cosine": 1.0, "error": 1e-3,   # of bfloat16's dR̂/dx, against float32's
        KIND: {
            "ms": [LOW, MEDIAN, HIGH],  # quartiles over the rounds; null: did not run
            "share": 0.5,               # of a matrix product's speed in the same rounds
            "temporary_bytes": 1000 or null, "compile_seconds": 1.0 or null}, …}}}]}
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

Point = dict[str, Any]


class Comparison(NamedTuple):
    """One contestant against the best of others, point by point."""

    label: str
    ours: str
    others: tuple[str, ...]
    kinds: tuple[str, ...] = ("gradient", "forward")
    field: str = "ms"


BYTES = (("gradient",), "temporary_bytes")
CHECKPOINTS = ("checkpoint", "checkpoint-hoisted")
PLAIN_SCANS = ("scan", "scan-hoisted", *CHECKPOINTS)
JAX_PEERS = ("flax-nnx", "flax-linen", "haiku", "equinox", "keras", *PLAIN_SCANS)
WITH_BOUNDARIES = "checkpoint's bytes, ours with boundaries"
COMPARISONS = (
    Comparison("best JAX peer", "jaxrnn", JAX_PEERS),
    Comparison("PyTorch", "jaxrnn", ("pytorch",)),
    Comparison("PyTorch, ours with a device per core", "jaxrnn-cores", ("pytorch",)),
    Comparison("PyTorch, both in bfloat16", "jaxrnn-bfloat16", ("pytorch-bfloat16",)),
    Comparison("float32, ours in bfloat16", "jaxrnn-bfloat16", ("jaxrnn",)),
    Comparison("onnxruntime", "jaxrnn", ("onnxruntime",), ("forward",)),
    Comparison("Flax NNX's bytes", "jaxrnn", ("flax-nnx",), *BYTES),
    Comparison(WITH_BOUNDARIES, "jaxrnn-boundaries", CHECKPOINTS, *BYTES),
    Comparison("without lengths, ours with them", "jaxrnn-ragged", ("jaxrnn",)),
    Comparison("without resets, ours with them", "jaxrnn-resets", ("jaxrnn",)),
)
# Those of the second grid.
IN_PARALLEL = "jaxrnn-parallel"
BOTH_PARALLEL = "an associative scan, ours in parallel"
OF_LAYERS = (
    Comparison("Flax NNX", "jaxrnn", ("flax-nnx",)),
    Comparison("Keras", "jaxrnn", ("keras",)),
    Comparison("PyTorch", "jaxrnn", ("pytorch",)),
    Comparison("PyTorch, ours with a device per core", "jaxrnn-cores", ("pytorch",)),
    Comparison("a plain scan", "jaxrnn", ("scan",)),
    Comparison("an associative scan", "jaxrnn", ("associative-scan",)),
    Comparison(BOTH_PARALLEL, IN_PARALLEL, ("associative-scan",)),
    Comparison("our own loop, ours in parallel", IN_PARALLEL, ("jaxrnn",)),
    Comparison("Flax NNX's bytes", "jaxrnn", ("flax-nnx",), *BYTES),
    Comparison("a plain scan's bytes", "jaxrnn", ("scan",), *BYTES),
)


def cases(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, str]]:
    """Returns each comparison with each of its kinds."""
    return [(one, kind) for one in comparisons for kind in one.kinds]


def value(point: Point, name: str, kind: str, field: str = "ms") -> float | None:
    """Returns a contestant's figure, the median of its times, or None."""
    found = point["contestants"].get(name, {}).get(kind, {}).get(field)
    return found[1] if isinstance(found, list | tuple) else found


def ratio(point: Point, comparison: Comparison, kind: str) -> float | None:
    """Returns ours by the best of the others, None if either is missing.

    Contestants that solve another equation do not count, unless ours does so too.
    """
    contestants = point["contestants"]
    unlike = {name for name in contestants if contestants[name].get("unlike")}
    ours = value(point, comparison.ours, kind, comparison.field)
    others = []
    for other in comparison.others:
        figure = value(point, other, kind, comparison.field)
        if figure and (other not in unlike or comparison.ours in unlike):
            others.append(figure)
    return ours / min(others) if ours is not None and others else None


def ratios(
    points: Sequence[Point], comparison: Comparison, kind: str
) -> dict[tuple[str, tuple[int, ...]], float]:
    """Returns the ratios by (cell, shape), for every point that has both sides."""
    found = {}
    for point in points:
        at = point["cell"], tuple(point["shape"])
        found[at] = ratio(point, comparison, kind)
    return {at: r for at, r in found.items() if r is not None}


def read(path: Path) -> dict[str, Any]:
    """Returns the results in a file.

    Raises:
      ValueError: if the file holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"machine", "points"} <= {*found}:
        raise ValueError(f"{path} must hold results that `benchmarks.run` wrote.")
    return found


def write(path: Path, found: dict[str, Any]) -> None:
    """Writes all of it or nothing, so that an interruption leaves the points before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    text = json.dumps(found, indent=1) + "\n"
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
