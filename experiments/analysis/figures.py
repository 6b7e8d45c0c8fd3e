"""Figures, all in one style. The name's ending, .png or .svg, decides the format."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.screen import printable


@contextlib.contextmanager
def figure(
    path: Path, panels: int = 1, size: tuple[float, float] = (7.0, 4.0)
) -> Iterator[list[Any]]:
    """Yields axes side by side, and then writes them, with legends, to `path`.

    Args:
      path: the file.
      panels: number of axes.
      size: of the whole figure, in inches.
    """
    # Imported where it is used, because it takes half a second.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Letters stay letters, and the same figure gives the same file.
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": path.stem}
    # Names of the user's are no formulas, whatever signs are in them. A letter that the
    # font lacks is drawn as a box.
    style["text.parse_math"] = False
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        drawn = Figure(figsize=size, layout="constrained")
        axes = drawn.subplots(1, panels, squeeze=False)[0]
        yield list(axes)
        for each in axes:
            each.grid(alpha=0.3)
            if each.get_legend_handles_labels()[0] and each.get_legend() is None:
                each.legend(fontsize="small")
        metadata = {"Date": None} if path.suffix == ".svg" else None
        drawn.savefig(path, dpi=150, metadata=metadata)


def plot_metrics(
    lines: Sequence[dict[str, Any]], names: Sequence[str], path: Path, title: str
) -> None:
    """Draws the metrics of these names against the step, in one figure."""
    with figure(path) as (axes,):
        for name in names:
            with_it = [line for line in lines if line.get(name) is not None]
            points = [(line["step"], line[name]) for line in with_it]
            if points:
                style = "-" if len(points) > 50 else "o-"
                columns = zip(*points, strict=True)
                axes.plot(*columns, style, markersize=4, label=name)
        axes.set(xlabel="step", ylabel=", ".join(names), title=printable(title))
