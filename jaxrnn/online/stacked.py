"""Layers on top of one another, each with a rule and a trace of its own.

Layer l reads the output of the layer below at the same step, x_l[t] = h_{l-1}[t]. Each
layer estimates how its own state depends on its own parameters, as if its inputs did
not depend on them through the past. The error of the loss goes down through the layers
within the present step alone:

    g_{l-1}[t] = (∂s_l[t]/∂x_l[t])ᵀ g_l[t]                                         (1)

For the uppermost layer that is the whole error. For those below, it leaves out that
their outputs act on the layers above at later steps too. So with exact rules (`rtrl`)
the gradient of the uppermost layer is exact. That of a layer below is exact only if no
layer above it has memory; otherwise it is an approximation, which neglects more the
longer the layers above remember (Zucchet et al., 2023, NeurIPS, "Online learning of
long-range dependencies").
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.arguments import describe
from jaxrnn.cells.base import Cell, State
from jaxrnn.methods import methods_of
from jaxrnn.online.base import Estimator, Trace, to_input


class Layers(NamedTuple):
    """The traces of the layers, and the present step of each."""

    cell: tuple[Cell, ...]
    traces: tuple[Trace, ...]
    inputs: tuple[Array, ...]
    """The input of every layer but the lowest, `[*B, I]`."""
    befores: tuple[State, ...]
    """The state of these layers before the step, leaves `[*B, H]`."""


def stacked(*rules: Estimator) -> Estimator:
    """Returns the estimator of layers on top of one another, lowest first, (1).

    Its cells, parameters, states and gradient are tuples with one entry for each layer.
    The gradient of the uppermost layer is exact if its rule is; those of the layers
    below are approximate. Inputs are `[*B, I]` or ids `[*B]`.

    Args:
      *rules: a rule for each layer.

    Raises:
      TypeError: if a rule is no estimator.
      ValueError: if there is no rule. `init` raises it unless cells, parameters and
        states are tuples with one entry for each rule.
    """
    if not rules:
        raise ValueError("`rules` must be at least one estimator, but got none.")
    for rule in rules:
        if not isinstance(rule, Estimator):
            raise TypeError(
                "`rules` must be estimators, such as jaxrnn.online.rtrl(), but got "
                f"{describe(rule)}."
            )
    return Estimator(*methods_of(_Stacked(rules), Estimator._fields))


class _Stacked(NamedTuple):
    rules: tuple[Estimator, ...]

    def init(self, cell: Any, params: Any, state: Any) -> Layers:
        for name, given in (("cell", cell), ("params", params), ("state", state)):
            if type(given) is not tuple or len(given) != len(self.rules):
                raise ValueError(
                    f"`{name}` must be a tuple with one entry for each of the "
                    f"{len(self.rules)} layers, but got {describe(given)}."
                )
        layers = zip(self.rules, cell, params, state, strict=True)
        traces = tuple(rule.init(*layer) for rule, *layer in layers)
        outputs = tuple(jnp.zeros_like(below.h) for below in state[:-1])
        return Layers(cell, traces, outputs, state[1:])

    def update(
        self, params: Any, state: Any, x: Array, trace: Layers, key: Any
    ) -> tuple[Any, Layers]:
        count = len(self.rules)
        keys = [None] * count if key is None else [*jax.random.split(key, count)]
        states, traces, inputs = [], [], [x]
        layers = zip(self.rules, params, state, trace.traces, keys, strict=True)
        for rule, theta, before, own, own_key in layers:
            after, own = rule.update(theta, before, inputs[-1], own, own_key)
            states.append(after)
            traces.append(own)
            inputs.append(after.h)
        trace = trace._replace(
            traces=tuple(traces), inputs=tuple(inputs[1:-1]), befores=state[1:]
        )
        return tuple(states), trace

    def gradient(self, params: Any, trace: Layers, g: Any) -> Any:
        grads, error = [], g[-1]
        for layer in reversed(range(len(self.rules))):
            rule, theta = self.rules[layer], params[layer]
            grads.append(rule.gradient(theta, trace.traces[layer], error))
            if layer:
                present = trace.befores[layer - 1], trace.inputs[layer - 1]
                down = to_input(trace.cell[layer], theta, *present, error)
                below = g[layer - 1]
                error = below._replace(h=below.h + down)  # (1)
        return tuple(reversed(grads))
