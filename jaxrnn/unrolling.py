"""The public functions of the engine: a sequence, its adjoints, a plain scan, a step.

Each checks its arguments, chooses a plan, and calls `bptt.unroll` or the cell in a
compiled program, so that a call outside `jit` compiles once for each kind of arguments.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Integer

from jaxrnn import arguments, bptt, checks, devices, sharding, structure
from jaxrnn.arguments import Given
from jaxrnn.bptt import Inputs, Steps
from jaxrnn.cells.base import Adjoint, Cell, Params, Shape, State
from jaxrnn.ops import placement, products
from jaxrnn.ops.ids import leading_shape
from jaxrnn.ops.selection import flip, keep, map_axis, scale, select
from jaxrnn.plan import Plan, Store, make_plan


def unroll(
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
    *,
    mask: Bool[Array, "T *B"] | None = None,
    reset: Bool[Array, "T *B"] | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    truncate: int | None = None,
    gamma: Float[Array, "T"] | Float[Array, "T *B"] | None = None,
    chunk: int | None = None,
    store: Store | None = None,
    compute_dtype: DTypeLike | None = None,
) -> tuple[State, Float[Array, "T *B H"]]:
    """Runs a cell over a sequence; its gradient is BPTT, written by hand (`bptt.py`).

    Gradients are exact with respect to `params`, `state`, `reset_state` and `xs`, and
    have their dtypes. (`truncate` and `gamma` change the gradient on purpose.) Reverse
    mode of any order works, and forward mode over reverse mode. Forward mode alone does
    not go through a hand-written backward pass: call `unroll_autodiff` for it.

    A sequence with resets may be split into calls anywhere:

        state, hs = jaxrnn.unroll(cell, params, state, xs[:9], reset=dones[:9])
        state, hs = jaxrnn.unroll(cell, params, state, xs[9:], reset=dones[9:])

    A call outside `jit` is compiled once for each cell and each kind of arguments.
    `cell`, `reverse` and the options from `truncate` on, except `gamma`, are static:
    under `jit`, close over them.

    Args:
      cell: a `Cell`, such as `jaxrnn.lstm`. Static.
      params: the cell's parameters, `cell.init(key, I, H)`, of one floating dtype.
      state: the initial state s[0], leaves `[*B, H]`; None for `cell.initial_state`,
        zeros (not if ids have several batch axes). Pass the state that an earlier call
        returned to continue its sequence: a sequence may be split into calls anywhere,
        at resets and masked steps too.
      xs: the inputs, time first, any number of batch axes, in the dtype of `params`. T
        may be 0. Integers `[T, *B]` are ids: they stand for one-hot vectors of size I,
        but select rows of `w_ih` instead of being multiplied, and have no gradient. An
        id outside 0 … I - 1 stands for zeros, without an error: check ids where they
        are read.
      mask: True where there is an input. A masked step (False) copies the state and
        outputs zero; whatever its `xs` holds, NaN included, reaches no output and no
        gradient. Without `reset`, a chunk in which every step is masked is skipped.
      reset: True where a step starts from `reset_state`, not from the state before it,
        as at the start of an episode. It acts at masked steps too.
      reset_state: the state from which reset steps start, leaves `[*B, H]`; None for
        `cell.initial_state`, zeros. The gradient of a reset goes to it, and no further
        back.
      reverse: run from the last step to the first. The returned state is the one after
        step 0; with a mask each sequence is reversed within its own mask. `reset` and
        `truncate` count in the order of the run: the run goes on from a reset step to
        the step before it.
      truncate: cut the adjoint at every k-th step counted from the start: truncated
        BPTT with windows of k steps, the forward pass unchanged. None or k ≥ T: no cut.
      gamma: γ, the factor by which the adjoint is multiplied on its way from step t to
        the step before it (into `state`, at the first one), `[T]` or `[T, *B]`, in the
        order of `xs`. It also scales the adjoint that passes a masked step, but not
        what a reset step sends to `reset_state`. `truncate=k` is γ = 0 at the steps k,
        2k, … of the run and 1 elsewhere (for adjoints that are finite: 0 · ∞ is NaN, a
        cut is not); `jaxrnn.randomized_truncation` draws one that leaves the gradient
        unbiased. None: 1. Where T = B, a `gamma [T]` and factors for each sequence have
        the same shape, and so have a mask and its transpose: neither mistake can be
        detected.
      chunk: K, the steps that are linearized at once, 1 ≤ K. By default K is chosen for
        speed, and in long sequences so that a chunk takes little memory beside what is
        stored: about a twentieth of T at most, and with "boundaries" between √(T/10)
        and √T. It changes speed and memory, not the result.
      store: what the forward pass keeps, per step, for the backward pass. "residuals":
        the states and the gates. "states": the states, and the gates are recomputed, in
        parallel over time; a third more arithmetic, about half the memory.
        "boundaries": only each chunk's first state; every chunk is run forward again,
        memory O(T/K + K). Default: "residuals" while the gates of all steps take at
        most 256 MiB (4·T·B·H floats for an LSTM or a GRU), else "states".
      compute_dtype: the dtype in which the matrix products multiply, such as
        `jnp.bfloat16`; they accumulate in float32 or wider, and states, elementwise
        work, parameters and gradients keep their own dtype. None: that of `params`.

    Returns:
      The last state, and the outputs `hs [T, *B, H]`.

    Raises:
      TypeError: if `cell` is not a Cell, or a dtype does not fit.
      ValueError: if a shape or an option does not fit.

    Source: Werbos (1990), "Backpropagation through time: what it does and how to do
    it", Proc. IEEE 78; chunks with recomputation: Chen et al. (2016), arXiv:1604.06174.
    """
    inputs = admit(
        cell, params, state, xs, mask, reset, reset_state, truncate, gamma, reverse
    )
    options = {"chunk": chunk, "store": store, "compute_dtype": compute_dtype}
    return _call(cell, inputs, reverse, options)


class UnrollOptions(TypedDict, total=False):
    """The options of `unroll` other than `reverse`."""

    mask: Bool[Array, "T *B"] | None
    reset: Bool[Array, "T *B"] | None
    reset_state: State | None
    truncate: int | None
    gamma: Float[Array, "T"] | Float[Array, "T *B"] | None
    chunk: int | None
    store: Store | None
    compute_dtype: DTypeLike | None


def adjoints(
    loss: Callable[[State, Float[Array, "T *B H"]], Float[Array, ""]],
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
    *,
    reverse: bool = False,
    **options: Unpack[UnrollOptions],
) -> tuple[Float[Array, ""], Adjoint]:
    """Returns the loss, and the adjoint λ[t] = dR̂/ds[t] of every state.

    It takes one backward pass. λ[t] is the change of the loss per change of the state
    after step t, through the output of that step and through all later steps.

    Args:
      loss: `(last, hs) -> R̂`, a function of what `unroll` returns.
      cell: as in `unroll`, and so are all that follow, `options` too.

    Returns:
      The loss, and the adjoints, a tree like the state with leaves `[T, *B, H]`.

    Raises:
      TypeError, ValueError: as `unroll`.
    """
    given, planned = _apart(options)
    inputs = admit(cell, params, state, xs, reverse=reverse, **given)
    planned |= {"adjoints": True}
    # Placed like the state, on any mesh.
    probe = jax.tree.map(
        lambda s: jnp.broadcast_to(jnp.zeros_like(s), (inputs.xs.shape[0], *s.shape)),
        inputs.state,
    )

    def loss_of(probe):
        value = loss(*_call(cell, inputs._replace(probe=probe), reverse, planned))
        checks.scalar("loss", value, "of the last state and the outputs")
        return value

    return jax.value_and_grad(loss_of)(probe)


def _apart(options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the options of a run that are its inputs, and those of its plan."""
    if unknown := sorted(set(options) - set(UnrollOptions.__annotations__)):
        raise TypeError(
            f"`unroll` has no option {', '.join(unknown)}, but "
            f"{', '.join(sorted(UnrollOptions.__annotations__))}."
        )
    names = "chunk", "store", "compute_dtype"
    given = {name: value for name, value in options.items() if name not in names}
    return given, {name: options.get(name) for name in names}


