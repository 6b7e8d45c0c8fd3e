"""Hidden-sharded cells: the units of one recurrence lie on several devices.

A network whose weights do not fit one device, or take too long to read there at every
step, is split by units: of n devices along a mesh axis, each holds H/n units, their
states, residuals and adjoints, and the columns of every matrix that lead to them. Units
meet in one product alone, h W_hh, so with W_d the columns of device d and δ_d its share
of δ, the recursion and its adjoint are

    z_d[t] = h[t-1] W_d + u_d[t] + b_d,    h[t-1] = all h_d[t-1], gathered           (1)
    (Jᵀλ)_d = units of d in Σ_e δ_e W_eᵀ,  summed and scattered, + what is local     (2)
    dW_d   = Σ h[t-1]ᵀ δ_d[t],             all h of a chunk, gathered at once        (3)
    dx[t]  = Σ_e δ_e[t] W_ih,eᵀ            summed once, for the whole sequence       (4)

So a step takes one collective each way, of B·H numbers, and no weight is ever moved.
Everything else is the engine's, which runs on each device as on a single one
(`shard_map`); with `batch_axis` the batch is split too, over a second mesh axis, and
the gradients of the weights are added up over it once, at the end.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.export import register_namedtuple_serialization
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.arguments import Given
from jaxrnn.cells.base import (
    FUNCTIONS,
    Adjoint,
    Cell,
    Drives,
    Lin,
    Params,
    Residuals,
    Shape,
    State,
)
from jaxrnn.methods import methods_of, options_of
from jaxrnn.ops import placement
from jaxrnn.ops.products import SplitColumns, SplitRows


class ShardedParams(NamedTuple):
    """The parameters of a hidden-sharded cell, cut into the blocks of their gates.

    `blocks` has the type of the cell's own parameters, such as `LSTMParams`, but each
    field is a tuple of blocks, `[I, H]`, `[H, H]` or `[H]`, one for each gate. Each is
    split over the devices by its last axis, so nothing here depends on their number.
    """

    blocks: Any

    @property
    def w_ih(self) -> Any:
        """The blocks `[I, H]` of the input weights, which ids can select rows of."""
        return self.blocks.w_ih


def hidden_sharded(
    cell: Cell, mesh: Mesh, axis: str, *, batch_axis: str | None = None
) -> Cell:
    """Returns the same cell, its H units split over the devices of a mesh axis.

    `unroll`, `adjoints`, `step` and all that call them take it like any cell, inside
    `jit` and outside, with global arrays: inputs, masks and states as for the cell
    itself. Outputs and last states stay split, `[T, *B, H]` by the last axis. Results
    and gradients are those of one device; the order of sums differs.

    `init` draws the same numbers as the cell's, and `shard_params` splits parameters
    that exist. `unroll_autodiff`, and the cell's functions called by themselves, are
    right too, but leave the communication to the compiler. `unroll_parallel_adjoint`
    refuses the cell.

    Args:
      cell: a cell whose units meet in one matrix alone, which the class of its
        parameters declares: `Gates.meet`. These are the Elman, leaky and LSTM cells
        (peepholes and coupled gates included, projections not), the GRU with the reset
        gate after the product, and the sLSTM.
      mesh: a mesh with automatic axes.
      axis: the name of the mesh axis over which units are split. H must be a multiple
        of its size.
      batch_axis: the mesh axis over which the first batch axis is split; None: every
        device has all sequences. B must be a multiple of its size.

    Returns:
      A `Cell` with `ShardedParams`, and states like the cell's.

    Raises:
      TypeError: if `cell` is not a Cell or `mesh` not a Mesh.
      ValueError: if the cell cannot be split, or the mesh has no such axis.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            f"`cell` must be a jaxrnn.Cell, but got {arguments.describe(cell)}."
        )
    _check_mesh(mesh, {"axis": axis, "batch_axis": batch_axis})
    if reason := _why_not(cell):
        raise ValueError(
            f"`cell` must be one whose units meet in one matrix alone, but {reason}. "
            "jaxrnn.elman, lstm and gru can be split."
        )
    return Sharded(cell, mesh, axis, batch_axis).cell_for(None)


def shard_params(cell: Cell, params: Params) -> ShardedParams:
    """Returns the parameters of one device, cut and placed for a hidden-sharded cell.

    Args:
      cell: what `hidden_sharded` returned.
      params: those of the cell that it was made of, `w_hh [H, G]` and the others.

    Raises:
      TypeError: if `cell` is not hidden-sharded.
      ValueError: if H is not a multiple of the number of devices.
    """
    sharded = sharding_of(cell)
    if sharded is None:
        raise TypeError("`cell` must be what `jaxrnn.sharding.hidden_sharded` returns.")
    blocks = _cut(params)
    sharded.check_units(_units_of(blocks))
    return sharded.placed(blocks)


def whole_params(params: ShardedParams) -> Any:
    """Returns the parameters of the cell itself, `w_hh [H, G]` and the others.

    They fit any number of devices, so save these.
    """
    return _joined(params, axis=-1)


