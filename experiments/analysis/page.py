"""The microscope's page: figures, their meaning in words, and links to their numbers.

The figures are part of the page, as SVG with real text. Nothing is fetched from
elsewhere, and there is no script.
"""

import html
import re
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from experiments.analysis.figures import figure
from experiments.analysis.forwards import SEQUENCES
from experiments.analysis.snapshots import SHARE, Anatomy, Findings, Snapshot

# A sentence reports how many steps keep the relative error of the gradient below this.
TOLERATED = 0.1


class Part(NamedTuple):
    """A figure of the page."""

    name: str
    """The name of its files, NAME.svg and NAME.csv."""
    title: str
    draw: Callable[[Findings, Path], None]
    how_to_read: str
    describe: Callable[[Anatomy], str] | None = None
    """What it shows of a checkpoint, as the end of a sentence that names it."""


def write(findings: Findings, folder: Path) -> list[str]:
    """Draws the figures and writes `index.html`. Returns its sentences."""
    # The figures, each with its sentences.
    there = {
        "gates": findings.anatomies[0].holds.size > 0,
        "forwards": len(findings.cosines) > 0,
    }
    parts = [part for part in PARTS if there.get(part.name, True)]
    lost = [
        f"After {step} steps the gradient was 0 or not finite."
        for step in findings.lost
    ]
    sections, sentences = [], [*lost]
    for part in parts:
        drawn = folder / f"{part.name}.svg"
        part.draw(findings, drawn)
        svg = _with_ids_of_its_own(drawn.read_text(encoding="utf-8"), part.name)
        described = _sentences(part, findings)
        sentences += described
        sections.append(
            SECTION.substitute(
                name=part.name,
                title=part.title,
                svg=svg,
                described=html.escape(" ".join(described)),
                how_to_read=html.escape(part.how_to_read),
            )
        )

    # The table, and the page around it all.
    rows = (
        f"<tr><td>{s.step}</td><td>{_lag(s)}</td><td>{s.horizon.rate:.4g}</td></tr>"
        for s in findings.snapshots
    )
    page = PAGE.substitute(
        name=html.escape(findings.name),
        summary=html.escape(" ".join(sentences[: len(findings.anatomies) + len(lost)])),
        share=f"{SHARE:.0%}",
        rows="\n".join(rows),
        sections="\n".join(sections),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
    return sentences


def _lag(snapshot: Snapshot) -> str:
    lag = snapshot.horizon.lag
    return f"not within {snapshot.reach - 1}" if lag is None else str(lag)


def _when(step: int) -> str:
    return f"after {step} steps of training" if step else "before training"


def _with_ids_of_its_own(svg: str, name: str) -> str:
    """Makes the ids of a figure unique: each figure counts its parts from 1."""
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>{name}-", svg)


def _sentences(part: Part, findings: Findings) -> list[str]:
    if part.describe is None:
        return []
    return [
        f"{_when(a.step).capitalize()}, {part.describe(a)}." for a in findings.anatomies
    ]


def _draw_profile(findings: Findings, path: Path) -> None:
    with figure(path) as (axes,):
        colors = _colors(len(findings.snapshots))
        for snapshot, color in zip(findings.snapshots, colors, strict=True):
            relative = snapshot.profile / snapshot.profile[0]
            label = f"step {snapshot.step}"
            axes.plot(
                np.where(relative > 0, relative, np.nan), color=color, label=label
            )
        axes.axhline(SHARE, color="grey", linestyle=":", linewidth=1)
        axes.set_yscale("log")
        axes.set(
            xlabel="lag (steps back from the loss)",
            ylabel="norm of the adjoint, relative",
        )


def _describe_profile(anatomy: Anatomy) -> str:
    lag, rate = anatomy.snapshot.horizon
    change = f"is multiplied by {rate:.3g} per step in the long run"
    if not np.isfinite(rate):
        change = "explodes beyond the range of floats"
    elif rate == 0:
        change = "vanishes at once"
    left = f"less than {SHARE:.0%} of it is left after {lag} steps"
    if lag is None:
        steps = anatomy.snapshot.reach - 1
        left = f"more than {SHARE:.0%} of it is left after all {steps} steps"
    return f"an error on its way back {change}, and {left}"


def _draw_horizon(findings: Findings, path: Path) -> None:
    steps, size = (
        [s.step for s in findings.snapshots],
        len(findings.snapshots[0].profile),
    )
    with figure(path, 2, (9.0, 3.5)) as (lags, rates):
        lags.plot(steps, [s.reach for s in findings.snapshots], "o-", markersize=4)
        lags.axhline(size, color="grey", linestyle=":", linewidth=1)
        lags.set(
            xlabel="step of training",
            ylabel=f"lag where {SHARE:.0%} is left",
            ylim=(0, None),
        )
        rates.plot(
            steps, [s.horizon.rate for s in findings.snapshots], "o-", markersize=4
        )
        rates.axhline(1, color="grey", linestyle=":", linewidth=1)
        rates.set(xlabel="step of training", ylabel="factor per step")


def _draw_contributions(findings: Findings, path: Path) -> None:
    with figure(path, 2, (9.0, 3.5)) as (each, missing):
        for anatomy, style in zip(findings.anatomies, _styles(findings), strict=True):
            label = _when(anatomy.step)
            each.plot(_positive(anatomy.contribution), **style, label=label)
            missing.plot(_positive(anatomy.missing), **style, label=label)
        for axes in (each, missing):
            axes.set_yscale("log")
            axes.set(xlabel="lag (steps back from the loss)")
        each.set(ylabel="norm of the lag's term, relative")
        missing.set(ylabel="missing if cut here, relative")
        if missing.has_data() and np.isfinite(missing.dataLim.get_points()).all():
            missing.axhline(TOLERATED, color="grey", linestyle=":", linewidth=1)


def _describe_contributions(anatomy: Anatomy) -> str:
    if np.isnan(anatomy.missing[0]):
        return "the gradient of the recurrent matrix is 0 or not finite"
    gives = f"this loss's gradient of the recurrent matrix to within {TOLERATED:.0%}"
    enough = int(np.flatnonzero(anatomy.missing > TOLERATED)[-1]) + 1
    if enough < len(anatomy.missing):
        return f"a backward pass of {enough} steps would give {gives}"
    return f"no backward pass shorter than all {enough} steps gives {gives}"


def _draw_spectrum(findings: Findings, path: Path) -> None:
    with figure(path) as (axes,):
        for anatomy, style in zip(findings.anatomies, _styles(findings), strict=True):
            finite = np.ma.masked_invalid(anatomy.exponents)
            axes.errorbar(
                np.arange(1, len(finite) + 1),
                finite.mean(axis=1).filled(np.nan),
                yerr=finite.std(axis=1).filled(np.nan),
                marker="o",
                markersize=4,
                capsize=2,
                label=_when(anatomy.step),
                **style,
            )
        axes.axhline(0, color="grey", linestyle=":", linewidth=1)
        axes.set(xlabel="exponent", ylabel="nats per step")


def _describe_spectrum(anatomy: Anatomy) -> str:
    first, steps = float(anatomy.exponents[0].mean()), len(anatomy.snapshot.profile)
    if not np.isfinite(first):
        return (
            "the largest Lyapunov exponent is not finite: a step loses every direction"
        )
    if first * steps > 1:
        meaning = "nearby states part, and gradients explode along some direction"
    elif first * steps < -1:
        meaning = (
            "nearby states come together, and gradients vanish along every direction"
        )
    else:
        meaning = (
            f"along that direction, differences and gradients last over {steps} steps"
        )
    return f"the largest Lyapunov exponent is {first:.3f} nats per step: {meaning}"


def _draw_gates(findings: Findings, path: Path) -> None:
    with figure(path) as (axes,):
        for anatomy, style in zip(findings.anatomies, _styles(findings), strict=True):
            holds = np.sort(anatomy.holds)
            share = np.arange(1, len(holds) + 1) / len(holds)
            label = _when(anatomy.step)
            axes.step(holds, share, where="post", label=label, **style)
        axes.set_xscale("log")
        axes.set(
            xlabel="time constant (steps)", ylabel="share of the units", ylim=(0, 1)
        )


def _describe_gates(anatomy: Anatomy) -> str:
    half, most = np.quantile(anatomy.holds, [0.5, 0.9])
    return (
        f"half of the units hold their memory for less than {half:.3g} steps, a tenth "
        f"of them for more than {most:.3g}"
    )


def _draw_forwards(findings: Findings, path: Path) -> None:
    steps = [s.step for s in findings.snapshots]
    with figure(path) as (axes,):
        for rule, cosines in findings.cosines.items():
            axes.plot(steps, cosines, "o-", markersize=4, label=rule)
        for level in (0, 1):
            axes.axhline(level, color="grey", linestyle=":", linewidth=1)
        axes.set(xlabel="step of training", ylabel="cosine with BPTT", ylim=(None, 1.1))


def _positive(values: np.ndarray) -> np.ndarray:
    """Replaces 0, which has no place on a logarithmic axis, by NaN."""
    return np.where(values > 0, values, np.nan)


def _styles(findings: Findings) -> list[dict[str, Any]]:
    dotted, solid = {"color": "C0", "linestyle": ":"}, {"color": "C3", "linestyle": "-"}
    return [dotted, solid][: len(findings.anatomies)]


def _colors(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis_r"](np.linspace(0.1, 1, count))


PARTS = (
    Part(
        "profile",
        "How an error fades on its way back",
        _draw_profile,
        "The norm of the derivative of the last step's loss with respect to the state "
        "that many steps before, relative to its norm at the last step, at every "
        "checkpoint, in the mean over held-out sequences. A straight line down is a "
        "constant factor per step: the gradient vanishes. A line up means that it "
        "explodes. Lags below the dotted line, 1 %, are hardly learned.",
        _describe_profile,
    ),
    Part(
        "horizon",
        "The memory's horizon along training",
        _draw_horizon,
        "Left: the first lag at which less than 1 % of the error is left, or the "
        "length of the sequences (dotted) if more is left at the end. Right: the "
        "factor by which the error changes per step, from the second half of the "
        "lags. 1 would preserve it.",
    ),
    Part(
        "contributions",
        "What each lag contributes to the gradient",
        _draw_contributions,
        "BPTT's gradient of the recurrent matrix is a sum over lags. Left: the norm "
        "of each term. Right: the norm of the sum of all terms from this lag on, "
        "which is the error of truncated BPTT that stops here. Both are relative to "
        "the norm of the gradient.",
        _describe_contributions,
    ),
    Part(
        "spectrum",
        "Lyapunov exponents",
        _draw_spectrum,
        "The mean logarithm by which a step stretches a small change of the state, "
        "along the directions that it stretches most, with the standard deviation "
        "over sequences. It is measured in the second half of the sequences. Below 0 "
        "changes die out, and gradients with them; near 0 they last; above 0 they "
        "grow. An exponent of minus infinity, a direction that is lost at once, is "
        "left out.",
        _describe_spectrum,
    ),
    Part(
        "gates",
        "How long the gates hold",
        _draw_gates,
        "The gate that keeps the state (the LSTM's f, the GRU's z) alone lets a "
        "unit's memory fall to 1/e within its time constant. The curve shows the "
        "share of the units whose time constant is smaller.",
        _describe_gates,
    ),
    Part(
        "forwards",
        "Would it learn forwards in time?",
        _draw_forwards,
        "The cosine between BPTT's gradient of the cell's parameters and that of rules "
        "that run forwards and cost no more than the network itself: SnAp-1, RFLO, and "
        "one draw of UORO, of the last step's loss, added up over "
        f"{SEQUENCES} sequences. 1 (dotted) is the same direction, 0 (dotted) a right "
        "angle. RTRL's is 1. Rules that do not take the cell are left out.",
    ),
)

SECTION = Template("""<section id="$name">
<h2>$title</h2>
<figure role="group" aria-label="$title">
$svg
<figcaption>$how_to_read <a href="$name.csv" download>The numbers</a>.</figcaption>
</figure>
<p>$described</p>
</section>""")

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name under the microscope</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem 1rem .2rem 0; text-align: right; }
#summary { border-left: .25rem solid #35b779; padding-left: 1rem; }
</style>
</head>
<body>
<h1>How far back does <code>$name</code> learn?</h1>
<p id="summary">$summary</p>
$sections
<section id="table">
<h2>Checkpoint by checkpoint</h2>
<table>
<thead>
<tr><th>step</th><th>lag where $share is left</th><th>factor per step</th></tr>
</thead>
<tbody>
$rows
</tbody>
</table>
</section>
</body>
</html>
""")
