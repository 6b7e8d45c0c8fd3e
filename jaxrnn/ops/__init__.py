"""The products of a cell, and other building blocks of the engines.

Authors of cells multiply with these. They accumulate in float32 or wider, multiply in
`compute_dtype` where `unroll` is told to, and store a large matrix as the machine
multiplies it fastest:

    matmul(h, w_hh)                  a product in the step, and with θᵀ in `state_vjp`
    outer_sum(h, delta, dtype)       the gradient of a matrix, over all leading axes
    lead_sum(delta)                  the gradient of a bias, over all leading axes
    affine(xs, w_ih, b)              a product and a bias, for a drive
"""

from jaxrnn.ops.products import affine, lead_sum, matmul, outer_sum

__all__ = ["affine", "lead_sum", "matmul", "outer_sum"]
