"""Several processes that train together, each with some of the devices.

`jax.distributed` connects them, finds out that one has died, and spreads the news of a
SIGTERM. All of them run the same program on the same config. Each makes every batch,
which costs little, and puts its own sequences on its own devices. Only process 0, the
first, writes to the run's folder. It sends the others what it alone can know, such as
whether a save succeeded (`from_first`), so that all of them take the same decisions.
With a single process nothing is sent, and everything here returns at once.
"""

import contextlib
import itertools
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import commands
from experiments.config.load import ConfigError
from experiments.config.schema import Experiment
from experiments.runs.folder import Followed, Run, differences
from experiments.training import interrupts as alone
from jaxrnn import devices

# The value of `--coordinator` with which JAX asks the cluster's scheduler.
AUTO = "auto"
# Seconds without a sign of life after which a process counts as dead. A machine that
# swaps is silent for some of them; a job that waits longer wastes all its machines.
SILENCE = 60
# Exit codes that all processes reach together.
TOGETHER = {0, commands.REFUSED, commands.NOT_FINITE, commands.STOPPED}
# Seconds for which the first process, which failed, waits for the others to end by
# themselves: JAX aborts them when it goes, because it is the coordinator.
GRACE = 2.0

T = TypeVar("T")


class Tried(NamedTuple):
    """What a function returned, or the error that it raised."""

    value: Any
    error: Exception | None


def join(coordinator: str | None, number: int | None, count: int | None) -> None:
    """Connects to the other processes; call it before JAX has been used.

    Args:
      coordinator: HOST:PORT, where the first process listens; or AUTO: JAX finds all
        three in the environment of Slurm, Open MPI, Kubernetes or a TPU.
      number: the number of this process, from 0.
      count: how many there are.

    Raises:
      ConfigError: if the three do not fit together, or a cluster was not found.
    """
    rule = "`--coordinator HOST:PORT`, `--process` and `--processes`"
    if coordinator == AUTO:
        if (number, count) != (None, None):
            raise ConfigError(
                f"`--coordinator {AUTO}` takes the process and their number from the "
                "cluster. Leave `--process` and `--processes` out."
            )
        where: dict[str, Any] = {}
    else:
        host, _, port = (coordinator or "").rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(
                f"`--coordinator` must be HOST:PORT or {AUTO}, but got {coordinator}."
            )
        if number is None or count is None or not 0 <= number < count:
            raise ConfigError(
                f"{rule} belong together, with 0 ≤ process < processes, but got "
                f"{number} and {count}."
            )
        where = {
            "coordinator_address": coordinator,
            "process_id": number,
            "num_processes": count,
            "cluster_detection_method": "deactivate",
        }
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=SILENCE)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the processes cannot be connected: {error} Give {rule}."
        ) from None


def ended(command: Callable[[], int]) -> int:
    """Returns the exit code of a command that joins others.

    If it failed in this process, or because another one has gone, the process ends
    here: at its usual end it would wait for all others, which may wait for it.
    """
    code = commands.FAILED
    try:
        code = command()
        return code
    finally:
        if jax.distributed.is_initialized() and code not in TOGETHER:
            if sys.exception():
                traceback.print_exc()
            print(
                f"note: process {jax.process_index()} of {jax.process_count()} has "
                "failed, and the others end with it. Start all of them again; a run "
                "with checkpoints goes on with --resume auto.",
                file=sys.stderr,
            )
            sys.stdout.flush()
            sys.stderr.flush()
            if is_first():
                time.sleep(GRACE)
            os._exit(code)


def is_first() -> bool:
    """Returns whether this is the process that writes to the run's folder."""
    return jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """Returns what `make` returns in the first process, where alone it is called.

    All processes call this together, and those that have nothing to do wait.

    Raises:
      What `make` raises there, in every process.
    """
    if jax.process_count() == 1:
        return make()
    sent = pickle.dumps(_tried(make)) if is_first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.uint32(len(sent))))
    padded = np.frombuffer(sent.ljust(_room(size), b"\0"), np.uint8)
    made = pickle.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
    if made.error is not None:
        raise made.error
    return made.value


