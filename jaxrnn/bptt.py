"""Backpropagation through time: linearize once, then run one linear recursion.

Forward, for t = 1 … T, with s[0] the initial state and u the drive (`Cell.drive`):

    s[t], res[t] = step(s[t-1], u[t])                                              (1)

Backward, for t = T … 1, with g[t] = ∂R̂/∂h[t] directly (zero where the label is empty;
g[0] = 0), the adjoint λ[t] = dR̂/ds[t] and the Jacobian J[t] = ∂s[t]/∂s[t-1]:

    λ[t-1] = g[t-1] + J[t]ᵀ λ[t],    λ[T] = g[T] + ∂R̂/∂s[T] directly               (2)
    dR̂/dθ  = Σ M[t]ᵀ λ[t],           M[t] = ∂s[t]/∂θ at fixed s[t-1]               (3)

Both run over *chunks* of K steps. Whatever does not depend on the recursion is computed
outside the loop over steps, for a whole chunk at once: the drive before (1), the
coefficients of every J[t] (`Cell.linearize`) before (2), the sum (3) after it. So the
loop over steps holds one matrix product each way and carries no gradient of a weight,
the products outside have K·B rows, and the working set is a chunk's, not the
sequence's.

A masked step copies the state. A step that is not linked to the one before starts from
the reset state r. A cut lets no adjoint pass, and γ[t] scales the one that does. With
select(p, a, b) = a where p, else b, and s̃ the state from which a step starts:

    s̃[t-1] = select(linked[t], s[t-1], r)                                          (4)
    s[t]   = select(mask[t], step(s̃[t-1], u[t]), s̃[t-1])                           (5)
    hs[t]  = select(mask[t], h[t], 0),    so g[t] = 0 where mask[t] is False       (6)
    λ̃[t-1] = select(mask[t], J[t]ᵀ λ[t], λ[t])                                     (7)
    λ[t-1] = g[t-1] + γ[t] select(linked[t] and uncut[t], λ̃[t-1], 0)               (8)
    dR̂/dr  = Σ select(linked[t], 0, λ̃[t-1]),    dR̂/ds[0] = λ[0]                   (9)

and (3) sums over the steps that are not masked. All of this but γ is done by selection,
never by multiplication, so that NaN in a masked input stays there, and a cut stops an
infinite adjoint.

Where the recursion is linear in the state (`Cell.linear`), the steps of a chunk run as
an associative scan instead of a loop, forward and back. (2) is linear in λ for every
cell, so it can run as one for each, if the plan has the units of the state
(`parallel.py`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxrnn import parallel
from jaxrnn.cells import contract
from jaxrnn.cells.base import Adjoint, Cell, Drives, Lin, Params, Residuals, State
from jaxrnn.ops import chunks, loops, products
from jaxrnn.ops.ids import are_ids, leading_shape
from jaxrnn.ops.selection import keep, scale, select
from jaxrnn.plan import Plan

Run: TypeAlias = Callable[..., tuple]


class Steps(NamedTuple):
    """What holds at each step, `[T, *B]` or `[T]`; None: True everywhere, and γ = 1."""

    mask: Array | None = None
    """Whether there is an input, (5)."""
    linked: Array | None = None
    """Whether the step continues the one before: it is not a reset step, (4)."""
    uncut: Array | None = None
    """Whether its adjoint passes to the step before, (8)."""
    gamma: Array | None = None
    """γ, by which that adjoint is multiplied, (8)."""


class Inputs(NamedTuple):
    """Everything that the outputs depend on: `xs [T, *B, I]`, states `[*B, H]`.

    Ids `[T, *B]` stand for one-hot vectors, and have no cotangent.
    """

    params: Params
    state: State
    """s[0], leaves `[*B, H]`."""
    reset_state: State | None
    """r, a state like s[0]; None: every step is linked."""
    xs: Array
    steps: Steps
    probe: State | None
    """Zeros `[T, *B, H]`, never read: their cotangent is λ. None: λ is not needed."""


class Engine(NamedTuple):
    """The values that are the same in every chunk."""

    cell: Cell
    plan: Plan
    params: Params
    read: Callable[[], Params]
    """Returns θ (forward) or θᵀ (backward), to be called inside a loop over steps."""
    reset_state: State | None


class Chunk(NamedTuple):
    """The steps of a chunk, or of the whole sequence: leaves `[K, ...]`."""

    xs: Array
    steps: Steps
    states: State | None = None
    """s, in the backward pass, if it was stored."""
    res: Residuals | None = None
    """res, in the backward pass, if it was stored."""
    dhs: Array | None = None
    """The cotangent of the outputs hs, in the backward pass."""


class Sums(NamedTuple):
    """The values that the backward pass carries from chunk to chunk."""

    adjoint: Adjoint
    """λ[t] without g[t]."""
    dreset: State | None
    """dR̂/dr, (9)."""
    dparams: Params
    """dR̂/dθ, (3), in float32 or wider."""


def _chunk_fwd(engine: Engine, before: State, chunk: Chunk, keep_res: bool):
    """Runs (1) over a chunk; returns the state after it, and all its states and res."""
    cell = engine.cell
    xs = keep(chunk.steps.mask, chunk.xs)
    us = cell.drive(engine.params, xs)  # all K steps at once
    if cell.linear is not None and _is_tree(xs):
        return _chunk_fwd_at_once(engine, before, us, chunk.steps, keep_res)

    def over_step(before, u, step):
        before = select(step.linked, before, engine.reset_state)  # (4)
        after, res = cell.step(engine.read(), before, u)  # (1)
        after = select(step.mask, after, before)  # (5)
        return after, (after, res if keep_res else None)

    # Where `res` is returned, it is written over the drives.
    ahead = engine.plan.read_ahead and not keep_res
    scan = loops.scan_ahead if ahead else loops.scan_in_place
    after, (states, res) = scan(over_step, before, us, chunk.steps)
    return after, states, res


def _is_tree(xs: Array) -> bool:
    """Returns whether a chunk `[K, *B, I]` can be an associative scan.

    Its tree has a number of rounds that must be known, so K must not be symbolic.
    """
    return isinstance(xs.shape[0], int)


def _chunk_fwd_at_once(
    engine: Engine, before: State, us: Drives, steps: Steps, keep_res: bool
):
    """Replaces the loop over steps of `_chunk_fwd`, for a linear recursion."""
    cell, _, params, _, reset_state = engine
    linear: Any = cell.linear
    states = parallel.states(
        linear, params, before, us, reset_state, steps.mask, steps.linked
    )
    befores, after = _befores(before, states)
    if not keep_res:
        return after, states, None
    befores = select(steps.linked, befores, reset_state)  # (4)
    return after, states, cell.step(params, befores, us)[1]


def _befores(first: State, states: State) -> tuple[State, State]:
    """Returns the states before each step `[K, *B, H]`, and the one after the last."""
    # The state before step t is the one after step t-1.
    joined = jax.tree.map(lambda f, s: jnp.concatenate([f[None], s]), first, states)
    return jax.tree.map(lambda s: s[:-1], joined), jax.tree.map(lambda s: s[-1], joined)


def _chunk_bwd(engine: Engine, sums: Sums, first: State, chunk: Chunk):
    """Runs (2) over a chunk; returns the sums up to its start, its dxs and its λ."""
    cell, params_t = engine.cell, products.transposed(engine.params)
    chunk = chunk._replace(xs=keep(chunk.steps.mask, chunk.xs))
    befores, lin = _linearize(engine, first, chunk)  # all K steps at once

    def over_step(carry, inputs):
        adjoint, dreset = carry
        g, lin, step = inputs
        adjoint = adjoint._replace(h=adjoint.h + g)  # (2)
        back = cell.state_vjp(engine.read(), lin, adjoint)
        back = select(step.mask, back, adjoint)  # (7)
        if step.linked is not None:
            zero = jax.tree.map(jnp.zeros_like, back)
            to_reset = select(step.linked, zero, back)
            dreset = jax.tree.map(jnp.add, dreset, to_reset)  # (9)
        back = scale(step.gamma, keep(step.uncut, keep(step.linked, back)))  # (8)
        return (back, dreset), adjoint

    gs = keep(chunk.steps.mask, chunk.dhs)  # (6)
    carry, inputs = (sums.adjoint, sums.dreset), (gs, lin, chunk.steps)
    at_once = cell.linear is not None or engine.plan.units is not None
    if at_once and _is_tree(chunk.xs):
        (adjoint, dreset), adjoints = _adjoints_at_once(engine, carry, inputs)
    else:
        (adjoint, dreset), adjoints = lax.scan(over_step, carry, inputs, reverse=True)
    emitted = adjoints if engine.plan.adjoints else None
    adjoints = keep(chunk.steps.mask, adjoints)
    dparams, dxs = cell.param_vjp(params_t, chunk.xs, befores, lin, adjoints)  # (3)
    contract.gradients(dparams, engine.params)
    dxs = None if are_ids(chunk.xs) else dxs
    dparams = jax.tree.map(jnp.add, sums.dparams, dparams)
    return Sums(adjoint, dreset, dparams), (dxs, emitted)


def _adjoints_at_once(engine: Engine, carry: tuple, inputs: tuple):
    """Replaces the loop over steps of `_chunk_bwd` by an associative scan."""
    cell, params_t = engine.cell, products.transposed(engine.params)
    (after, dreset), (gs, lin, steps) = carry, inputs
    # The direct part of every λ: g for h, zero for the other leaves.
    direct = jax.tree.map(lambda a: jnp.broadcast_to(a, (gs.shape[0], *a.shape)), after)
    direct = jax.tree.map(jnp.zeros_like, direct)._replace(h=gs)
    passes = steps.linked
    if steps.uncut is not None:
        passes = steps.uncut if passes is None else select(steps.uncut, passes, False)
    form = _form(engine, params_t, lin, after)
    adjoint, adjoints = parallel.adjoints(
        form, after, direct, steps.mask, passes, steps.gamma
    )
    if steps.linked is not None:
        back = select(steps.mask, cell.state_vjp(params_t, lin, adjoints), adjoints)
        to_reset = select(steps.linked, jax.tree.map(jnp.zeros_like, back), back)
        sums = jax.tree.map(lambda a: a.sum(axis=0), to_reset)
        dreset = jax.tree.map(jnp.add, dreset, sums)  # (9)
    return (adjoint, dreset), adjoints


def _form(engine: Engine, params_t: Params, lin: Lin, like: Adjoint) -> parallel.Form:
    """Returns what J[t]ᵀ of a chunk is: a factor per number, or a matrix per unit."""
    cell, units = engine.cell, engine.plan.units
    if cell.linear is not None or units is None:
        return parallel.linear_form(cell, params_t, lin)
    return parallel.unit_form(cell, params_t, lin, like, units)


def _linearize(engine: Engine, first: State, chunk: Chunk) -> tuple[State, Lin]:
    """Returns s̃[t-1] and the coefficients of J[t] and M[t] for all steps of a chunk."""
    cell, plan, params, _, reset_state = engine
    states, res = chunk.states, chunk.res
    if plan.store == "boundaries":
        forward = engine._replace(read=lambda: params)
        _, states, res = _chunk_fwd(forward, first, chunk, keep_res=True)
    befores, _ = _befores(first, states)
    befores = select(chunk.steps.linked, befores, reset_state)  # (4)
    if plan.store == "states":
        _, res = cell.step(params, befores, cell.drive(params, chunk.xs))
    return befores, cell.linearize(params, befores, states, res)


def _skip_fwd(engine: Engine, before: State, chunk: Chunk, keep_res: bool):
    """Replaces `_chunk_fwd` if all steps are masked: the state passes through."""
    size = chunk.xs.shape[0]
    states = jax.tree.map(lambda s: jnp.broadcast_to(s, (size, *s.shape)), before)
    if not keep_res:
        return before, states, None
    # Only the shape of `res` is used: XLA never computes it.
    us = engine.cell.drive(engine.params, chunk.xs)
    _, res = engine.cell.step(engine.params, states, us)
    return before, states, jax.tree.map(jnp.zeros_like, res)


def _skip_bwd(sums: Sums, _: State, chunk: Chunk):
    """Replaces `_chunk_bwd` if all steps are masked: the adjoint is scaled or cut."""
    uncut, gamma = chunk.steps.uncut, chunk.steps.gamma
    passes = None if uncut is None else jnp.all(uncut)
    factor = None if gamma is None else jnp.prod(gamma, axis=0)
    sums = sums._replace(adjoint=scale(factor, keep(passes, sums.adjoint)))
    dxs = None if are_ids(chunk.xs) else jnp.zeros_like(chunk.xs)
    return sums, (dxs, None)


def _run_or_skip(steps: Steps, run: Run, skip: Run, *arguments: Any) -> Any:
    """Calls `run`, or `skip` if no step of the chunk has an input.

    A batch therefore costs as much as its longest sequence, however far it is padded.
    With resets a masked step can change the state too, (4), so every chunk is run.
    """
    if steps.mask is None or steps.linked is not None:
        return run(*arguments)
    return lax.cond(jnp.any(steps.mask), run, skip, *arguments)


def _unroll(cell: Cell, plan: Plan, inputs: Inputs) -> tuple[State, Array]:
    """Returns the last state, leaves `[*B, H]`, and the outputs `[T, *B, H]`, (6)."""
    # No backward pass follows, so nothing is stored for one.
    alone = plan._replace(chunk=plan.chunk_alone, store="boundaries")
    return _unroll_fwd(cell, alone, inputs)[0]


def _unroll_fwd(cell: Cell, plan: Plan, inputs: Inputs):
    """Runs (1) by chunks; returns the outputs and the values for the backward pass."""
    # It does not call `unroll`: JAX differentiates it for derivatives of second order.
    params, read = _stored(plan, inputs, transpose=False)
    engine = Engine(cell, plan, params, read, inputs.reset_state)
    keep_states, keep_res = plan.store != "boundaries", plan.store == "residuals"
    run, skip = (partial(f, engine, keep_res=keep_res) for f in (_chunk_fwd, _skip_fwd))

    def over_chunk(before, _, chunk):
        after, states, res = _run_or_skip(chunk.steps, run, skip, before, chunk)
        first = None if keep_states else before
        return after, first, (states if keep_states else states.h, res)

    # Residuals are written over the drives, so chunks save no memory. They save time
    # only where a mask lets some be skipped.
    whole = keep_res and inputs.steps.mask is None
    chunk = inputs.xs.shape[0] if whole else plan.chunk
    sequence = Chunk(inputs.xs, inputs.steps)
    last, firsts, (states, res) = chunks.scan(
        over_chunk, chunk, inputs.state, None, sequence
    )
    hs = states.h if keep_states else states
    kept = firsts, states if keep_states else None, res
    return (last, keep(inputs.steps.mask, hs)), (inputs, kept)  # (6)


def _unroll_bwd(cell: Cell, plan: Plan, saved: tuple, cotangents: tuple[State, Array]):
    """Runs (2) and (3) by chunks, last to first; returns the inputs' cotangents."""
    inputs, (firsts, states, res) = saved
    adjoint, dhs = cotangents
    params, read = _stored(plan, inputs, transpose=True)
    engine = Engine(cell, plan, params, read, inputs.reset_state)
    run = partial(_chunk_bwd, engine)

    def over_chunk(sums, once, chunk):
        number, first = once
        if states is not None:
            first = chunks.before(number, plan.chunk, inputs.state, states)
        if plan.adjoints:  # of masked steps too
            sums, outputs = run(sums, first, chunk)
        else:
            sums, outputs = _run_or_skip(
                chunk.steps, run, _skip_bwd, sums, first, chunk
            )
        return sums, None, outputs

    dreset = jax.tree.map(jnp.zeros_like, inputs.reset_state)
    sums = Sums(adjoint, dreset, products.zeros_for_sums(inputs.params))
    sequence = Chunk(inputs.xs, inputs.steps, states, res, dhs)
    per_chunk = chunks.numbers(inputs.xs.shape[0], plan.chunk), firsts
    sums, _, (dxs, adjoints) = chunks.scan(
        over_chunk, plan.chunk, sums, per_chunk, sequence, reverse=True
    )
    dparams = products.cast_like(sums.dparams, inputs.params)
    return (Inputs(dparams, sums.adjoint, sums.dreset, dxs, Steps(), adjoints),)


def _stored(plan: Plan, inputs: Inputs, transpose: bool):
    """Returns the parameters, and a function that reads θ, or θᵀ, inside a loop."""
    params = products.matrices_in(inputs.params, plan.compute_dtype)
    if transpose and plan.store == "boundaries":  # the least memory, so no copies
        return params, partial(products.transposed, params)
    rows = math.prod(leading_shape(inputs.xs)[1:])
    return params, products.stored_for_loop(params, rows, transpose)


unroll = jax.custom_vjp(_unroll, nondiff_argnums=(0, 1))
unroll.defvjp(_unroll_fwd, _unroll_bwd)
