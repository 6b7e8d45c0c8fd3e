"""Whether a config fits the machine, estimated before anything is allocated."""

import math
import os
import sys
from pathlib import Path

import jax

from experiments.config.load import ConfigError
from experiments.config.schema import Experiment
from experiments.models.readout import make_cell

FLOAT32 = 4
# Parameters, gradient, and Adam's two moments.
COPIES = 4


def check_fits(config: Experiment) -> None:
    """Raises if training needs more memory than the machine has.

    The estimate is a lower bound: parameters with their gradient and moments, and one
    copy of the inputs, states and outputs of a batch.

    Raises:
      ConfigError: with the largest need, and the keys to lower.
    """
    available, needs = available_bytes(), needed_bytes(config)
    keys = max(needs, key=lambda name: needs[name])
    if sum(needs.values()) > available:
        raise ConfigError(
            f"training needs at least {_size(sum(needs.values()))} of memory, but this "
            f"machine has {_size(available)}. Lower {keys}."
        )


def needed_bytes(config: Experiment) -> dict[str, int]:
    """Returns the needs, by the keys that they depend on."""
    sizes, model = config.sizes(), config.model
    cell = make_cell(model)
    # Even the key is only described, so that nothing is compiled.
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), sizes.inputs, model.hidden_size)
    )
    leaves = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    parameters = leaves + (model.hidden_size + 1) * sizes.outputs
    per_step = sizes.inputs + model.hidden_size + sizes.outputs
    sequences = max(config.optimizer.batch_size, sizes.sequences)
    length = "" if sizes.key in ("model.hidden_size", "data.path") else f"`{sizes.key}`"
    batch = [word for word in ("`optimizer.batch_size`", length) if word]
    widest = "`model.hidden_size`"
    if sizes.inputs > model.hidden_size:
        widest = length or widest
    return {
        widest: parameters * FLOAT32 * COPIES,
        " or ".join(batch): sequences * sizes.steps * per_step * FLOAT32,
    }


def available_bytes() -> int:
    """Returns the memory of the machine, or of the container where that is less."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not on every system: nothing is refused
        return sys.maxsize
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
