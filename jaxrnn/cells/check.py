"""Whether the derivatives of a cell are right, and if not, which formula is wrong.

A cell's `step` and `drive` define what it computes. Its other functions are formulas
that someone derived by hand, and a network whose formulas are wrong still trains, only
worse. Here each of them is compared with what JAX derives from `step` and `drive`:

    J[t]ᵀ λ[t]      `linearize` and `state_vjp`, from one field of λ to another      (1)
    Σ M[t]ᵀ λ[t]    `linearize` and `param_vjp`, parameter by parameter, and dx      (2)

Both read the coefficients of `linearize`. If another value of a single coefficient
would put all of (1) and (2) right, that coefficient is wrong. Otherwise it is the
function whose result is wrong. Where the cell takes ids, its drives and the sums of (2)
are compared with those of one-hot vectors.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr
from jaxtyping import PyTree

from jaxrnn import arguments, checks
from jaxrnn.cells import contract
from jaxrnn.cells.base import Adjoint, Cell, Lin, Params, State
from jaxrnn.ops.ids import one_hot
from jaxrnn.ops.products import transposed
from jaxrnn.plan import Store
from jaxrnn.unrolling import unroll, unroll_autodiff

# Steps and sequences: enough for a product over leading axes to be more than one row.
STEPS, BATCH = 5, 2
# Of float64, relative to the largest number of an array: sums in another order differ
# by 1e-14, and formulas by far more.
TOLERANCE = 1e-9
STORES = get_args(Store)
# Faults in one message.
MOST = 3
ARGUMENTS = "params", "state", "xs"


class Run(NamedTuple):
    """A run over K steps of B sequences, and adjoints, all of random numbers."""

    params: Params
    xs: Any
    """`[K, B, I]`."""
    befores: State
    """s[t-1], leaves `[K, B, H]`."""
    adjoints: Adjoint
    """λ[t], leaves `[K, B, H]`."""


class Derivatives(NamedTuple):
    """Both sides of (1) and (2)."""

    back: Adjoint
    """J[t]ᵀ λ[t], leaves `[K, B, H]`."""
    dparams: Params
    """Leaves `[...]` like the parameters."""
    dxs: Any
    """`[K, B, I]`."""


def check_cell(cell: Cell, input_size: int, hidden_size: int) -> None:
    """Compares the derivatives of a cell with autodiff, and names the wrong formula.

    `step` and `drive` define what the cell computes. `linearize`, `state_vjp` and
    `param_vjp` must be its derivatives, in float64, at the given sizes and at larger
    ones, on one step as on a stretch of time, and in `jaxrnn.unroll` with every
    `store`, with a mask and with resets. If `drive` takes ids, they must stand for
    one-hot vectors.

        jaxrnn.check_cell(my_cell, 3, 5)    # returns None, or raises

    It takes a few seconds, and small sizes are enough. Call it in a test.

    Args:
      cell: the `Cell`.
      input_size: I.
      hidden_size: H.

    Raises:
      TypeError, ValueError: if the cell breaks its contract: a function returns another
        kind of value, or other shapes; or if a derivative is wrong. The message names
        the function, and the parameter or the part of the state.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            f"`cell` must be a jaxrnn.Cell, but got {arguments.describe(cell)}."
        )
    sizes = (
        arguments.integer("input_size", input_size, 1),
        arguments.integer("hidden_size", hidden_size, 1),
    )
    with jax.enable_x64(True):
        # Twice H, which is even, or has as many heads, where H does.
        for inputs, hidden in (sizes, (sizes[0] + 1, 2 * sizes[1])):
            where = f"at I = {inputs}, H = {hidden}"
            params = _params(cell, inputs, hidden)
            xs = _normal(0, (STEPS, BATCH, inputs))
            state = cell.initial_state(params, (BATCH,))
            checks.sequence(cell, params, state, jnp.asarray(xs), None, None)
            _check_derivatives(cell, params, xs, where)
            _check_ids(cell, params, inputs, where)
        _check_stores(cell, params, xs, where)


