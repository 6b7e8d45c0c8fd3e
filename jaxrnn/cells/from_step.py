"""A cell made of its forward step alone: JAX derives what else it needs.

The step is traced once, for one step of one sequence, as a list of equations

    s[t] = step(θ, s[t-1], x[t])                                                     (1)

and reverse mode goes through them, equation by equation, with the adjoint λ[t]. Which
of all these equations a function of the cell runs follows from what they depend on:

    u[t]          those of x[t] alone, as far as (1) reads them        `drive`       (2)
    s[t], res[t]  those of the state                                   `step`        (3)
    lin[t]        all that reverse mode reads, and that is not of λ    `linearize`   (4)
    J[t]ᵀ λ[t]    those of λ that lead to the state                    `state_vjp`   (5)
    Σ M[t]ᵀ λ[t]  those of λ that lead to x, and to where θ is read    `param_vjp`   (6)

So a product of the input, `x @ w_ih`, runs outside the loops, for all steps at once,
and one product with `w_hh` is left in each loop. Three things make this as fast as a
cell whose adjoint is written by hand:

- (4) multiplies out the factors of a chain, such as λ a b c (`ops.folding`).
- (3) keeps the fewest numbers from which (4) can be computed without a product
  (`ops.programs.smallest_cut`). For the LSTM these are its gates.
- Where (1) multiplies by a matrix of θ, (6) keeps both factors of its gradient, and
  multiplies them once for all rows. No gradient of a weight is carried by a loop.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrnn import checks
from jaxrnn.cells import contract
from jaxrnn.cells.base import Adjoint, Cell, Params, Shape, State
from jaxrnn.ops import programs
from jaxrnn.ops.folding import folded
from jaxrnn.ops.ids import leading_shape
from jaxrnn.ops.products import accumulation_dtype, lead_sum, outer_sum, transposed
from jaxrnn.ops.programs import Equation, Program, Var, dependents, variables


def cell_from_step(
    init: Callable[..., Params],
    initial_state: Callable[[Params, Shape], State],
    step: Callable[[Params, State, Any], State],
) -> Cell:
    """Returns a cell with the given forward step; JAX derives its adjoint.

    The cell works like those of this library, with every option of `jaxrnn.unroll`: its
    products with the input, and all of its derivatives but one product per step, run
    for many steps at once.

    `step` is traced for one step of one sequence, without axes of time or of a batch:

        def step(params, state, x):  # [H] and [I]
            z = x @ params.w_ih + state.h @ params.w_hh + params.b
            return State((1 - params.a) * state.h + params.a * jnp.tanh(z))

        leaky = jaxrnn.cell_from_step(init, initial_state, step)

    The loops hold as many products as `step` has with the state, so multiply by the
    matrices of all gates at once. Multiply with `jaxrnn.ops.matmul` if `compute_dtype`
    is to have an effect. Functions with derivatives of their own (`jax.custom_vjp`,
    `jax.custom_jvp`) keep them.

    The same functions give the same `Cell` object, so `jit` does not trace twice.
    Define them once, at the top level of a module, not at each call.

    Args:
      init: `(key, input_size, hidden_size, dtype=float32) -> params`, a NamedTuple of
        arrays of one floating dtype.
      initial_state: `(params, batch_shape) -> state`, a NamedTuple of zeros `[*B, H]`
        whose first field is the output `h`.
      step: `(params, state, x) -> state`, with leaves `[H]` and `x [I]`, or an id `[]`
        if the inputs are ids. It is pure, and closes over no traced array.

    Raises:
      TypeError: if an argument is no function. Where the functions do not fit together,
        `jaxrnn.unroll` raises.
    """
    checks.function("init", init, "(key, input_size, hidden_size, dtype) -> params")
    checks.function("initial_state", initial_state, "(params, batch_shape) -> state")
    checks.function("step", step, "(params, state, x) -> state")
    return _make_cell(init, initial_state, step)


@cache
def _make_cell(init: Any, initial_state: Any, step: Any) -> Cell:
    drive = _Drive(initial_state, step)
    return Cell(init, initial_state, drive, _step, _linearize, _state_vjp, _param_vjp)


@jax.tree_util.register_pytree_node_class
class Kept:
    """Arrays `[*N, ...]` that one function of the cell leaves to the next ones.

    With them goes the derivation, static, that says what each of them is.
    """

    def __init__(self, arrays: Any, derived: "Derived") -> None:
        self.arrays, self.derived = tuple(arrays), derived

    def tree_flatten(self) -> tuple[tuple[Array, ...], "Derived"]:
        """Returns the arrays `[*N, ...]` and the derivation."""
        return self.arrays, self.derived

    @classmethod
    def tree_unflatten(cls, derived: "Derived", arrays: Any) -> "Kept":
        """Returns the tree of these arrays `[*N, ...]`."""
        return cls(arrays, derived)


class Reading(NamedTuple):
    """An equation of the step that reads matrices of θ, and what (6) needs of it."""

    equation: Equation
    matrices: tuple[int, ...]
    """Which of its arguments they are."""
    others: dict[int, Var]
    """Its other arguments that are not the same at every step."""
    cotangents: tuple[Var, ...]
    """Those of its results."""


@dataclasses.dataclass(frozen=True, eq=False)
class Derived:
    """What is derived from a step, for parameters, states and inputs of these shapes.

    The variables of `reverse` are those of the step and of reverse mode through it.
    `theta` stands for all values of (1) that depend on the parameters alone.
    """

    forward: Program
    """(1), a function of the parameters, the state and x."""
    theta: tuple[Var, ...]
    """In `forward`."""
    tree: Any
    """The structure of the state."""
    reverse: Program
    """A function of θ, the state, x and λ."""
    state: tuple[Var, ...]
    x: Var
    adjoint: tuple[Var, ...]
    after: tuple[Var, ...]
    """s[t]."""
    back: tuple[Var, ...]
    """J[t]ᵀ λ[t]."""
    dx: tuple[Var, ...]
    """Nothing for ids."""
    dvectors: dict[Var, Var]
    """The gradients of the vectors and numbers of θ, at each step."""
    readings: tuple[Reading, ...]
    us: tuple[Var, ...]
    res: tuple[tuple[Var, ...], ...]
    """Variables that are kept side by side, in one array for each group."""
    lin: tuple[Var, ...]

    def run(
        self, outputs: Sequence[Var], params: Params, given: dict[Var, Any]
    ) -> list[Any]:
        """Returns variables of `reverse`, `[*N, ...]`, from the given ones."""
        known = self.reverse.inputs[: len(self.theta)]
        plain = dict(zip(known, self.values_of_theta(params), strict=True))
        equations = programs.needed(self.reverse, outputs, {*plain, *given})
        shape = next(np.shape(a)[: np.ndim(a) - v.aval.ndim] for v, a in given.items())
        return programs.run(self.reverse, equations, outputs, plain, given, shape)

    def values_of_theta(self, params: Params) -> list[Any]:
        """Returns θ `[...]`."""
        leaves = jax.tree.leaves(params)
        given = dict(zip(self.forward.inputs, leaves, strict=False))
        equations = programs.needed(self.forward, self.theta, given)
        return programs.run(self.forward, equations, self.theta, given, {}, ())


@dataclasses.dataclass(frozen=True)
class _Drive:
    """(2), and the derivation: only here are the shapes of all arguments known."""

    initial_state: Any
    step: Any

    def __call__(self, params: Params, xs: Any) -> Kept:
        shape = leading_shape(xs)
        # Matrices may be in `compute_dtype`; states never are.
        arrays = [*jax.tree.leaves(params), xs]
        dtype = jnp.result_type(*(a for a in arrays if _is_floating(a)))
        whole = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), params)
        state = jax.eval_shape(lambda p: self.initial_state(p, ()), whole)
        x = jax.ShapeDtypeStruct(xs.shape[len(shape) :], xs.dtype)
        params_and_state = jax.tree.map(_kind, (params, state))
        leaves, tree = jax.tree.flatten((*params_and_state, x))
        # What is traced depends on these too.
        x64 = jax.dtypes.canonicalize_dtype(float) == jnp.float64
        context = x64, jax.sharding.get_abstract_mesh()
        derived = _derive(self.step, tree, tuple(leaves), context)
        us = derived.run(derived.us, params, {derived.x: xs})
        # One last axis, as every drive has it.
        sizes = (math.prod(u.aval.shape) for u in derived.us)
        flat = [u.reshape(*shape, size) for u, size in zip(us, sizes, strict=True)]
        return Kept(flat, derived)


def _is_floating(a: Any) -> bool:
    return bool(jnp.issubdtype(a.dtype, jnp.floating))


def _kind(a: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, a.dtype)


def _step(params: Params, state: State, u: Kept) -> tuple[State, Kept]:
    derived, leaves = u.derived, jax.tree.leaves(state)
    given = dict(zip(derived.state, leaves, strict=True))
    shape = leaves[0].shape[: leaves[0].ndim - derived.state[0].aval.ndim]
    for v, a in zip(derived.us, u.arrays, strict=True):
        given[v] = a.reshape(*shape, *v.aval.shape)
    kept = [v for group in derived.res for v in group]
    found = derived.run((*derived.after, *kept), params, given)  # (3)
    count = len(derived.after)
    rest = iter(found[count:])
    res = [_side_by_side([next(rest) for _ in group], shape) for group in derived.res]
    return derived.tree.unflatten(found[:count]), Kept(res, derived)


def _side_by_side(arrays: list[Any], shape: tuple[Any, ...]) -> Any:
    """Returns the arrays `[*N, ...]` as one, `[*N, G]`; `shape` is *N."""
    axes = len(shape)
    flat = [a.reshape(*shape, math.prod(a.shape[axes:])) for a in arrays]
    return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)


def _linearize(params: Params, state_prev: State, state: State, res: Kept) -> Kept:
    derived = res.derived
    given = dict(zip(derived.state, jax.tree.leaves(state_prev), strict=True))
    after = zip(derived.after, jax.tree.leaves(state), strict=True)
    given |= {v: a for v, a in after if variables([v])}
    for group, a in zip(derived.res, res.arrays, strict=True):
        ends = np.cumsum([math.prod(v.aval.shape) for v in group])
        parts = jnp.split(a, ends[:-1], axis=-1)
        for v, part in zip(group, parts, strict=True):
            given[v] = part.reshape(*a.shape[:-1], *v.aval.shape)
    return Kept(derived.run(derived.lin, params, given), derived)  # (4)


def _state_vjp(params_t: Params, lin: Kept, adjoint: Adjoint) -> Adjoint:
    derived = lin.derived
    given = dict(zip(derived.adjoint, jax.tree.leaves(adjoint), strict=True))
    given |= dict(zip(derived.lin, lin.arrays, strict=True))
    back = derived.run(derived.back, transposed(params_t), given)  # (5)
    return derived.tree.unflatten(back)


def _param_vjp(
    params_t: Params, xs: Array, states_prev: State, lin: Kept, adjoints: Adjoint
) -> tuple[Params, Any]:
    derived, params = lin.derived, transposed(params_t)
    given = dict(zip(derived.adjoint, jax.tree.leaves(adjoints), strict=True))
    given |= dict(zip(derived.state, jax.tree.leaves(states_prev), strict=True))
    given |= dict(zip(derived.lin, lin.arrays, strict=True)) | {derived.x: xs}
    wanted = [*derived.dx, *derived.dvectors.values()]
    for reading in derived.readings:
        wanted += [*reading.others.values(), *reading.cotangents]
    wanted = list(dict.fromkeys(variables(wanted)))
    found = dict(zip(wanted, derived.run(wanted, params, given), strict=True))  # (6)

    theta = dict(zip(derived.theta, derived.values_of_theta(params), strict=True))
    axes = len(leading_shape(xs))
    by_vectors = [(v, d) for v, d in derived.dvectors.items() if variables([d])]
    sums = {v: _sum(found[d], axes) for v, d in by_vectors}
    for reading in derived.readings:
        for v, gradient in _by_matrices(derived, reading, theta, found, axes).items():
            sums[v] = sums[v] + gradient if v in sums else gradient
    dparams = _by_params(derived, params, sums)
    dx = [programs.value_of(d, found) for d in derived.dx]
    return dparams, dx[0] if dx else None


def _sum(gradients: Array, axes: int) -> Array:
    """Returns the sum over all leading axes, in float32 or wider."""
    leading, shape = gradients.shape[:axes], gradients.shape[axes:]
    return lead_sum(gradients.reshape(*leading, math.prod(shape))).reshape(shape)


def _by_matrices(
    derived: Derived,
    reading: Reading,
    theta: dict[Var, Any],
    found: dict[Var, Any],
    axes: int,
) -> dict[Var, Any]:
    """Returns the gradients of the matrices that an equation reads, over all rows."""
    equation = reading.equation
    others = {n: programs.value_of(v, found) for n, v in reading.others.items()}
    cotangents = [programs.value_of(v, found) for v in reading.cotangents]
    flags = [n in others for n in range(len(equation.invars))]
    if (order := programs.row_product(equation, flags)) is not None:
        matrix = equation.invars[order[1]]
        left, right = others[order[0]], cotangents[0]
        if programs.contracted_axis(equation, order) == 1:
            left, right = right, left
        return {matrix: outer_sum(left, right, matrix.aval.dtype)}

    # Any other equation: its derivative by the matrices, with all rows at once.
    values = derived.forward.constants | theta
    names = [equation.invars[n] for n in reading.matrices]

    def compute(matrices: list[Any]) -> list[Any]:
        at = dict(zip(reading.matrices, matrices, strict=True)) | others
        arguments = [
            at[n] if n in at else programs.value_of(v, values)
            for n, v in enumerate(equation.invars)
        ]
        results = programs.bind_mapped(equation, arguments, flags, axes)
        pairs = zip(results, equation.outvars, strict=True)
        return [r for r, v in pairs if _is_inexact(v)]

    matrices = [theta[v] for v in names]
    if equation.primitive.name in programs.LINEAR:
        (gradients,) = jax.linear_transpose(compute, matrices)(cotangents)
    else:
        (gradients,) = jax.vjp(compute, matrices)[1](cotangents)
    total: dict[Var, Any] = {}
    for v, gradient in zip(names, gradients, strict=True):
        total[v] = total[v] + gradient if v in total else gradient
    return total


def _by_params(derived: Derived, params: Params, sums: dict[Var, Any]) -> Params:
    """Returns the gradients of the parameters, in float32 or wider, from those of θ."""
    leaves, tree = jax.tree.flatten(params)
    inputs = derived.forward.inputs[: len(leaves)]
    # θ may be a parameter itself, or a function of some.
    made = [v for v in derived.theta if v not in inputs and v in sums]
    equations = programs.needed(derived.forward, made, inputs)

    def values_of_made(leaves: list[Any]) -> list[Any]:
        given = dict(zip(inputs, leaves, strict=True))
        return programs.run(derived.forward, equations, made, given, {}, ())

    _, pull = jax.vjp(values_of_made, leaves)
    (gradients,) = pull([sums[v].astype(v.aval.dtype) for v in made])
    total = [
        g.astype(accumulation_dtype(g.dtype)) + sums.get(v, 0)
        for g, v in zip(gradients, inputs, strict=True)
    ]
    return tree.unflatten(total)


@cache
def _derive(step: Any, tree: Any, leaves: tuple[Any, ...], context: Any) -> Derived:
    """Derives all that (2) to (6) run; `leaves` are the shapes of θ, s and x.

    `context` is only a key: a step is traced anew in each.
    """
    _, state, _ = tree.unflatten(leaves)
    of_state = jax.tree.structure(state)
    forward = _trace_step(step, tree, leaves, state)
    states = forward.inputs[-1 - of_state.num_leaves : -1]
    x = forward.inputs[-1]

    # What depends on the parameters alone, and is read by what does not.
    moving = dependents(forward.equations, (*states, x))
    equations = [e for e in forward.equations if moving & set(e.outvars)]
    read = [v for e in equations for v in variables(e.invars)]
    read += variables(forward.outputs)
    fixed = moving | set(forward.constants)
    theta = tuple(dict.fromkeys(v for v in read if v not in fixed))

    layout = _Layout(forward, theta, states, x, moving, equations)
    kinds = [_kind(v.aval) for v in (*theta, *states, x, *states)]
    reverse = folded(
        programs.trace(layout.reverse_mode, kinds), len(kinds) - len(states)
    )
    return _cut(layout, reverse, of_state)


def _trace_step(
    step: Any, tree: Any, leaves: tuple[Any, ...], expected: State
) -> Program:
    """Returns (1) as a program; raises unless it returns a state like its argument."""
    contract.takes("step", step, ("params", "state", "x"))

    def flat(*given: Any) -> list[Any]:
        arguments: Any = tree.unflatten(given)
        after = step(*arguments)
        contract.state_like("step", after, expected)
        return jax.tree.leaves(after)

    forward = programs.trace(flat, leaves)
    if programs.closes_over_traced(forward):
        raise TypeError(
            "`step` must not close over an array that is traced, because the cell is "
            "made once for all calls. Make the array a parameter."
        )
    return forward


def _is_inexact(v: Var) -> bool:
    return jnp.issubdtype(v.aval.dtype, jnp.inexact)


@dataclasses.dataclass
class _Layout:
    """Reverse mode through a step, and in which order it returns its results."""

    forward: Program
    theta: tuple[Var, ...]
    states: tuple[Var, ...]
    x: Var
    moving: set[Var]
    equations: list[Equation]
    """Those that are not of the parameters alone."""
    vectors: list[Var] = dataclasses.field(default_factory=list)
    readings: list[tuple[Equation, list[int], list[int], int]] = dataclasses.field(
        default_factory=list
    )
    """An equation, which arguments are matrices and which are kept, and how many
    cotangents follow these."""

    def reverse_mode(self, *given: Any) -> list[Any]:
        """Returns s[t], J[t]ᵀ λ, dx, the gradients of vectors, and those of readings.

        The arguments are θ, the state, x and λ, all flat.
        """
        names = (*self.theta, *self.states, self.x)
        values = self.forward.constants | dict(zip(names, given, strict=False))
        self.vectors = [v for v in self.theta if v.aval.ndim < 2 and _is_inexact(v)]
        self.readings = []
        differentiated = self.moving | set(self.vectors)

        # Forward: each equation with its own derivative.
        tape = []
        for equation in self.equations:
            arguments = [programs.value_of(v, values) for v in equation.invars]
            by = [
                n
                for n, v in enumerate(equation.invars)
                if variables([v]) and v in differentiated and _is_inexact(v)
            ]
            compute = _of_some(equation, arguments, by)
            results, pull = jax.vjp(compute, *(arguments[n] for n in by))
            values |= dict(zip(equation.outvars, results, strict=True))
            tape.append((equation, arguments, by, pull))

        # Backwards from λ, equation by equation.
        cotangents: dict[Var, Any] = {}

        def add(v: Var, cotangent: Any) -> None:
            known = cotangents.get(v)
            cotangents[v] = cotangent if known is None else known + cotangent

        for v, adjoint in zip(self.forward.outputs, given[len(names) :], strict=True):
            if variables([v]) and v in differentiated:
                add(v, adjoint)
        of_readings: list[Any] = []
        for equation, arguments, by, pull in reversed(tape):
            if not any(v in cotangents for v in equation.outvars):
                continue
            results = [cotangents.get(v, _zeros(v)) for v in equation.outvars]
            of_readings += self._of_reading(equation, arguments, results)
            for n, cotangent in zip(by, pull(results), strict=True):
                add(equation.invars[n], cotangent)

        after = [programs.value_of(v, values) for v in self.forward.outputs]
        x = [self.x] if _is_inexact(self.x) else []
        by_input = [
            cotangents.get(v, _zeros(v)) for v in (*self.states, *x, *self.vectors)
        ]
        return [*after, *by_input, *of_readings]

    def _of_reading(
        self, equation: Equation, arguments: list[Any], cotangents: list[Any]
    ) -> list[Any]:
        """Returns what (6) needs of an equation, if it reads a matrix of θ."""
        matrices, others = [], []
        for n, v in enumerate(equation.invars):
            if variables([v]) and v in self.moving:
                others.append(n)
            elif variables([v]) and v in self.theta and v.aval.ndim > 1:
                matrices += [n] if _is_inexact(v) else []
        if not matrices:
            return []
        pairs = zip(cotangents, equation.outvars, strict=True)
        kept = [c for c, v in pairs if _is_inexact(v)]
        self.readings.append((equation, matrices, others, len(kept)))
        return [*(arguments[n] for n in others), *kept]


def _of_some(
    equation: Equation, arguments: list[Any], by: list[int]
) -> Callable[..., list[Any]]:
    """Returns an equation as a function of some of its arguments."""

    def compute(*some: Any) -> list[Any]:
        given = list(arguments)
        for n, value in zip(by, some, strict=True):
            given[n] = value
        return programs.bind(equation, given)

    return compute


def _zeros(v: Var) -> Any:
    if _is_inexact(v):
        return jnp.zeros(v.aval.shape, v.aval.dtype)
    return np.zeros(v.aval.shape, jax.dtypes.float0)


def _cut(layout: _Layout, reverse: Program, tree: Any) -> Derived:
    """Finds what (2), (3) and (4) must return: what is read across their borders."""
    # The inputs and outputs of reverse mode, by name.
    counts = len(layout.theta), len(layout.states)
    state = reverse.inputs[counts[0] : sum(counts)]
    x, adjoint = reverse.inputs[sum(counts)], reverse.inputs[sum(counts) + 1 :]
    outputs = iter(reverse.outputs)

    def take(number: int) -> tuple[Var, ...]:
        return tuple(next(outputs) for _ in range(number))

    after, back = take(counts[1]), take(counts[1])
    dx = take(1 if _is_inexact(layout.x) else 0)
    dvectors = dict(zip(layout.vectors, take(len(layout.vectors)), strict=True))
    readings = tuple(
        Reading(e, tuple(matrices), dict(zip(others, take(len(others)), strict=True)),
                take(kept))
        for e, matrices, others, kept in layout.readings
    )  # fmt: skip

    # What depends on λ, on the state, and on x alone.
    late = dependents(reverse.equations, adjoint)
    by_state = dependents(reverse.equations, state) - late
    by_x = dependents(reverse.equations, [x]) - by_state - late

    def read_by(outputs: Sequence[Var], group: set[Var]) -> list[Var]:
        """Returns what the equations of a group read, and the outputs themselves."""
        equations = programs.needed(reverse, outputs, ())
        inside = [e for e in equations if group & set(e.outvars)]
        return [*(v for e in inside for v in variables(e.invars)), *variables(outputs)]

    # (4): `state_vjp` gets no state and no x, and `param_vjp` gets both.
    gradients = [*dx, *dvectors.values()]
    for reading in readings:
        gradients += [*reading.others.values(), *reading.cotangents]
    lin = [v for v in read_by(back, late) if v in by_state or v in by_x]
    lin += [v for v in read_by(gradients, late) if v in by_state and v not in state]
    lin = tuple(dict.fromkeys(lin))
    # (2): what the equations of the state read, of x alone.
    us = [v for v in read_by((*after, *lin), by_state) if v in by_x]
    us = tuple(dict.fromkeys(us)) or (x,)
    # (3)
    early = [e for e in reverse.equations if not late & set(e.outvars)]
    res = programs.smallest_cut(early, lin, us, by_state | by_x, {*state, *after})
    return Derived(
        layout.forward,
        layout.theta,
        tree,
        reverse,
        state,
        x,
        adjoint,
        after,
        back,
        dx,
        dvectors,
        readings,
        us,
        _grouped(res, us),
        lin,
    )


def _grouped(res: Sequence[Var], us: Sequence[Var]) -> tuple[tuple[Var, ...], ...]:
    """Groups variables such that a group has the size and dtype of a drive if it can.

    The engine then writes it over that drive (`ops.loops.scan_in_place`).
    """
    groups, rest = [], list(res)
    for u in us:
        size, group = math.prod(u.aval.shape), []
        for v in rest:
            left = size - sum(math.prod(w.aval.shape) for w in group)
            if v.aval.dtype == u.aval.dtype and math.prod(v.aval.shape) <= left:
                group.append(v)
        if group and sum(math.prod(v.aval.shape) for v in group) == size:
            groups.append(tuple(group))
            rest = [v for v in rest if v not in group]
    return (*groups, *((v,) for v in rest))
