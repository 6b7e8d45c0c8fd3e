"""A training step: gradient, clipping, update, compiled as one program.

Sequence models are trained window by window, and the state is carried along. A step is

    learner, state, metrics = step(learner, state, batch)

and a loop over windows of a stream is a loop of such calls, or one call of a program
with that loop in it (`make_truncated_step`). The caller chooses the function that
computes the gradient: of one window, of a whole sequence, or of a sequence cut into
windows.

Where a host's CPU is several devices (`jaxrnn.devices.one_per_core`), a step's batch is
split over them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrnn import arguments, checks
from jaxrnn import devices as host
from jaxrnn.windows import segments, truncated
from jaxrnn.windows.segments import LossFn, ValueAndGrad


class Learner(NamedTuple):
    """The parameters that are learned, and the optimizer's state."""

    params: Any
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """Float scalars of one step. If one of them is not finite, it changed nothing."""

    loss: Array
    grad_norm: Array
    """The gradient's norm, before clipping."""
    update_norm: Array
    """The norm of what the optimizer adds to the parameters."""


@runtime_checkable
class TrainStep(Protocol):
    """A compiled `(learner, state, batch) -> (learner, state, metrics)`."""

    def __call__(
        self, learner: Learner, state: Any, batch: Any, /
    ) -> tuple[Learner, Any, Metrics]: ...


def init_learner(params: Any, optimizer: optax.GradientTransformation) -> Learner:
    """Returns a learner before its first step, with a copy of the parameters.

    Steps reuse the learner's memory; `params` stay the caller's.

    Raises:
      TypeError: if `optimizer` is not an optax transformation.
    """
    checks.optimizer(optimizer)
    checks.alive("params", params)
    # The optimizer's state is copied too: it may hold the parameters themselves.
    return jax.tree.map(_copied, Learner(params, optimizer.init(params)))


def _copied(leaf: Any) -> Any:
    """Returns a copy of its own dtype, `[...]`.

    The dtype of `jnp.full(3, 1.0)` gives way to others. That of a step's results does
    not, so the second step would be compiled anew.
    """
    copied = jnp.copy(leaf)
    # A random key, as of `optax.add_noise`, has no `weak_type` of its own.
    is_weak = jax.typeof(copied).weak_type
    return copied.astype(copied.dtype) if is_weak else copied


def make_step(
    value_and_grad: ValueAndGrad,
    optimizer: optax.GradientTransformation,
    devices: Sequence[Any] | None = None,
) -> TrainStep:
    """Makes a compiled step `(learner, state, batch) -> (learner, state, metrics)`.

    The learner is donated: its memory is reused, and a learner that was passed in must
    not be used again. Clip in the optimizer
    (`optax.chain(optax.clip_by_global_norm(1.0), …)`), never inside the recursion.
    Where the loss, the gradient or the update is not finite, the step changes nothing:
    learner and state come back unchanged, and the metrics show it.

    On several devices the learner lies on each of them, the batch and the state are
    split by sequences, and the compiler adds the sums over devices. The loss is that of
    the whole batch, whether it is a sum, a mean or a masked mean: the split changes the
    speed, not the result. The learner comes back on all devices, and a program that
    reads it would run on each; give other programs
    `jax.device_put(learner.params, jax.devices()[0])`.

    A step over several CPU devices returns when its results are ready. Such steps in
    several threads take turns, because they could otherwise wait for each other forever
    (`jaxrnn.devices.run_alone`). Likewise, before you call the step, wait for any
    program of your own that spans these devices.

    Args:
      value_and_grad: `(params, state, batch) -> ((loss, state), grads)`:
        `jax.value_and_grad(loss_fn, has_aux=True)` for a window or a whole sequence, or
        `jaxrnn.truncated_value_and_grad(loss_fn, window)` for a sequence in windows. No
        gradient goes back from one call into the one before: over a stream of windows
        this is truncated BPTT.
      optimizer: any optax transformation.
      devices: the devices over which a batch of B sequences is split; gcd(B, their
        number) of them are used (`jaxrnn.devices.split`). Devices of several processes
        are all used: every process calls the step, with the same arguments. None: all
        devices, if they are the CPU of a single process and splitting pays
        (`jaxrnn.devices.default_devices`). With one device, as with None on GPU, TPU or
        several hosts, nothing is moved. Arguments that the caller has placed on several
        devices are not moved either.

    Returns:
      The step. `state` is of the kind that `loss_fn` returns; None only if it returns
      None. It raises `TypeError` or `ValueError` if the learner was made for another
      optimizer or given to an earlier step, or if the result of `value_and_grad` or the
      state is of another kind.

    Raises:
      TypeError: if `value_and_grad` is not a function, `optimizer` is not a
        transformation, or `devices` is not a list of devices.
      ValueError: if `devices` is empty.
    """
    signature = "(params, state, batch) -> ((loss, state), grads)"
    checks.function("value_and_grad", value_and_grad, signature, checks.CURE_OF_STEPS)
    checks.optimizer(optimizer)

    def step(learner: Learner, state: Any, batch: Any) -> tuple[Learner, Any, Metrics]:
        def value_and_grad_of(params: Any) -> tuple[tuple[Array, Any], Any]:
            result = _called(value_and_grad, params, state, batch)
            (loss, new_state), grads = checks.value_and_grad(result, params)
            checks.state_of_loss(state, new_state)
            return (loss, new_state), grads

        return update_learner(optimizer, learner, state, value_and_grad_of)

    return compile_step(step, devices)


