"""A cell as a layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.export import register_namedtuple_serialization
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from jaxrnn import arguments, checks, unrolling
from jaxrnn.cells.base import Cell, Shape, State
from jaxrnn.cells.exposed import exposed, pack, unpack
from jaxrnn.cells.noise import noise_of
from jaxrnn.layers.base import Layer, known_size, layer_of
from jaxrnn.ops import noise as masks
from jaxrnn.ops import products
from jaxrnn.ops.ids import are_ids, leading_shape, one_hot

Engine = Callable[..., tuple[Any, Any]]


class RecurrentParams(NamedTuple):
    """The cell's parameters, and its learned initial state, leaves `[H]`."""

    cell: Any
    initial_state: Any


class NoisyState(NamedTuple):
    """The cell's state, and the number of steps so far, `[*B]`.

    The steps are numbers of float32, so that a state can be differentiated.
    """

    cell: Any
    steps: Array


def recurrent(
    cell: Cell,
    hidden_size: int,
    *,
    engine: Engine = unrolling.unroll,
    learn_initial_state: bool = False,
    return_states: bool = False,
) -> Layer:
    """Returns the layer that runs a cell over a sequence.

    Its parameters and its state are the cell's own, such as `LSTMParams` and
    `LSTMState`. There are two exceptions. With `learn_initial_state` the parameters are
    `RecurrentParams`. Where noise is drawn at each step (`zoneout`,
    `candidate_dropout`) the state is a `NoisyState`, which counts the steps.

    Integer inputs are ids, as in `jaxrnn.unroll`. With noise they become one-hot
    vectors while a key is given.

    Args:
      cell: a `Cell`, possibly one with noise.
      hidden_size: H.
      engine: runs the cell, with the arguments of `jaxrnn.unroll`:
        `functools.partial(jaxrnn.unroll, store="states")`, say, or
        `jaxrnn.unroll_autodiff`. Layers are equal only if their engines are, and a
        `partial` equals only itself: make it once.
      learn_initial_state: whether the state before the first step, and after a reset,
        is a parameter. It gets a gradient where that state is made inside the loss: by
        `state=None`, by `initial_state(params, …)`, or at a reset.
      return_states: whether the outputs are all states, such as `LSTMState(h, c)` with
        leaves `[T, *B, H]`, in place of h alone. No layer can follow then.

    Raises:
      TypeError, ValueError: if an argument is not of this kind.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            "`cell` must be a jaxrnn.Cell, such as jaxrnn.lstm, but got "
            f"{arguments.describe(cell)}."
        )
    checks.function("engine", engine, "(cell, params, state, xs, **options)")
    return layer_of(
        _Recurrent(
            cell,
            checks.positive("hidden_size", hidden_size),
            engine,
            arguments.flag("learn_initial_state", learn_initial_state),
            arguments.flag("return_states", return_states),
        )
    )


class _Recurrent(NamedTuple):
    cell: Cell
    hidden_size: int
    engine: Engine
    learn_initial_state: bool
    return_states: bool

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> Any:
        input_size = known_size(input_size, "a recurrent layer")
        params = self.cell.init(key, input_size, self.hidden_size, dtype)
        if not self.learn_initial_state:
            return params
        return RecurrentParams(params, self.cell.initial_state(params, ()))

    def initial_state(self, params: Any, batch_shape: Shape) -> Any:
        state = self._first(params, batch_shape)
        return NoisyState(state, _none_yet(batch_shape)) if self._counts() else state

    def unroll(
        self,
        params: Any,
        state: Any,
        xs: Shaped[Array, "T ..."],
        *,
        mask: Bool[Array, "T *B"] | None = None,
        reset: Bool[Array, "T *B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, Any]:
        xs = checks.sequences("xs", xs)
        before, steps = self._taken(params, state, leading_shape(xs)[1:])
        given = self._with_noise(params, xs, steps, key)
        cell, before, reset_state = self._run(
            params, before, leading_shape(xs)[1:], reset
        )
        after, ys = self.engine(
            cell,
            self._cell_params(params),
            before,
            given,
            mask=mask,
            reset=reset,
            reset_state=reset_state,
        )
        return self._results(after, ys, steps, xs.shape[0])

    def step(
        self,
        params: Any,
        state: Any,
        x: Shaped[Array, "..."],
        *,
        mask: Bool[Array, "*B"] | None = None,
        reset: Bool[Array, "*B"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Any, Any]:
        x = checks.sequences("x", x)
        before, steps = self._taken(params, state, leading_shape(x))
        given = (
            self._with_noise(params, x[None], steps, key)[0] if key is not None else x
        )
        cell, before, reset_state = self._run(params, before, leading_shape(x), reset)
        after, y = unrolling.step(
            cell,
            self._cell_params(params),
            before,
            given,
            mask=mask,
            reset=reset,
            reset_state=reset_state,
        )
        return self._results(after, y, steps, 1)

    def output_size(self, input_size: int | None) -> int:
        # Of a cell with a projection it is not H.
        return self._shapes().h.shape[-1]

    def fold(self, params: Any, table: Float[Array, "V I"]) -> Any:
        cell = self._cell_params(params)
        if (
            noise_of(self.cell)
            or not hasattr(cell, "w_ih")
            or not _reads_ids(self.cell)
        ):
            return None
        folded = cell._replace(w_ih=products.matmul(table, cell.w_ih))
        return params._replace(cell=folded) if self.learn_initial_state else folded

    def _shapes(self) -> Any:
        """Returns the shapes of one sequence's state, leaves `[H]`."""

        def first():
            params = self.cell.init(jax.random.key(0), 1, self.hidden_size)
            return self.cell.initial_state(params, ())

        return jax.eval_shape(first)

    def _cell_params(self, params: Any) -> Any:
        if not self.learn_initial_state:
            return params
        if not isinstance(params, RecurrentParams):
            raise TypeError(
                "`params` must be RecurrentParams(cell, initial_state) where the "
                f"initial state is learned, but got {arguments.describe(params)}. "
                "`layer.init` makes them."
            )
        return params.cell

    def _counts(self) -> bool:
        noise = noise_of(self.cell)
        return noise is not None and noise.per_step()

    def _first(self, params: Any, batch_shape: Shape) -> State:
        """Returns the cell's state before the first step, leaves `[*B, H]`."""
        zeros = self.cell.initial_state(self._cell_params(params), batch_shape)
        if not self.learn_initial_state:
            return zeros
        return jax.tree.map(
            lambda learned, s: jnp.broadcast_to(learned, s.shape),
            params.initial_state,
            zeros,
        )

    def _taken(self, params: Any, state: Any, batch_shape: Shape) -> tuple[Any, Any]:
        """Returns the cell's state and the steps so far, if these are counted.

        Without a state the engine makes the zeros, unless another one is learned.
        """
        if not self._counts():
            if state is None and self.learn_initial_state:
                state = self._first(params, batch_shape)
            return state, None
        if state is None:
            state = self.initial_state(params, batch_shape)
        if not isinstance(state, NoisyState):
            raise TypeError(
                "`state` must be NoisyState(cell, steps) where the cell has noise at "
                f"each step, but got {arguments.describe(state)}. "
                "`layer.initial_state(params, batch_shape)` is the one to begin with."
            )
        return state.cell, state.steps

    def _with_noise(self, params: Any, xs: Array, steps: Any, key: Any) -> Array:
        """Returns `xs [T, *B, I]` with the noise of the cell beside them, if any."""
        noise = noise_of(self.cell)
        if noise is None or key is None:
            return xs
        arguments.key("key", key)
        cell = self._cell_params(params)
        if are_ids(xs):
            xs = one_hot(xs, cell.w_ih.shape[0], cell.w_ih.dtype)
        drawn = noise.draw(cell, key, steps, leading_shape(xs))
        return jnp.concatenate([xs, masks.like(xs, drawn)], axis=-1)

    def _run(
        self, params: Any, before: Any, batch_shape: Shape, reset: Any
    ) -> tuple[Cell, Any, Any]:
        """Returns what the engine runs: the cell, the state before, that of a reset."""
        cell, reset_state = self.cell, None
        if reset is not None and self.learn_initial_state:
            reset_state = self._first(params, batch_shape)
        if self.return_states:
            cell = exposed(cell)
            before = None if before is None else pack(before)
            reset_state = None if reset_state is None else pack(reset_state)
        return cell, before, reset_state

    def _results(self, after: Any, ys: Any, steps: Any, size: Any) -> tuple[Any, Any]:
        """Returns the layer's state after the run, and its outputs."""
        if self.return_states:
            after, ys = (unpack(a, self._shapes()) for a in (after.h, ys))
        return (after if steps is None else NoisyState(after, steps + size)), ys


def _none_yet(batch_shape: Shape) -> Float[Array, "*B"]:
    return jnp.zeros(arguments.batch_shape("batch_shape", batch_shape), jnp.float32)


def _reads_ids(cell: Cell) -> bool:
    try:
        checks.takes_ids(cell)
    except TypeError:
        return False
    return True


for _kind in (RecurrentParams, NoisyState):
    register_namedtuple_serialization(
        _kind, serialized_name=f"jaxrnn.layers.{_kind.__name__}"
    )
