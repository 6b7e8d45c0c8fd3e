"""Functions that are values: equal, hashable, and picklable by what they were made of.

Cells and layers are static arguments of compiled programs. A closure, or a bound
method, equals only itself, so a layer that is made twice would be compiled twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """A method of `options`, a NamedTuple. It equals the same method of equal options.

    The class is kept beside them, because NamedTuples of two classes are equal if their
    fields are. It is no tuple itself: JAX refers to functions weakly.
    """

    owner: type
    options: Any
    name: str

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return getattr(self.owner, self.name)(self.options, *arguments, **keywords)


def methods_of(options: Any, names: Sequence[str]) -> tuple[Method, ...]:
    """Returns the methods of these names."""
    return tuple(Method(type(options), options, name) for name in names)


def options_of(function: Any) -> Any:
    """Returns the options whose method the function is; None for any other function."""
    return function.options if isinstance(function, Method) else None