def unroll_parallel_adjoint(
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
    *,
    reverse: bool = False,
    **options: Unpack[UnrollOptions],
) -> tuple[State, Float[Array, "T *B H"]]:
    """Runs `unroll`, with the adjoint as an associative scan: no loop on the way back.

    Results and gradients are those of `unroll`, up to rounding. The forward pass is the
    same; the steps of a chunk go back in about 2 log₂ K rounds instead of K. The price
    is that Jacobians are multiplied with one another. For a state of n units of k
    numbers that do not depend on one another (`structure.units` finds them in the
    cell), a step of one sequence takes

        work      k products with `state_vjp`, and about 2 n k³ multiplications
        memory    about 2 n k² floats, and k times those of the drive

    where a step of the loop takes one product and n k floats. k is 1 for IndRNN, minGRU
    and minLSTM, 2 for the LRU, H for Elman networks and GRUs, 2 H for an LSTM. So it
    pays on a device with more cores than a step keeps busy, where k is 1 or 2, or where
    a dense state is small: with hundreds of units, H³ and T·B·H² are too much. `python
    -m benchmarks.parallel_adjoint` measures it.

    Args:
      cell: as in `unroll`, and so are all that follow.
      **options: those of `unroll`. By default all steps are one chunk; a `chunk` of K
        bounds the memory above to K steps of it, in ⌈T/K⌉ turns. Where T is symbolic,
        the steps are a loop.

    Returns:
      The last state, and the outputs `hs [T, *B, H]`.

    Raises:
      TypeError, ValueError: as `unroll`, and if the cell is hidden-sharded.

    Source: Wang, Bai & Pekhimenko (2020), "BPPSA: Scaling back-propagation by parallel
    scan algorithm", MLSys, arXiv:1907.10134.
    """
    given, planned = _apart(options)
    inputs = admit(cell, params, state, xs, reverse=reverse, **given)
    if sharding.sharding_of(cell) is not None:
        raise ValueError(
            "`cell` must not be hidden-sharded: its Jacobians join the units of all "
            "devices. Call jaxrnn.unroll."
        )
    return _call(cell, inputs, reverse, planned | {"parallel": True})