class Sharded(NamedTuple):
    """How a hidden-sharded cell lies on a mesh: its `init` and `initial_state`."""

    cell: Cell
    mesh: Mesh
    axis: str
    batch_axis: str | None

    def cell_for(self, axis: str | None) -> Cell:
        """Returns the cell for whole arrays (None), or for those of one device."""
        first, rest = FUNCTIONS[:2], FUNCTIONS[2:]
        functions = methods_of(_Functions(self.cell, axis), rest)
        return Cell._make((*methods_of(self, first), *functions, None))

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ) -> ShardedParams:
        """Draws the cell's parameters. A size that does not fit is refused later."""
        blocks = _cut(self.cell.init(key, input_size, hidden_size, dtype))
        fits = _units_of(blocks) % self.mesh.shape[self.axis] == 0
        return self.placed(blocks) if fits else blocks

    def initial_state(self, params: ShardedParams, batch_shape: Shape) -> State:
        """Returns zeros, leaves `[*B, H]`."""
        if jax.tree.structure(params) != _structure(self.cell):
            raise ValueError(
                "`params` must be those of the cell that is sharded, but got blocks of "
                f"{type(params.blocks).__name__}. `shard_params` cuts a cell's own."
            )
        self.check_units(_units_of(params))

        def whole(params: ShardedParams) -> State:
            return self.cell.initial_state(whole_params(params), batch_shape)

        kinds = jax.eval_shape(whole, params)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), kinds)

    def check_units(self, units: int) -> None:
        """Raises `ValueError` unless all devices get equally many units."""
        count = self.mesh.shape[self.axis]
        if units % count:
            raise ValueError(
                f"the hidden size must be a multiple of the {count} devices of the "
                f"mesh axis {self.axis!r}, but got H = {units}. Choose "
                f"{-(-units // count) * count}, say."
            )

    def check_batch(self, batch_shape: Shape) -> None:
        """Raises `ValueError` unless all devices get equally many sequences of *B."""
        if self.batch_axis is None:
            return
        count = self.mesh.shape[self.batch_axis]
        if not batch_shape or batch_shape[0] % count:
            raise ValueError(
                f"the first batch axis must be a multiple of the {count} devices of "
                f"the mesh axis {self.batch_axis!r}, but *B is {tuple(batch_shape)}. "
                "Leave batch_axis out, or choose another B."
            )

    def placed(self, params: ShardedParams) -> ShardedParams:
        """Returns the blocks `[..., H]`, each split over the axis by its columns."""

        def place(p: Array) -> Array:
            sharding = NamedSharding(self.mesh, self.spec(p.ndim))
            if isinstance(p, Tracer):  # `vmap` gives a constraint its axis
                return jax.lax.with_sharding_constraint(p, sharding)
            return jax.device_put(p, sharding)

        return jax.tree.map(place, params)

    def spec(self, axes: int, batch: int = -1, hidden: bool = True) -> P:
        """Returns how an array of this many axes is split.

        `batch` is the axis of its sequences, -1 for none; `hidden`: whether the last
        axis is that of units.
        """
        names: list[str | None] = [None] * axes
        if batch >= 0:
            names[batch] = self.batch_axis
        if hidden:
            names[-1] = self.axis
        return P(*names)

    def per_device(
        self, program: Callable[[Cell, Any], Any], inputs: Any, specs: Any, results: Any
    ) -> Any:
        """Returns `program(cell, inputs)`, run on each device with its own units.

        The trees `specs` and `results` say how inputs and results are split; the cell
        is one for arrays of a single device.
        """
        run = jax.shard_map(
            partial(program, self.cell_for(self.axis)),
            mesh=self.mesh,
            in_specs=(specs,),
            out_specs=results,
        )
        return run(inputs)


def sharding_of(cell: Cell) -> Sharded | None:
    """Returns how the cell is sharded; None if it is not."""
    options = options_of(cell.init)
    return options if isinstance(options, Sharded) else None


