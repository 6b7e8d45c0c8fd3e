"""Whether a config fits the machine, estimated before anything is allocated."""

import contextlib
import math
import os
import sys
from pathlib import Path

import jax

from experiments.config.load import ConfigError
from experiments.config.schema import Experiment, Model
from experiments.models.readout import make_cell

FLOAT32 = 4
# Parameters, gradient, and Adam's two moments.
COPIES = 4


# Bytes of addresses that Python, JAX and its threads take by themselves, rounded up: on
# two cores, a small network trained under `ulimit -v 2000000`, which counts in KiB, and
# under 1500000 XLA aborted.
ADDRESSES = 2 * 2**30


def check_devices() -> None:
    """Raises if JAX has no device to compute with.

    Raises:
      ConfigError: with JAX's reason.
    """
    try:
        jax.devices()
    except Exception as error:  # a plug-in raises whatever it trips over
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"JAX finds no device: {reason}. Check the variables JAX_PLATFORMS and "
            "JAX_NUM_CPU_DEVICES."
        ) from None


def check_fits(config: Experiment) -> None:
    """Raises if training needs more memory than the machine has.

    The estimate is a lower bound: parameters with their gradient and moments, and one
    copy of the inputs, states and outputs of a batch.

    Raises:
      ConfigError: with the largest need, and the keys to lower; if there is no device.
    """
    check_devices()
    available = available_bytes()
    if available <= 0:
        raise ConfigError(
            f"JAX needs {_size(ADDRESSES)} of addresses, but the limit is lower. Raise "
            "it: ulimit -v."
        )
    # Cells are asked for their shapes once it is known that their rows fit, of which
    # some cells allocate one.
    first, *_ = needed_bytes(config, cell=False).items()
    _check_fit(dict([first]), available)
    _check_fit(needed_bytes(config), available)


def _check_fit(needs: dict[str, int], available: int) -> None:
    keys = max(needs, key=lambda name: needs[name])
    if sum(needs.values()) > available:
        raise ConfigError(
            f"training needs at least {_size(sum(needs.values()))} of memory, but this "
            f"machine has {_size(available)}. Lower {keys}."
        )


def needed_bytes(config: Experiment, cell: bool = True) -> dict[str, int]:
    """Returns the needs, by the keys that they depend on.

    Without the cell, its parameters are estimated as its matrix of the inputs alone.
    """
    sizes, model = config.sizes(), config.model
    directions = 2 if model.bidirectional else 1
    inputs = [sizes.inputs, *[directions * model.hidden_size] * (model.layers - 1)]
    count = _cell_parameters if cell else _input_weights
    counts = {size: directions * count(model, size) for size in {*inputs}}
    leaves = sum(counts[size] for size in inputs)
    parameters = leaves + (directions * model.hidden_size + 1) * sizes.outputs
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


def _input_weights(model: Model, inputs: int) -> int:
    return inputs * model.hidden_size


def _cell_parameters(model: Model, inputs: int) -> int:
    cell = make_cell(model)
    # Even the key is only described, so that nothing is compiled.
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), inputs, model.hidden_size)
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def available_bytes() -> int:
    """Returns the least of the machine's memory, the container's, and the limit's.

    The limit is that of addresses (`ulimit -v`), less what JAX takes by itself.
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not on every system: nothing is refused
        return sys.maxsize
    found = [machine]
    with contextlib.suppress(OSError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        found += [int(limit)] if limit.isdigit() else []
    with contextlib.suppress(ImportError):  # POSIX alone
        import resource

        addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
        if addresses != resource.RLIM_INFINITY:
            found.append(addresses - ADDRESSES)
    return min(found)


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