def unroll_autodiff(
    cell: Cell,
    params: Params,
    state: State | None,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
    *,
    mask: Bool[Array, "T *B"] | None = None,
    reset: Bool[Array, "T *B"] | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    truncate: int | None = None,
    gamma: Float[Array, "T"] | Float[Array, "T *B"] | None = None,
    chunk: int | None = None,
    store: Store | None = None,
    compute_dtype: DTypeLike | None = None,
) -> tuple[State, Float[Array, "T *B H"]]:
    """Runs `unroll` as one plain scan that JAX differentiates.

    The tests compare `unroll` with it. It also supports forward mode: `jax.jvp`,
    `jax.jacfwd` and `jax.linearize` work. Arguments, results and errors are those of
    `unroll`; `chunk` and `store` are checked, but have no effect.
    """
    inputs = admit(
        cell, params, state, xs, mask, reset, reset_state, truncate, gamma, reverse
    )
    plan = _plan(cell, inputs, chunk=chunk, store=store, compute_dtype=compute_dtype)
    return _scan(cell, plan, inputs, reverse)


def step(
    cell: Cell,
    params: Params,
    state: State | None,
    x: Float[Array, "*B I"] | Integer[Array, "*B"],
    *,
    mask: Bool[Array, "*B"] | None = None,
    reset: Bool[Array, "*B"] | None = None,
    reset_state: State | None = None,
) -> tuple[State, Float[Array, "*B H"]]:
    """Runs one step, for streaming: `unroll` over a sequence of one step, exactly.

    Args:
      cell: a `Cell`. Static.
      params: the cell's parameters.
      state: the state before the step, leaves `[*B, H]`; None for zeros, if `x` has at
        most one batch axis.
      x: the input, `[*B, I]`, in the dtype of `params`, or ids, integers `[*B]`.
      mask: `[*B]`, False where there is no input: the state is copied and the output is
        zero.
      reset: `[*B]`, True where the step starts from `reset_state`, not from `state`.
      reset_state: as in `unroll`.

    Returns:
      The state after the step, and the output `h [*B, H]`.

    Raises:
      TypeError, ValueError: as `unroll`.
    """
    params, state, x = checks.one_step(cell, params, state, x)
    batch = leading_shape(x)
    if mask is not None:
        mask = checks.steps("mask", checks.array("mask", mask), batch, "(*B)")
    if reset is not None:
        reset = checks.steps("reset", checks.array("reset", reset), batch, "(*B)")
    reset_state = _admit_reset_state(cell, params, reset_state, reset, batch)
    state, reset_state = placement.as_batch_of(
        x[None], len(batch), (state, reset_state)
    )
    linked = None if reset is None else ~reset
    inputs = Inputs(params, state, reset_state, x, Steps(mask, linked), None)
    if sharding.sharding_of(cell) is None:
        return _step(cell, inputs)
    # A sequence of one step, as only `unroll` runs on the devices of a mesh.
    xs, steps = jax.tree.map(lambda a: a[None], (x, inputs.steps))
    options = {"chunk": None, "store": None, "compute_dtype": None}
    last, hs = _call(cell, inputs._replace(xs=xs, steps=steps), False, options)
    return last, hs[0]


