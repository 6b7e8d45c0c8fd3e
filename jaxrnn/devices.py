"""The devices of a host, or of several, and a batch split over them by sequences.

The products of a recurrent step are too small to occupy several cores. So on CPU it
pays to make every core a device of its own (`one_per_core`) and to give each a share of
the batch (`split`). The sharding is automatic: a wrong guess costs time, never
a result. Within it `unroll` runs its loops per device (`per_device`), because the
compiler would add up the gradients of the weights after every chunk.

XLA takes the temporary memory of a program as one block. Above a threshold of 32 MiB at
most, glibc maps such a block anew at every call, and Linux fills it with zeros page by
page. With these variables, set before Python starts, the memory stays with the process:

    MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=2000000000 python train.py
"""

import contextlib
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# The axis of the meshes made here. No caller's mesh has an axis of this name, so any
# array on another mesh was placed by the caller.
AXIS = "jaxrnn.devices"

# Floats of a matrix. From here on the products of one step occupy all cores by
# themselves, or a core's share of the rows is no longer worth reading the matrix for:
# with 2 cores and B = 16, a split of the LSTM of 512 units (twice as many floats) took
# longer, and one of 256 units (half as many) took less (`python -m benchmarks.run
# --points "150,16,256,256 25,16,512,512" --contestants jaxrnn,jaxrnn-cores`).
LARGE = 2**19


class Split(NamedTuple):
    """A batch of `size` sequences, split over the devices of a mesh made here."""

    mesh: Mesh
    size: int


_SPLIT: ContextVar[Split | None] = ContextVar("split", default=None)

# Held by a program that spans CPU devices until its results are ready. It is reentrant,
# because one program may be traced inside another.
ONE_IN_FLIGHT = threading.RLock()


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may have few of them
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_per_core() -> None:
    """Makes JAX's CPU one device per core of this process; call it before JAX is used.

    `jaxrnn.train.make_step` then splits its batches over them. Programs for one device
    keep all their threads.

    Does nothing if the number of devices is set already (`jax_num_cpu_devices`,
    `JAX_NUM_CPU_DEVICES`, or `--xla_force_host_platform_device_count` in `XLA_FLAGS`).
    Once JAX is in use it is too late, and it warns if the number would have differed.
    """
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    config: Any = jax.config
    if by_flag or config.jax_num_cpu_devices != -1:  # its default: JAX chooses
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # JAX is in use, and keeps its devices
        count = jax.local_device_count("cpu")
        if count != cores():
            warnings.warn(
                f"`one_per_core` came too late: JAX is in use, with {count} CPU "
                f"device(s) for {cores()} cores. Call it before the first array is "
                f"made, or set JAX_NUM_CPU_DEVICES={cores()}.",
                stacklevel=2,
            )


def default_devices(params: Any) -> Sequence[Any]:
    """Returns the devices over which a batch is split unless the caller names some.

    These are all devices if they are the CPU of a single process and splitting pays;
    else the first one. Splitting pays while the largest weight matrix has fewer than
    `LARGE` floats. A cell's matrix is at most `[H, 4H]`, so of a longer matrix, such as
    an embedding table, only a block of that shape is counted.
    """
    devices = jax.devices()
    if devices[0].platform != "cpu" or jax.process_count() > 1:
        return devices[:1]
    shapes = [np.shape(p) for p in jax.tree.leaves(params)]
    sides = [sorted(shape) for shape in shapes if len(shape) == 2]
    largest = max((short * min(long, 4 * short) for short, long in sides), default=0)
    return devices if largest < LARGE else devices[:1]


