"""Times jaxrnn and its peers, whole gradient and forward alone, on the same problems.

    python -m benchmarks.run                    two shapes, the main peers: under three minutes
    python -m benchmarks.run --full             the whole grid, everyone in float32
    python -m benchmarks.run --bfloat16         two shapes, ours and PyTorch in both dtypes
    python -m benchmarks.run --full --ragged    jaxrnn with lengths, and without
    python -m benchmarks.run --full --resets    jaxrnn with resets, and without
    python -m benchmarks.run --points 300,8,32,96 --cell gru --contestants jaxrnn,pytorch

Every contestant has the same weights and inputs, in float32, and the very programs that are timed
must first agree with jaxrnn's (but for those that solve another equation: the table says which).
"""

import argparse
import gc
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import contest, measure, native, ours, peers, problem, results
from jaxrnn import devices

MAIN = ("jaxrnn", "jaxrnn-cores", "flax-nnx", "scan-hoisted", "checkpoint", "pytorch")
VARIANTS = {"ragged": ours.make_ragged, "resets": ours.make_resets}
EVERYONE = (*ours.CONTESTANTS, *peers.MODELS, *native.CONTESTANTS)
IN_BFLOAT16 = tuple(name for name in EVERYONE if name.endswith("-bfloat16"))
IN_FLOAT32 = tuple(name for name in EVERYONE if name not in IN_BFLOAT16)

# In quick mode a point's rounds take at most as long per kind, from the fifth on.
QUICK_SECONDS = 5.0


def make(name: str, of: problem.Problem) -> contest.Contestant | None:
    """The contestant of this name; None if it has no such cell."""
    if name in peers.MODELS:
        return peers.make(name, of)
    of_ours = {
        **ours.CONTESTANTS,
        **{f"jaxrnn-{v}": make for v, make in VARIANTS.items()},
    }
    return {**of_ours, **native.CONTESTANTS}[name](of)


def compare(
    of: problem.Problem, names: Sequence[str], rounds: int, seconds: float
) -> dict[str, Any]:
    """One point of the grid, as `results` describes it."""
    contestants, differences, failed = _admitted(of, names)
    records: dict[str, dict[str, Any]] = {
        name: {"difference": differences.get(name), "unlike": contestant.unlike}
        for name, contestant in contestants.items()
    }
    for name in records:
        if name in IN_BFLOAT16:
            error = contest.gradient_error(contestants[name], ours.make(of))
            records[name] |= dict(zip(("cosine", "error"), error, strict=True))
    peaks = {}
    for kind in contest.KINDS:
        programs = {
            n: c.programs[kind] for n, c in contestants.items() if kind in c.programs
        }
        calls = {name: program.call for name, program in programs.items()}
        # The peak is measured in the very same rounds.
        calls["product"] = measure.product()
        timings = measure.interleaved(calls, rounds, seconds)
        peaks[kind] = measure.gflops(
            measure.product_flops(), timings.pop("product").median
        )
        flops = problem.flops(of.cell, of.shape, kind)
        for name, program in programs.items():
            records[name][kind] = {
                "ms": timings[name],
                "share": measure.gflops(flops, timings[name].median) / peaks[kind],
                "temporary_bytes": program.temporary_bytes,
                "compile_seconds": program.compile_seconds,
            }
    return {
        "cell": of.cell,
        "shape": of.shape,
        "rounds": rounds,
        "peak_gflops": peaks,
        "failed": failed,
        "contestants": records,
    }


def _admitted(
    of: problem.Problem, names: Sequence[str]
) -> tuple[dict[str, contest.Contestant], dict[str, float], dict[str, str]]:
    """Who runs and agrees with jaxrnn, how far they differ, and why the others are not there."""
    reference = ours.make(of)
    contestants: dict[str, contest.Contestant] = {}
    differences: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            contestant = reference if name == "jaxrnn" else make(name, of)
            if contestant is None:
                continue
            # Resets and lengths change the results.
            if not contestant.unlike and name.removeprefix("jaxrnn-") not in VARIANTS:
                differences[name] = contest.difference(contestant, reference)
                if not differences[name] <= contest.TOLERANCE:
                    failed[name] = f"differs from jaxrnn by {differences[name]:.1e}"
                    continue
            contestants[name] = contestant
        except (
            Exception
        ) as error:  # one library's failure must not end the others' comparison
            failed[name] = f"{type(error).__name__}: {error}"
    return contestants, differences, failed


