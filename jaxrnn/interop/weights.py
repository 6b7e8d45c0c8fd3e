"""One cell's weights between our parameters and another library's layout."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxrnn import arguments
from jaxrnn.cells.base import Cell, Shape
from jaxrnn.cells.elman import ElmanParams, make_elman
from jaxrnn.cells.gru import GRUParams
from jaxrnn.cells.gru_variants import ResetBeforeGRUParams, make_gru
from jaxrnn.cells.lstm import LSTMParams, lstm
from jaxrnn.cells.lstm_variants import LSTMVariantParams, make_lstm
from jaxrnn.interop.biases import TwoBiases, one_bias
from jaxrnn.interop.layouts import (
    ACTIVATIONS,
    LAYOUTS,
    Kind,
    Layout,
    Library,
    permuted,
)

NAMES: dict[Library, str] = {
    "torch": "PyTorch",
    "linen": "Flax Linen",
    "nnx": "Flax NNX",
    "equinox": "Equinox",
    "keras": "Keras",
    "haiku": "Haiku",
    "onnx": "ONNX",
}
"""The libraries, as messages call them."""

GATES: dict[Kind, str] = {
    "elman": ElmanParams.gates.order,
    "lstm": LSTMParams.gates.order,
    "gru": GRUParams.gates.order,
    "gru_before": ResetBeforeGRUParams.gates.order,
}
"""Our order of the gates."""


CELLS: dict[Kind, str] = {
    "elman": "an Elman cell",
    "lstm": "an LSTM",
    "gru": "a GRU that resets after the product (jaxrnn.gru)",
    "gru_before": "a GRU that resets before it (jaxrnn.make_gru(reset_after=False))",
}
"""The kinds of cells, as messages call them."""


class Weights(NamedTuple):
    """One cell's weights in one library's layout; None where a cell has none.

    `w_ih` is `[I, G]` and `w_hh [H, G]`, or transposed (`Layout.gates_first`). `b_ih`
    and `b_hh` have a block for each gate of `Layout.b_ih` and `b_hh`. `w_hr [H, P]`, or
    transposed, is the projection; `w_hh` is `[P, G]` then.
    """

    w_ih: Any
    w_hh: Any
    b_ih: Any = None
    b_hh: Any = None
    w_hr: Any = None


def cell_of(
    kind: Kind,
    *,
    projection: int | None = None,
    activation: str = "tanh",
    gate_activation: str = "logistic",
) -> Cell:
    """Returns our cell of a kind, with the options of `make_lstm` and `make_gru`.

    An Elman cell has an activation alone, an LSTM alone a projection.
    """
    if kind == "elman":
        return make_elman(activation)
    if kind == "lstm":
        return make_lstm(
            projection=projection,
            activation=activation,
            gate_activation=gate_activation,
        )
    return make_gru(
        reset_after=kind == "gru",
        activation=activation,
        gate_activation=gate_activation,
    )


def activation_of(source: Any, attribute: str, given: str | None, default: str) -> str:
    """Returns our name of the activation of another library's cell.

    That is `given`, or else the name of the function `source.attribute`, or else
    `default`.

    Raises:
      ValueError: if we have no such activation.
    """
    function = getattr(source, attribute, None)
    if given is not None or function is None:
        return given or default
    name = getattr(function, "__name__", str(function))
    if name not in ACTIVATIONS:
        raise ValueError(
            f"`{attribute}` of `source` must be one of {', '.join(ACTIVATIONS)}, but "
            f"got {name}. Give `activation` or `gate_activation`, one of "
            "jaxrnn.cells.activations."
        )
    return ACTIVATIONS[name]


def kind_of(params: Any) -> Kind:
    """Returns the kind of cell that parameters belong to.

    Raises:
      TypeError: if no other library has such a cell.
    """
    if isinstance(params, TwoBiases):
        return kind_of(params.cell)
    if isinstance(params, LSTMVariantParams) and params.peepholes is None:
        return "lstm"
    kinds: dict[type, Kind] = {
        ElmanParams: "elman",
        LSTMParams: "lstm",
        GRUParams: "gru",
        ResetBeforeGRUParams: "gru_before",
    }
    if type(params) not in kinds:
        raise TypeError(
            "`params` must be parameters of an Elman cell, an LSTM without peepholes "
            f"or a GRU, but got {arguments.describe(params)}. Other libraries have no "
            "such cell."
        )
    return kinds[type(params)]


def kind_from(
    w_ih: Shape, w_hh: Shape, library: Library, reset_after: bool = True
) -> tuple[Kind, int, int]:
    """Returns the kind of a cell, I and H, from the shapes of its matrices `[I, G]`.

    Where the shapes do not fit, these are of a cell that comes near, so that the check
    of its names and shapes fails.
    """
    first = any(layout.gates_first for layout in LAYOUTS[library].values())
    w_ih, w_hh = ((*w, 0, 0)[:2][:: -1 if first else 1] for w in (w_ih, w_hh))
    # H is the smaller side, so that a matrix that was transposed is noticed.
    hidden = min(w_hh)
    gates = max(w_hh) // hidden if hidden else 1
    kinds: dict[int, Kind] = {4: "lstm", 3: "gru" if reset_after else "gru_before"}
    return kinds.get(gates, "elman"), w_ih[0], hidden


def layout_of(kind: Kind, library: Library) -> Layout:
    """Returns a library's layout of a kind of cell.

    Raises:
      ValueError: if the library has no such cell.
    """
    layouts = LAYOUTS[library]
    if kind not in layouts:
        raise ValueError(
            f"`params` must be of a cell that {NAMES[library]} has "
            f"({', '.join(layouts)}), but got those of {CELLS[kind]}."
        )
    return layouts[kind]


def shapes_of(
    kind: Kind,
    library: Library,
    inputs: int,
    hidden: int,
    projection: int | None = None,
    bias: bool = True,
) -> Weights:
    """Returns the shapes of the weights in a library's layout, in their places."""
    layout = layout_of(kind, library)
    width = len(layout.order) * hidden

    def matrix(rows: int, columns: int) -> Shape:
        return (columns, rows) if layout.gates_first else (rows, columns)

    return Weights(
        matrix(inputs, width),
        matrix(projection or hidden, width),
        (len(layout.b_ih) * hidden,) if bias and layout.b_ih else None,
        (len(layout.b_hh) * hidden,) if bias and layout.b_hh else None,
        matrix(hidden, projection) if projection else None,
    )


