"""The plan of a run: the length of its chunks, and what is stored."""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Integer

from jaxrnn import checks
from jaxrnn.cells.base import Cell, Drives, Params, State
from jaxrnn.ops import chunks
from jaxrnn.ops.ids import leading_shape

Store = Literal["states", "residuals", "boundaries"]

# Residuals are kept by default while they take no more bytes than this.
KEPT_BYTES = 2**28

# K steps are linearized at once. With few rows (K·B) the products outside the loops
# lose efficiency, so no chunk has fewer than LEAST_ROWS. With many rows their results
# outgrow the cache, so the drive of a chunk has at most so many floats.
LEAST_ROWS, ROWS = 64, 512
FLOATS = {"states": 2**19, "residuals": 2**18}

# Beside what is stored, a chunk's working set is all the memory: some 5 floats for each
# float of the drive. So the drives of a chunk hold at most this share of the floats of
# all states. With "residuals" a chunk need not be less than LEAST_SHARE of the steps.
SHARES, LEAST_SHARE = {"states": 0.2, "residuals": 0.15}, 0.05

# With fewer rows in all than so many times I + H, the sums of the weights' gradients
# outweigh a chunk's working set, and adding to them costs more than its other work.
FEW = 4

# Where nothing is stored for a backward pass, one chunk is fastest while the drive of
# all steps fits into the cache.
DRIVE_BYTES = 2**23


class Plan(NamedTuple):
    """The static options of a run. K is a symbolic dimension where T is one."""

    chunk: int | Any
    """K where a backward pass follows."""
    chunk_alone: int | Any
    """K of a forward pass without a backward pass."""
    store: Store
    compute_dtype: DTypeLike | None
    read_ahead: bool
    """Whether the forward loop carries the next drive: see `chunks.scan_ahead`."""
    adjoints: bool
    """Whether the backward pass returns every λ[t], as the cotangent of the probe."""
    units: tuple[tuple[int, ...], ...] | None
    """The units of the state (`structure.units`), if the adjoint of any cell runs as an
    associative scan; None: only that of a linear recursion does."""


def make_plan(
    cell: Cell,
    params: Params,
    state: State,
    xs: Float[Array, "T *B I"] | Integer[Array, "T *B"],
    *,
    chunk: int | None,
    store: Store | None,
    compute_dtype: DTypeLike | None,
    adjoints: bool = False,
    units: tuple[tuple[int, ...], ...] | None = None,
) -> Plan:
    """Checks the options of `unroll`, and chooses from the shapes where they are None.

    Args:
      cell: the cell; the width of its `drive`, G, decides about chunks.
      params: its parameters.
      state: the initial state, leaves `[*B, H]`.
      xs: the inputs, `[T, *B, I]`, or ids, `[T, *B]`.
      chunk: as in `unroll`, and so are `store` and `compute_dtype`.
      store: None or one of `Store`.
      compute_dtype: None or a floating dtype.
      adjoints: whether the backward pass returns every adjoint.
      units: as in `Plan`. With them one chunk is the default, and then no loop is left.

    Raises:
      TypeError, ValueError: as `unroll`.
    """
    if store is not None and store not in get_args(Store):
        raise ValueError(
            f"`store` must be None or one of {', '.join(get_args(Store))}, but got "
            f"{store!r}."
        )
    size, rows = xs.shape[0], math.prod(leading_shape(xs)[1:])
    if not isinstance(size, int) or not isinstance(rows, int):
        if chunk is not None:
            raise ValueError(
                "`chunk` must be None where T or *B are symbolic: one chunk serves all."
            )
        store = store or "residuals"  # of one chunk: it holds them all anyway
        chunk = chunk_alone = size
    else:
        us = jax.eval_shape(cell.drive, params, xs)
        if store is None:
            kept = _residual_bytes(cell, params, state, us)
            store = "residuals" if kept <= KEPT_BYTES else "states"
        if chunk is None:
            chunk, chunk_alone = _choose_chunks(params, state, us, store)
            chunk = chunk if units is None else max(1, size)
        else:
            chunk = chunk_alone = max(1, min(checks.positive("chunk", chunk), size))
    compute_dtype = None if compute_dtype is None else checks.floating(compute_dtype)
    ahead = _slices_its_drive(cell, params, state, xs)
    return Plan(chunk, chunk_alone, store, compute_dtype, ahead, adjoints, units)


def _choose_chunks(
    params: Params, state: State, us: Drives, store: Store
) -> tuple[int, int]:
    """Returns K with and without a backward pass, for drives `[T, *B, G]`."""
    drives = jax.tree.leaves(us)
    size, rows = drives[0].shape[0], max(1, math.prod(drives[0].shape[1:-1]))
    width = sum(u.shape[-1] for u in drives)  # G
    share = SHARES.get(store, 0) * state.h.shape[-1] / width * size * rows
    if store == "boundaries":
        # 2 T/K states, and 20 K floats for each row and unit of an LSTM: the sum is
        # least at K = √(T/10).
        steps = min(size**0.5, max(4, (size / 10) ** 0.5, LEAST_ROWS / rows))
    elif store == "states":
        most = max(ROWS, FLOATS[store] // width)
        steps = max(LEAST_ROWS, min(most, share)) / rows
    else:
        weights = sum(p.size for p in jax.tree.leaves(params)) // width  # I + H
        few = size * rows <= FEW * weights
        share = weights if few else max(share, LEAST_SHARE * size * rows)
        most = max(weights, FLOATS[store] // width)
        steps = max(LEAST_ROWS, min(most, share)) / rows
    total = sum(u.size * u.dtype.itemsize for u in drives)
    alone = size if total <= DRIVE_BYTES else chunks.chunk_length(size, ROWS // rows)
    return chunks.chunk_length(size, int(steps)), max(1, alone)


def _residual_bytes(cell: Cell, params: Params, state: State, us: Drives) -> int:
    """Returns the bytes of what the steps of a sequence keep for `linearize`."""
    size = jax.tree.leaves(us)[0].shape[0]
    states = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct((size, *s.shape), s.dtype), state
    )
    # A function of ours: `eval_shape` remembers those that it is given, by weak
    # references, which not every cell's function has.
    _, res = jax.eval_shape(lambda *given: cell.step(*given), params, states, us)
    return sum(r.size * r.dtype.itemsize for r in jax.tree.leaves(res))


def _slices_its_drive(cell: Cell, params: Params, state: State, xs: Array) -> bool:
    """Returns whether a step cuts its drive, or a sum with it, into gates.

    XLA:CPU fuses the read of the drive with such slices, and does not vectorize the
    loop. A drive that is in parts already, like the GRU's, has the same effect. This
    concerns one compiler's speed only, never the result.
    """
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    u = jax.eval_shape(cell.drive, params, x)
    program = jax.make_jaxpr(cell.step)(params, state, u).jaxpr
    count = len(jax.tree.leaves(u))
    if count != 1:
        return count > 1
    sums = [program.invars[-1]]  # the drive, and what is added to it
    for equation in program.eqns:
        if any(given is summed for given in equation.invars for summed in sums):
            name = equation.primitive.name
            if name in ("slice", "split"):
                return True
            if name == "add":
                sums += equation.outvars
    return False
