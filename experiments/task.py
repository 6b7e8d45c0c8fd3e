"""What an experiment is: all that the training loop and the microscope need to know of it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from jax import Array

import jaxrnn
from experiments.record import Run


class Probe(NamedTuple):
    """Sequences, and the losses at their last step: where the microscope looks."""

    xs: Array
    """What the cell reads, from zeros on: `[T, B, I]`."""
    loss: Callable[[Any, Any], Any]
    """`(last, hs) -> R̂` of what `unroll` returns: at step T, summed over the sequences."""


class Task(NamedTuple):
    """An experiment, ready to run."""

    cell: jaxrnn.Cell
    init: Callable[[Any], Any]
    """`key -> params`, of which `params.cell` are the cell's."""
    loss_fn: Any
    """`(params, state, batch) -> (loss, state)`, the loss in nats, or squared, per label."""
    batches: Callable[[Any], Iterator[tuple[Any, Any]]]
    """Of the first params: endless `(state, batch)`; a state of None goes on from the last one."""
    evaluate: Callable[[Any], dict[str, float]]
    """`params` to metrics on held-out data."""
    probe: Callable[[Any], Probe]
    """`params` to held-out sequences of one length."""
    per_step: int
    """How many units a step takes in."""
    unit: str
    """What is counted: "characters", "sequences"."""
    shown: Callable[[float], dict[str, float]] = lambda loss: {}
    """The loss to the metrics of training, such as bits per character."""
    leaves: Mapping[str, Any] = {}
    """What its parameters cannot be read without: files of the run's folder, and their JSON."""
    finish: Callable[[Run, Any], None] = lambda run, params: None
    """Leaves there, and shows, what the trained parameters can do."""