def params_of(
    weights: Weights, kind: Kind, cell: Cell, library: Library, two_biases: bool = False
) -> Any:
    """Returns our parameters of `cell`, as new arrays `[...]`.

    The weights must have the shapes of `shapes_of`. Where they have no bias it is zero.

    Args:
      weights: in the library's layout.
      kind: the kind of cell.
      cell: `cell_of(kind, …)`.
      library: its name.
      two_biases: whether two biases of one gate stay apart, in a `TwoBiases`.

    Raises:
      ValueError: if they shall stay apart, but the library has one.
    """
    layout, gates = layout_of(kind, library), GATES[kind]
    w_ih, w_hh = (_our_matrix(w, layout, gates) for w in (weights.w_ih, weights.w_hh))

    # The biases, gate by gate. In a GRU that of n stays apart, behind the reset gate.
    zero = jnp.zeros(w_ih.shape[-1] // len(gates), w_ih.dtype)
    first = _blocks(weights.b_ih, layout.b_ih, layout)
    second = _blocks(weights.b_hh, layout.b_hh, layout)
    b_hn = second.pop("n", zero) if kind == "gru" else zero
    b = jnp.concatenate([first.get(g, zero) + (g in layout.plus_one) for g in gates])

    if kind == "elman":
        made = ElmanParams(w_ih, w_hh, b)
    elif kind == "gru":
        made = GRUParams(w_ih, w_hh, b, b_hn)
    elif kind == "gru_before":
        w_rz, w_n = jnp.split(w_hh, [2 * zero.size], axis=-1)
        made = ResetBeforeGRUParams(w_ih, w_rz, w_n, b)
    elif cell == lstm:
        made = LSTMParams(w_ih, w_hh, b)
    else:
        w_hr = None if weights.w_hr is None else jnp.array(weights.w_hr)
        w_hr = w_hr.T if w_hr is not None and layout.gates_first else w_hr
        made = LSTMVariantParams(w_ih, w_hh, b, None, w_hr)

    if two_biases and not (first and second):
        raise ValueError(
            "`two_biases` must be False here: these weights have one bias for each "
            "gate."
        )
    if not second:
        return made
    two = TwoBiases(made, jnp.concatenate([second[g] for g in gates if g in second]))
    return two if two_biases else one_bias(two)


def weights_of(
    params: Any, library: Library, *, bias: bool = True, allow_lossy: bool = False
) -> Weights:
    """Returns a cell's weights `[...]` in a library's layout.

    Args:
      params: a cell's parameters, or a `TwoBiases` of them.
      library: its name.
      bias: whether the library's cell has biases.
      allow_lossy: whether a bias that the library's cell cannot hold is dropped.

    Raises:
      TypeError, ValueError: if the library has no such cell, or cannot hold a bias that
        is not zero.
    """
    kind = kind_of(params)
    layout, gates = layout_of(kind, library), GATES[kind]
    cell, extra = _without_second(params)
    zero = jnp.zeros(_hidden_size(kind, cell), cell.b.dtype)
    w_hr = getattr(cell, "w_hr", None)
    if w_hr is not None and not layout.projects:
        raise ValueError(
            f"`params` must have no projection `w_hr`: {NAMES[library]} has none."
        )

    # The biases, gate by gate.
    first = _split(cell.b, gates)
    second = {} if extra is None else _split(extra, gates[: extra.size // zero.size])
    if any(g not in layout.b_ih or g not in layout.b_hh for g in second):
        raise ValueError(
            f"`params` must have one bias, as {NAMES[library]} has here. Add them up: "
            "jaxrnn.interop.one_bias(params)."
        )
    lost = {} if bias else {"b": cell.b, "b_hh": extra}
    if kind == "gru":
        second["n"] = cell.b_hn
        if not bias or "n" not in layout.b_hh:
            lost["b_hn"] = cell.b_hn
    for name, values in lost.items():
        if not (allow_lossy or values is None or _is_zero(values)):
            raise ValueError(
                f"`{name}` must be zero: {NAMES[library]}'s cell has no such bias. "
                "`allow_lossy=True` drops it, which changes the outputs."
            )
    shifted = {g: first[g] - (g in layout.plus_one) for g in gates}
    beside_state = {
        g: second.get(g, zero) if g in layout.b_ih else shifted[g] for g in layout.b_hh
    }

    w_hh = cell.w_hh if kind != "gru_before" else jnp.hstack([cell.w_rz, cell.w_n])
    return Weights(
        _their_matrix(cell.w_ih, layout, gates),
        _their_matrix(w_hh, layout, gates),
        _bias(shifted, layout.b_ih, layout) if bias and layout.b_ih else None,
        _bias(beside_state, layout.b_hh, layout) if bias and layout.b_hh else None,
        None if w_hr is None else jnp.asarray(w_hr).T,
    )


def _without_second(params: Any) -> tuple[Any, Any]:
    """Returns the parameters of a cell, and its second bias or None."""
    if isinstance(params, TwoBiases):
        return _without_second(params.cell)[0], params.b_hh
    if isinstance(params, LSTMVariantParams) and params.w_hr is None:
        # An LSTM with other activations, which are not in its parameters.
        return LSTMParams(params.w_ih, params.w_hh, params.b), None
    return params, None


def _hidden_size(kind: Kind, params: Any) -> int:
    """Returns H; raises unless the shapes of our parameters fit one another."""
    projection = getattr(params, "w_hr", None)
    size = None if projection is None else np.shape(projection)[-1]
    state = cell_of(kind, projection=size).initial_state(params, ())
    return (state.c if kind == "lstm" else state.h).size


def _our_matrix(matrix: Any, layout: Layout, gates: str) -> Array:
    """Returns a new array `[I, G]`: our axes, order and sign."""
    ours = jnp.array(matrix).T if layout.gates_first else jnp.array(matrix)
    return permuted(_signed(ours, layout.order, layout), layout.order, gates)


def _their_matrix(matrix: Any, layout: Layout, gates: str) -> Array:
    """Returns our matrix `[I, G]` with a library's axes, order and sign."""
    signed = _signed(jnp.asarray(matrix), gates, layout)
    theirs = permuted(signed, gates, layout.order)
    return theirs.T if layout.gates_first else theirs


def _signed(array: Array, order: str, layout: Layout) -> Array:
    """Returns a library's blocks in our sign, or ours in its own."""
    if not layout.negated:
        return array
    signs = [-1.0 if gate in layout.negated else 1.0 for gate in order]
    size = array.shape[-1] // len(order)
    return array * jnp.repeat(jnp.asarray(signs, array.dtype), size)


def _split(bias: Array, gates: str) -> dict[str, Array]:
    return dict(zip(gates, jnp.split(bias, len(gates)), strict=True))


def _blocks(bias: Any, order: str, layout: Layout) -> dict[str, Array]:
    """Returns a library's bias by gate, in our sign; nothing if there is none."""
    if bias is None:
        return {}
    return _split(_signed(jnp.array(bias), order, layout), order)


def _bias(blocks: dict[str, Array], order: str, layout: Layout) -> Array:
    """Returns our blocks as a library's bias, in its sign."""
    return _signed(jnp.concatenate([blocks[g] for g in order]), order, layout)


def _is_zero(values: Array) -> bool:
    return not isinstance(values, Tracer) and not np.any(np.asarray(values))
