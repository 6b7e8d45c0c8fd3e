"""Runs a rule over a sequence: the gradient of a loss, computed forwards.

The loss is a sum over steps, R̂ = Σ R̂[t], and R̂[t] depends on the output h[t] and on
parameters of its own, such as a readout's. The cell's state and the rule's trace are
carried along, and no gradient waits for the end of the sequence: memory does not depend
on T, and a stream may be cut into calls anywhere.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Integer, PRNGKeyArray, PyTree

from jaxrnn import arguments, checks
from jaxrnn.cells.base import Params, State
from jaxrnn.online.base import Estimator, Trace, batch_of
from jaxrnn.ops import chunks
from jaxrnn.ops.products import accumulation_dtype, cast_like, zeros_for_sums
from jaxrnn.ops.selection import keep, select
from jaxrnn.train import Learner, TrainStep, compile_step, update_learner
from jaxrnn.windows.segments import ValueAndGrad

LossFn: TypeAlias = Callable[[Any, Array, Any], Array]
"""`(rest, h [*B, H], target) -> R̂[t]`, the loss of one step, a scalar."""


class Batch(NamedTuple):
    """A sequence, or the next part of a stream."""

    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"]
    """The inputs, `[T, *B, I]`, or ids, `[T, *B]`."""
    targets: PyTree = None
    """What the loss is given at each step, leaves `[T, ...]`."""
    mask: Bool[Array, "T *B"] | None = None
    """True where there is an input. A masked step changes neither state nor trace."""
    reset: Bool[Array, "T *B"] | None = None
    """True where a step starts anew: the state is reset and the trace is cleared."""


class Carry(NamedTuple):
    """What goes on from step to step, and from call to call."""

    cell: Any
    """The `Cell`, or a tuple of them for `stacked`."""
    state: State
    """Leaves `[*B, H]`."""
    trace: Trace
    """Leaves `[*B, ...]`."""
    key: PRNGKeyArray | None
    """A random key, for a rule that draws."""


def online_start(
    estimator: Estimator,
    cell: Any,
    params: Params,
    state: State,
    key: PRNGKeyArray | None = None,
) -> Carry:
    """Returns the carry before the first step of a stream.

    Args:
      estimator: a rule, such as `rtrl()`.
      cell: a `Cell`; for `stacked` a tuple of them, and so are `params` and `state`.
      params: the cell's parameters.
      state: the state before the first step, leaves `[*B, H]`, such as
        `cell.initial_state(params, (B,))`.
      key: a random key, for a rule that draws.

    Raises:
      TypeError, ValueError: if an argument does not fit, or the rule does not take the
        cell.
    """
    _check_estimator(estimator)
    if key is not None:
        arguments.key("key", key)
    return Carry(cell, state, estimator.init(cell, params, state), key)


def online_value_and_grad(
    estimator: Estimator, loss_fn: LossFn, reset_state: State | None = None
) -> ValueAndGrad:
    """Returns `(params, carry, batch) -> ((loss, carry), grads)`, computed forwards.

    It scans over the steps, and sums the loss and its gradient; nothing is kept of a
    step that is over. `jaxrnn.train.make_step` takes the function as it takes
    `jax.value_and_grad(...)`. Calls may follow one another on a stream: while the
    parameters stay the same, the gradients of an exact rule add up to that of the whole
    stream.

    Args:
      estimator: a rule, such as `rtrl()`.
      loss_fn: `(rest, h, target) -> loss` of one step: the parameters that are not the
        cell's, the output `h [*B, H]`, zero where it is masked, and the step's
        targets. A scalar, summed over the batch or averaged. For a loss of the last
        step alone, return zero at the others; for a mean over T steps, divide by T.
      reset_state: the state from which reset steps start, leaves `[*B, H]`; None for
        zeros. It has no gradient.

    Returns:
      A function of `params`, a pair of the cell's parameters and `rest`, a `Carry`, and
      a `Batch`, with `grads` like `params`. It raises `TypeError` or `ValueError` if
      one of them does not fit, or the rule draws and the carry has no key.

    Raises:
      TypeError: if `estimator` is no estimator or `loss_fn` no function.
    """
    _check_estimator(estimator)
    checks.function("loss_fn", loss_fn, "(rest, h, target) -> loss")

    def value_and_grad(
        params: Any, carry: Carry, batch: Batch
    ) -> tuple[tuple[Array, Carry], Any]:
        (theta, rest), carry, batch = _admit(params, carry, batch)
        cell = carry.cell
        _check_trace(estimator, theta, carry)
        fresh = None
        if batch.mask is not None or batch.reset is not None:
            anew = _reset_state(cell, theta, carry.state, reset_state)
            fresh = anew, estimator.init(cell, theta, anew)

        def over_step(carried: Any, now: Batch) -> tuple[Any, None]:
            (state, trace, key), loss, grads = carried
            key, own_key = (None, None) if key is None else jax.random.split(key)
            # The step, from the state that a reset leaves, if there is an input.
            linked = None if now.reset is None else ~now.reset
            before = select(linked, (state, trace), fresh)
            x = keep(now.mask, now.xs)
            after = estimator.update(theta, before[0], x, before[1], own_key)
            state, trace = select(now.mask, after, before)

            # Its loss, and the gradients by the cell's parameters and by the rest.
            def loss_of(rest: Any, h: Array) -> Array:
                return loss_fn(rest, keep(now.mask, h), now.targets)

            by_both = jax.value_and_grad(loss_of, (0, 1))
            added, (drest, dh) = by_both(rest, _top(state).h)
            counted = trace if fresh is None else select(now.mask, trace, fresh[1])
            dtheta = estimator.gradient(theta, counted, _error(state, dh))
            grads = jax.tree.map(jnp.add, grads, (dtheta, drest))
            return ((state, trace, key), loss + added, grads), None

        # One step's targets, of which only the shapes are read.
        target = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batch.targets
        )
        kind = jax.eval_shape(loss_fn, rest, _top(carry.state).h, target)
        checks.scalar("loss_fn", kind, "of one step")
        zero = jnp.zeros((), accumulation_dtype(kind.dtype))
        sums = zero, zeros_for_sums((theta, rest))
        carried = (carry.state, carry.trace, carry.key), *sums
        (now, loss, grads), _ = lax.scan(over_step, carried, batch)
        return (loss, Carry(cell, *now)), cast_like(grads, (theta, rest))

    return value_and_grad


def online_train_step(
    estimator: Estimator,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    every: int = 1,
    reset_state: State | None = None,
    devices: Sequence[Any] | None = None,
) -> TrainStep:
    """Makes a step whose parameters move at every step of a sequence, or every k steps.

    It is one compiled scan, `(learner, carry, batch) -> (learner, carry, metrics)`. The
    trace goes on across updates: it was computed with parameters that have moved since,
    an error of the order of the learning rate. To update once, with the sum over a
    sequence, give `jaxrnn.train.make_step` an `online_value_and_grad`.

    Args:
      estimator: a rule, as in `online_value_and_grad`.
      loss_fn: the loss of one step, as there.
      optimizer: any optax transformation.
      every: k, the time steps per update, k ≥ 1. The last update of a call may have
        fewer. Static.
      reset_state: the state from which reset steps start, as there, leaves `[*B, H]`.
      devices: as in `jaxrnn.train.make_step`.

    Returns:
      The step. The learner's parameters are the pair that `online_value_and_grad`
      takes. The metrics are `[updates]`. Where a loss, a gradient or an update is not
      finite, nothing changes, and the next update starts from the same state and trace.

    Raises:
      TypeError, ValueError: where `online_value_and_grad` and `make_step` do, or if
        `every` is not an integer ≥ 1. The step raises `ValueError` if T = 0.
    """
    every = checks.positive("every", every)
    checks.optimizer(optimizer)
    value_and_grad = online_value_and_grad(estimator, loss_fn, reset_state)

    def step(learner: Learner, carry: Carry, batch: Batch) -> Any:
        def over_part(now: Any, _: Any, part: Batch) -> tuple[Any, Any, Any]:
            learner, carry = now
            learner, carry, metrics = update_learner(
                optimizer, learner, carry, lambda p: value_and_grad(p, carry, part)
            )
            return (learner, carry), metrics, None

        size = checks.common_length("batch", batch)
        if not size:
            raise ValueError("`batch` must have at least one step, but got T = 0.")
        (learner, carry), metrics, _ = chunks.scan(
            over_part, min(every, size), (learner, carry), None, batch
        )
        return learner, carry, metrics

    return compile_step(step, devices)


def _check_estimator(got: Any) -> None:
    if not isinstance(got, Estimator):
        raise TypeError(
            "`estimator` must be a rule, such as jaxrnn.online.rtrl(), but got "
            f"{arguments.describe(got)}."
        )


def _admit(params: Any, carry: Any, batch: Any) -> tuple[Any, Carry, Batch]:
    """Returns the arguments as arrays; raises unless they fit."""
    if type(params) is not tuple or len(params) != 2:
        raise TypeError(
            "`params` must be a pair, the cell's parameters and those of the loss, but "
            f"got {arguments.describe(params)}. A loss without any takes ()."
        )
    for name, got, kind in (("carry", carry, Carry), ("batch", batch, Batch)):
        if not isinstance(got, kind):
            made = "online_start" if kind is Carry else "Batch"
            raise TypeError(
                f"`{name}` must be a {kind.__name__}, as jaxrnn.online.{made} makes "
                f"it, but got {arguments.describe(got)}."
            )
    # The lowest layer has the inputs; the rule's `init` has checked the others.
    cell, theta, state = carry.cell, params[0], carry.state
    if type(cell) is tuple:
        cell, theta, state = cell[0], theta[0], state[0]
    given = cell, theta, state, batch.xs, batch.mask, batch.reset
    _, _, xs, mask, reset = checks.sequence(*given)
    batch = Batch(xs, jax.tree.map(jnp.asarray, batch.targets), mask, reset)
    checks.common_length("batch", batch)
    return jax.tree.map(jnp.asarray, params), carry, batch


def _check_trace(estimator: Estimator, theta: Any, carry: Carry) -> None:
    """Raises unless the trace is as the estimator makes it."""

    def kinds(tree: Any) -> Any:
        return jax.tree.map(lambda a: (a.shape, a.dtype), tree)

    fresh = partial(estimator.init, carry.cell)
    if kinds(carry.trace) != kinds(jax.eval_shape(fresh, theta, carry.state)):
        raise ValueError(
            "`carry` must be of this estimator and of these parameters, but has the "
            f"trace of others, {arguments.describe(carry.trace)}. Make it with them: "
            "jaxrnn.online.online_start(estimator, cell, params, state)."
        )


def _reset_state(cell: Any, params: Any, state: Any, given: Any) -> Any:
    """Returns the state from which reset steps start, leaves `[*B, H]`."""
    if type(cell) is not tuple:
        batch = batch_of(state)
        return checks.given_or_initial(cell, params, given, batch, "reset_state")
    layers = zip(cell, params, state, given or (None,) * len(cell), strict=True)
    return tuple(_reset_state(*layer) for layer in layers)


def _top(state: Any) -> Any:
    """Returns the state of the uppermost layer."""
    return state[-1] if type(state) is tuple else state


def _error(state: Any, dh: Array) -> Any:
    """Returns g, a tree like the state: zero except for the uppermost output."""
    zero = jax.tree.map(jnp.zeros_like, state)
    if type(state) is tuple:
        return *zero[:-1], zero[-1]._replace(h=dh)
    return zero._replace(h=dh)