def _params(cell: Cell, inputs: int, hidden: int) -> Params:
    """Returns initial parameters in float64, with noise, so that no bias is zero."""
    contract.signature(cell, "init")
    params = cell.init(jax.random.key(0), inputs, hidden, jnp.float64)
    contract.parameters(params)
    for name, p in zip(params._fields, params, strict=True):
        dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(p)}
        if dtypes - {"float64"}:
            raise TypeError(
                "the cell's `init` must return parameters of the dtype that it is "
                f"given, but for float64 `{name}` is {', '.join(sorted(dtypes))}. Pass "
                "`dtype` on to whatever makes the arrays."
            )
    leaves, tree = jax.tree.flatten(params)
    noisy = [p + 0.1 * _normal(n + 1, p.shape) for n, p in enumerate(leaves)]
    return jax.tree.unflatten(tree, noisy)


def _normal(seed: int, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def _check_derivatives(cell: Cell, params: Params, xs: Any, where: str) -> None:
    """Raises unless (1) and (2) hold, and `step` is the same on a stretch of time."""
    drawn = iter(range(100, 200))
    start = jax.tree.map(
        lambda s: s + 0.3 * _normal(next(drawn), s.shape),
        cell.initial_state(params, (BATCH,)),
    )

    @jax.jit
    def step_by_step(params: Params, start: State, xs: Any) -> Any:
        def over_step(before: State, x: Any) -> Any:
            after, _ = cell.step(params, before, cell.drive(params, x))
            return after, (before, after)

        _, (befores, afters) = jax.lax.scan(over_step, start, xs)
        return befores, afters, _forward(cell, params, befores, xs)

    befores, afters, at_once = step_by_step(params, start, xs)
    for name, one, all_at_once in zip(afters._fields, afters, at_once, strict=True):
        if _differs(all_at_once, one):
            raise ValueError(
                f"the cell's `step` must compute the same on a stretch of time "
                f"(K, B, …) as on one step, but `{name}` is off by "
                f"{_off(all_at_once, one)}, {where}. Count axes from the last: axis=-1."
            )
    adjoints = jax.tree.map(lambda s: _normal(next(drawn), s.shape), befores)
    run = Run(params, xs, befores, adjoints)

    @jax.jit
    def both(run: Run) -> tuple[Derivatives, Derivatives]:
        return _by_hand(cell, run), _by_autodiff(cell, run)

    got, expected = both(run)
    if faults := _Diagnosis(cell, run, got, expected).faults():
        raise ValueError(f"{' '.join(faults)} This is {where}.")


def _check_ids(cell: Cell, params: Params, inputs: int, where: str) -> None:
    """Raises unless ids are one-hot vectors to the cell, where `drive` takes them."""
    if not _takes_ids(cell, params):
        return
    # Some of every row of w_ih, and some beyond either end.
    ids = jnp.arange(STEPS * BATCH).reshape(STEPS, BATCH) % (inputs + 2) - 1
    contract.kept(cell, params, cell.initial_state(params, (BATCH,)), ids)
    drawn = iter(range(300, 400))
    befores, adjoints = (
        jax.tree.map(
            lambda s: s + 0.3 * _normal(next(drawn), s.shape),
            cell.initial_state(params, (STEPS, BATCH)),
        )
        for _ in range(2)
    )

    @jax.jit
    def drives_and_gradients(xs: Any) -> tuple[Any, Params]:
        run = Run(params, xs, befores, adjoints)
        return cell.drive(params, xs), _by_hand(cell, run).dparams

    us, dparams = drives_and_gradients(ids)
    vectors_us, vectors = drives_and_gradients(one_hot(ids, inputs, jnp.float64))
    cure = f"{where}. {contract.CURE_OF_IDS}"
    known = np.asarray((ids >= 0) & (ids < inputs))
    for u, expected in zip(
        jax.tree.leaves(us), jax.tree.leaves(vectors_us), strict=True
    ):
        if _differs(u[known], expected[known]):
            raise ValueError(
                f"`drive` is wrong for ids: they must stand for one-hot vectors, {cure}"
            )
        if _differs(u, expected):
            raise ValueError(
                "`drive` is wrong for ids outside 0 … I - 1: they must stand for "
                f"zeros, {cure}"
            )
    for (path, got), expected in zip(
        jax.tree.leaves_with_path(dparams), jax.tree.leaves(vectors), strict=True
    ):
        if _differs(got, expected):
            raise ValueError(
                f"`param_vjp` is wrong for `{keystr(path).lstrip('.')}` with ids: the "
                f"gradient must be that of one-hot vectors, {cure}"
            )


def _takes_ids(cell: Cell, params: Params) -> bool:
    try:
        checks.takes_ids(cell)
    except TypeError:  # `unroll` refuses ids with the same words
        return False
    return hasattr(params, "w_ih")


def _forward(cell: Cell, params: Params, befores: State, xs: Any) -> State:
    return cell.step(params, befores, cell.drive(params, xs))[0]


def _linearized(cell: Cell, run: Run) -> Lin:
    afters, res = cell.step(run.params, run.befores, cell.drive(run.params, run.xs))
    return cell.linearize(run.params, run.befores, afters, res)


def _by_hand(
    cell: Cell, run: Run, lin: Lin = None, params_t: Params = None
) -> Derivatives:
    """Returns the cell's own derivatives; None: with its own coefficients and θᵀ."""
    lin = _linearized(cell, run) if lin is None else lin
    params_t = transposed(run.params) if params_t is None else params_t
    back = jax.vmap(cell.state_vjp, (None, 0, 0))(params_t, lin, run.adjoints)
    given = params_t, run.xs, run.befores, lin, run.adjoints
    return Derivatives(back, *cell.param_vjp(*given))


def _by_autodiff(cell: Cell, run: Run) -> Derivatives:
    def forward(params: Params, befores: State, xs: Any) -> State:
        return _forward(cell, params, befores, xs)

    _, pull = jax.vjp(forward, run.params, run.befores, run.xs)
    dparams, back, dxs = pull(run.adjoints)
    return Derivatives(back, dparams, dxs)


def _differs(got: Any, expected: Any) -> bool:
    got, expected = np.asarray(got), np.asarray(expected)
    most = max(np.abs(expected).max(initial=0), np.abs(got).max(initial=0))
    # Not `>`: NaN differs.
    return not np.abs(got - expected).max(initial=0) <= TOLERANCE * (most + 1e-3)


def _off(got: Any, expected: Any) -> str:
    got, expected = np.asarray(got), np.asarray(expected)
    by, most = np.abs(got - expected).max(initial=0), np.abs(expected).max(initial=0)
    return f"{by:.2g} where autodiff's is up to {most:.2g}"


class _Diagnosis:
    """Which formula is wrong, from both sides of (1) and (2)."""

    def __init__(
        self, cell: Cell, run: Run, got: Derivatives, expected: Derivatives
    ) -> None:
        self.cell, self.run, self.got, self.expected = cell, run, got, expected

    def faults(self) -> list[str]:
        """Returns a sentence or two for each fault; nothing if all is right."""
        got, expected = self.got, self.expected
        wrong = [name for name, a, b in _by_parameter(got, expected) if _differs(a, b)]
        wrong_back = [name for name, a, b in _by_field(got, expected) if _differs(a, b)]
        if not wrong and not wrong_back:
            return []
        coefficients = self._coefficients()
        if wrong_back and coefficients:
            by = f" and the gradients by {', '.join(wrong)}" if wrong else ""
            return [
                f"`linearize` is wrong in {coefficients[0]}: with other values there, "
                f"`state_vjp`{by} would be right."
            ]
        faults = [self._of_state_vjp()] if wrong_back else []
        for name, a, b in _by_parameter(got, expected):
            if _differs(a, b):
                faults.append(self._of_param_vjp(name, a, b, coefficients))
        return faults[:MOST]

    def _of_state_vjp(self) -> str:
        """Describes what is wrong with (1)."""
        if name := self._transposed_matrix(lambda d: d.back):
            return (
                f"`state_vjp` is wrong: it transposes `{name}`, but the matrices of "
                f"`params_t` are transposed already: write adjoint @ params_t.{name}."
            )
        row = _row(self.run)
        fields = self.run.befores._fields
        words = []
        got, expected = (
            _jacobians(side, self.cell, row) for side in (_by_hand, _by_autodiff)
        )
        for number, source in enumerate(fields):
            for other, target in enumerate(fields):
                a, b = got[other][number], expected[other][number]
                if _differs(a, b):
                    hint = _hint(a, b)
                    words.append(
                        f"`state_vjp` is wrong from λ.{source} to λ.{target}: off by "
                        f"{_off(a, b)} in ∂{source}[t]/∂{target}[t-1].{hint}"
                    )
        return " ".join(words) or (
            "`state_vjp` is wrong on several rows at once, and right on one: it mixes "
            "rows, which are sequences of a batch."
        )

    def _of_param_vjp(
        self, name: str, got: Any, expected: Any, coefficients: list[str]
    ) -> str:
        """Describes what is wrong with one gradient of (2)."""
        words = f"`param_vjp` is wrong for `{name}`: off by {_off(got, expected)}."
        if not np.asarray(got).any():
            words += " It returns zeros."
        elif not np.asarray(expected).any():
            words += " `step` and `drive` do not use it, so it must return zeros."
        elif _is_transposed(got, expected):
            words += " It is transposed: write outer_sum(inputs, delta)."
        elif name == "dxs" and (matrix := self._transposed_matrix(lambda d: d.dxs)):
            words += f" It transposes `{matrix}`, which `params_t` is already."
        elif coefficients:
            words += f" Or `linearize` is, in {coefficients[0]}."
        return words

    def _transposed_matrix(self, part: Callable[[Derivatives], Any]) -> str:
        """Returns the parameter that a function transposed once too often, or ""."""
        for name, p in self.run.params._asdict().items():
            if not (hasattr(p, "ndim") and p.ndim == 2 and p.shape[0] == p.shape[1]):
                continue
            params_t = transposed(self.run.params)._replace(**{name: p})
            other = part(
                jax.jit(partial(_by_hand, self.cell))(self.run, None, params_t)
            )
            pairs = zip(
                jax.tree.leaves(other),
                jax.tree.leaves(part(self.expected)),
                strict=True,
            )
            if not any(_differs(a, b) for a, b in pairs):
                return name
        return ""

    def _coefficients(self) -> list[str]:
        """Returns the coefficients of which another value would put all right.

        (1) and (2) of one row are affine in each coefficient. So the value that fits
        best solves a linear least-squares problem.
        """
        row = _row(self.run)
        count = 2 * sum(a.size for a in jax.tree.leaves(row.adjoints))
        seeds = iter(range(200, 300))
        many = jax.tree.map(
            lambda a: _normal(next(seeds), (count, *a.shape)), row.adjoints
        )

        def results(side: Callable[..., Derivatives], *lin: Lin) -> Any:
            def one(adjoints: Adjoint) -> Any:
                derivatives = side(self.cell, row._replace(adjoints=adjoints), *lin)
                return ravel_pytree(derivatives)[0]

            return jax.vmap(one)(many).ravel()

        @jax.jit
        def all_errors() -> Any:
            lin, expected = _linearized(self.cell, row), results(_by_autodiff)
            leaves, tree = jax.tree.flatten(lin)
            found = []
            for n, leaf in enumerate(leaves):

                def error(value: Any, n: int = n) -> Any:
                    changed = [*leaves[:n], value, *leaves[n + 1 :]]
                    return results(_by_hand, tree.unflatten(changed)) - expected

                if jnp.issubdtype(leaf.dtype, jnp.floating):
                    found.append((n, error(leaf), jax.jacfwd(error)(leaf)))
            return lin, expected, found

        lin, expected, found = jax.device_get(all_errors())
        names = [f"`lin{keystr(path)}`" for path, _ in jax.tree.leaves_with_path(lin)]
        most = np.abs(expected).max() + 1e-3

        def is_put_right(error: Any, slopes: Any) -> bool:
            slopes = slopes.reshape(error.size, -1)
            change = np.linalg.lstsq(slopes, -error)[0]
            return bool(np.abs(error + slopes @ change).max() <= 1e-7 * most)

        return [names[n] for n, *both in found if is_put_right(*both)]


def _by_field(got: Derivatives, expected: Derivatives) -> Any:
    return zip(got.back._fields, got.back, expected.back, strict=True)


def _by_parameter(got: Derivatives, expected: Derivatives) -> Any:
    """Returns (name, got, expected) for each gradient of (2)."""
    pairs = zip(
        jax.tree.leaves_with_path(got.dparams),
        jax.tree.leaves(expected.dparams),
        strict=True,
    )
    named = [(keystr(path).lstrip("."), a, b) for (path, a), b in pairs]
    return [*named, ("dxs", got.dxs, expected.dxs)]


def _row(run: Run) -> Run:
    """Returns one step of one sequence, as a run of one row."""

    def first(tree: PyTree) -> Any:
        return jax.tree.map(lambda a: a[-1:, :1], tree)

    return Run(run.params, first(run.xs), first(run.befores), first(run.adjoints))


def _jacobians(side: Callable[..., Derivatives], cell: Cell, row: Run) -> Any:
    """Returns J[t]ᵀ of a row: for each field of the result, a matrix by field of λ."""

    def back(adjoints: Adjoint) -> Adjoint:
        derivatives = side(cell, row._replace(adjoints=adjoints))
        return jax.tree.map(jnp.ravel, derivatives.back)

    blocks = jax.jit(jax.jacfwd(back))(row.adjoints)
    return [
        [np.asarray(b).reshape(b.shape[0], -1) for b in jax.tree.leaves(of_target)]
        for of_target in blocks
    ]


def _hint(got: np.ndarray, expected: np.ndarray) -> str:
    """Describes the difference of two matrices, if it is of a simple kind."""
    if not got.any():
        return " It returns zeros."
    error = got - expected
    square = error.shape[0] == error.shape[1] > 1
    if square and not _differs(error, np.diag(np.diag(error))):
        return " Only the diagonal is: a term that multiplies each unit by a factor."
    return " It is transposed." if _is_transposed(got, expected) else ""


def _is_transposed(got: Any, expected: Any) -> bool:
    square = np.ndim(got) == 2 and got.shape[0] == got.shape[1]
    return square and not _differs(np.transpose(got), expected)


def _check_stores(cell: Cell, params: Params, xs: Any, where: str) -> None:
    """Raises unless `unroll` with every store equals `unroll_autodiff`."""
    steps = np.random.default_rng(3).random((2, STEPS, BATCH))
    options = {
        "mask": jnp.asarray(steps[0] < 0.8),
        "reset": jnp.asarray(steps[1] < 0.3),
    }
    on_hs = _normal(4, (STEPS, BATCH, 1))

    def gradient(run: Callable[..., Any], **store: Any) -> Any:
        def loss(params: Params, state: State, xs: Any) -> Any:
            last, hs = run(cell, params, state, xs, **options, **store)
            ends = sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(last))
            return jnp.sum(on_hs * jnp.sin(hs)) + ends

        return jax.grad(loss, (0, 1, 2))

    @jax.jit
    def gradients(*given: Any) -> Any:
        by = {store: gradient(unroll, chunk=2, store=store)(*given) for store in STORES}
        return by, gradient(unroll_autodiff)(*given)

    state = cell.initial_state(params, (BATCH,))
    by, expected = gradients(params, state, xs)
    for store, got in by.items():
        pairs = zip(
            jax.tree.leaves_with_path(dict(zip(ARGUMENTS, got, strict=True))),
            jax.tree.leaves(dict(zip(ARGUMENTS, expected, strict=True))),
            strict=True,
        )
        for (path, a), b in pairs:
            if _differs(a, b):
                raise ValueError(
                    f'jaxrnn.unroll with store="{store}" gives another gradient by '
                    f"{keystr(path, simple=True, separator='.')} than autodiff, off by "
                    f"{_off(a, b)}, {where}. Each formula is right by itself, so a "
                    "function depends on more than its arguments."
                )