def _cut(params: Params) -> ShardedParams:
    """Returns parameters `[..., G]` cut into blocks `[..., H]`, one for each gate."""
    units = getattr(params, type(params).gates.meet).shape[0]

    def blocks(p: Array) -> tuple[Array, ...]:
        return tuple(jnp.split(p, p.shape[-1] // units, axis=-1))

    return ShardedParams(jax.tree.map(blocks, params))


def _units_of(params: ShardedParams) -> int:
    """Returns H, from the blocks `[H, H]` of the recurrent matrix."""
    matrix, *_ = getattr(params.blocks, type(params.blocks).gates.meet)
    return matrix.shape[0]


def _joined(params: ShardedParams, axis: int) -> Any:
    """Returns the cell's own parameters: all blocks of a gate, side by side."""
    fields = (
        None if blocks is None else jnp.concatenate(blocks, axis)
        for blocks in params.blocks
    )
    return type(params.blocks)(*fields)


class _Functions(NamedTuple):
    """The functions of a cell, with blocks for parameters.

    With an `axis` they run on a device, on its own units, and communicate: (1) to (3).
    """

    cell: Cell
    axis: str | None

    def drive(self, params: ShardedParams, xs: Array) -> Drives:
        return self._call("drive", _joined(params, -1), xs)

    def step(
        self, params: ShardedParams, state: State, u: Drives
    ) -> tuple[State, Residuals]:
        own = _joined(params, -1)
        if self.axis is not None:
            blocks = getattr(params.blocks, self._meet(params))
            own = self._with(params, own, SplitColumns(blocks, self.axis))  # (1)
        return self._call("step", own, state, u)

    def linearize(
        self, params: ShardedParams, state_prev: State, state: State, res: Residuals
    ) -> Lin:
        return self._call("linearize", _joined(params, -1), state_prev, state, res)

    def state_vjp(self, params_t: ShardedParams, lin: Lin, adjoint: Adjoint) -> Adjoint:
        own = _joined(params_t, 0)
        if self.axis is not None:
            blocks = getattr(params_t.blocks, self._meet(params_t))
            own = self._with(params_t, own, SplitRows(blocks, self.axis))  # (2)
        return self._call("state_vjp", own, lin, adjoint)

    def param_vjp(
        self,
        params_t: ShardedParams,
        xs: Array,
        states_prev: State,
        lin: Lin,
        adjoints: Adjoint,
    ) -> tuple[ShardedParams, Any]:
        own = _joined(params_t, 0)
        counts = jax.tree.map(len, params_t.blocks, is_leaf=_is_blocks)
        if self.axis is not None:
            dtype = getattr(own, self._meet(params_t)).dtype
            h = placement.gathered(states_prev.h.astype(dtype), self.axis)
            states_prev = states_prev._replace(h=h)  # (3)
        dparams, dxs = self._call("param_vjp", own, xs, states_prev, lin, adjoints)
        blocks = jax.tree.map(
            lambda d, n: tuple(jnp.split(d, n, axis=-1)), dparams, counts
        )
        return ShardedParams(blocks), dxs

    def _meet(self, params: ShardedParams) -> str:
        return type(params.blocks).gates.meet

    def _with(self, params: ShardedParams, own: Any, matrix: Any) -> Any:
        """Returns the cell's own parameters, with another recurrent matrix."""
        return own._replace(**{self._meet(params): matrix})

    def _call(self, name: str, *given: Any) -> Any:
        """Calls a function of the cell; its errors become one about splitting."""
        function = getattr(self.cell, name)
        if self.axis is None:
            return function(*given)
        try:
            return function(*given)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the cell cannot be split by units, because its `{name}` joins them "
                "elsewhere too. They may meet only in jaxrnn.ops.matmul by the "
                "declared matrix."
            ) from error


def _is_blocks(a: Any) -> bool:
    return isinstance(a, tuple) and not hasattr(a, "_fields")


def _check_mesh(mesh: Given, axes: dict[str, Given]) -> None:
    """Raises unless the mesh has these axes, all of them automatic."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"`mesh` must be a jax.sharding.Mesh, but got {arguments.describe(mesh)}."
        )
    known = ", ".join(map(repr, mesh.axis_names))
    for name, axis in axes.items():
        if axis is None and name == "batch_axis":
            continue
        if axis not in mesh.axis_names:
            raise ValueError(
                f"`{name}` must be an axis of the mesh, {known}, but got {axis!r}."
            )
    if axes["axis"] == axes["batch_axis"]:
        raise ValueError(
            "`axis` and `batch_axis` must differ, but both are "
            f"{axes['axis']!r}. The mesh has {known}."
        )
    if set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(
            "`mesh` must have automatic axes, but they are "
            f"{', '.join(kind.name for kind in mesh.axis_types)}. Make it by "
            "jax.sharding.Mesh(devices, names), whose axes are."
        )


UNITS = 6  # of an example: even, as the LRU needs it, and unlike its other sizes


@cache
def _example(cell: Cell) -> Any:
    """Returns the shapes of small parameters of the cell."""
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), 1, UNITS))


@cache
def _structure(cell: Cell) -> Any:
    """Returns the structure of the cell's parameters, cut."""
    return jax.tree.structure(jax.eval_shape(_cut, _example(cell)))


def _why_not(cell: Cell) -> str:
    """Returns why a cell cannot be split by units; "" if it can."""
    params = _example(cell)
    kind, gates = type(params).__name__, getattr(type(params), "gates", None)
    meet = getattr(gates, "meet", None)
    if meet is None:
        return f"{kind} declares none: Gates(…, meet=…)"
    matrices = {name for name, p in params._asdict().items() if np.ndim(p) == 2}
    if others := sorted(matrices - {"w_ih", meet}):
        return f"{kind} has {', '.join(others)} too"
    try:
        state = jax.eval_shape(lambda p: cell.initial_state(p, ()), params)
    except ValueError as error:  # it is made for another number of units
        return f"it has constants of its own: {error}"
    if any(s.shape != (UNITS,) for s in jax.tree.leaves(state)):
        return "its state is not one number for each unit"
    return ""


register_namedtuple_serialization(
    ShardedParams, serialized_name="jaxrnn.sharding.ShardedParams"
)
