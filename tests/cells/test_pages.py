"""The page of the cells names each of them."""

import re
from pathlib import Path

import jaxrnn
from jaxrnn.cells.activations import ACTIVATIONS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_cells_is_complete():
    """Every public cell and factory, and every activation."""
    text = (DOCS / "cells.md").read_text()
    cells = {n for n in jaxrnn.__all__ if isinstance(getattr(jaxrnn, n), jaxrnn.Cell)}
    factories = {name for name in jaxrnn.__all__ if name.startswith("make_")}
    named = set(re.findall(r"`(\w+)[`(]", text))
    assert cells | factories <= named
    assert all(f'"{name}"' in text for name in ACTIVATIONS)