def everywhere(make: Callable[[], T], about: Callable[[T], Mapping[str, Any]]) -> T:
    """Returns what `make` returns here, once it has returned in every process.

    Args:
      make: called in every process.
      about: its result to what must be the same in all processes.

    Raises:
      ConfigError: if that is not the same.
      What `make` raises, in every process: the error of the first one that failed.
    """
    if jax.process_count() == 1:
        return make()
    # Exchange what each has made, or its error.
    made = _tried(make)
    failed = made.error is not None
    gathered = _gathered(made if failed else Tried(dict(about(made.value)), None))
    for number, theirs in enumerate(gathered):
        if theirs.error is not None:
            print(f"note: the error is that of process {number}.", file=sys.stderr)
            raise theirs.error
    # Compare all with the first.
    for number, theirs in enumerate(gathered):
        form = f"`{{}}` is {{!r}} in process 0 and {{!r}} in process {number}"
        found = differences(gathered[0].value, theirs.value, form)
        if found:
            raise ConfigError(
                f"the processes must run the same, but {', '.join(found)}. Start all "
                "of them with the same command, versions and data."
            )
    return made.value


def take(run: Callable[[], Run], config: Experiment) -> Run:
    """Returns the run, whose folder the first process makes, or takes, for all.

    Raises:
      ConfigError: if it cannot.
    """
    taken: list[Run] = []

    def take_folder() -> Path:
        taken.append(run())
        return taken[0].folder

    path = from_first(take_folder)
    return taken[0] if taken else Followed(path, config)


def check_batch(size: int) -> None:
    """Raises unless a batch of so many sequences can be split over all devices.

    Raises:
      ConfigError: if several processes are to share it, and it is no multiple.
    """
    count = jax.device_count()
    if jax.process_count() > 1 and size % count:
        raise ConfigError(
            f"`optimizer.batch_size` must be a multiple of {count}, the number of "
            f"devices of all {jax.process_count()} processes, but got {size}."
        )


def over(params: Any) -> Sequence[Any]:
    """Returns the devices over which batches are split: all of them.

    On the CPU of a single process only where it pays (`jaxrnn.devices`).
    """
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        return devices.default_devices(params)
    return jax.devices()


def here(tree: Any) -> Any:
    """Returns arrays that every device holds, on the first device of this process."""
    first = jax.local_devices()[0]
    return jax.tree.map(lambda a: jax.device_put(a.addressable_data(0), first), tree)


def whole(tree: Any) -> Any:
    """Returns arrays of NumPy, put together from the parts of all processes."""

    def gather(a: Any) -> Any:
        is_part = not (a.is_fully_addressable or a.is_fully_replicated)
        return multihost_utils.process_allgather(a, tiled=True) if is_part else a

    return jax.device_get(jax.tree.map(gather, tree))


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], str]]:
    """Yields a function that returns the name of a signal after which all must end.

    Each process asks before every step, and all get the name before the same step. JAX
    handles SIGTERM then, and the other signals are passed on as one. A second one of
    those ends the process at once.
    """
    if jax.process_count() == 1:
        with alone.interrupts() as asked:
            yield asked
        return
    numbers, passed_on = itertools.count(), False
    with alone.interrupts(spare=(signal.SIGTERM,)) as asked:

        def asked_of_any() -> str:
            nonlocal passed_on
            if asked() and not passed_on:
                signal.raise_signal(signal.SIGTERM)
                passed_on = True
            reached = multihost_utils.reached_preemption_sync_point(next(numbers))
            return (asked() or signal.SIGTERM.name) if reached else ""

        yield asked_of_any


def _tried(make: Callable[[], Any]) -> Tried:
    """Returns the result, or the error as one that can be sent."""
    try:
        return Tried(make(), None)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # its class has arguments of its own
            return Tried(None, RuntimeError(commands.describe(error)))
        return Tried(None, error)


def _gathered(value: T) -> list[T]:
    """Returns the values of all processes, in their order."""
    sent = pickle.dumps(value)
    sizes = multihost_utils.process_allgather(np.uint32(len(sent)))
    padded = np.frombuffer(sent.ljust(_room(int(sizes.max())), b"\0"), np.uint8)
    return [
        pickle.loads(a.tobytes()) for a in multihost_utils.process_allgather(padded)
    ]


def _room(size: int) -> int:
    """Returns the next power of two: each size that is sent is a program of its own."""
    return 1 << max(size, 1024).bit_length()
