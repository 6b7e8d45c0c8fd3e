"""What a cell is: seven pure functions, and the products they are made of.

A cell moves a state s through time. Write u[t] for the *drive* (all that depends on the input
alone), θ for the parameters, R̂ for the loss, λ[t] = dR̂/ds[t] for the *adjoint*, and

    J[t] = ∂s[t]/∂s[t-1]            M[t] = ∂s[t]/∂θ  at fixed s[t-1]

Forward, one step at a time:

    u[t] = drive(θ, x[t])                                                                    (1)
    s[t], res[t] = step(θ, s[t-1], u[t])                                                     (2)

Once all the states are known, J and M are too. `linearize` computes their coefficients for all t
at once, and only the recursion itself is left to run backwards, one step at a time:

    lin[t] = linearize(θ, s[t-1], s[t], res[t])                                              (3)
    J[t]ᵀ λ[t] = state_vjp(θᵀ, lin[t], λ[t])                                                 (4)
    Σ M[t]ᵀ λ[t], dx = param_vjp(θᵀ, x, s[t-1], lin, λ)                                      (5)

θᵀ stands for the parameters with every matrix transposed (`transposed`): a cell multiplies by them
with `matmul`, and the engine chooses how they are stored (`for_loop`).

Axes: T time, *B any number of batch axes, I input, H hidden, G = gates × H. Vectors are rows, so
products read `x @ w_ih` and `h @ w_hh`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.nn import initializers
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from jaxrnn import placement

# Integers, or the symbolic dimensions of `jax.export`.
Shape = Sequence[Any]


class Cell(NamedTuple):
    """A recurrent cell: a value, hashable, closing over no array, so a static argument of `jit`.

    States are NamedTuples whose first field is the output `h`; parameters are NamedTuples of
    arrays of one floating dtype; `us`, `res` and `lin` are any pytrees of arrays. A function
    marked *any leading axes* is called on one step `[*B, ...]` as well as on a whole stretch of
    time `[K, *B, ...]` at once, and must not care which.

    Attributes:
      init: `(key, input_size, hidden_size, dtype=float32) -> params`.
      initial_state: `(params, batch_shape) -> state`: zeros of the parameters' dtype. Raises
        `ValueError` if the shapes in `params` do not fit one another.
      drive: `(params, xs) -> us`, `[..., I]` to `[..., G]`, (1). Any leading axes. Raises
        `ValueError` if the last axis of `xs` is not the input size.
      step: `(params, state, u) -> (state, res)`, (2). Any leading axes: the engine calls it again
        on stored states to get `res` back.
      linearize: `(params, state_prev, state, res) -> lin`, (3): every coefficient of J and M that
        does not depend on λ. Any leading axes.
      state_vjp: `(params_t, lin, adjoint) -> adjoint_prev`, (4): linear in λ, and the only thing
        inside the reverse loop, so one matrix product and a few elementwise operations.
      param_vjp: `(params_t, xs, states_prev, lin, adjoints) -> (dparams, dxs)`, (5): one product
        over all leading axes per matrix. `dparams` has the type of the parameters, in float32 or
        wider: the engine adds the chunks up and casts the sum.
      read_ahead: whether the forward loop should carry the next drive instead of reading it where
        it is used: see `chunks.scan_ahead`. It changes speed, not the result.
    """

    init: Callable[..., Any]
    initial_state: Callable[[Any, Shape], Any]
    drive: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    linearize: Callable[[Any, Any, Any, Any], Any]
    state_vjp: Callable[[Any, Any, Any], Any]
    param_vjp: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]]
    read_ahead: bool = False


# Bytes. A matrix below the first size is multiplied faster by few rows where its own rows are
# summed over, one above the second, which outgrows the cache, where its columns are.
SMALL, LARGE, FEW_ROWS = 2**21, 2**23, 64


class Transposed(NamedTuple):
    """A matrix `[K, M]` that is stored as its transpose, `of [M, K]`."""

    of: Array

    @property
    def dtype(self) -> jnp.dtype:
        return self.of.dtype


def transposed(params: Any) -> Any:
    """The parameters with every matrix transposed, vectors as they are: θᵀ of (4) and (5).

    Nothing is moved: the matrices are `Transposed`.
    """
    return jax.tree.map(lambda p: Transposed(p) if p.ndim == 2 else p, params)


def for_loop(params: Any, rows: Any) -> Any:
    """The same parameters, stored as so many rows at a time are multiplied fastest by them.

    Of two cores' GFLOP/s for B = 16 to 32 rows, a matrix `[256, 64]` gave 52 to 67 as it is and 31
    to 50 as its transpose, one of `[4096, 1024]`, which outgrows the cache, 94 to 102 and 107 to
    133; from 64 rows on there is little between them (`python -m benchmarks.products`). A matrix
    that is stored the other way is copied, once, outside the loop.
    """
    few = isinstance(rows, int) and rows < FEW_ROWS

    def size(p: Array) -> int:
        return p.size * p.dtype.itemsize

    def stored(p: Array | Transposed) -> Array | Transposed:
        if isinstance(p, Transposed):
            return p.of.T if size(p.of) < SMALL else p
        return Transposed(p.T) if p.ndim == 2 and size(p) >= LARGE and few else p

    return jax.tree.map(stored, params, is_leaf=lambda p: isinstance(p, Transposed))


def matrices_in(params: Any, dtype: DTypeLike | None) -> Any:
    """The parameters with every matrix in `dtype`, vectors as they are; as they are for None."""
    return jax.tree.map(
        lambda p: p.astype(dtype) if p.ndim == 2 and dtype else p, params
    )


def wide(dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which products of `dtype` are accumulated: float32, or `dtype` if wider."""
    return jnp.promote_types(dtype, jnp.float32)