def admit(
    cell: Given,
    params: Given,
    state: Given,
    xs: Given,
    mask: Given = None,
    reset: Given = None,
    reset_state: Given = None,
    truncate: Given = None,
    gamma: Given = None,
    reverse: Given = False,
) -> Inputs:
    """Returns the arguments as arrays, checked and placed alike, in the order of xs."""
    arguments.flag("reverse", reverse)
    if gamma is not None:
        gamma = checks.array("gamma", gamma)
    params, state, xs, mask, reset = checks.sequence(
        cell, params, state, xs, mask, reset
    )
    batch = leading_shape(xs)[1:]
    reset_state = _admit_reset_state(cell, params, reset_state, reset, batch)
    state, reset_state = placement.as_batch_of(xs, len(batch), (state, reset_state))
    if truncate is not None:
        truncate = checks.positive("truncate", truncate)
    if gamma is not None:
        dtype = jax.tree.leaves(params)[0].dtype
        gamma = checks.factors("gamma", gamma, leading_shape(xs), dtype)
    linked = None if reset is None else ~reset
    steps = Steps(mask, linked, _uncut(truncate, xs.shape[0], reverse), gamma)
    inputs = Inputs(params, state, reset_state, xs, steps, None)
    return placement.varying_alike(inputs)


def _admit_reset_state(
    cell: Cell, params: Params, given: Given, reset: Given, batch_shape: Shape
) -> State | None:
    """Returns the state from which reset steps start; None where there is no reset."""
    if given is None and reset is None:
        return None
    state = checks.given_or_initial(cell, params, given, batch_shape, "reset_state")
    return None if reset is None else state


def _uncut(truncate: int | None, size: Given, reverse: bool) -> Array | None:
    """Returns `[T]`, False where the adjoint is cut; None: nowhere.

    Counted from 0 in the order of the run, these are the steps k, 2k, …: the first one
    of every window but the first.
    """
    if truncate is None or (isinstance(size, int) and truncate >= size):
        return None
    steps = jnp.arange(size)
    uncut = (steps % truncate != 0) | (steps == 0)
    return jnp.flip(uncut) if reverse else uncut


def _plan(
    cell: Cell, inputs: Inputs, *, parallel: bool = False, **options: Any
) -> Plan:
    params, state, xs = inputs.params, inputs.state, inputs.xs
    units = structure.units(cell, params, xs) if parallel else None
    return make_plan(cell, params, state, xs, units=units, **options)


def _call(
    cell: Cell, inputs: Inputs, reverse: bool, options: dict[str, Any]
) -> tuple[State, Array]:
    """Plans and calls `_run`; adds a cure to the error of forward mode."""

    def run(inputs: Inputs) -> tuple[State, Array]:
        return _planned(cell, inputs, reverse, options)

    sequences = leading_shape(inputs.xs)[1:2]  # of the first batch axis, if any
    try:
        if sharding.sharding_of(cell) is not None:
            return _run_sharded(cell, inputs, reverse, tuple(options.items()))
        if sequences and devices.is_split(sequences[0]):
            axes = _batch_axes(inputs)
            return devices.per_device(run, inputs, axes, (axes.state, 1))
        return run(inputs)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "forward mode alone (jvp, jacfwd, linearize) does not go through a "
            "hand-written backward pass. Call jaxrnn.unroll_autodiff, the same "
            "function, instead."
        ) from error


