"""What the layers of all libraries need: activations by name, promotion of dtypes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Shaped

from jaxrnn.cells.activations import ACTIVATIONS
from jaxrnn.cells.base import Cell, Params, State
from jaxrnn.cells.lstm import LSTMParams, lstm
from jaxrnn.cells.lstm_variants import LSTMVariantParams, make_lstm
from jaxrnn.unrolling import unroll

# The functions by which users give these activations.
NAMES: dict[Callable[..., Any], str] = {
    **{activation.value: name for name, activation in ACTIVATIONS.items()},
    jax.lax.tanh: "tanh",
    jax.lax.logistic: "logistic",
    jax.nn.identity: "identity",
}


def activation_name(argument: str, function: Callable[..., Any]) -> str:
    """Returns our name of an activation that was given as a function of JAX.

    Raises:
      ValueError: if no cell has it.
    """
    if function not in NAMES:
        raise ValueError(
            f"`{argument}` must be the function of `jax.nn` or `jax.numpy` for one of "
            f"{', '.join(ACTIVATIONS)}, but got {function!r}. Keep this layer in its "
            "own library, or write the cell with `jaxrnn.cell_from_step`."
        )
    return NAMES[function]


def lstm_of(
    activation: str,
    gate_activation: str,
    w_ih: Float[Array, "I G"],
    w_hh: Float[Array, "H G"],
    b: Float[Array, "G"],
) -> tuple[Cell, Params]:
    """Returns the LSTM with these activations, and its parameters; gates i f g o."""
    cell = make_lstm(activation=activation, gate_activation=gate_activation)
    params = LSTMParams(w_ih, w_hh, b)
    if cell == lstm:
        return cell, params
    return cell, LSTMVariantParams(*params, peepholes=None, w_hr=None)


def run(
    cell: Cell,
    params: Params,
    state: State,
    xs: Shaped[Array, "T *B I"],
    *,
    dtype: DTypeLike | None = None,
    mask: Bool[Array, "T *B"] | None = None,
    reset: Bool[Array, "T *B"] | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
) -> tuple[State, Float[Array, "T *B H"]]:
    """Runs `unroll` with the promotion of dtypes that the other libraries have.

    Products are computed in `dtype`; None: in the dtype to which inputs and parameters
    promote. States and elementwise work are at least as wide as the initial state.
    Integers are numbers here, never ids.

    Args:
      cell: as in `unroll`.
      params: of any floating dtypes.
      state: leaves `[*B, H]`, of any floating dtype.
      xs: `[T, *B, I]`, of any real dtype.
      dtype: None or a floating dtype.
      mask: as in `unroll`, and so are `reset`, `reset_state` and `reverse`.
      reset: `[T, *B]`.
      reset_state: leaves `[*B, H]`, of any floating dtype.
      reverse: whether to run from the last step to the first.
    """
    if dtype is None:
        dtype = jnp.result_type(xs, *jax.tree.leaves(params))
    multiplied = jax.dtypes.canonicalize_dtype(dtype)
    if not jnp.issubdtype(multiplied, jnp.floating):
        multiplied = jnp.promote_types(multiplied, jnp.float32)
    kept = jnp.promote_types(multiplied, jnp.result_type(*jax.tree.leaves(state)))

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(a, kept), tree)

    return unroll(
        cell,
        cast(params),
        cast(state),
        cast(xs),
        mask=mask,
        reset=reset,
        reset_state=cast(reset_state),
        reverse=reverse,
        compute_dtype=None if multiplied == kept else multiplied,
    )
