"""Learning forwards in time: what a rule is, and one linearized step.

Backpropagation through time carries the adjoint backwards. Forwards, one carries how
the state depends on the parameters, the *influence* P[t] = ds[t]/dθ. With J[t] =
∂s[t]/∂s[t-1] and M[t] = ∂s[t]/∂θ at fixed s[t-1], and g[t] = ∂R̂[t]/∂s[t] for the loss
R̂[t] of step t alone,

    P[t] = J[t] P[t-1] + M[t],    P[0] = 0                                         (1)
    dR̂/dθ = Σ g[t]ᵀ P[t]                                                           (2)

For one recurrent weight of a basic network this is the lecture's recursion ∂h[i]/∂wₘ =
ḟ(z[i]) (h[i-1] + wₘ ∂h[i-1]/∂wₘ). The rules of this package compute (1) and (2),
exactly or approximately, and differ in what they keep of P.

A state is one vector `[D]` here, its leaves one after the other. Everything is written
for one sequence; `for_sequences` adds the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from jaxrnn import checks
from jaxrnn.cells.base import Cell, Lin, Params, State
from jaxrnn.ops.products import accumulation_dtype, transposed

Trace: TypeAlias = Any
"""What a rule carries from step to step, a tree of arrays `[*B, ...]`."""


class Init(Protocol):
    """`(cell, params, state) -> trace`."""

    def __call__(self, cell: Any, params: Params, state: State, /) -> Trace: ...


class Update(Protocol):
    """`(params, state, x, trace, key) -> (state, trace)`."""

    def __call__(
        self, params: Params, state: State, x: Array, trace: Trace, key: Any, /
    ) -> tuple[State, Trace]: ...


class Gradient(Protocol):
    """`(params, trace, g) -> grads`."""

    def __call__(self, params: Params, trace: Trace, g: State, /) -> Params: ...


class Estimator(NamedTuple):
    """A rule that estimates the gradient as a sequence runs: three pure functions.

    One value serves every cell, as an optimizer serves all parameters.

    Attributes:
      init: `(cell, params, state) -> trace`: the trace before the first step, or after
        a reset, for states `[*B, H]`. It remembers the cell.
      update: `(params, state, x, trace, key) -> (state, trace)`: one step of the cell,
        `x [*B, I]` or ids `[*B]`, and of (1). `key` is a random key, or None for a rule
        that draws nothing.
      gradient: `(params, trace, g) -> grads`: the term of (2) of this step, summed over
        the batch, for g = ∂R̂[t]/∂s[t], a tree like the state, `[*B, H]`. The
        parameters are those of the update.
    """

    init: Init
    update: Update
    gradient: Gradient


class Local(NamedTuple):
    """One step of one sequence, linearized: products of vectors `[D]` with J and M."""

    cell: Cell
    params_t: Params
    x: Array
    """`[I]`, or an id, `[]`."""
    before: State
    """The state before the step, leaves `[H]`."""
    lin: Lin

    def back(self, v: Float[Array, " D"]) -> Float[Array, " D"]:
        """Returns Jᵀ v."""
        adjoint = self.cell.state_vjp(self.params_t, self.lin, self._state(v))
        return ravel_pytree(adjoint)[0]

    def forward(self, v: Float[Array, " D"]) -> Float[Array, " D"]:
        """Returns J v, as the linear transpose of `back`."""
        return jax.linear_transpose(self.back, v)(v)[0]

    def pull(self, v: Float[Array, " D"]) -> Params:
        """Returns Mᵀ v, a tree like the parameters, `[...]`."""
        return self._pulled(v)[0]

    def to_input(self, v: Float[Array, " D"]) -> Float[Array, " I"]:
        """Returns (∂s[t]/∂x[t])ᵀ v."""
        return self._pulled(v)[1][0]

    def jacobian(self) -> Float[Array, "D D"]:
        """Returns J."""
        return jax.vmap(self.back)(self._basis())

    def direct(self) -> Params:
        """Returns M, leaves `[D, ...]`."""
        return jax.vmap(self.pull)(self._basis())

    def _basis(self) -> Float[Array, "D D"]:
        flat = ravel_pytree(self.before)[0]
        return jnp.eye(flat.size, dtype=flat.dtype)

    def _state(self, v: Array) -> State:
        return ravel_pytree(self.before)[1](v)

    def _pulled(self, v: Array) -> tuple[Params, Any]:
        def one(tree: Any) -> Any:  # as a stretch of one step
            return jax.tree.map(lambda a: a[None], tree)

        x, before, lin = one((self.x, self.before, self.lin))
        return self.cell.param_vjp(self.params_t, x, before, lin, one(self._state(v)))


def step(cell: Cell, params: Params, state: State, x: Array) -> tuple[State, Local]:
    """Runs one step of one sequence, `x [I]` or an id `[]`, and linearizes it.

    The linearized step is in float32 or wider.
    """
    after, res = cell.step(params, state, cell.drive(params, x))
    lin = cell.linearize(params, state, after, res)
    params, before, lin, x = wide((params, state, lin, x))
    return after, Local(cell, transposed(params), x, before, lin)


def wide(tree: Any) -> Any:
    """Returns the tree with floating leaves `[...]` in float32 or wider."""

    def widened(a: Array) -> Array:
        floating = jnp.issubdtype(a.dtype, jnp.floating)
        return a.astype(accumulation_dtype(a.dtype)) if floating else a

    return jax.tree.map(widened, tree)


def vector(state: State) -> Float[Array, " D"]:
    """Returns the numbers of a state, leaves `[H]`, in one vector, float32 or wider."""
    return ravel_pytree(wide(state))[0]


def input_size(cell: Cell, params: Params) -> int:
    """Returns I: the size of the vectors that the cell's `drive` takes, `[I]`.

    Raises:
      TypeError: if `drive` takes no vector as long as a side of a parameter.
    """
    if hasattr(params, "w_ih"):
        return params.w_ih.shape[0]
    leaves = jax.tree.leaves(params)
    for size in sorted({length for leaf in leaves for length in leaf.shape}):
        x = jax.ShapeDtypeStruct((size,), leaves[0].dtype)
        try:
            jax.eval_shape(cell.drive, params, x)
        except (TypeError, ValueError):
            continue
        return size
    raise TypeError(
        "`params` must show the input size, but the cell's `drive` takes no vector as "
        "long as a side of one of its parameters. Call the input weights w_ih [I, G]."
    )


def random_arguments(cell: Cell, tree: Any, shapes: Any) -> tuple[Params, State, Array]:
    """Returns parameters, a state `[H]` and an input `[I]` of random numbers.

    An identity of a cell that holds at them holds for any numbers, except by chance.

    Args:
      cell: a `Cell`.
      tree: the structure of its parameters.
      shapes: the shape of each of them.
    """
    draws = np.random.default_rng(0)

    def normal(shape: Any) -> Array:
        scale = (shape[0] if shape else 1) ** -0.5
        return jnp.asarray(scale * draws.standard_normal(shape), jnp.float32)

    params = tree.unflatten([normal(shape) for shape in shapes])
    state = jax.tree.map(lambda s: normal(s.shape), cell.initial_state(params, ()))
    return params, state, normal((input_size(cell, params),))


def for_sequences(
    init: Callable[[Cell, Params, State], Trace],
    update: Callable[[Params, State, Array, Trace, Any], tuple[State, Trace]],
    gradient: Callable[[Params, Trace, State], Params],
    draws: str = "",
) -> Estimator:
    """Returns the estimator of functions for one sequence, with any batch axes *B.

    Args:
      init: as in `Estimator`, for a state `[H]`.
      update: as there, for `x [I]` or an id. Each sequence gets a key of its own.
      gradient: as there, for g `[H]`.
      draws: the name of the rule, if it needs a key; "" if it does not.
    """

    def init_batch(cell: Cell, params: Params, state: State) -> Trace:
        params = checks.cell_and_params(cell, params)
        return _over_batch(lambda state: init(cell, params, state), state)(state)

    def update_batch(
        params: Params, state: State, x: Array, trace: Trace, key: Any
    ) -> tuple[State, Trace]:
        def one(state: State, x: Array, trace: Trace, key: Any = None) -> Any:
            return update(params, state, x, trace, key)

        if not draws:
            return _over_batch(one, state)(state, x, trace)
        if key is None:
            raise TypeError(
                f"`key` must be a random key, because {draws} draws random numbers, "
                "but got None. Make one: jax.random.key(0)."
            )
        keys = jax.random.split(key, batch_of(state))
        return _over_batch(one, state)(state, x, trace, keys)

    def gradient_batch(params: Params, trace: Trace, g: State) -> Params:
        def one(trace: Trace, g: State) -> Params:
            return gradient(params, trace, g)

        axes = tuple(range(len(batch_of(g))))
        return jax.tree.map(lambda a: a.sum(axis=axes), _over_batch(one, g)(trace, g))

    return Estimator(init_batch, update_batch, gradient_batch)


def to_input(
    cell: Cell, params: Params, state: State, x: Float[Array, "*B I"], g: State
) -> Float[Array, "*B I"]:
    """Returns (∂s[t]/∂x[t])ᵀ g of one step from `state`, leaves `[*B, H]`."""

    def one(state: State, x: Array, g: State) -> Array:
        return step(cell, params, state, x)[1].to_input(vector(g))

    return _over_batch(one, state)(state, x, g)


def batch_of(state: State) -> tuple[int, ...]:
    """Returns *B of a state, leaves `[*B, H]`."""
    return jax.tree.leaves(state)[0].shape[:-1]


def _over_batch(function: Callable[..., Any], state: State) -> Callable[..., Any]:
    """Maps a function of one sequence over all axes *B of a state `[*B, H]`."""
    for _ in batch_of(state):
        function = jax.vmap(function)
    return function