def matmul(
    a: Float[Array, "*N K"], w: Float[Array, "K M"] | Transposed
) -> Float[Array, "*N M"]:
    """`a @ w` in the dtype of `a`: multiplied in that of `w`, accumulated in float32 or wider.

    So the dtype of the matrices is that of the products: the engine casts them, and nothing else,
    for mixed precision.
    """
    matrix, axis = (w.of, 1) if isinstance(w, Transposed) else (w, 0)
    product = lax.dot_general(
        a.astype(w.dtype),
        matrix,
        (((a.ndim - 1,), (axis,)), ((), ())),
        preferred_element_type=wide(w.dtype),
    )
    return product.astype(a.dtype)


def outer_sum(
    a: Float[Array, "*N K"], b: Float[Array, "*N M"], dtype: DTypeLike
) -> Float[Array, "K M"]:
    """Σ aᵀ b over all leading axes: one product in `dtype`, accumulated in float32 or wider."""
    leading = tuple(range(a.ndim - 1))
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        ((leading, leading), ((), ())),
        preferred_element_type=wide(dtype),
        out_sharding=placement.sharding_of_outer(a, b),
    )


def lead_sum(a: Float[Array, "*N M"]) -> Float[Array, " M"]:
    """Σ a over all leading axes, in float32 or wider."""
    return jnp.sum(a, axis=tuple(range(a.ndim - 1)), dtype=wide(a.dtype))


def affine(
    xs: Float[Array, "*N I"], w_ih: Float[Array, "I G"], b: Float[Array, " G"]
) -> Float[Array, "*N G"]:
    """`xs @ w_ih + b`: the drive of every cell here.

    Raises:
      ValueError: if the last axis of `xs` is not the input size of `w_ih`.
    """
    if xs.shape[-1] != w_ih.shape[0]:
        raise ValueError(
            f"the last axis of the inputs must be the input size I = {w_ih.shape[0]} of `w_ih` "
            f"{w_ih.shape}, but they have {xs.shape[-1]} features. Make the parameters with "
            f"`cell.init(key, {xs.shape[-1]}, hidden_size)`, or feed inputs of size "
            f"{w_ih.shape[0]}."
        )
    return matmul(xs, w_ih) + b


def hidden_size(params: Any, gates: int) -> int:
    """H, read off `w_hh [H, gates·H]`.

    Raises:
      ValueError: if `w_ih`, `w_hh` and the biases do not fit one another or the number of gates.
    """
    # 0 for a scalar, whose shape is then refused below.
    inputs, hidden = (*params.w_ih.shape, 0)[0], (*params.w_hh.shape, 0)[0]
    width = gates * hidden
    expected = {"w_ih": (inputs, width), "w_hh": (hidden, width), "b": (width,)}
    for name, shape in expected.items():
        if getattr(params, name).shape != shape:
            raise ValueError(
                f"`{name}` must have shape {shape} for {gates} gate(s) of H = {hidden} units, but "
                f"got {getattr(params, name).shape}. Are these the parameters of another cell? "
                f"`cell.init` makes the right ones."
            )
    return hidden


def input_weights(
    key: PRNGKeyArray, input_size: int, hidden_size: int, gates: int, dtype: DTypeLike
) -> Float[Array, "I G"]:
    """Glorot-uniform `[I, H]` per gate, side by side.

    It keeps the variance of the drive near that of the input at any width (Glorot & Bengio,
    2010, eq. 16). Per gate, since each gate is a layer of its own: over the packed `[I, G]` the
    bound would shrink with the number of gates.
    """
    return _per_gate(
        initializers.glorot_uniform(), key, (input_size, hidden_size), gates, dtype
    )


def recurrent_weights(
    key: PRNGKeyArray, hidden_size: int, gates: int, dtype: DTypeLike
) -> Float[Array, "H G"]:
    """Orthogonal `[H, H]` per gate, side by side.

    All singular values are 1, so at the start the product of Wₘ over many steps neither explodes
    nor vanishes by itself (Saxe, McClelland & Ganguli, 2014, section 3).
    """
    return _per_gate(
        initializers.orthogonal(), key, (hidden_size, hidden_size), gates, dtype
    )


def _per_gate(initializer, key, shape, gates, dtype) -> Array:
    if min(shape) < 1:
        raise ValueError(
            f"sizes must be at least 1, but got input and hidden size {shape}."
        )
    # Drawn in float32 or wider: there is no QR decomposition in bfloat16.
    keys = jax.random.split(key, gates)
    matrices = [initializer(k, shape, wide(dtype)) for k in keys]
    return jnp.concatenate(matrices, axis=-1).astype(dtype)
