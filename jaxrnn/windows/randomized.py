"""Random truncation whose gradient is right on average.

*Randomized* truncation cuts the way from step t to t-1 with probability c[t]. Where it
does not cut, the factor γ of `jaxrnn.unroll` makes up for the cuts:

    γ[t] = 0 with probability c[t],  else 1 / (1 - c[t]),   so E[γ[t] … γ[t-i]] = 1 (1)

This holds because c[t] may depend on the cuts before t, but on nothing after. Cuts with
the same probability at every step make windows of geometric length. With n steps since
the last cut and

    c = (α - 1) / ((α - 2) K + n)                                                   (2)

a window's length has mean K too, and a tail that falls as n^(1-α).
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, PRNGKeyArray

from jaxrnn import arguments, checks


def randomized_truncation(
    key: PRNGKeyArray,
    size: int,
    window: float,
    *,
    exponent: float | None = None,
    batch_shape: tuple[int, ...] = (),
) -> Float[Array, "T *B"]:
    """Draws factors γ, (1), for unbiased truncated BPTT: `unroll(..., gamma=γ)`.

    The gradient's mean over draws is that of full BPTT. Its variance is the price: a
    path over n steps that is not cut has the weight 1/P(n steps without a cut), which
    is (1 - 1/K)^-n with constant windows, about n^(α-1) with growing ones. So where the
    adjoint decays slowly, by β per step with β² > 1 - 1/K, the variance of one loss's
    gradient grows without bound with the steps behind it if windows are constant, and
    does not if they grow.

    It is unbiased in float32 or wider. In bfloat16 each step rounds the adjoint by more
    than γ differs from 1 if K is some tens: keep the parameters in float32, and give
    `unroll` a `compute_dtype`.

    Args:
      key: a random key; a new one for every gradient.
      size: T.
      window: K, the mean number of steps between cuts, above 1.
      exponent: α > 2, (2): long windows are rare, and the longer one is, the less
        likely its end comes. 6 is a usual choice. None: every step is cut with
        probability 1/K.
      batch_shape: *B, to cut each sequence at steps of its own; (): all at the same
        steps.

    Returns:
      γ, `[T, *B]`, float32; the first one is 1.

    Raises:
      TypeError, ValueError: if an argument is not as above.

    Source: Tallec & Ollivier (2017), "Unbiasing truncated backpropagation through
    time", arXiv:1705.08209.
    """
    size = checks.natural("size", size)
    arguments.key("key", key)
    batch_shape = arguments.batch_shape("batch_shape", batch_shape)
    mean = checks.between("window", window, 1.0)
    alpha = None if exponent is None else checks.between("exponent", exponent, 2.0)

    def over_step(since, draw):
        c = 1 / mean if alpha is None else (alpha - 1) / ((alpha - 2) * mean + since)
        cut = draw < c
        return jnp.where(cut, 1.0, since + 1), jnp.where(cut, 0.0, 1 / (1 - c))

    draws = jax.random.uniform(key, (size, *batch_shape), jnp.float32)
    _, gamma = lax.scan(over_step, jnp.ones(batch_shape, jnp.float32), draws[1:])
    return jnp.concatenate([jnp.ones_like(draws[:1]), gamma])
