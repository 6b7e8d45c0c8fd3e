"""Placement of arrays on a mesh, for scans and hand-written backward passes.

On one device, and under `jit` with automatic sharding, nothing here does anything. It
matters inside `shard_map`, where an array either varies over a mesh axis or does not,
and on meshes with explicit axes, where every array's type says how it is sharded: a
scan requires a carry of one type throughout, and a backward pass must give a cotangent
the type of its primal.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def varying_alike(tree: PyTree) -> Any:
    """Returns every leaf lifted to all manual mesh axes over which any of them varies.

    Where a leaf did not vary, the transpose of this cast sums its cotangent over those
    axes. So the gradient of replicated parameters is summed without a collective in
    our code.
    """
    union = frozenset().union(*map(_varying, jax.tree.leaves(tree)))

    def lifted(a: Any) -> Any:
        missing = tuple(sorted(union - _varying(a)))
        return varying(a, missing) if missing else a

    return jax.tree.map(lifted, tree)


def varying(a: Any, axes: tuple[str, ...]) -> Array:
    """Returns `a [...]`, cast to vary over manual mesh axes over which it did not."""
    # `pvary` up to JAX 0.8.1, deprecated for `pcast` since.
    if hasattr(lax, "pcast"):
        return lax.pcast(a, axes, to="varying")
    old: Any = lax
    return old.pvary(a, axes)


def gathered(a: Array, axis: str) -> Array:
    """Returns `a [..., K/n]` of all n devices of a manual mesh axis, `[..., K]`."""
    return lax.all_gather(_over(a, axis), axis, axis=a.ndim - 1, tiled=True)


def sum_scattered(a: Array, axis: str) -> Array:
    """Returns the sum of `a [..., K]` over n devices, on each its part `[..., K/n]`."""
    return lax.psum_scatter(
        _over(a, axis), axis, scatter_dimension=a.ndim - 1, tiled=True
    )


def _over(a: Array, axis: str) -> Array:
    """Returns `a`, cast to vary over a manual mesh axis if it does not."""
    return a if axis in _varying(a) else varying(a, (axis,))


def as_batch_of(xs: Array, axes: int, state: PyTree) -> Any:
    """Returns the state `[*B, H]`, sharded like the batch axes of `xs [T, *B, ...]`.

    There are `axes` of them.
    """
    if not is_explicit(xs):
        return state
    batch = tuple(jax.typeof(xs).sharding.spec)[1 : axes + 1]

    def placed(s: Array) -> Array:
        rest = (None,) * (s.ndim - len(batch))
        spec = PartitionSpec(*batch, *rest)
        return jax.sharding.reshard(
            s, NamedSharding(jax.typeof(xs).sharding.mesh, spec)
        )

    return jax.tree.map(placed, state)


def leading_alike(arrays: Sequence[Array], axes: int) -> list[Array]:
    """Returns arrays `[*N, ...]` whose *N, so many axes, are sharded alike.

    Where some are sharded over explicit axes and others are not, all of them are then.
    """
    if not any(map(is_explicit, arrays)):
        return list(arrays)
    shardings = [jax.typeof(a).sharding for a in arrays]
    mesh = next(s.mesh for s in shardings if AxisType.Explicit in s.mesh.axis_types)
    specs = [
        (*s.spec, *(None,) * a.ndim) for s, a in zip(shardings, arrays, strict=True)
    ]
    leading = [
        next((spec[n] for spec in specs if spec[n] is not None), None)
        for n in range(axes)
    ]

    def placed(a: Array, spec: tuple[Any, ...]) -> Array:
        wanted = PartitionSpec(*leading, *spec[axes : a.ndim])
        if wanted == PartitionSpec(*spec[: a.ndim]):
            return a
        return jax.sharding.reshard(a, NamedSharding(mesh, wanted))

    return [placed(a, spec) for a, spec in zip(arrays, specs, strict=True)]


def sharding_of_outer(a: Array, b: Array) -> NamedSharding | None:
    """Returns the sharding of Σ aᵀ b, `[K, M]`, for `a [*N, K]` and `b [*N, M]`.

    Each last axis keeps its sharding, and the sum over the leading axes is a sum over
    devices too. Returns None where the compiler chooses. On explicit axes the sharding
    must be given, because a sum over a sharded axis could also stay sharded.
    """
    if not (is_explicit(a) or is_explicit(b)):
        return None
    of_a, of_b = jax.typeof(a).sharding, jax.typeof(b).sharding
    mesh = of_a.mesh if is_explicit(a) else of_b.mesh
    return NamedSharding(mesh, PartitionSpec(of_a.spec[-1], of_b.spec[-1]))


def _varying(a: Any) -> frozenset[str]:
    kind: Any = jax.typeof(a)
    # `vma` up to JAX 0.9, a field of `manual_axis_type` since.
    return frozenset(
        kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
    )


def is_explicit(a: Array) -> bool:
    """Returns whether `a [...]` lies on a mesh with explicit axes."""
    return AxisType.Explicit in jax.typeof(a).sharding.mesh.axis_types
