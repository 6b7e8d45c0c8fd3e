"""Programs as lists of equations: traced, searched for dependences, run in part.

A program is traced for one sequence and one step, and run on any leading axes.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.core import Tracer
from jax.extend import core

from jaxrnn.ops import placement, products

Var: TypeAlias = Any
"""A variable of a program; constants that stand in it are `Literal`s."""
Equation: TypeAlias = Any
Kind: TypeAlias = Any
"""The shape and dtype of an argument."""
Values: TypeAlias = Mapping[Var, Any]


class Program(NamedTuple):
    """Equations in the order in which they are computed, without calls in them."""

    inputs: tuple[Var, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Var, ...]
    constants: dict[Var, Any]
    """The arrays over which the traced function closes, `[...]`."""


def trace(function: Callable[..., Any], kinds: Sequence[Kind]) -> Program:
    """Returns the program of a function of flat arguments and a flat result."""
    closed = jax.make_jaxpr(function)(*kinds)
    inlined = jax.make_jaxpr(lambda *given: _inlined(closed, given))(*kinds)
    jaxpr = inlined.jaxpr
    constants = dict(zip(jaxpr.constvars, inlined.consts, strict=True))
    return Program(
        tuple(jaxpr.invars), tuple(jaxpr.eqns), tuple(jaxpr.outvars), constants
    )


def _inlined(closed: Any, given: Sequence[Any]) -> list[Any]:
    """Evaluates a traced function, and those that it calls by `jit` too."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(jaxpr.invars, given, strict=True))
    for equation in jaxpr.eqns:
        arguments = [value_of(v, values) for v in equation.invars]
        if equation.primitive.name in ("jit", "pjit", "closed_call"):
            inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
            results = _inlined(inner, arguments)
        else:
            results = bind(equation, arguments)
        values.update(zip(equation.outvars, results, strict=True))
    return [value_of(v, values) for v in jaxpr.outvars]


def closes_over_traced(program: Program) -> bool:
    """Returns whether one of its constants is an array that is traced elsewhere."""
    return any(isinstance(c, Tracer) for c in program.constants.values())


def is_literal(v: Var) -> bool:
    """Returns whether `v` is a number that stands in the program."""
    return isinstance(v, core.Literal)


def value_of(v: Var, values: Values) -> Any:
    """Returns the value of a variable or a literal."""
    return np.asarray(v.val, v.aval.dtype) if is_literal(v) else values[v]