def show(console: Console, point: dict[str, Any]) -> None:
    """A point's table: medians, their ratio to jaxrnn's, and the rest."""
    table = Table(
        "", "gradient ms", "low", "high", "×", "of peak", "forward ms", "×", "MiB", "compile s",
        title=f"{point['cell']}, T B I H = {' '.join(map(str, point['shape']))}",
        title_justify="left",
    )  # fmt: skip
    for name, record in point["contestants"].items():
        gradient, forward = record.get("gradient", {}), record.get("forward", {})
        low, median, high = gradient.get("ms", [math.nan] * 3)
        size, seconds = gradient.get("temporary_bytes"), gradient.get("compile_seconds")
        table.add_row(
            name + (" *" if record["unlike"] else ""),
            _number(median, ".2f"),
            _number(low, ".2f"),
            _number(high, ".2f"),
            _times(point, name, "gradient"),
            _number(gradient.get("share"), ".0%"),
            _number(forward["ms"][1] if forward else None, ".2f"),
            _times(point, name, "forward"),
            _number(None if size is None else size / 2**20, ".1f"),
            _number(seconds, ".1f"),
        )
    peaks = point["peak_gflops"]
    peaks = ", ".join(f"{kind} {peak:.0f} GFLOP/s" for kind, peak in peaks.items())
    table.caption = "\n".join(
        [
            f"peak of a matrix product in the same rounds: {peaks}",
            *(
                f"* {n}: {r['unlike']}"
                for n, r in point["contestants"].items()
                if r["unlike"]
            ),
            *(
                f"{n}: gradient by the inputs with cosine {r['cosine']:.6f} and relative error "
                f"{r['error']:.1e} against float32's"
                for n, r in point["contestants"].items()
                if "cosine" in r
            ),
            *(
                f"{name} is missing: {reason}"
                for name, reason in point["failed"].items()
            ),
        ]
    )
    console.print(table)


def _times(point: dict[str, Any], name: str, kind: str) -> str:
    """How many times as long as jaxrnn."""
    theirs, ours = (results.value(point, n, kind) for n in (name, "jaxrnn"))
    return f"{theirs / ours:.2f}" if theirs and ours else ""


def _number(number: float | None, form: str) -> str:
    return "" if number is None or math.isnan(number) else format(number, form)


def show_summary(console: Console, points: Sequence[dict[str, Any]]) -> None:
    """Geometric means of ours by theirs: below 1, ours is better."""
    cells = list(dict.fromkeys(point["cell"] for point in points))
    table = Table(
        "against", "", "all", "best", "worst", *cells, "points",
        title="ours divided by theirs, geometric means", title_justify="left",
    )  # fmt: skip
    for s in results.summaries(points):
        numbers = (s.mean, s.best, s.worst, *(s.by_cell.get(cell) for cell in cells))
        row = (_number(number, ".2f") for number in numbers)
        table.add_row(s.comparison.label, s.kind, *row, str(s.points))
    console.print(table)


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown} must be of {', '.join(known)}")
        return names

    return parse


def _shapes(texts: str) -> list[problem.Shape]:
    try:
        return [problem.Shape(*map(int, text.split(","))) for text in texts.split()]
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            'must be as in "128,32,128,256 512,16,64,64"'
        ) from None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cells = list(problem.CELLS)
    variants = parser.add_mutually_exclusive_group()
    parser.add_argument(
        "--full", action="store_true", help="the whole grid, every contestant"
    )
    for variant in VARIANTS:
        words = f"jaxrnn with and without {variant}"
        variants.add_argument(
            f"--{variant}",
            dest="variant",
            action="store_const",
            const=variant,
            help=words,
        )
    variants.add_argument(
        "--bfloat16",
        action="store_true",
        help="with products in bfloat16, and without; very slow where the processor has none",
    )
    parser.add_argument(
        "--cell", type=_names(cells), default=cells, help="such as lstm,gru"
    )
    parser.add_argument(
        "--points", type=_shapes, help='T,B,I,H, such as "25,16,512,512 9,2,3,4"'
    )
    parser.add_argument(
        "--contestants", type=_names(EVERYONE), help=", ".join(EVERYONE)
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="9, or as many as you like from 2"
    )
    parser.add_argument(
        "--seconds", type=float, help="per point and kind, after five rounds"
    )
    parser.add_argument(
        "--out", type=Path, help="default: runs/benchmarks/[full][-VARIANT].json"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="go on with this file"
    )
    arguments = parser.parse_args(argv)
    variant, full = arguments.variant, arguments.full
    arguments.variant = variant = variant or ""
    if arguments.contestants is None:
        names = IN_FLOAT32 if full else MAIN
        names = ("jaxrnn", "pytorch", *IN_BFLOAT16) if arguments.bfloat16 else names
        arguments.contestants = (
            ["jaxrnn", f"jaxrnn-{variant}"] if variant else list(names)
        )
    arguments.points = arguments.points or (problem.GRID if full else problem.QUICK)
    if arguments.seconds is None:
        arguments.seconds = math.inf if full else QUICK_SECONDS
    kind = "bfloat16" if arguments.bfloat16 else variant
    name = "-".join(["full" if full else "quick", *([kind] if kind else [])])
    arguments.out = (
        arguments.resume or arguments.out or Path("runs/benchmarks") / f"{name}.json"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 1 if a contestant failed."""
    arguments = parse(argv)
    devices.one_per_core()
    console = results.console()
    facts = measure.machine()
    found = results.start(
        arguments.out, facts, arguments.variant, arguments.resume is not None
    )
    console.print(facts)
    for cell in arguments.cell:
        for shape in arguments.points:
            if results.done(found, cell, shape):
                continue
            of = problem.make(cell, shape)
            point = compare(
                of, arguments.contestants, arguments.rounds, arguments.seconds
            )
            found["points"].append(point)
            results.write(arguments.out, found)
            show(console, point)
            jax.clear_caches()
            gc.collect()  # the programs and their buffers, before the next point's
    show_summary(console, found["points"])
    console.print(
        f"All of it is in {arguments.out}: python -m benchmarks.plot {arguments.out}"
    )
    return 1 if any(point["failed"] for point in found["points"]) else 0


if __name__ == "__main__":
    raise SystemExit(main())
