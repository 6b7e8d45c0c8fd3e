"""How well rules that learn forwards in time agree with BPTT, along a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxrnn
from experiments.models.online import RULES, check_takes
from experiments.tasks.base import Task
from jaxrnn import online
from jaxrnn.ops.norms import norm

# The rules that cost O(|θ|) per step, so that any run's network can be measured. RTRL,
# which costs more, agrees exactly.
MEASURED = "snap1", "rflo", "uoro"
# Sequences that the gradients are added up over.
SEQUENCES = 8


def cosines(task: Task, params: dict[int, Any]) -> dict[str, np.ndarray]:
    """Returns the cosine between each rule's gradient and BPTT's, one per checkpoint.

    They are gradients of the cell's parameters, from the loss at the last step of
    held-out sequences. Rules that do not take the cell are left out. A cosine is NaN
    where a gradient is 0 or not finite.
    """
    rules = [rule for rule in MEASURED if _takes(rule, task.cell)]
    measured = jax.jit(lambda params: _cosines(task, rules, params))
    found = [measured(p) for p in params.values()]
    return {rule: np.array([f[rule] for f in found], np.float64) for rule in rules}


def _cosines(task: Task, rules: list[str], params: Any) -> dict[str, Array]:
    # The error at every output, which is that of the last step alone.
    cell, theta = task.cell, params.cell
    xs, loss = task.probe(params)
    last, hs = jaxrnn.unroll(cell, theta, None, xs)
    errors = jax.grad(lambda hs: loss(last, hs))(hs)[:, :SEQUENCES]
    xs = xs[:, :SEQUENCES]

    def linear(theta: Any) -> Array:
        return jnp.vdot(jaxrnn.unroll(cell, theta, None, xs)[1], errors)

    exact, found = jax.grad(linear)(theta), {}
    for rule in rules:
        estimator = RULES[rule]()
        gradient = online.online_value_and_grad(
            estimator, lambda _, h, error: jnp.vdot(h, error)
        )
        state = cell.initial_state(theta, xs.shape[1:2])
        key = jax.random.key(0)
        carry = online.online_start(estimator, cell, theta, state, key)
        _, (grads, _) = gradient((theta, ()), carry, online.Batch(xs, errors))
        products = jax.tree.map(jnp.vdot, _direction(grads), _direction(exact))
        found[rule] = jnp.stack(jax.tree.leaves(products)).sum()
    return found


def _direction(grads: Any) -> Any:
    """Returns them over their norm: a product of two small norms could be 0."""
    size = norm(grads)
    return jax.tree.map(lambda a: a / size, grads)


def _takes(rule: str, cell: jaxrnn.Cell) -> bool:
    try:
        check_takes(rule, cell)
    except ValueError:
        return False
    return True
