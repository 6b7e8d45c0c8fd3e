"""How a sequence is run: how long its chunks are and what is stored, chosen from the shapes."""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxrnn import checks, chunks
from jaxrnn.cells.base import Cell

Store = Literal["states", "residuals", "boundaries"]

# The steps that are linearized at once, K. With few rows (K·B) the products outside the loops lose
# efficiency: the drive of a chunk should have as many floats. With many rows their results outgrow
# the cache, and the chunk's working set, about 5 floats for each float of the drive, is all the
# memory beside the states: so no chunk has more than its share of the sequence.
CHUNK_FLOATS, LEAST_ROWS, ROWS, SHARE = 2**19, 64, 512, 5

# Where nothing is stored for a backward pass, one chunk is fastest while the drive of all steps
# fits into the cache.
DRIVE_BYTES = 2**23


class Plan(NamedTuple):
    """How to run: all that is static, hashable. K is a symbolic dimension where T is one."""

    chunk: Any
    """K where a backward pass follows."""
    chunk_alone: Any
    """K of a forward pass that nothing follows."""
    store: Store
    truncate: int | None
    compute_dtype: Any
    adjoints: bool = False
    """Whether the backward pass gives every λ[t] too, as the cotangent of the probe."""


def make_plan(
    cell: Cell,
    params: Any,
    state: Any,
    xs: Float[Array, "T *B I"],
    chunk: int | None,
    store: Store | None,
    truncate: int | None,
    compute_dtype: DTypeLike | None,
) -> Plan:
    """The options of `unroll`, checked, and chosen from the shapes where they are None.

    Args:
      cell: its `drive` tells the width of a step's work, G.
      params: of the cell.
      state: leaves `[*B, H]`.
      xs: `[T, *B, I]`.
      chunk: as in `unroll`, and so are the others.
      store: None or one of `Store`.
      truncate: None or at least 1.
      compute_dtype: None or a floating dtype.

    Raises:
      TypeError, ValueError: as `unroll`.
    """
    if store is not None and store not in get_args(Store):
        raise ValueError(
            f"`store` must be None or one of {', '.join(get_args(Store))}, but got {store!r}."
        )
    size, rows = xs.shape[0], math.prod(xs.shape[1:-1])
    if not isinstance(size, int) or not isinstance(rows, int):
        if chunk is not None:
            raise ValueError(
                "`chunk` must be None where T or *B are symbolic: one chunk serves all."
            )
        store = store or "states"
        chunk = chunk_alone = size
    else:
        few = size * rows <= xs.shape[-1] + state.h.shape[-1]
        store = store or ("residuals" if few else "states")
        if chunk is None:
            drive = jax.tree.leaves(jax.eval_shape(cell.drive, params, xs))
            chunk, chunk_alone = _chunks(
                size, max(1, rows), drive, state.h.shape[-1], store
            )
        else:
            chunk = chunk_alone = max(1, min(checks.positive("chunk", chunk), size))
    truncate = None if truncate is None else checks.positive("truncate", truncate)
    compute_dtype = None if compute_dtype is None else checks.floating(compute_dtype)
    return Plan(chunk, chunk_alone, store, truncate, compute_dtype)


def _chunks(size, rows, drive, hidden, store):
    """K with a backward pass to follow, and alone, for B = `rows` and a drive `[T, *B, G]`."""
    width = sum(u.shape[-1] for u in drive)  # G
    full = max(ROWS, CHUNK_FLOATS // width)
    if store == "boundaries":
        # 2 T/K states, and 20 K floats for each row and unit of an LSTM: least at K = √(T/10).
        steps = min(size**0.5, max(4, (size / 10) ** 0.5, LEAST_ROWS / rows))
    elif store == "residuals":  # speed before memory
        steps = full / rows
    else:
        share = size * rows * hidden // (SHARE * width)
        steps = max(LEAST_ROWS, min(full, share)) / rows
    total = sum(u.size * u.dtype.itemsize for u in drive)
    alone = size if total <= DRIVE_BYTES else chunks.fit(size, ROWS // rows)
    return chunks.fit(size, int(steps)), max(1, alone)
