"""Noise inside the recursion: recurrent dropout and zoneout, as cells made from cells.

The masks ride in the drive. A cell with noise reads `[x, masks]`, N more numbers than
the cell that it is made from; given x alone, it is the network without noise. To the
derivative the masks are constants, so each adjoint is the cell's own with factors. In
what follows step, J and M are those of the cell inside, and ⊙ m acts on columns.

Recurrent dropout (Gal & Ghahramani, 2016) drops units of h[t-1] where they enter the
product, with one mask m for all steps by default. A GRU also copies z ⊙ h[t-1] past the
product, which stays whole:

    s[t] = step(m ⊙ h[t-1], u[t]) + z ⊙ (1 - m) ⊙ h[t-1]                            (1)
    Jᵀλ  = m ⊙ (J_step)ᵀλ + (1 - m) ⊙ z ⊙ λ                                         (2)

with z = 0 for the other cells, and m ⊙ h[t-1] for h[t-1] in Σ M[t]ᵀ λ[t].

Dropout of the candidate (Semeniuta, Severyn & Barth, 2016) drops what is written and
never what is kept, so it forgets nothing. m multiplies g of the LSTM and n of the GRU:

    c[t] = f ⊙ c[t-1] + i ⊙ m ⊙ g,       h[t] = o ⊙ tanh c[t]                        (3)
    h[t] = (1 - z) ⊙ m ⊙ n + z ⊙ h[t-1]                                             (4)

whose coefficients are the cell's, with m ⊙ g for g, i ⊙ m for i, m ⊙ ν for ν, and m ⊙ n
for n in the coefficient of z.

Zoneout (Krueger et al., 2017) copies units of the state from the step before, with a
mask d for each array of the state:

    s[t] = d ⊙ s[t-1] + (1 - d) ⊙ step(s[t-1], u[t])                                (5)
    Jᵀλ  = d ⊙ λ + (J_step)ᵀ ((1 - d) ⊙ λ),     Σ M[t]ᵀ ((1 - d) ⊙ λ[t])            (6)

Without noise d is its mean, the rate.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from jaxrnn import arguments
from jaxrnn.cells.base import FUNCTIONS, Adjoint, Cell, Params, Residuals, Shape, State
from jaxrnn.cells.elman import ElmanParams
from jaxrnn.cells.gru import GRUParams, GRUState, gru
from jaxrnn.cells.lstm import LSTMParams, LSTMState, lstm
from jaxrnn.methods import methods_of, options_of
from jaxrnn.ops import noise
from jaxrnn.ops.ids import are_ids


class Beside(NamedTuple):
    """A tree of the cell inside, and the masks `[..., N]`; None: no noise."""

    inner: Any
    masks: Array | None


def recurrent_dropout(cell: Cell, rate: float, *, variational: bool = True) -> Cell:
    """Returns the cell with dropout of h[t-1] where it enters the product, (1).

    The mask holds for a whole sequence, so that a unit is not silenced at one step of
    many; `layers.recurrent` draws it. With `rate` 0 or without a key nothing is
    dropped.

    Args:
      cell: Elman, LSTM or GRU, with any activation.
      rate: probability that a unit is dropped, 0 ≤ rate < 1. Those that are kept are
        scaled by 1/(1 - rate).
      variational: whether one mask serves all steps; else each has its own.

    Raises:
      TypeError: if the cell is another one, or has noise already: wrap `zoneout` around
        this one.
      ValueError: if the rate is not in [0, 1).

    Source: Gal & Ghahramani (2016), arXiv:1512.05287.
    """
    rate = arguments.share("rate", rate)
    _check_cell(cell)
    known = ElmanParams, LSTMParams, GRUParams
    if not isinstance(_shapes(cell), known) or noise_of(cell):
        raise TypeError(
            "`recurrent_dropout` takes the Elman, LSTM and GRU cells, without noise, "
            "because it must know where h[t-1] enters a product. `zoneout` takes any "
            "cell, and goes around this one."
        )
    return _made(_RecurrentDropout(cell, rate, bool(variational)))


def candidate_dropout(cell: Cell, rate: float, *, variational: bool = False) -> Cell:
    """Returns the cell with dropout of its candidate, (3) or (4).

    Args:
      cell: `jaxrnn.lstm` or `jaxrnn.gru`.
      rate: probability that a unit of the candidate is dropped, 0 ≤ rate < 1. Those
        that are kept are scaled by 1/(1 - rate).
      variational: whether one mask serves all steps; else each has its own.

    Raises:
      TypeError: if the cell is another one.
      ValueError: if the rate is not in [0, 1).

    Source: Semeniuta, Severyn & Barth (2016), arXiv:1603.05118.
    """
    rate = arguments.share("rate", rate)
    _check_cell(cell)
    if cell not in (lstm, gru):
        raise TypeError(
            "`candidate_dropout` takes jaxrnn.lstm and jaxrnn.gru, whose candidates it "
            "knows. `zoneout` takes any cell."
        )
    return _made(_CandidateDropout(cell, rate, bool(variational)))


def zoneout(cell: Cell, rate: float, memory_rate: float | None = None) -> Cell:
    """Returns the cell with zoneout: units of the state keep their value, (5).

    Args:
      cell: any cell whose parameters have a `w_ih [I, G]`, one with dropout included.
      rate: probability that a unit of the output h is copied, 0 ≤ rate < 1.
      memory_rate: the same for the other arrays of the state, such as the c of an LSTM;
        None: `rate`.

    Raises:
      TypeError: if `cell` is not such a cell.
      ValueError: if a rate is not in [0, 1).

    Source: Krueger et al. (2017), arXiv:1606.01305.
    """
    rate = arguments.share("rate", rate)
    if memory_rate is None:
        memory_rate = rate
    _check_cell(cell)
    if not hasattr(_shapes(cell), "w_ih"):
        raise TypeError(
            "`cell` must have parameters with a `w_ih` [I, G], which tells inputs from "
            f"masks beside them, but its `init` makes {type(_shapes(cell)).__name__}."
        )
    return _made(_Zoneout(cell, rate, arguments.share("memory_rate", memory_rate)))


def noise_of(cell: Cell) -> "Noise | None":
    """Returns the noise of a cell that was made here; None of any other cell.

    Its `draw(params, key, steps, leading)` returns the masks `[T, *B, N]` of T steps
    after `steps`, `[*B]`, and `per_step()` whether it reads `steps`.
    """
    options = options_of(cell.drive)
    return options if isinstance(options, Noise) else None


def _made(options: "Noise") -> Cell:
    return Cell._make((*methods_of(options, FUNCTIONS), None))


def _check_cell(cell: Any) -> None:
    if not isinstance(cell, Cell):
        raise TypeError(
            "`cell` must be a jaxrnn.Cell, such as jaxrnn.lstm, but got "
            f"{arguments.describe(cell)}."
        )


def _shapes(cell: Cell) -> Any:
    """Returns the shapes of the cell's smallest parameters."""
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), 1, 1))


