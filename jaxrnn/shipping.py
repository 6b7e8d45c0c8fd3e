"""Programs as files: a network that runs where JAX is installed, and jaxrnn is not.

`jax.export` writes what a jitted function computes as a portable program (StableHLO).
Here the function takes and returns plain arrays, because a tree such as `LSTMState` can
be read only where its class is defined. The order of the arrays is

    step      (*params, *state, x, mask, reset) -> (*state, *y)
    unroll    (*params, *state, xs, mask, reset) -> (*state, *ys)

where `*` stands for `jax.tree.leaves`. Parameters, mask and reset are there only if
they were asked for. The number of sequences B, and of steps T, is left open.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import Exported, export, symbolic_shape
from jaxtyping import PyTree

from jaxrnn import arguments, checks, unrolling
from jaxrnn.arguments import Given, describe
from jaxrnn.cells.base import Cell
from jaxrnn.layers.base import Layer

PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN_PLATFORMS = (*PLATFORMS, "rocm")


def export_step(
    model: Cell | Layer,
    params: PyTree,
    input_size: int | None,
    *,
    mask: bool = False,
    reset: bool = False,
    frozen: bool = True,
    platforms: Sequence[str] = PLATFORMS,
) -> Exported:
    """Returns one step of a network as a program that JAX alone can load.

    `serialize()` of the result gives the bytes of a file. The program takes arrays and
    returns a tuple of arrays, `(*state, x) -> (*state, y)`:

        step = jax.jit(jax.export.deserialize(Path("step.bin").read_bytes()).call)
        *state, y = step(*state, x)

    The state before the first step is zeros `[B, …]` of the shapes in
    `program.in_avals`, unless the layer learns it (`layers.recurrent`). With `reset`
    the program makes it by itself, whatever state it is given.

    Args:
      model: a `Cell`, or a `jaxrnn.layers.Layer` that has a `step`.
      params: its parameters.
      input_size: I, the size of `x [B, I]`, in the dtype of the parameters. None: `x`
        are ids, int32 `[B]`.
      mask: whether the program takes a mask too, bool `[B]`: False where there is no
        input, so that the state is copied.
      reset: whether it takes a reset, bool `[B]`, after the mask, if any: True where
        the step starts from the initial state.
      frozen: whether the parameters are part of the program. If not, their leaves are
        the first arguments, and `params` may be shapes, as of `jax.eval_shape`.
      platforms: those that it shall run on, of "cpu", "cuda", "rocm" and "tpu".

    Raises:
      TypeError: if an argument is of another kind, or the layer has no step.
      ValueError: if a size or a platform does not fit.
    """
    return _exported("step", model, params, input_size, mask, reset, frozen, platforms)


def export_unroll(
    model: Cell | Layer,
    params: PyTree,
    input_size: int | None,
    *,
    mask: bool = False,
    reset: bool = False,
    frozen: bool = True,
    platforms: Sequence[str] = PLATFORMS,
) -> Exported:
    """Returns a run over whole sequences as a program that JAX alone can load.

    As `export_step`, with time as the first axis: `(*state, xs) -> (*state, ys)`, with
    `xs [T, B, I]` or ids `[T, B]`, and `mask` and `reset` `[T, B]`. T and B are
    symbolic: one program takes sequences of any length. A bidirectional layer can be
    exported too.
    """
    return _exported(
        "unroll", model, params, input_size, mask, reset, frozen, platforms
    )


def _exported(
    name: str,
    model: Given,
    params: Given,
    input_size: Given,
    mask: Given,
    reset: Given,
    frozen: Given,
    platforms: Given,
) -> Exported:
    run, initial_state = _functions(name, model)
    if arguments.flag("frozen", frozen):
        params = checks.numpy_arrays("params", params, f"jaxrnn.export_{name}")
    asked = {"mask": mask, "reset": reset}
    # The shapes of all arguments.
    axes = symbolic_shape({"step": "b", "unroll": "t, b"}[name])
    x = jax.ShapeDtypeStruct(axes, jnp.int32)
    if input_size is not None:
        size = checks.positive("input_size", input_size)
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(params)] or [jnp.float32]
        x = jax.ShapeDtypeStruct((*axes, size), jnp.result_type(*dtypes))
    options = {
        option: jax.ShapeDtypeStruct(axes, jnp.bool_)
        for option, wanted in asked.items()
        if arguments.flag(option, wanted)
    }
    state = jax.eval_shape(partial(initial_state, batch_shape=axes[-1:]), params)
    given = (None if frozen else params), state, x, options

    def program(*arrays: Array) -> tuple[Array, ...]:
        given_params, state, x, options = jax.tree.unflatten(structure, arrays)
        held = params if frozen else given_params
        return tuple(jax.tree.leaves(run(held, state, x, **options)))

    program.__name__ = name  # what profilers show
    shapes, structure = jax.tree.flatten(given)
    return export(jax.jit(program), platforms=_known(platforms))(*shapes)


def _functions(name: str, model: Given) -> tuple[Callable[..., Any], ...]:
    """Returns a model's `step` or `unroll`, and its `initial_state`."""
    if isinstance(model, Layer):
        return getattr(model, name), model.initial_state
    if not isinstance(model, Cell):
        raise TypeError(
            "`model` must be a jaxrnn.Cell or a jaxrnn.layers.Layer, but got "
            f"{describe(model)}."
        )

    def initial_state(params: PyTree, batch_shape: Any) -> PyTree:
        return model.initial_state(checks.cell_and_params(model, params), batch_shape)

    return partial(getattr(unrolling, name), model), initial_state


def _known(platforms: Given) -> tuple[str, ...]:
    """Returns the names of platforms as a tuple; raises if there is another one."""
    listed = tuple(platforms) if isinstance(platforms, Sequence) else ()
    if isinstance(platforms, str) or not listed or {*listed} - {*KNOWN_PLATFORMS}:
        raise ValueError(
            f"`platforms` must be a tuple of {', '.join(KNOWN_PLATFORMS)}, but got "
            f"{platforms!r}. NVIDIA's GPUs are cuda, AMD's rocm."
        )
    return listed