def bind(equation: Equation, arguments: Sequence[Any]) -> list[Any]:
    """Computes an equation; returns its results."""
    # Inside `shard_map`, arrays that are the same on all devices meet others.
    arguments = placement.varying_alike(list(arguments))
    params = equation.primitive.get_bind_params(equation.params)
    # Functions and parameters are apart before JAX 0.10.
    functions, params = params if isinstance(params, tuple) else ((), params)
    results = equation.primitive.bind(*functions, *arguments, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def variables(of: Iterable[Var]) -> list[Var]:
    """Returns those that are not literals."""
    return [v for v in of if not is_literal(v)]


def dependents(equations: Iterable[Equation], sources: Iterable[Var]) -> set[Var]:
    """Returns the sources, and every variable that is computed from any of them."""
    found = set(sources)
    for equation in equations:
        if any(v in found for v in variables(equation.invars)):
            found.update(equation.outvars)
    return found


def needed(
    program: Program, outputs: Iterable[Var], known: Iterable[Var]
) -> list[Equation]:
    """Returns the equations that compute the outputs from the known variables."""
    known, chosen, wanted = set(known), [], set(variables(outputs))
    for equation in reversed(program.equations):
        if any(v in wanted and v not in known for v in equation.outvars):
            chosen.append(equation)
            wanted.update(variables(equation.invars))
    return chosen[::-1]


def run(
    program: Program,
    equations: Iterable[Equation],
    outputs: Sequence[Var],
    plain: Values,
    leading: Values,
    shape: Sequence[Any],
) -> list[Any]:
    """Computes equations on any leading axes; returns the outputs `[*N, ...]`.

    A product of a row with a matrix runs as `products.matmul` does.

    Args:
      program: the one to which the equations belong.
      equations: those that compute the outputs.
      outputs: the variables to return.
      plain: values that are the same for all rows.
      leading: values `[*N, ...]`.
      shape: *N.
    """
    values = {**program.constants, **plain, **leading}
    mapped = set(leading)
    for equation in equations:
        arguments = [value_of(v, values) for v in equation.invars]
        flags = [not is_literal(v) and v in mapped for v in equation.invars]
        if any(flags):
            results = bind_mapped(equation, arguments, flags, len(shape))
            mapped.update(equation.outvars)
        else:
            results = bind(equation, arguments)
        values.update(zip(equation.outvars, results, strict=True))
    found = []
    for v in outputs:
        value = value_of(v, values)
        if is_literal(v) or v not in mapped:
            value = jax.numpy.broadcast_to(value, (*shape, *np.shape(value)))
        found.append(value)
    return found


def bind_mapped(
    equation: Equation, arguments: Sequence[Any], flags: Sequence[bool], axes: int
) -> list[Any]:
    """Computes an equation of arguments of which some have leading axes."""
    if (order := row_product(equation, flags)) is not None:
        row, matrix = (arguments[n] for n in order)
        first = contracted_axis(equation, order) == 0
        row = row.astype(equation.outvars[0].aval.dtype)
        return [products.matmul(row, matrix if first else matrix.T)]

    def compute(*given: Any) -> list[Any]:
        return bind(equation, given)

    # `vmap` wants them to be sharded alike.
    mapped = [a for a, flag in zip(arguments, flags, strict=True) if flag]
    placed = iter(placement.leading_alike(mapped, axes))
    arguments = [
        next(placed) if flag else a for a, flag in zip(arguments, flags, strict=True)
    ]
    in_axes = [0 if flag else None for flag in flags]
    for _ in range(axes):
        compute = jax.vmap(compute, in_axes)
    return compute(*arguments)


def row_product(equation: Equation, flags: Sequence[bool]) -> tuple[int, int] | None:
    """Returns which argument is a row and which a matrix, if this multiplies them.

    The row has leading axes, the matrix has not, and both have one dtype.
    """
    if equation.primitive.name != "dot_general" or sum(flags) != 1:
        return None
    order = (0, 1) if flags[0] else (1, 0)
    row, matrix = (equation.invars[n].aval for n in order)
    alike = row.dtype == matrix.dtype and equation.params["precision"] is None
    _, (batch, _) = equation.params["dimension_numbers"]
    fits = row.ndim == 1 and matrix.ndim == 2 and not batch
    return order if fits and alike else None


def contracted_axis(equation: Equation, order: tuple[int, int]) -> int:
    """Returns the axis of the matrix over which a `row_product` sums."""
    contracted, _ = equation.params["dimension_numbers"]
    return contracted[order[1]][0]


# These are linear in each array of numbers that they read.
LINEAR = {"dot_general", "gather", "dynamic_slice", "conv_general_dilated"}
# A result of these is kept, not computed again from its arguments.
COSTLY = {
    *("dot_general", "ragged_dot_general", "conv_general_dilated", "scan", "while"),
    *("cond", "sort", "triangular_solve", "cholesky", "eigh", "svd", "qr"),
    *("custom_jvp_call", "custom_vjp_call", "gather", "dynamic_slice"),
}


def smallest_cut(
    equations: Sequence[Equation],
    targets: Iterable[Var],
    given: Iterable[Var],
    moving: set[Var],
    free: set[Var],
) -> list[Var]:
    """Returns the fewest numbers from which the targets can be computed cheaply.

    They are the smallest set of variables that separates the targets from what must not
    be computed again: the variables `given`, and the results of `COSTLY` equations.
    Values that are `free` cost nothing, and so do those that are not `moving`, because
    they are the same at every step.

    This is a smallest cut of a network in which a variable's capacity is its size in
    bytes (Ford & Fulkerson, 1956, "Maximal flow through a network", Canadian J. Math.
    8).
    """
    makers = {v: equation for equation in equations for v in equation.outvars}
    source, sink = "source", "sink"
    capacity: dict[Any, dict[Any, Any]] = {source: {}, sink: {}}

    def connect(a: Any, b: Any, size: int | float) -> None:
        capacity.setdefault(a, {})[b] = size
        capacity.setdefault(b, {}).setdefault(a, 0)

    # A network with two nodes for each variable, joined by its size.
    counted, given = moving - free, list(given)
    pending, seen = [v for v in targets if v in counted], set()
    for v in pending:
        connect((v, "out"), sink, math.inf)
    while pending:
        v = pending.pop()
        if v in seen:
            continue
        seen.add(v)
        connect((v, "in"), (v, "out"), _bytes(v))
        maker = makers.get(v)
        if v in given or maker is None or maker.primitive.name in COSTLY:
            connect(source, (v, "in"), math.inf)
            continue
        for argument in variables(maker.invars):
            if argument in counted:
                connect((argument, "out"), (v, "in"), math.inf)
                pending.append(argument)

    # Send flow along shortest paths until none is left.
    while path := _path(capacity, source, sink):
        flow = min(capacity[a][b] for a, b in path)
        for a, b in path:
            capacity[a][b] -= flow
            capacity[b][a] += flow

    # The cut that is nearest to the targets, in the order of the program.
    reach, pending = {sink}, [sink]
    while pending:
        b = pending.pop()
        for a in capacity[b]:
            if a not in reach and capacity[a].get(b, 0) > 0:
                reach.add(a)
                pending.append(a)
    chosen = {v for v in seen if (v, "out") in reach and (v, "in") not in reach}
    order = [*given, *(v for equation in equations for v in equation.outvars)]
    return [v for v in dict.fromkeys(order) if v in chosen]


def _path(capacity: dict[Any, dict[Any, Any]], source: Any, sink: Any) -> list[Any]:
    """Returns the edges of a shortest path with capacity left; none: an empty list."""
    came_from, pending = {source: source}, [source]
    for a in pending:
        for b, size in capacity[a].items():
            if size > 0 and b not in came_from:
                came_from[b] = a
                pending.append(b)
    if sink not in came_from:
        return []
    path, b = [], sink
    while b != source:
        path.append((came_from[b], b))
        b = came_from[b]
    return path


def _bytes(v: Var) -> int:
    return v.aval.size * v.aval.dtype.itemsize
