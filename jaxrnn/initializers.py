"""Parameters to begin with that keep gradients alive: remedies that cost nothing.

Each takes the parameters that `cell.init` made and gives them back with some of them replaced.
(Every cell begins with orthogonal recurrent matrices as it is.) G = gates · H; a recurrent matrix
`[H, G]` is a block `[H, H]` for each gate.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PRNGKeyArray

from jaxrnn import checks
from jaxrnn.cells.elman import ElmanParams
from jaxrnn.cells.gru import GRUParams
from jaxrnn.cells.lstm import LSTMParams

Params = TypeVar("Params")


def identity(params: ElmanParams, scale: float = 1.0) -> ElmanParams:
    """The identity as recurrent matrix `[H, H]`, the bias zero: with relu, the IRNN.

    An error is carried back unchanged, as long as units are active.

    Args:
      params: of an Elman cell, such as `jaxrnn.make_elman("relu")`.
      scale: of the identity; below 1 the network forgets.

    Raises:
      TypeError: if the parameters are another cell's.

    Source: Le, Jaitly & Hinton (2015), arXiv:1504.00941.
    """
    if not isinstance(params, ElmanParams):
        raise TypeError(
            f"`params` must be ElmanParams, but got a {type(params).__name__}."
        )
    eye = (scale * jnp.eye(len(params.w_hh))).astype(params.w_hh.dtype)
    return params._replace(w_hh=eye, b=jnp.zeros_like(params.b))


def chrono(key: PRNGKeyArray, params: Params, longest: float) -> Params:
    """Biases of the gates with which units remember for 2 to `longest` steps.

    A forget gate σ(b) shrinks the memory by as much at every step: with b = log(τ) by τ / (τ + 1),
    which is a time constant of τ + 1 steps, for τ drawn evenly between 1 and `longest` - 1. For an
    LSTM the input gates' biases are -b; for a GRU b is that of the gate z, which keeps the state.

    Args:
      key: a random key.
      params: of an LSTM or a GRU; of their biases `[G]` only those of the gates named are replaced.
      longest: T_max, the longest time over which to remember, in steps, above 2.

    Raises:
      TypeError, ValueError: if the parameters have no gates, or `longest` is no number above 2.

    Source: Tallec & Ollivier (2018), "Can recurrent neural networks warp time?", arXiv:1804.11188,
    section 2.
    """
    longest = checks.between("longest", longest, 2.0)
    if not isinstance(params, LSTMParams | GRUParams):
        raise TypeError(
            f"`params` must be LSTMParams or GRUParams, which have gates, but got a "
            f"{type(params).__name__}."
        )
    hidden = len(params.w_hh)
    b = jnp.log(jax.random.uniform(key, (hidden,), minval=1.0, maxval=longest - 1))
    b = b.astype(params.b.dtype)
    gates = jnp.split(params.b, len(params.b) // hidden)
    if isinstance(params, LSTMParams):
        gates[:2] = [-b, b]  # i f g o
    else:
        gates[1] = b  # r z n
    return params._replace(b=jnp.concatenate(gates))


def spectral_radius(params: Params, radius: float) -> Params:
    """The recurrent matrix `[H, G]` scaled, so that each gate's block has this spectral radius.

    That is the largest modulus of its eigenvalues, by which a linear network stretches a state per
    step over many steps. Above 1 a tanh network without input does not forget where it began; below
    1 it usually does, and always where the largest singular value is below 1 too. Of a gated cell
    the blocks' radii say less. It is computed on the host: not under `jit`.

    Args:
      params: any cell's.
      radius: at least 0.

    Raises:
      TypeError, ValueError: if `radius` is no number ≥ 0, or all eigenvalues of a block are 0.

    Source: Jaeger (2001), "The echo state approach to analysing and training recurrent neural
    networks", GMD report 148.
    """
    if radius != 0:
        radius = checks.between("radius", radius, 0.0)
    w_hh: Array = getattr(params, "w_hh")  # noqa: B009
    blocks = np.split(np.asarray(w_hh, np.float64), w_hh.shape[1] // len(w_hh), axis=1)
    radii = [np.abs(np.linalg.eigvals(block)).max() for block in blocks]
    if not min(radii) > 0:
        raise ValueError(
            "`params` must have a recurrent matrix with eigenvalues that are not 0."
        )
    scaled = [radius / now * block for now, block in zip(radii, blocks, strict=True)]
    replaced: Any = params
    return replaced._replace(
        w_hh=jnp.asarray(np.concatenate(scaled, axis=1), w_hh.dtype)
    )
