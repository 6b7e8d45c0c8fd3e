"""Backpropagation through time: linearize once, in parallel over time; then one linear recursion.

Forward, for t = 1 … T, with s[0] the initial state and u the drive (`Cell.drive`):

    s[t], res[t] = step(s[t-1], u[t])                                                        (1)

Backward, for t = T … 1, with g[t] = ∂R̂/∂h[t] directly (zero where the label is empty; g[0] = 0),
the adjoint λ[t] = dR̂/ds[t] and the Jacobian J[t] = ∂s[t]/∂s[t-1]:

    λ[t-1] = g[t-1] + J[t]ᵀ λ[t],    λ[T] = g[T] + ∂R̂/∂s[T] directly                         (2)
    dR̂/dθ  = Σ M[t]ᵀ λ[t],           M[t] = ∂s[t]/∂θ at fixed s[t-1]                         (3)

Both run over *chunks* of K steps. What does not depend on the recursion stands outside the loop
over steps, for a whole chunk at once: the drive before (1), the coefficients of every J[t]
(`Cell.linearize`) before (2), the sum (3) after it. So the loop over steps holds one matrix
product each way and carries no gradient of a weight, the products outside have K·B rows, and the
working set is a chunk's, not the sequence's.

A masked step copies the state; a reset step starts from the initial state again; a cut lets no
adjoint pass, and γ[t] scales the one that does. With select(p, a, b) = a where p, else b, and s̃ the
state a step starts from:

    s̃[t-1] = select(reset[t], s[0], s[t-1])                                                  (4)
    s[t]   = select(mask[t], step(s̃[t-1], u[t]), s̃[t-1])                                     (5)
    hs[t]  = select(mask[t], h[t], 0),    so g[t] = 0 where mask[t] is False                 (6)
    λ̃[t-1] = select(mask[t], J[t]ᵀ λ[t], λ[t])                                               (7)
    λ[t-1] = g[t-1] + γ[t] select(reset[t] or cut[t], 0, λ̃[t-1])                             (8)
    dR̂/ds[0] = λ[0] + Σ select(reset[t], λ̃[t-1], 0)                                          (9)

and (3) sums over the steps that are not masked. All of it but γ by selection, never by
multiplication, so that NaN in a masked input stays there, and a cut stops what is infinite.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jaxrnn import checks, chunks, placement
from jaxrnn.cells.base import Cell, for_loop, matrices_in, transposed, wide
from jaxrnn.plan import Store, make_plan

# Of `unroll`, beside `reverse`.
OPTIONS = frozenset("mask reset truncate gamma chunk store compute_dtype".split())


def unroll(
    cell: Cell,
    params: Any,
    state: Any | None,
    xs: Float[Array, "T *B I"],
    *,
    mask: Bool[Array, "T *B"] | None = None,
    reset: Bool[Array, "T *B"] | None = None,
    reverse: bool = False,
    truncate: int | None = None,
    gamma: Float[Array, "T"] | Float[Array, "T *B"] | None = None,
    chunk: int | None = None,
    store: Store | None = None,
    compute_dtype: DTypeLike | None = None,
) -> tuple[Any, Float[Array, "T *B H"]]:
    """Runs a cell over a sequence; its gradient is BPTT, written by hand, (1) to (9) above.

    Reverse mode of any order works, forward mode over reverse mode too; forward mode alone does
    not go through a hand-written backward pass: use `unroll_autodiff` for it. Gradients are exact
    with respect to `params`, `state` and `xs`, and have their dtypes. (`truncate` and `gamma` make
    them another function's on purpose.)

    Args:
      cell: a `Cell`, such as `jaxrnn.lstm`. Static.
      params: the cell's parameters, `cell.init(key, I, H)`, of one floating dtype.
      state: the initial state s[0], leaves `[*B, H]`; None for `cell.initial_state`, zeros.
      xs: the inputs, time first, any number of batch axes, in the dtype of `params`. T may be 0.
      mask: True where there is an input. A masked step (False) copies the state and outputs zero;
        whatever stands in its `xs`, NaN included, reaches no output and no gradient. Without
        `reset`, a chunk in which every step is masked is skipped.
      reset: True where the state before the step is replaced by `state`, as at the start of an
        episode. The gradient goes to `state`, and not further back.
      reverse: run from the last step to the first. The returned state is the one after step 0;
        with a mask each sequence is reversed within its own mask. `reset` and `truncate` count in
        the order of the run: a reset step starts from `state` and goes on to the step before it.
      truncate: cut the adjoint at every k-th step counted from the start: truncated BPTT with
        windows of k steps, the forward pass unchanged. None or k ≥ T: no cut.
      gamma: γ, the factor by which the adjoint is multiplied on its way from step t to the step
        before it (into `state`, at the first one), `[T]` or `[T, *B]`, in the order of `xs`. It
        scales what passes a masked step too, but not what a reset step sends to `state`.
        `truncate=k` is γ = 0 at the steps k, 2k, … of the run and 1 elsewhere (for adjoints that
        are finite: 0 · ∞ is NaN, a cut is not); `jaxrnn.randomized_truncation` draws one that
        leaves the gradient unbiased. None: 1.
      chunk: K, the steps that are linearized at once, 1 ≤ K; default: as many as the products are
        fastest with, but for "states" no more than a share of T (an LSTM's is a twentieth), and for
        "boundaries" between √(T/10) and √T. It changes speed and memory, not the result.
      store: what the forward pass keeps, per step, for the backward one. "states": the states,
        and the gates are computed again, in parallel over time. "residuals": the gates too; less
        arithmetic, more memory. "boundaries": only each chunk's first state; every chunk is run
        forward again, memory O(T/K + K). Default: "residuals" where T·B ≤ I + H, so that they take
        no more memory than the parameters do; else "states".
      compute_dtype: the dtype in which the matrix products multiply, such as `jnp.bfloat16`; they
        accumulate in float32 or wider, and states, elementwise work, parameters and gradients keep
        their own dtype. None: that of `params`.

    Returns:
      The last state, and the outputs `hs [T, *B, H]`.

    Raises:
      TypeError: if `cell` is no Cell, or a dtype does not fit.
      ValueError: if a shape or an option does not fit.

    Source: Werbos (1990), "Backpropagation through time: what it does and how to do it", Proc.
    IEEE 78; chunks with recomputation: Chen et al. (2016), arXiv:1604.06174.
    """
    plan, params, state, xs, steps = prepared(
        cell,
        params,
        state,
        xs,
        mask,
        reset,
        truncate,
        gamma,
        chunk,
        store,
        compute_dtype,
    )
    return _run_through(cell, plan, params, state, xs, steps, None, reverse)


def adjoints(
    loss: Callable[[Any, Float[Array, "T *B H"]], Float[Array, ""]],
    cell: Cell,
    params: Any,
    state: Any | None,
    xs: Float[Array, "T *B I"],
    *,
    reverse: bool = False,
    **options: Any,
) -> tuple[Float[Array, ""], Any]:
    """The loss, and the adjoint λ[t] = dR̂/ds[t] of every state, by one backward pass, (2).

    λ[t] is what the loss would gain if the state after step t were moved: through the output of
    that step, and through all that follows from it.

    Args:
      loss: `(last, hs) -> R̂`, a function of what `unroll` returns.
      cell: and all that follow, `options` too: as in `unroll`.

    Returns:
      The loss, and the adjoints, of the state's kind with leaves `[T, *B, H]`.

    Raises:
      TypeError, ValueError: as `unroll`.
    """
    if unknown := sorted(set(options) - OPTIONS):
        raise TypeError(
            f"`unroll` has no option {', '.join(unknown)}, but {', '.join(sorted(OPTIONS))}."
        )
    plan, params, state, xs, steps = prepared(cell, params, state, xs, **options)
    plan = plan._replace(adjoints=True)
    # Placed as the state is, on whatever mesh.
    probe = jax.tree.map(
        lambda s: jnp.broadcast_to(jnp.zeros_like(s), (xs.shape[0], *s.shape)), state
    )

    def of(probe):
        value = loss(
            *_run_through(cell, plan, params, state, xs, steps, probe, reverse)
        )
        checks.scalar("loss", value, "of the last state and the outputs")
        return value

    return jax.value_and_grad(of)(probe)


def unroll_autodiff(
    cell: Cell,
    params: Any,
    state: Any | None,
    xs: Float[Array, "T *B I"],
    *,
    mask: Bool[Array, "T *B"] | None = None,
    reset: Bool[Array, "T *B"] | None = None,
    reverse: bool = False,
    truncate: int | None = None,
    gamma: Float[Array, "T"] | Float[Array, "T *B"] | None = None,
    chunk: int | None = None,
    store: Store | None = None,
    compute_dtype: DTypeLike | None = None,
) -> tuple[Any, Float[Array, "T *B H"]]:
    """`unroll` as one plain scan that JAX differentiates: the tests' oracle, and forward mode.

    Same arguments, results and errors as `unroll`; `chunk` and `store` are checked and change
    nothing here. `jax.jvp`, `jax.jacfwd` and `jax.linearize` work.
    """
    plan, params, state, xs, (mask, linked, gamma) = prepared(
        cell,
        params,
        state,
        xs,
        mask,
        reset,
        truncate,
        gamma,
        chunk,
        store,
        compute_dtype,
    )
    uncut = _uncut(plan, xs.shape[0])
    params = matrices_in(params, plan.compute_dtype)
    us = cell.drive(params, _select(mask, xs, jnp.zeros_like(xs)))

    def over_step(before, inputs):
        u, m, linked, uncut, gamma = inputs
        constant = lax.stop_gradient(before)
        # The value of the state, and γ times its derivative.
        deviation = _scaled(gamma, jax.tree.map(jnp.subtract, before, constant))
        before = _select(uncut, jax.tree.map(jnp.add, constant, deviation), constant)
        before = _select(linked, before, state)
        after, _ = cell.step(params, before, u)
        after = _select(m, after, before)
        return after, _select(m, after.h, jnp.zeros_like(after.h))

    uncut = _flipped(uncut) if reverse else uncut  # counted in the order of the run
    return lax.scan(over_step, state, (us, mask, linked, uncut, gamma), reverse=reverse)


def step(
    cell: Cell, params: Any, state: Any | None, x: Float[Array, "*B I"]
) -> tuple[Any, Float[Array, "*B H"]]:
    """One step, for streaming: the very function that `unroll` scans.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      state: the state before the step, leaves `[*B, H]`; None for zeros.
      x: the input, `[*B, I]`, in the dtype of `params`.

    Returns:
      The state after the step, and the output `h [*B, H]`.

    Raises:
      TypeError, ValueError: as `unroll`.
    """
    params, before, x = checks.one_step(cell, params, state, x)
    after, _ = cell.step(params, before, cell.drive(params, x))
    return after, after.h


def lengths_to_mask(lengths: Int[Array, "*B"], size: int) -> Bool[Array, "T *B"]:
    """The mask `[T, *B]` of sequences of the given lengths `[*B]` (integers), T = `size`.

    A sequence of length 0 is masked throughout; a length above T counts as T.

    Raises:
      TypeError: if the lengths are not integers.
    """
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must be integers, but got {lengths.dtype}.")
    return jnp.arange(size).reshape(-1, *[1] * lengths.ndim) < lengths


def _run_through(cell, plan, params, state, xs, steps, probe, reverse):
    """`_unroll`, in the order of the run."""
    if reverse:
        xs, steps, probe = _flipped((xs, steps, probe))
    # For an axis of size 1 XLA:CPU chooses other layouts, which cost time and a copy of the inputs.
    ones = tuple(
        axis for axis, b in enumerate(xs.shape[1:-1]) if isinstance(b, int) and b == 1
    )
    after_time = tuple(axis + 1 for axis in ones)
    state = _mapped(jnp.squeeze, state, ones)
    xs, steps, probe = _mapped(jnp.squeeze, (xs, steps, probe), after_time)
    try:
        last, hs = _unroll(cell, plan, params, state, xs, *steps, probe)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "forward mode alone (jvp, jacfwd, linearize) does not go through a backward pass that "
            "is written by hand. Call jaxrnn.unroll_autodiff, the same function, instead."
        ) from error
    last, hs = _mapped(jnp.expand_dims, last, ones), jnp.expand_dims(hs, after_time)
    return last, _flipped(hs) if reverse else hs


def _outputs(cell, plan, params, state, xs, mask, linked, gamma, probe) -> Any:
    # Alone, with no backward pass to follow: nothing is kept. The probe is zero, and there for its
    # cotangent.
    del gamma, probe
    plan = plan._replace(chunk=plan.chunk_alone, store="boundaries")
    return _forward(cell, plan, params, state, xs, mask, linked)[0]


def _outputs_and_saved(cell, plan, params, state, xs, mask, linked, gamma, probe):
    del probe
    # Not through `_unroll`: JAX differentiates this for derivatives of second order.
    outputs, saved = _forward(cell, plan, params, state, xs, mask, linked)
    return outputs, (params, state, xs, mask, linked, gamma, saved)


def _forward(cell, plan, params, state, xs, mask, linked):
    """(1), chunk by chunk: ((s[T], hs), what the backward pass needs)."""
    params = matrices_in(params, plan.compute_dtype)
    in_loop = for_loop(params, math.prod(xs.shape[1:-1]))
    keep, keep_res = plan.store != "boundaries", plan.store == "residuals"

    def over_chunk(first, _, inputs):
        def run(first, *inputs):
            return _run(cell, params, in_loop, state, first, *inputs, keep_res=keep_res)

        def skip(first, xs, mask, linked):
            del mask, linked
            states = jax.tree.map(
                lambda s: jnp.broadcast_to(s, (xs.shape[0], *s.shape)), first
            )
            # Of `res` the shape alone is taken: what it would cost is never computed.
            res = (
                cell.step(params, states, cell.drive(params, xs))[1]
                if keep_res
                else None
            )
            return first, states, jax.tree.map(jnp.zeros_like, res)

        last, states, res = _run_or_skip(run, skip, first, *inputs)
        return last, first, (states if keep else states.h, res)

    last, firsts, (states, res) = chunks.scan(
        over_chunk, plan.chunk, state, None, (xs, mask, linked)
    )
    hs, states = (states.h, states) if keep else (states, None)
    return (last, _select(mask, hs, jnp.zeros_like(hs))), (firsts, states, res)  # (6)


def _run_or_skip(run, skip, carry, xs, mask, linked, *inputs):
    """`run`, or `skip` where the chunk has no step that is not masked: the state only passes.

    So a batch costs what its longest sequence costs, however far it is padded. With resets a
    masked step can move the state too, (4), and every chunk is run.
    """
    if mask is None or linked is not None:
        return run(carry, xs, mask, linked, *inputs)
    return lax.cond(jnp.any(mask), run, skip, carry, xs, mask, linked, *inputs)


def _run(cell, params, in_loop, initial, first, xs, mask, linked, *, keep_res):
    """One chunk of the forward pass from the state `first`: the last state, all states and res."""
    us = cell.drive(params, _select(mask, xs, jnp.zeros_like(xs)))

    def over_step(before, inputs):
        u, m, linked = inputs
        before = _select(linked, before, initial)  # (4)
        after, res = cell.step(in_loop, before, u)  # (1)
        after = _select(m, after, before)  # (5)
        return after, (after, res if keep_res else None)

    # Where `res` leaves the loop it stands in a buffer of its own, and nothing is gained.
    scan = chunks.scan_ahead if cell.read_ahead and not keep_res else lax.scan
    last, (states, res) = scan(over_step, first, (us, mask, linked))
    return last, states, res


def _backward(cell, plan, saved, cotangents):
    """(2) and (3), chunk by chunk, from the last to the first: the cotangents of the inputs."""
    params, state, xs, mask, linked, gamma, (firsts, states, res) = saved
    adjoint, dhs = cotangents
    sums = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), params)
    dtypes = jax.tree.map(lambda p: p.dtype, params)
    params = matrices_in(params, plan.compute_dtype)
    params_t = transposed(params)
    in_loop = params_t
    if plan.store != "boundaries":  # whoever asks for the least memory wants no copy
        in_loop = for_loop(params_t, math.prod(xs.shape[1:-1]))
    uncut = _uncut(plan, xs.shape[0])
    zero = jax.tree.map(jnp.zeros_like, state)

    def run(carry, xs, mask, linked, uncut, gamma, first, states, res, dhs):
        adjoint, dstate, dparams = carry
        # All that does not depend on λ, for the whole chunk at once.
        if plan.store == "boundaries":
            _, states, res = _run(
                cell, params, params, state, first, xs, mask, linked, keep_res=True
            )
        xs = _select(mask, xs, jnp.zeros_like(xs))
        befores = jax.tree.map(
            lambda f, s: jnp.concatenate([f[None], s[:-1]]), first, states
        )
        befores = _select(linked, befores, state)  # (4)
        if plan.store == "states":
            _, res = cell.step(params, befores, cell.drive(params, xs))
        lin = cell.linearize(params, befores, states, res)
        gs = _select(mask, dhs, jnp.zeros_like(dhs))  # (6)

        def over_step(carry, inputs):
            adjoint, dstate = carry
            g, lin, m, linked, uncut, gamma = inputs
            adjoint = adjoint._replace(h=adjoint.h + g)  # (2)
            back = _select(m, cell.state_vjp(in_loop, lin, adjoint), adjoint)  # (7)
            if linked is not None:
                dstate = jax.tree.map(
                    jnp.add, dstate, _select(linked, zero, back)
                )  # (9)
            back = _scaled(
                gamma, _select(uncut, _select(linked, back, zero), zero)
            )  # (8)
            return (back, dstate), adjoint

        (adjoint, dstate), adjoints = lax.scan(
            over_step,
            (adjoint, dstate),
            (gs, lin, mask, linked, uncut, gamma),
            reverse=True,
        )
        emitted = adjoints if plan.adjoints else None
        adjoints = _select(mask, adjoints, zero)
        dparams_chunk, dxs = cell.param_vjp(params_t, xs, befores, lin, adjoints)  # (3)
        carry = adjoint, dstate, jax.tree.map(jnp.add, dparams, dparams_chunk)
        return carry, (dxs, emitted)

    def skip(carry, xs, mask, linked, uncut, gamma, *_):
        del mask, linked
        adjoint, *sums = carry
        passes = None if uncut is None else jnp.all(uncut)
        factor = None if gamma is None else jnp.prod(gamma, axis=0)
        carry = _scaled(factor, _select(passes, adjoint, zero)), *sums
        return carry, (jnp.zeros_like(xs), None)

    def over_chunk(carry, first, inputs):
        xs, mask, linked, uncut, gamma, *saved = inputs
        arguments = xs, mask, linked, uncut, gamma, first, *saved
        if plan.adjoints:
            carry, outputs = run(carry, *arguments)
        else:
            carry, outputs = _run_or_skip(run, skip, carry, *arguments)
        return carry, None, outputs

    (adjoint, dstate, dparams), _, (dxs, emitted) = chunks.scan(
        over_chunk,
        plan.chunk,
        (adjoint, zero, sums),
        firsts,
        (xs, mask, linked, uncut, gamma, states, res, dhs),
        reverse=True,
    )
    dparams = jax.tree.map(lambda d, dtype: d.astype(dtype), dparams, dtypes)
    return (
        dparams,
        jax.tree.map(jnp.add, adjoint, dstate),
        dxs,
        None,
        None,
        None,
        emitted,
    )


_unroll = jax.custom_vjp(_outputs, nondiff_argnums=(0, 1))
_unroll.defvjp(_outputs_and_saved, _backward)


def _select(where: Array | None, a: Any, b: Any) -> Any:
    """a where `where`, else b, for trees; None is True everywhere.

    `where` has the leading axes of a, b broadcasts against it.
    """
    if where is None:
        return a

    return jax.tree.map(lambda a, b: jnp.where(_with_axes_of(a, where), a, b), a, b)


def _scaled(factor: Array | None, tree: Any) -> Any:
    """factor · leaf for every leaf, whose leading axes it has; None is 1."""
    if factor is None:
        return tree
    return jax.tree.map(lambda a: (_with_axes_of(a, factor) * a).astype(a.dtype), tree)


def _with_axes_of(a: Array, leading: Array) -> Array:
    """`leading`, whose axes are the first of a, with axes of size 1 for the others."""
    return leading.reshape(leading.shape + (1,) * (a.ndim - leading.ndim))


def _flipped(tree: Any) -> Any:
    """Every leaf, backwards in time."""
    return _mapped(jnp.flip, tree, 0)


def _mapped(function: Any, tree: Any, axis: Any) -> Any:
    """`function(leaf, axis)` of every leaf."""
    return jax.tree.map(lambda a: function(a, axis), tree)


def _uncut(plan, size):
    """`[T]`, False where no gradient passes from a step to the one before; None if nowhere.

    Counted from 0, these are the steps k, 2k, …: the first ones of every window but the first.
    """
    if plan.truncate is None or (isinstance(size, int) and plan.truncate >= size):
        return None
    steps = jnp.arange(size)
    return (steps % plan.truncate != 0) | (steps == 0)


def prepared(
    cell: Any,
    params: Any,
    state: Any,
    xs: Any,
    mask: Any = None,
    reset: Any = None,
    truncate: Any = None,
    gamma: Any = None,
    chunk: Any = None,
    store: Any = None,
    compute_dtype: Any = None,
) -> Any:
    """The plan, and the arguments checked, as arrays placed alike; those for each step, `[T, *B]`,
    are (mask, whether a step is linked to the one before, gamma)."""
    params, state, xs, mask, reset = checks.sequence(
        cell, params, state, xs, mask, reset
    )
    gamma = None if gamma is None else checks.factors("gamma", jnp.asarray(gamma), xs)
    state = placement.as_batch_of(xs, state)
    linked = None if reset is None else ~reset
    params, state, xs, steps = placement.varying_alike(
        (params, state, xs, (mask, linked, gamma))
    )
    plan = make_plan(cell, params, state, xs, chunk, store, truncate, compute_dtype)
    return plan, params, state, xs, steps
