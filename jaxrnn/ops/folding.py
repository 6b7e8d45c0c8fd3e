"""Linear programs with as few coefficients as possible.

Reverse mode multiplies by one factor after the other, λ a b c, and would do so in the
loop over steps. Where the factors are known before the loop, their product is a single
coefficient. Here, sums of products are multiplied out while a program is traced anew:

    (a v) b             (a b) v                            one coefficient
    a v + b v           (a + b) v                          of one and the same value
    (a v, b w) c        (a c₁ v, b c₂ w)                   in a concatenation

A sum that is used more than once is computed once, as a value of its own.
"""

from collections import Counter
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxrnn.ops import programs
from jaxrnn.ops.programs import Equation, Program, Var, is_literal, variables


class Sum:
    """Σ coefficient ⊙ value `[...]`, computed when it is needed; None stands for 1."""

    def __init__(self, terms: list[tuple[Any, Any]]) -> None:
        self.terms = terms
        self._computed: Any = None

    def value(self) -> Any:
        """Returns the sum as an array `[...]`."""
        if self._computed is None:
            first, *rest = (v if c is None else v * c for c, v in self.terms)
            self._computed = sum(rest, start=first)
        return self._computed

    def once(self) -> "Sum":
        """Returns the sum as a single term."""
        return self if len(self.terms) == 1 else Sum([(None, self.value())])


class Joined:
    """A concatenation of `Sum` parts along an axis."""

    def __init__(self, parts: list[Sum], axis: int) -> None:
        self.parts, self.axis = parts, axis
        self._computed: Any = None

    def value(self) -> Any:
        """Returns the concatenation as an array `[...]`."""
        if self._computed is None:
            self._computed = lax.concatenate([p.value() for p in self.parts], self.axis)
        return self._computed

    def once(self) -> "Joined":
        """Returns the concatenation of parts that are single terms."""
        return Joined([part.once() for part in self.parts], self.axis)


Linear: TypeAlias = Sum | Joined


def folded(program: Program, known: int) -> Program:
    """Returns an equal program, linear in its inputs after the first `known` ones."""
    late = programs.dependents(program.equations, program.inputs[known:])
    uses = Counter(variables(program.outputs))
    for equation in program.equations:
        if late & set(equation.outvars):
            uses.update(variables(equation.invars))

    def run(*given: Any) -> list[Any]:
        values = program.constants | dict(zip(program.inputs, given, strict=True))
        sums: dict[Var, Linear] = {
            v: Sum([(None, values[v])]) for v in program.inputs[known:]
        }

        def value_of(v: Var) -> Any:
            if not is_literal(v) and v in late:
                return sums[v].value()
            return programs.value_of(v, values)

        for equation in program.equations:
            is_late = bool(late & set(equation.outvars))
            if is_late and (new := _multiplied_out(equation, sums, values)) is not None:
                (v,) = equation.outvars
                sums[v] = new.once() if uses[v] > 1 else new
                continue
            results = programs.bind(equation, [value_of(v) for v in equation.invars])
            for v, result in zip(equation.outvars, results, strict=True):
                if v in late:
                    sums[v] = Sum([(None, result)])
                else:
                    values[v] = result
        return [value_of(v) for v in program.outputs]

    kinds = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in program.inputs]
    return programs.trace(run, kinds)


def _multiplied_out(
    equation: Equation, sums: dict[Var, Linear], values: dict[Var, Any]
) -> Linear | None:
    """Returns the result of an equation; None if it must be computed as it stands."""
    name = equation.primitive.name
    flags = [not is_literal(v) and v in sums for v in equation.invars]
    linear: list[Linear] = [
        sums[v] for v, flag in zip(equation.invars, flags, strict=True) if flag
    ]
    if name == "neg":
        return _scaled(linear[0], -1)
    if name == "mul" and sum(flags) == 1:
        factor = equation.invars[flags.index(False)]
        return _scaled(linear[0], programs.value_of(factor, values))
    if not all(flags):
        return None
    if name in ("add", "add_any"):
        return _added(*linear)
    if name == "sub":
        return _added(linear[0], _scaled(linear[1], -1))
    if name == "concatenate":
        parts = [a if isinstance(a, Sum) else Sum([(None, a.value())]) for a in linear]
        return Joined(parts, equation.params["dimension"])
    return None


def _scaled(a: Linear, factor: Any) -> Linear:
    """Returns factor ⊙ a, for a factor `[]` or of the shape of a."""
    if isinstance(a, Sum):
        return _scaled_sum(a, factor)
    factors = [factor] * len(a.parts)
    if jnp.ndim(factor) > 0:
        sizes = [part.terms[0][1].shape[a.axis] for part in a.parts]
        factors = lax.split(factor, sizes, a.axis)
    pairs = zip(a.parts, factors, strict=True)
    return Joined(
        [_scaled_sum(part, part_factor) for part, part_factor in pairs], a.axis
    )


def _scaled_sum(a: Sum, factor: Any) -> Sum:
    # (v + w) b has one coefficient, and b v + b w would have two.
    if sum(c is None for c, _ in a.terms) > 1:
        a = a.once()
    return Sum([(factor if c is None else c * factor, v) for c, v in a.terms])


def _added(a: Linear, b: Linear) -> Sum:
    if isinstance(a, Joined) or isinstance(b, Joined):
        return Sum([(None, a.value()), (None, b.value())])
    total = {id(v): (c, v) for c, v in a.terms}
    for c, v in b.terms:
        if id(v) in total:
            other, _ = total[id(v)]
            c = (1 if other is None else other) + (1 if c is None else c)
        total[id(v)] = c, v
    return Sum(list(total.values()))
