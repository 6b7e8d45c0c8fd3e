"""Figures, all of one look: a file of the kind that its name ends in, .png or .svg."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def figure(
    path: Path, panels: int = 1, size: tuple[float, float] = (7.0, 4.0)
) -> Iterator[list[Any]]:
    """`panels` axes side by side, written to `path` at the end, each with a legend of its labels.

    Args:
      path: of the file.
      panels: how many.
      size: of the whole, in inches.
    """
    from matplotlib import (
        rc_context,
    )  # imported where it is used: it takes half a second
    from matplotlib.figure import Figure

    # Letters stay letters, and the same figure gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        drawn = Figure(figsize=size, layout="constrained")
        axes = drawn.subplots(1, panels, squeeze=False)[0]
        yield list(axes)
        for each in axes:
            each.grid(alpha=0.3)
            if each.get_legend_handles_labels()[0] and each.get_legend() is None:
                each.legend(fontsize="small")
        drawn.savefig(
            path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
        )