def split(
    arguments: tuple[Any, Any, Any], devices: Sequence[Any]
) -> tuple[Any, Any, Any]:
    """Places a learner, a state and a batch over as many of the devices as divide B.

    B is the first axis of the state `[B, H]`, or else the second of the batch's `[T, B,
    ...]`. Leaves with an axis of B there, or first (`[B]`, `[B, ...]`), are split; all
    others are replicated. The arguments are returned unchanged if one device is left,
    if they are traced, or if the caller has placed any of them on several devices.

    Devices of several processes are all used, and each process puts its own part of the
    arrays on its own devices. It is called in all processes, with the same arguments.

    Raises:
      ValueError: if B is not a multiple of the number of devices of several processes.
    """
    # Return traced arguments, and those that the caller has placed, unchanged.
    arrays = [a for a in jax.tree.leaves(arguments) if isinstance(a, jax.Array)]
    if any(isinstance(a, Tracer) for a in arrays):
        return arguments  # part of another program, whose arguments are placed or not
    spread = [a.sharding for a in arrays if len(a.sharding.device_set) > 1]
    if any(
        not isinstance(s, NamedSharding) or s.mesh.axis_names != (AXIS,) for s in spread
    ):
        return arguments
    learner, state, batch = arguments
    size = _batch_size(state, batch)
    count = math.gcd(size, len(devices))
    if count < len(devices) and len({d.process_index for d in devices}) > 1:
        raise ValueError(
            f"B must be a multiple of the {len(devices)} devices of all processes, but "
            f"got B = {size}. Change the size of the batch."
        )
    if count == 1 and not spread:
        return arguments

    # Split leaves that have an axis of B, and replicate the rest.
    mesh = Mesh(np.array(devices[:count]), (AXIS,), axis_types=(AxisType.Auto,))
    whole, first, second = (
        NamedSharding(mesh, spec) for spec in (P(), P(AXIS), P(None, AXIS))
    )

    def place(a: Any, *choices: tuple[int, NamedSharding]) -> Any:
        shape = np.shape(a)
        fits = (s for axis, s in choices if len(shape) > axis and shape[axis] == size)
        sharding = next(fits, whole)
        if isinstance(a, jax.Array) and a.sharding == sharding:
            return a
        if _is_global(a) or sharding.is_fully_addressable:
            return jax.device_put(a, sharding)
        held = a if isinstance(a, jax.Array) else np.asarray(a)
        return jax.make_array_from_callback(held.shape, sharding, held.__getitem__)

    return (
        jax.tree.map(place, learner),
        jax.tree.map(lambda a: place(a, (0, first)), state),
        jax.tree.map(lambda a: place(a, (1, second), (0, first)), batch),
    )


def split_of(arguments: tuple[Any, Any, Any]) -> Split | None:
    """Returns how `split` placed a learner, a state and a batch; None: nowhere."""
    learner, state, batch = arguments
    for a in filter(_is_concrete, jax.tree.leaves(learner)):
        mesh = getattr(a.sharding, "mesh", None)
        if isinstance(mesh, Mesh) and mesh.axis_names == (AXIS,):
            return Split(mesh, _batch_size(state, batch))
    return None


@contextlib.contextmanager
def tracing(split: Split | None) -> Iterator[None]:
    """In this context, programs are traced whose batch is split; None: it is not."""
    token = _SPLIT.set(split)
    try:
        yield
    finally:
        _SPLIT.reset(token)


def is_split(size: int | Any) -> bool:
    """Returns whether a batch of so many sequences is split where this is traced."""
    split = _SPLIT.get()
    return split is not None and split.size == size


def per_device(
    program: Callable[[Any], Any], inputs: Any, axes: Any, result_axes: Any
) -> Any:
    """Returns `program(inputs)`, run on each device with its share of a split batch.

    The trees `axes` and `result_axes` hold the axis of the batch of each leaf; -1: it
    has none, and every device has the whole leaf. Call it only where `is_split`.
    """
    split = _SPLIT.get()
    assert split is not None

    def specs(axes: Any) -> Any:
        return jax.tree.map(lambda n: P() if n < 0 else P(*[None] * n, AXIS), axes)

    of_inputs, of_results = (specs(axes),), specs(result_axes)
    run = jax.shard_map(
        program, mesh=split.mesh, in_specs=of_inputs, out_specs=of_results
    )
    return run(inputs)


def run_alone(program: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Runs a program; over several CPU devices it waits, and no other can begin.

    XLA:CPU sums over devices on a small pool of threads, where two programs in flight
    can wait for each other forever.
    """
    if not _over_cpus(arguments):
        return program(*arguments)
    with ONE_IN_FLIGHT:
        return jax.block_until_ready(program(*arguments))


def delete(tree: Any) -> None:
    """Frees the memory of all arrays."""
    for a in jax.tree.leaves(tree):
        if _is_concrete(a):
            a.delete()


def _is_global(a: Any) -> bool:
    """Returns whether other processes have a part of an array."""
    return isinstance(a, jax.Array) and not a.is_fully_addressable


def _batch_size(state: Any, batch: Any) -> int:
    """Returns B, or 1 if it is unknown: a wrong guess cannot change a result."""
    shapes = [shape for shape in map(np.shape, jax.tree.leaves(state)) if shape]
    if shapes:
        shape = max(shapes, key=len)
        return shape[0] if len(shape) > 1 else 1  # [H] is the state of one sequence
    # The leaf with the most axes: of inputs [T, B, I] and targets [B, K], the inputs.
    shape = max(map(np.shape, jax.tree.leaves(batch)), key=len, default=())
    return shape[1] if len(shape) > 1 else 1


def _over_cpus(arguments: Any) -> bool:
    """Returns whether a program of these arguments spans several CPU devices."""
    placed = [
        a.sharding.device_set for a in jax.tree.leaves(arguments) if _is_concrete(a)
    ]
    return any(len(held) > 1 and next(iter(held)).platform == "cpu" for held in placed)


def _is_concrete(a: Any) -> bool:
    return isinstance(a, jax.Array) and not isinstance(a, Tracer)
