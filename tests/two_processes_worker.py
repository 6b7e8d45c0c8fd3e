"""One of the two processes of `test_processes.py`: the gradients of its half of the
batch.

python -m tests.two_processes_worker PORT RANK PROBLEMS GRADIENTS
"""

import pickle
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxrnn
from tests.cases import CELLS, loss

# Enough for the other interpreter to import JAX on a machine that is busy with other
# tests.
START_SECONDS = 120

TIME_BATCH = P(None, "data")
# Of params, state, xs; then of the loss's weights on hs and on the last state; then of
# the options.
SPECS = P(), P("data"), TIME_BATCH, TIME_BATCH, P("data"), TIME_BATCH


def main(port, rank, problems, gradients):
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(
        address,
        num_processes=2,
        process_id=int(rank),
        initialization_timeout=START_SECONDS,
        coordinator_bind_address=address,
        cluster_detection_method="deactivate",  # whatever scheduler this may run under
    )
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (
        2,
        1,
        2,
    )
    got = {
        (way.__name__, *name): here(way(*given))
        for name, given in pickle.loads(Path(problems).read_bytes()).items()
        for way in (under_jit, under_shard_map)
    }
    Path(gradients).write_bytes(pickle.dumps(got))


def under_jit(*given):
    args, loss_of, shardings = on_mesh(*given)
    return jax.jit(loss_of, out_shardings=tuple(shardings[:3]))(*args)


def under_shard_map(*given):
    args, loss_of, shardings = on_mesh(*given)
    mesh = shardings[0].mesh
    return jax.jit(
        jax.shard_map(loss_of, mesh=mesh, in_specs=SPECS, out_specs=SPECS[:3])
    )(*args)


def on_mesh(cell, case, arrays, static):
    """The arrays, each process having its part of the batch; the gradient; and how it
    is split."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    shardings = [NamedSharding(mesh, spec) for spec in SPECS]
    args = [
        jax.tree.map(
            lambda a, s=s: jax.make_array_from_callback(a.shape, s, a.__getitem__), tree
        )
        for tree, s in zip((*case, arrays), shardings, strict=True)
    ]

    def loss_of(params, state, xs, on_hs, on_last, arrays):
        part = case._replace(on_hs=on_hs, on_last=on_last)
        options = {"chunk": 3, **static, **arrays}
        return jax.grad(
            lambda *args: loss(jaxrnn.unroll, CELLS[cell], part, *args, **options),
            (0, 1, 2),
        )(params, state, xs)

    return args, loss_of, shardings


def here(tree):
    """What of it is in this process; waits for it."""
    return jax.tree.map(lambda a: np.asarray(a.addressable_data(0)), tree)


if __name__ == "__main__":
    main(*sys.argv[1:])