def _planned(
    cell: Cell, inputs: Inputs, reverse: bool, options: dict[str, Any]
) -> tuple[State, Array]:
    inputs = placement.varying_alike(inputs)
    return _run(cell, _plan(cell, inputs, **options), inputs, reverse)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _run_sharded(
    cell: Cell, inputs: Inputs, reverse: bool, options: tuple[tuple[str, Any], ...]
) -> tuple[State, Array]:
    """Calls `_run` on each device, with its units and its share of the batch."""
    sharded: Any = sharding.sharding_of(cell)
    batch = leading_shape(inputs.xs)[1:]
    sharded.check_batch(batch)

    def specs(tree: Any, axes: Any, hidden: bool) -> Any:
        return jax.tree.map(
            lambda a, axis: sharded.spec(a.ndim, axis if batch else -1, hidden),
            tree,
            axes,
        )

    pairs = zip(Inputs._fields, inputs, _batch_axes(inputs), strict=True)
    of_inputs = Inputs(
        *(specs(tree, axes, name not in ("xs", "steps")) for name, tree, axes in pairs)
    )
    of_hs = sharded.spec(len(batch) + 2, 1 if batch else -1)

    def run(cell: Cell, inputs: Inputs) -> tuple[State, Array]:
        return _planned(cell, inputs, reverse, dict(options))

    return sharded.per_device(run, inputs, of_inputs, (of_inputs.state, of_hs))


def _batch_axes(inputs: Inputs) -> Inputs:
    """Returns the first batch axis of every leaf, -1 for none."""

    def axes(tree: Any, axis: int) -> Any:
        return jax.tree.map(lambda a: axis if a.ndim > axis else -1, tree)

    return Inputs(
        params=axes(inputs.params, -1),
        state=axes(inputs.state, 0),
        reset_state=axes(inputs.reset_state, 0),
        xs=axes(inputs.xs, 1),
        steps=axes(inputs.steps, 1),
        probe=axes(inputs.probe, 1),
    )


@partial(jax.jit, static_argnums=(0, 1, 3))
def _run(cell: Cell, plan: Plan, inputs: Inputs, reverse: bool) -> tuple[State, Array]:
    """Calls `bptt.unroll` in the order of the run, without batch axes of size 1."""
    params, state, reset_state, xs, steps, probe = inputs
    if reverse:
        xs, steps, probe = flip((xs, steps, probe))
    # For an axis of size 1 XLA:CPU chooses other layouts, which cost time and a copy of
    # the inputs.
    sizes = enumerate(leading_shape(xs)[1:])
    ones = tuple(axis for axis, size in sizes if isinstance(size, int) and size == 1)
    after_time = tuple(axis + 1 for axis in ones)
    state, reset_state = map_axis(jnp.squeeze, (state, reset_state), ones)
    xs, probe = map_axis(jnp.squeeze, (xs, probe), after_time)
    steps = jax.tree.map(
        lambda a: jnp.squeeze(a, after_time) if a.ndim > 1 else a, steps
    )
    inputs = Inputs(params, state, reset_state, xs, steps, probe)
    last, hs = bptt.unroll(cell, plan, inputs)
    last, hs = map_axis(jnp.expand_dims, last, ones), jnp.expand_dims(hs, after_time)
    return last, flip(hs) if reverse else hs


@partial(jax.jit, static_argnums=(0, 1, 3))
def _scan(cell: Cell, plan: Plan, inputs: Inputs, reverse: bool) -> tuple[State, Array]:
    """Runs (1) to (6) of `bptt` as a scan; γ and cuts act on the derivative alone."""
    _, state, reset_state, xs, steps, _ = inputs
    params = products.matrices_in(inputs.params, plan.compute_dtype)
    us = cell.drive(params, keep(steps.mask, xs))

    def over_step(before, inputs):
        u, step = inputs
        constant = lax.stop_gradient(before)
        # The value of the state, and γ times its derivative.
        deviation = scale(step.gamma, jax.tree.map(jnp.subtract, before, constant))
        moved = jax.tree.map(jnp.add, constant, deviation)
        before = select(step.uncut, moved, constant)
        before = select(step.linked, before, reset_state)
        after, _ = cell.step(params, before, u)
        after = select(step.mask, after, before)
        return after, keep(step.mask, after.h)

    return lax.scan(over_step, state, (us, steps), reverse=reverse)


@partial(jax.jit, static_argnums=0)
def _step(cell: Cell, inputs: Inputs) -> tuple[State, Array]:
    """Runs (4) to (6) of `bptt` once."""
    params, state, reset_state, x, steps, _ = inputs
    before = select(steps.linked, state, reset_state)  # (4)
    after, _ = cell.step(params, before, cell.drive(params, keep(steps.mask, x)))
    after = select(steps.mask, after, before)  # (5)
    return after, keep(steps.mask, after.h)  # (6)