def _state_like(cell: Cell, params: Params) -> Any:
    """Returns the shapes of one sequence's state, leaves `[H]`."""
    return jax.eval_shape(lambda p: cell.initial_state(p, ()), params)


def _widths(cell: Cell, params: Params) -> list[int]:
    return [leaf.shape[-1] for leaf in jax.tree.leaves(_state_like(cell, params))]


def _split_drive(cell: Cell, width: int, params: Params, xs: Array) -> Beside:
    """Returns the drive of the cell inside, and the last `width` columns of xs."""
    if are_ids(xs) or xs.shape[-1] == params.w_ih.shape[0]:
        return Beside(cell.drive(params, xs), None)
    masks = lax.stop_gradient(xs[..., -width:])
    return Beside(cell.drive(params, xs[..., :-width]), masks)


def _without(xs: Array, masks: Array | None) -> Array:
    return xs if masks is None else xs[..., : -masks.shape[-1]]


def _with_zeros(dxs: Any, masks: Array | None) -> Any:
    """Returns dxs with the cotangent of the masks: they are constants."""
    if masks is None or dxs is None:
        return dxs
    return jnp.concatenate([dxs, jnp.zeros_like(masks)], axis=-1)


class _Dropout(NamedTuple):
    """What both kinds of dropout share: all but the step and its derivatives."""

    cell: Cell
    rate: float
    variational: bool

    def per_step(self) -> bool:
        return not self.variational

    def draw(
        self, params: Params, key: PRNGKeyArray, steps: Any, leading: Shape
    ) -> Float[Array, "T *B N"]:
        width, dtype = _widths(self.cell, params)[0], jax.tree.leaves(params)[0].dtype

        def draw_step(key):
            return noise.kept(key, self.rate, (*leading[1:], width), dtype)

        return noise.of_steps(draw_step, key, steps, leading[0], self.variational)

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ) -> Params:
        return self.cell.init(key, input_size, hidden_size, dtype)

    def initial_state(self, params: Params, batch_shape: Shape) -> State:
        return self.cell.initial_state(params, batch_shape)

    def drive(self, params: Params, xs: Array) -> Beside:
        return _split_drive(self.cell, _widths(self.cell, params)[0], params, xs)


