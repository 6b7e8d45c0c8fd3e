"""Training by a rule that learns forwards in time, on the same networks.

A run's state is the pair of the cell's state and the rule's trace, and both are carried
from batch to batch. A rule that draws has random numbers by the batch's number, so the
state and the number are all that a run needs to go on to the bit.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxrnn
from experiments.models.readout import ModelParams, Network, key_of, read_out
from jaxrnn import online

RULES: dict[str, Callable[[], online.Estimator]] = {
    "rtrl": online.rtrl,
    "snap1": online.snap,
    "uoro": online.uoro,
    "kf_rtrl": online.kf_rtrl,
    "ok": partial(online.ok, 4),
    "rflo": online.rflo,
}
"""The rules that a config can name. OK keeps four products for each matrix."""


def check_takes(rule: str, cell: jaxrnn.Cell) -> None:
    """Raises unless the rule takes the cell.

    Raises:
      ValueError: in the words of the rule.
    """
    try:
        _start(RULES[rule](), cell, cell.init(jax.random.key(0), 1, 2), 1)
    except TypeError as error:
        raise ValueError(f'`rule = "{rule}"` does not fit: {error}') from None


def make_start(rule: str, network: Network, size: int) -> Callable[[], Any]:
    """Returns a function that makes the state before a stream of B sequences.

    It is new at each call, because a training step may take its buffers.
    """
    estimator = RULES[rule]()

    @jax.jit
    def start() -> Any:
        params = network.init(jax.random.key(0)).cell  # only shapes matter
        return _start(estimator, network.cell, params, size)

    return start


def make_value_and_grad(rule: str, cell: jaxrnn.Cell, loss: Any) -> Any:
    """Returns `(params, state, (steps, number)) -> ((mean loss, state), grads)`.

    The loss of a batch is that of `scored.make_loss`, the mean over its labels.

    Args:
      rule: a key of `RULES`.
      cell: the network's.
      loss: `(outputs [..., O], labels [...]) -> losses [...]`.
    """

    def of_step(readout: Any, h: Array, target: tuple[Array, Array]) -> Array:
        labels, weights = target
        return jnp.sum(weights * loss(read_out(readout, h), labels))

    forwards = online.online_value_and_grad(RULES[rule](), of_step)

    def value_and_grad(params: ModelParams, state: Any, batch: Any) -> Any:
        steps, number = batch
        mask = jnp.asarray(steps.mask)
        weights = mask / jnp.maximum(mask.sum(), 1)
        given = online.Batch(jnp.asarray(steps.xs), (steps.labels, weights))
        before, trace = state
        carry = online.Carry(cell, before, trace, key_of(number))
        (value, carry), grads = forwards(tuple(params), carry, given)
        return (value, (carry.state, carry.trace)), ModelParams(*grads)

    return value_and_grad


def _start(
    estimator: online.Estimator, cell: jaxrnn.Cell, params: Any, size: int
) -> Any:
    """Returns the state `[size, H]` and the trace before the first step."""
    state = cell.initial_state(params, (size,))
    return state, estimator.init(cell, params, state)
