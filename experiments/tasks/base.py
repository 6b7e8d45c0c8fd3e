"""A task, as the training loop and the microscope see it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import Array

import jaxrnn


class Probe(NamedTuple):
    """Held-out sequences, and the losses at their last step, for the microscope."""

    xs: Array
    """The cell's inputs from the zero state on, `[T, B, I]`."""
    loss: Callable[[Any, Any], Any]
    """`(last, hs) -> R̂` of what `unroll` returns: at step T, summed over sequences."""


class Task(NamedTuple):
    """A task, its data read."""

    cell: jaxrnn.Cell
    init: Callable[[Any], Any]
    """`key -> params`, where `params.cell` are the cell's."""
    loss_fn: Any
    """`(params, state, batch) -> (loss, state)`: nats or squared error, per label.
    None where `online` is given."""
    batch: Callable[[int], tuple[Any, Any]]
    """`number -> (state, batch)`. The batch depends on nothing but its number, so that
    training can stop and go on anywhere. A state of None is the one left by the last
    batch."""
    evaluate: Callable[[Any], dict[str, float]]
    """`params` to metrics on held-out data."""
    probe: Callable[[Any], Probe]
    """`params` to held-out sequences of one length."""
    per_step: int
    """Units read per training step."""
    unit: str
    """What is counted: "characters", "sequences"."""
    online: Any = None
    """`(params, state, batch) -> ((loss, state), grads)` of a rule that learns
    forwards. None: `loss_fn` is differentiated."""
    train_metrics: Callable[[float], dict[str, float]] = lambda loss: {}
    """The training loss to other metrics, such as bits per character."""
    data: Mapping[str, str] = {}
    """What was read: its source, and its SHA-256. Empty if nothing was."""
    artifacts: Mapping[str, Any] = {}
    """Files without which the parameters cannot be read: name to JSON content."""
    finish: Callable[[Any], dict[str, str]] = lambda params: {}
    """Trained `params` to files that show what they can do: name to text."""

    @property
    def value_and_grad(self) -> Any:
        """`(params, state, batch) -> ((loss, state), grads)`, by either."""
        return self.online or jax.value_and_grad(self.loss_fn, has_aux=True)
