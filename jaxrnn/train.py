"""A training step: gradient, clipping, update, compiled as one program.

Sequence models are trained window by window, the state carried along. So a step is

    learner, state, metrics = step(learner, state, batch)

and a loop over windows of a stream is a loop of such calls, or one call of a program with that loop
in it (`truncated_train_step`). What the gradient is, of one window, of a whole sequence or of a
sequence cut into windows, is the caller's choice of a function.

Where a host's CPU is several devices (`jaxrnn.devices.one_per_core`), a step's batch is split over
them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrnn import checks
from jaxrnn import devices as host
from jaxrnn.windows import segments, truncated
from jaxrnn.windows.segments import LossFn, ValueAndGrad


class Learner(NamedTuple):
    """What is learnt, and the optimiser's state."""

    params: Any
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """Of one step, float scalars: the loss, and the gradient's global norm before clipping."""

    loss: Array
    grad_norm: Array


def init_learner(params: Any, optimizer: optax.GradientTransformation) -> Learner:
    """A learner at its first step."""
    return Learner(params, optimizer.init(params))


def make_step(
    value_and_grad: ValueAndGrad,
    optimizer: optax.GradientTransformation,
    devices: Sequence[Any] | None = None,
) -> Any:
    """A compiled training step `(learner, state, batch) -> (learner, state, metrics)`.

    The learner and the state are donated: their buffers are reused, and the ones passed in must
    not be used again. Clip in the optimiser (`optax.chain(optax.clip_by_global_norm(1.0), …)`),
    never inside the recursion. Where the loss or the gradient is not finite, the step changes
    nothing, learner and state come back as they were, and the metrics say so: look at them, and
    nothing is lost.

    On several devices the learner lies on each of them, the batch and the state are split by
    sequences, and the compiler adds the sums over devices. The loss is that of the whole batch,
    whether it is a sum, a mean or a masked mean: the split changes the speed, not the result. The
    learner comes back on all devices, and whatever reads it would run on each; give other programs
    `jax.device_put(learner.params, jax.devices()[0])`.

    A step over several CPU devices returns when its results are there, and such steps in several
    threads take turns, or they could wait for one another for ever (`jaxrnn.devices.run`). Wait
    likewise for a program of your own that spans these devices, before you call the step.

    Args:
      value_and_grad: `(params, state, batch) -> ((loss, state), grads)`:
        `jax.value_and_grad(loss_fn, has_aux=True)` for a window or a whole sequence, or
        `jaxrnn.truncated_value_and_grad(loss_fn, window)` for a sequence in windows. No gradient
        goes back from one call into the one before: over a stream of windows this is truncated
        BPTT.
      optimizer: any optax transformation.
      devices: those of this process over which a batch of B sequences is split, as many of them as
        gcd(B, their number), see `jaxrnn.devices.split`. None: all devices, if they are the CPU of
        a single process and it pays (`jaxrnn.devices.chosen`). Where one device is left, as with
        None on GPU, TPU or several hosts, nothing is placed; nor are arguments that the caller has
        placed on several devices.

    Returns:
      The step. `state` is of the kind that `loss_fn` returns; None only if it returns None. Raises
      `TypeError` or `ValueError` otherwise.

    Raises:
      ValueError: if `devices` is empty.
    """

    def step(learner: Learner, state: Any, batch: Any) -> tuple[Learner, Any, Metrics]:
        def of(params: Any) -> Any:
            (loss, new_state), grads = value_and_grad(params, state, batch)
            checks.same_state(state, new_state, "`loss_fn` returns it")
            return (loss, new_state), grads

        return _updated(optimizer, learner, state, of)

    return _compiled(step, devices)


def truncated_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    window: int,
    backprop: int | None = None,
    devices: Sequence[Any] | None = None,
) -> Any:
    """A compiled `(learner, state, batch) -> (learner, state, metrics)` with many updates in it.

    Truncated BPTT as it is practised: the parameters move after every window of a sequence, and
    the state goes on. With K₂ = K₁ the same as a loop of `make_step`'s calls over the windows, in
    one program.
    (To update once, with the sum over the windows, give `make_step` a
    `jaxrnn.truncated_value_and_grad`.)

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`. With `backprop` of more than a
        window, the loss must be a sum over steps, as in `truncated_value_and_grad`; else it may be
        a mean.
      optimizer: any optax transformation.
      window: K₁, the steps of a window, 1 ≤ K₁ ≤ T. The last one may be shorter.
      backprop: K₂ ≥ K₁, the steps over which a window's losses are sent back, from the state that
        was there then, with the present parameters; None: K₁. With K₂ > K₁, one update serves all
        windows of a call that end before step K₂, and their losses are one entry of the metrics.
      devices: as in `make_step`.

    Returns:
      The step, as `make_step`'s: `batch` is a tree of `[T, ...]`, the returned state continues the
      next call, and the metrics are `[updates]`. Where a loss or a gradient is not finite, that
      update changes nothing, and the next window starts from the same state.

    Raises:
      TypeError, ValueError: as `truncated_value_and_grad`, and if T = 0 or `devices` is empty.
    """
    window, backprop = checks.window_and_backprop(window, backprop)
    loss_fn = segments.checked(loss_fn)

    def step(learner: Learner, state: Any, batch: Any) -> tuple[Learner, Any, Metrics]:
        def visit(learner: Learner, states: Any, value_and_grad: Any) -> Any:
            return _updated(optimizer, learner, states, value_and_grad)

        size = checks.common_length("batch", batch)
        if not size:
            raise ValueError("`batch` must have one step at least, but got T = 0.")
        checks.within("window", window, size)
        return truncated.scan(loss_fn, window, backprop, visit, learner, state, batch)

    return _compiled(step, devices)


def _updated(
    optimizer: optax.GradientTransformation,
    learner: Learner,
    state: Any,
    value_and_grad: Any,
) -> tuple[Learner, Any, Metrics]:
    """One update, if `value_and_grad(params)`, `((loss, state), grads)`, is finite; else none."""
    (loss, new_state), grads = value_and_grad(learner.params)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, learner.opt_state, learner.params)
    stepped = Learner(optax.apply_updates(learner.params, updates), opt_state)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    learner, state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (stepped, new_state),
        (learner, state),
    )
    return learner, state, Metrics(loss, grad_norm)


def _compiled(step: Any, devices: Sequence[Any] | None) -> Any:
    """The step as one program, over these devices or those that are chosen."""
    if devices is not None and not len(devices):
        raise ValueError(
            "`devices` must have one device at least, but got none. None chooses."
        )
    compiled = jax.jit(step, donate_argnums=(0, 1))

    def placed_step(
        learner: Learner, state: Any, batch: Any
    ) -> tuple[Learner, Any, Metrics]:
        given = learner, state, batch
        # Not before the first call: to ask for the devices starts JAX.
        over = host.chosen(learner.params) if devices is None else devices
        placed = host.split(given, over)
        results = host.run(compiled, placed)
        if placed is not given:
            host.delete((learner, state))  # what was donated may have been a copy
        return results

    return placed_step
