"""Names and shapes of another library's weights: what is missing, unknown, or wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn.cells.base import Shape


def check(
    name: str, got: Mapping[str, Any], expected: Mapping[str, Shape], cure: str = ""
) -> None:
    """Raises `ValueError` unless the arrays of `got` have these names and shapes.

    Args:
      name: the argument that holds them, for the message.
      got: arrays by name, any shape `[...]`.
      expected: their shapes.
      cure: what to do about unknown names.
    """
    missing = [key for key in expected if key not in got]
    if missing:
        raise ValueError(
            f"`{name}` must have {_list(missing)}, but got {_list(got)}.{_space(cure)}"
        )
    unknown = [key for key in got if key not in expected]
    if unknown:
        raise ValueError(
            f"`{name}` must have {_list(expected)} alone, but also got "
            f"{_list(unknown)}.{_space(cure)}"
        )
    for key, shape in expected.items():
        if np.shape(got[key]) != shape:
            raise ValueError(
                f"{key} in `{name}` must have shape {shape}, but got "
                f"{np.shape(got[key])}."
            )


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Returns the arrays of nested mappings, such as "hn/kernel", any shape `[...]`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{above}{key}"
        found |= (
            flat(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
        )
    return found


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts of arrays, any shape `[...]`: undoes `flat`."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *above, last = path.split("/")
        inner = tree
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = array
    return tree


def _list(names: Any) -> str:
    shown = list(names)
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return (", ".join(map(str, shown[:8])) or "nothing") + more


def _space(cure: str) -> str:
    return f" {cure}" if cure else ""
