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
from jaxrnn.ops.ids import are_ids, leading_shape

Store = Literal["states", "residuals", "boundaries"]

# K steps are linearized at once. With few rows (K·B) the products outside the loops
# lose efficiency, so the drive of a chunk should have CHUNK_FLOATS. With many rows
# their results outgrow the cache. A chunk's working set, about 5 floats for each float
# of the drive, is all the memory beside the states, so no chunk has more than its SHARE
# of the sequence.
CHUNK_FLOATS, LEAST_ROWS, ROWS, SHARE = 2**19, 64, 512, 5

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
        store = store or "states"
        chunk = chunk_alone = size
    else:
        width = params.w_ih.shape[0] if are_ids(xs) else xs.shape[-1]  # I
        few = size * rows <= width + state.h.shape[-1]
        store = store or ("residuals" if few else "states")
        if chunk is None:
            us = jax.tree.leaves(jax.eval_shape(cell.drive, params, xs))
            units = state.h.shape[-1]
            chunk, chunk_alone = _choose_chunks(size, max(1, rows), us, units, store)
        else:
            chunk = chunk_alone = max(1, min(checks.positive("chunk", chunk), size))
    compute_dtype = None if compute_dtype is None else checks.floating(compute_dtype)
    ahead = _slices_its_drive(cell, params, state, xs)
    return Plan(chunk, chunk_alone, store, compute_dtype, ahead, adjoints)


def _choose_chunks(size, rows, us: list[Drives], hidden, store) -> tuple[int, int]:
    """Returns K with and without a backward pass, for B = `rows`, us `[T, *B, G]`."""
    width = sum(u.shape[-1] for u in us)  # G
    full = max(ROWS, CHUNK_FLOATS // width)
    if store == "boundaries":
        # 2 T/K states, and 20 K floats for each row and unit of an LSTM: the sum is
        # least at K = √(T/10).
        steps = min(size**0.5, max(4, (size / 10) ** 0.5, LEAST_ROWS / rows))
    elif store == "residuals":  # speed before memory
        steps = full / rows
    else:
        share = size * rows * hidden // (SHARE * width)
        steps = max(LEAST_ROWS, min(full, share)) / rows
    total = sum(u.size * u.dtype.itemsize for u in us)
    alone = size if total <= DRIVE_BYTES else chunks.chunk_length(size, ROWS // rows)
    return chunks.chunk_length(size, int(steps)), max(1, alone)


def _slices_its_drive(cell: Cell, params: Params, state: State, xs: Array) -> bool:
    """Returns whether a step cuts its drive into gates before adding anything to it.

    XLA:CPU fuses the read of the drive with such slices, and does not vectorize the
    loop. This concerns one compiler's speed only, never the result.
    """
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    u = jax.eval_shape(cell.drive, params, x)
    program = jax.make_jaxpr(cell.step)(params, state, u).jaxpr
    drives = program.invars[-len(jax.tree.leaves(u)) :] if jax.tree.leaves(u) else []
    return any(
        equation.primitive.name in ("slice", "split")
        and any(given is drive for given in equation.invars for drive in drives)
        for equation in program.eqns
    )