def make_truncated_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    window: int,
    backprop: int | None = None,
    devices: Sequence[Any] | None = None,
) -> TrainStep:
    """Makes a step, as `make_step` does, that updates after every window of a sequence.

    This is the usual truncated BPTT: the parameters move after every window, and the
    state is carried to the next. With K₂ = K₁ it equals a loop of `make_step`'s calls
    over the windows, in one program. To update once, with the sum over the windows,
    give `make_step` a `jaxrnn.truncated_value_and_grad`.

    Args:
      loss_fn: `(params, state, batch_window) -> (loss, state)`. With `backprop` of more
        than a window, the loss must be a sum over steps, as in
        `truncated_value_and_grad`; else it may be a mean.
      optimizer: any optax transformation.
      window: K₁, the steps of a window, 1 ≤ K₁ ≤ T. The last one may be shorter.
      backprop: K₂ ≥ K₁, the steps through which a window's losses are backpropagated,
        from the state at their start, with the present parameters; None: K₁. With K₂ >
        K₁, one update serves all windows of a call that end before step K₂, and their
        losses are one entry of the metrics.
      devices: as in `make_step`.

    Returns:
      The step, as `make_step`'s: `batch` is a tree of `[T, ...]`, the returned state
      continues the next call, and the metrics are `[updates]`. Where a loss, a
      gradient or an update is not finite, nothing changes, and the next window starts
      from the same state.

    Raises:
      TypeError, ValueError: as `truncated_value_and_grad` and `make_step`, and if there
        is no time step.
    """
    window, backprop = checks.window_and_backprop(window, backprop)
    loss_fn = segments.checked(loss_fn)
    checks.optimizer(optimizer)

    def step(learner: Learner, state: Any, batch: Any) -> tuple[Learner, Any, Metrics]:
        def visit(learner: Learner, states: Any, value_and_grad: Any) -> Any:
            return update_learner(optimizer, learner, states, value_and_grad)

        size = checks.common_length("batch", batch)
        if not size:
            raise ValueError("`batch` must have at least one step, but got T = 0.")
        checks.within("window", window, size)
        return truncated.scan(loss_fn, window, backprop, visit, learner, state, batch)

    return compile_step(step, devices)


def _called(
    value_and_grad: ValueAndGrad, params: Any, state: Any, batch: Any
) -> tuple[tuple[Any, Any], Any]:
    """Calls the function; adds a cure to JAX's error for a loss of many numbers."""
    try:
        return value_and_grad(params, state, batch)
    except TypeError as error:
        if "scalar-output" not in str(error):
            raise
        raise TypeError(
            f"{checks.RULE_OF_STEPS}, the loss one number. {checks.CURE_OF_STEPS}"
        ) from error


def update_learner(
    optimizer: optax.GradientTransformation,
    learner: Learner,
    state: Any,
    value_and_grad: Callable[[Any], tuple[tuple[Array, Any], Any]],
) -> tuple[Learner, Any, Metrics]:
    """Returns learner, state and metrics (scalars) after an update.

    Learner and state are the old ones if loss, gradient or update is not finite.

    Args:
      optimizer: any optax transformation.
      learner: the learner before the update.
      state: the state before it, a tree like the one that `value_and_grad` returns.
      value_and_grad: `params -> ((loss, state), grads)`.
    """
    expected = jax.eval_shape(optimizer.init, learner.params)
    if jax.tree.structure(expected) != jax.tree.structure(learner.opt_state):
        raise TypeError(
            "`learner.opt_state` must be that of the step's own optimizer, but got "
            "that of another one. Make the learner with the same optimizer as the "
            "step: init_learner(params, optimizer)."
        )
    (loss, new_state), grads = value_and_grad(learner.params)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, learner.opt_state, learner.params)
    stepped = Learner(optax.apply_updates(learner.params, updates), opt_state)
    metrics = Metrics(loss, grad_norm, optax.tree.norm(updates))
    finite = jnp.isfinite(jnp.stack(metrics)).all()
    learner, state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (stepped, new_state),
        (learner, state),
    )
    return learner, state, metrics


def compile_step(step: TrainStep, devices: Sequence[Any] | None) -> TrainStep:
    """Returns a step as one program, over these devices; None: the default ones.

    A batch `[T, *B, ...]` is split over them, as in `make_step`.
    """
    devices = None if devices is None else checks.device_list(devices)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def compiled(split: host.Split | None, *arguments: Any) -> Any:
        with host.tracing(split):
            return step(*arguments)

    def placed_step(
        learner: Learner, state: Any, batch: Any
    ) -> tuple[Learner, Any, Metrics]:
        _check_alive(learner, state, batch)
        given = learner, state, batch
        # Only at the first call, because asking for the devices starts JAX.
        over = host.default_devices(learner.params) if devices is None else devices
        placed = host.split(given, over)
        program = partial(compiled, host.split_of(placed))
        results = host.run_alone(program, placed)
        if placed is not given:
            host.delete(learner)  # what was donated may have been a copy
        return results

    return placed_step


def _check_alive(learner: Any, state: Any, batch: Any) -> None:
    """Raises unless there is a learner, and no array has been donated."""
    if not isinstance(learner, Learner):
        raise TypeError(
            "`learner` must be a Learner, as `init_learner(params, optimizer)` makes "
            f"it, but got {arguments.describe(learner)}."
        )
    checks.alive(
        "learner",
        learner,
        "`learner` was given to an earlier step",
        "Use the learner that the step returned, or give the step a copy: "
        "jax.tree.map(jnp.copy, learner).",
    )
    checks.alive("state", state)
    checks.alive("batch", batch)