class _RecurrentDropout(_Dropout):
    __slots__ = ()

    def step(self, params: Params, state: State, u: Beside) -> tuple[State, Beside]:
        if u.masks is None:
            after, res = self.cell.step(params, state, u.inner)
            return after, Beside(res, None)
        masked = state._replace(h=u.masks * state.h)
        after, res = self.cell.step(params, masked, u.inner)
        z = _copied(params, res)
        if z is not None:
            after = GRUState(after.h + z * (1 - u.masks) * state.h)  # (1)
        return after, Beside(res, u.masks)

    def linearize(
        self, params: Params, state_prev: State, state: State, res: Beside
    ) -> Beside:
        # The coefficients hold the whole h[t-1], where they hold it at all.
        lin = self.cell.linearize(params, state_prev, state, res.inner)
        return Beside(lin, res.masks)

    def state_vjp(self, params_t: Params, lin: Beside, adjoint: Adjoint) -> Adjoint:
        back = self.cell.state_vjp(params_t, lin.inner, adjoint)
        if lin.masks is None:
            return back
        # That of the product alone is masked, (2).
        if isinstance(params_t, GRUParams):
            copied = lin.inner.z * adjoint.h
            return back._replace(h=lin.masks * (back.h - copied) + copied)
        return back._replace(h=lin.masks * back.h)

    def param_vjp(
        self,
        params_t: Params,
        xs: Array,
        states_prev: State,
        lin: Beside,
        adjoints: Adjoint,
    ) -> tuple[Params, Any]:
        if lin.masks is not None:
            states_prev = states_prev._replace(h=lin.masks * states_prev.h)
        dparams, dxs = self.cell.param_vjp(
            params_t, _without(xs, lin.masks), states_prev, lin.inner, adjoints
        )
        return dparams, _with_zeros(dxs, lin.masks)


def _copied(params: Params, res: Residuals) -> Array | None:
    """Returns z, by which h[t-1] is copied past the product; None: it is not."""
    if not isinstance(params, GRUParams):
        return None
    return jnp.split(res.rz, 2, axis=-1)[1]


class _CandidateDropout(_Dropout):
    __slots__ = ()

    def step(self, params: Params, state: State, u: Beside) -> tuple[State, Beside]:
        after, res = self.cell.step(params, state, u.inner)
        if u.masks is None:
            return after, Beside(res, None)
        if isinstance(params, LSTMParams):
            i, f, g, o = jnp.split(res, 4, axis=-1)
            c = f * state.c + i * u.masks * g
            after = LSTMState(o * jnp.tanh(c), c)  # (3)
        else:
            _, z = jnp.split(res.rz, 2, axis=-1)
            n = u.masks * res.n
            after = GRUState(n + z * (state.h - n))  # (4)
        return after, Beside(res, u.masks)

    def linearize(
        self, params: Params, state_prev: State, state: State, res: Beside
    ) -> Beside:
        lin = self.cell.linearize(params, state_prev, state, res.inner)
        if res.masks is None:
            return Beside(lin, None)
        m, one = res.masks, jnp.ones_like(res.masks)
        if isinstance(params, LSTMParams):
            factors = jnp.concatenate([m, one, m, one], axis=-1)  # of i f g o
            return Beside(lin._replace(gates=factors * lin.gates), m)
        # h[t-1] - m n for h[t-1] - n in the coefficient of z.
        _, z = jnp.split(res.inner.rz, 2, axis=-1)
        more = (1 - m) * res.inner.n * z * (1 - z)
        zeros = jnp.zeros_like(more)
        gates = jnp.concatenate([m, one, m], axis=-1) * lin.gates
        gates += jnp.concatenate([zeros, more, zeros], axis=-1)
        return Beside(lin._replace(gates=gates, nu=m * lin.nu), m)

    def state_vjp(self, params_t: Params, lin: Beside, adjoint: Adjoint) -> Adjoint:
        return self.cell.state_vjp(params_t, lin.inner, adjoint)

    def param_vjp(
        self,
        params_t: Params,
        xs: Array,
        states_prev: State,
        lin: Beside,
        adjoints: Adjoint,
    ) -> tuple[Params, Any]:
        dparams, dxs = self.cell.param_vjp(
            params_t, _without(xs, lin.masks), states_prev, lin.inner, adjoints
        )
        return dparams, _with_zeros(dxs, lin.masks)


