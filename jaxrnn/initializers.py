"""Initial parameters that keep gradients alive: remedies that cost nothing.

Each function takes the parameters that `cell.init` made, and returns them with some of
them replaced. (The recurrent matrices of every cell are orthogonal from the start.) G =
gates · H; a recurrent matrix `[H, G]` is a block `[H, H]` for each gate.
"""

from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PRNGKeyArray

from jaxrnn import arguments, checks
from jaxrnn.cells.elman import ElmanParams
from jaxrnn.cells.weights import Gates, Recurrent, RecurrentParams

Same = TypeVar("Same")


@runtime_checkable
class Gated(Protocol):
    """Parameters with biases `b [G]`, packed by gate."""

    @property
    def b(self) -> Array:
        """`[G]`."""
        ...

    @property
    def gates(self) -> Gates:
        """The order of the blocks, and which of them keeps the state."""
        ...

    def _replace(self: Same, **kwargs: Any) -> Same: ...


GatedParams = TypeVar("GatedParams", bound=Gated)


def identity(params: ElmanParams, scale: float = 1.0) -> ElmanParams:
    """Makes the matrix `w_hh [H, H]` the identity, the bias 0; with relu: the IRNN.

    An error is carried back unchanged, as long as units are active.

    Args:
      params: the parameters of an Elman cell, such as `jaxrnn.make_elman("relu")`.
      scale: the factor of the identity; below 1 the network forgets.

    Raises:
      TypeError: if the parameters are another cell's, or `scale` is not a number.
      ValueError: if `scale` is not finite.

    Source: Le, Jaitly & Hinton (2015), arXiv:1504.00941.
    """
    params = checks.unwrapped(params)
    if not isinstance(params, ElmanParams):
        raise TypeError(
            f"`params` must be ElmanParams, but got {arguments.describe(params)}."
        )
    eye = checks.finite("scale", scale) * jnp.eye(len(params.w_hh))
    return params._replace(
        w_hh=eye.astype(params.w_hh.dtype), b=jnp.zeros_like(params.b)
    )


def chrono(key: PRNGKeyArray, params: GatedParams, longest: float) -> GatedParams:
    """Sets the gates' biases so that units remember for 2 to `longest` steps.

    A forget gate σ(b) multiplies the memory by σ(b) at every step. With b = log(τ) the
    factor is τ / (τ + 1), a time constant of τ + 1 steps; τ is drawn evenly between 1
    and `longest` - 1. In an LSTM the input gates' biases are -b. In a GRU, b is the
    bias of the gate z, which keeps the state; where a gate admits content and 1 minus
    it keeps the state, as in the minimal gated unit, its biases are -b.

    Args:
      key: a random key.
      params: those of a cell with a gate that keeps the state (`gates.keep`), or that
        admits new content (`gates.admit`). Only the biases of these are replaced.
      longest: T_max, the longest time over which to remember, in steps, above 2.

    Raises:
      TypeError: if `key` is not a random key, no gate keeps the state, or `longest` is
        not a number.
      ValueError: if `longest` is not above 2.

    Source: Tallec & Ollivier (2018), "Can recurrent neural networks warp time?",
    arXiv:1804.11188, section 2.
    """
    arguments.key("key", key)
    longest = checks.between("longest", longest, 2.0)
    params = checks.unwrapped(params)
    gates = params.gates if isinstance(params, Gated) else Gates("")
    if gates.keep is None and gates.admit is None:
        raise TypeError(
            "`params` must have a gate that keeps the state, such as LSTMParams or "
            f"GRUParams, but got {arguments.describe(params)}."
        )
    hidden = len(params.b) // len(gates.order)
    b = jnp.log(jax.random.uniform(key, (hidden,), minval=1.0, maxval=longest - 1))
    b = b.astype(params.b.dtype)
    biases = params.b
    if gates.keep is not None:
        biases = biases.at[gates.columns(gates.keep, hidden)].set(b)
    if gates.admit is not None:
        biases = biases.at[gates.columns(gates.admit, hidden)].set(-b)
    return params._replace(b=biases)


def spectral_radius(params: RecurrentParams, radius: float) -> RecurrentParams:
    """Scales the recurrent matrix `[H, G]`, so that each gate's block has this radius.

    The spectral radius is the largest modulus of the eigenvalues, by which a linear
    network stretches a state per step over many steps. Above 1 a tanh network without
    input does not forget its initial state; below 1 it usually does, and always where
    the largest singular value is below 1 too. For a gated cell the blocks' radii mean
    less. They are computed on the host, so not under `jit`.

    Args:
      params: any cell's parameters with a matrix `w_hh`.
      radius: at least 0.

    Raises:
      TypeError: if there is no `w_hh`, it is traced, or `radius` is not a number.
      ValueError: if `radius` is below 0, or a block is not finite or has only the
        eigenvalue 0.

    Source: Jaeger (2001), "The echo state approach to analysing and training recurrent
    neural networks", GMD report 148.
    """
    if radius != 0:
        radius = checks.between("radius", radius, 0.0)
    params = checks.unwrapped(params)
    if not isinstance(params, Recurrent) or params.w_hh.ndim != 2:
        raise TypeError(
            "`params` must be a cell's, with a matrix `w_hh`, but got "
            f"{arguments.describe(params)}."
        )
    matrix = checks.on_host("params.w_hh", params.w_hh, "spectral_radius")
    if not np.isfinite(matrix).all():
        raise ValueError("`params.w_hh` must be finite, but holds NaN or infinity.")
    rows, columns = matrix.shape
    if rows == 0 or columns % rows:
        raise ValueError(
            f"`params.w_hh` must have shape (H, gates · H), but got {matrix.shape}."
        )
    blocks = np.split(matrix, columns // rows, axis=1)
    radii = [np.abs(np.linalg.eigvals(block)).max() for block in blocks]
    if not min(radii) > 0:
        raise ValueError(
            "`params` must have a recurrent matrix with eigenvalues that are not 0."
        )
    scaled = [radius / now * block for now, block in zip(radii, blocks, strict=True)]
    joined = np.concatenate(scaled, axis=1)
    return params._replace(w_hh=jnp.asarray(joined, params.w_hh.dtype))