class ZoneoutRes(NamedTuple):
    """What the cell inside keeps, its state before any unit is copied, and d.

    The leaves of `after` are `[..., H]`, and `masks` is `[..., N]`; None: no noise.
    """

    inner: Any
    after: Any
    masks: Array | None


class _Zoneout(NamedTuple):
    cell: Cell
    rate: float
    memory_rate: float

    def per_step(self) -> bool:
        return True

    def draw(
        self, params: Params, key: PRNGKeyArray, steps: Any, leading: Shape
    ) -> Float[Array, "T *B N"]:
        widths, own = _widths(self.cell, params), key
        inside = noise_of(self.cell)
        if inside is not None:
            own, key = jax.random.split(key)
        dtype = jax.tree.leaves(params)[0].dtype

        def draw_step(key):
            keys = jax.random.split(key, len(widths))
            return jnp.concatenate(
                [
                    noise.dropped(keys[n], rate, (*leading[1:], width), dtype)
                    for n, (rate, width) in enumerate(
                        zip(self._rates(len(widths)), widths, strict=True)
                    )
                ],
                axis=-1,
            )

        masks = noise.of_steps(draw_step, own, steps, leading[0], variational=False)
        if inside is None:
            return masks
        before = inside.draw(params, key, steps, leading)
        return jnp.concatenate([before, masks], axis=-1)

    def init(
        self,
        key: PRNGKeyArray,
        input_size: int,
        hidden_size: int,
        dtype: DTypeLike = jnp.float32,
    ) -> Params:
        return self.cell.init(key, input_size, hidden_size, dtype)

    def initial_state(self, params: Params, batch_shape: Shape) -> State:
        return self.cell.initial_state(params, batch_shape)

    def drive(self, params: Params, xs: Array) -> Beside:
        return _split_drive(self.cell, sum(_widths(self.cell, params)), params, xs)

    def step(self, params: Params, state: State, u: Beside) -> tuple[State, ZoneoutRes]:
        inner, res = self.cell.step(params, state, u.inner)
        d = self._shares(state, u.masks)
        after = jax.tree.map(lambda d, s, new: d * s + (1 - d) * new, d, state, inner)
        return after, ZoneoutRes(res, inner, u.masks)  # (5)

    def linearize(
        self, params: Params, state_prev: State, state: State, res: ZoneoutRes
    ) -> Beside:
        lin = self.cell.linearize(params, state_prev, res.after, res.inner)
        return Beside(lin, res.masks)

    def state_vjp(self, params_t: Params, lin: Beside, adjoint: Adjoint) -> Adjoint:
        d = self._shares(adjoint, lin.masks)
        through = jax.tree.map(lambda d, a: (1 - d) * a, d, adjoint)
        back = self.cell.state_vjp(params_t, lin.inner, through)
        return jax.tree.map(lambda d, a, b: d * a + b, d, adjoint, back)  # (6)

    def param_vjp(
        self,
        params_t: Params,
        xs: Array,
        states_prev: State,
        lin: Beside,
        adjoints: Adjoint,
    ) -> tuple[Params, Any]:
        d = self._shares(adjoints, lin.masks)
        through = jax.tree.map(lambda d, a: (1 - d) * a, d, adjoints)
        dparams, dxs = self.cell.param_vjp(
            params_t, _without(xs, lin.masks), states_prev, lin.inner, through
        )
        return dparams, _with_zeros(dxs, lin.masks)

    def _rates(self, count: int) -> list[float]:
        return [self.rate, *[self.memory_rate] * (count - 1)]

    def _shares(self, state: State, masks: Array | None) -> Any:
        """Returns d for each array of the state; its mean without masks."""
        leaves, tree = jax.tree.flatten(state)
        if masks is None:
            return jax.tree.unflatten(tree, self._rates(len(leaves)))
        edges, at = [], 0
        for leaf in leaves[:-1]:
            at += leaf.shape[-1]
            edges.append(at)
        return jax.tree.unflatten(tree, jnp.split(masks, edges, axis=-1))


Noise: TypeAlias = _RecurrentDropout | _CandidateDropout | _Zoneout
"""Masks `[T, *B, N]` of a cell: which, and how they are drawn."""
