"""What a node RNN, LSTM or GRU computes: its attributes as a value for each direction.

The attributes are those of ONNX's operators, version 14 and later:

    RNN    h[t] = f(z)
    LSTM   i, f, o = f(z_i), f(z_f), f(z_o);  c̃ = g(z_c);  h[t] = o ⊙ h(c[t])
    GRU    z, r = f(z_z), f(z_r);  h̃ = g(z_h)

The arguments z of the gates are clipped to ± `clip` before, if it is given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Kind(NamedTuple):
    """An activation of ONNX: `[...]` to `[...]`, and the defaults of α and β.

    A default of None says that the function has no such number; of NaN, that it must be
    given.
    """

    function: Callable[[Array, float, float], Array]
    alpha: float | None = None
    beta: float | None = None


# The specification refers to operators for the defaults, of which Affine and ScaledTanh
# are gone; onnxruntime takes 0 for these and for ThresholdedRelu, where it should be 1.
REQUIRED = float("nan")

KINDS: dict[str, Kind] = {
    "Relu": Kind(lambda z, alpha, beta: jax.nn.relu(z)),
    "Tanh": Kind(lambda z, alpha, beta: jnp.tanh(z)),
    "Sigmoid": Kind(lambda z, alpha, beta: jax.nn.sigmoid(z)),
    "Affine": Kind(lambda z, alpha, beta: alpha * z + beta, REQUIRED, REQUIRED),
    "LeakyRelu": Kind(lambda z, alpha, beta: jax.nn.leaky_relu(z, alpha), 0.01),
    "ThresholdedRelu": Kind(
        lambda z, alpha, beta: jnp.where(z >= alpha, z, jnp.zeros_like(z)), REQUIRED
    ),
    "ScaledTanh": Kind(
        lambda z, alpha, beta: alpha * jnp.tanh(beta * z), REQUIRED, REQUIRED
    ),
    "HardSigmoid": Kind(
        lambda z, alpha, beta: jnp.clip(alpha * z + beta, 0, 1), 0.2, 0.5
    ),
    "Elu": Kind(lambda z, alpha, beta: jax.nn.elu(z, alpha), 1.0),
    "Softsign": Kind(lambda z, alpha, beta: jax.nn.soft_sign(z)),
    "Softplus": Kind(lambda z, alpha, beta: jax.nn.softplus(z)),
}


class Activation(NamedTuple):
    """An activation by its name in ONNX, with its numbers; None where it has none."""

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __call__(self, z: Array) -> Array:
        """Returns f(z), `[...]` to `[...]`."""
        alpha, beta = self.alpha or 0.0, self.beta or 0.0
        return KINDS[self.name].function(z, alpha, beta)


class Operator(NamedTuple):
    """A recurrent operator: its gates, its activations' defaults, its attributes."""

    gates: int
    activations: tuple[str, ...]
    attributes: frozenset[str]
    """Those that it alone has."""


OPERATORS: dict[str, Operator] = {
    "RNN": Operator(1, ("Tanh",), frozenset()),
    "LSTM": Operator(4, ("Sigmoid", "Tanh", "Tanh"), frozenset({"input_forget"})),
    "GRU": Operator(3, ("Sigmoid", "Tanh"), frozenset({"linear_before_reset"})),
}


class Recurrence(NamedTuple):
    """What a node computes in one direction of time."""

    operator: str
    activations: tuple[Activation, ...]
    """f, g and h, as many as the operator has."""
    clip: float | None = None
    peephole: bool = False
    """LSTM: whether the gates see the memory."""
    coupled: bool = False
    """LSTM: `input_forget`, f = 1 - i. Peepholes of f have no effect then."""
    linear_before_reset: bool = False
    """GRU: whether r multiplies the product with W_h, and not h[t-1]."""


class Node(NamedTuple):
    """The attributes of a recurrent node: one recurrence for each direction."""

    recurrences: tuple[Recurrence, ...]
    reversed: tuple[bool, ...]
    """Whether each direction runs from the end."""
    hidden_size: int | None
    batch_first: bool
    """Whether batches stand before time, `layout=1`."""


DIRECTIONS = {
    "forward": (False,),
    "reverse": (True,),
    "bidirectional": (False, True),
}


def read_node(operator: str, attributes: Mapping[str, Any], peephole: bool) -> Node:
    """Returns what a node with these attributes computes.

    Raises:
      ValueError: if an attribute, or its value, is not one of the operator's.
    """
    given, own = dict(attributes), OPERATORS[operator]
    direction = given.pop("direction", "forward")
    if direction not in DIRECTIONS:
        raise ValueError(
            f"`direction` must be one of {', '.join(DIRECTIONS)}, but got "
            f"{direction!r}."
        )
    runs = DIRECTIONS[direction]
    names = given.pop("activations", own.activations * len(runs))
    activations = _activations(
        names, given.pop("activation_alpha", ()), given.pop("activation_beta", ())
    )
    count = len(own.activations)
    if len(activations) != count * len(runs):
        raise ValueError(
            f"`activations` of {operator} must be {count} for each of {len(runs)} "
            f"direction(s), but got {', '.join(names)}."
        )
    options = {
        "clip": given.pop("clip", None),
        "peephole": peephole,
        "coupled": _flag(given, "input_forget") if operator == "LSTM" else False,
        "linear_before_reset": (
            _flag(given, "linear_before_reset") if operator == "GRU" else False
        ),
    }
    if options["clip"] is not None and not options["clip"] > 0:
        raise ValueError(f"`clip` must be above 0, but got {options['clip']}.")
    size, batch_first = given.pop("hidden_size", None), _flag(given, "layout")
    if given:
        raise ValueError(
            f"{operator} must have no attribute but those of ONNX's version 14 or "
            f"later, but got {', '.join(sorted(given))}."
        )
    each = [activations[n * count : (n + 1) * count] for n in range(len(runs))]
    recurrences = tuple(Recurrence(operator, a, **options) for a in each)
    return Node(recurrences, runs, size, batch_first)


def write_node(node: Node) -> dict[str, Any]:
    """Returns the attributes of a node, those at their defaults left out."""
    first = node.recurrences[0]
    activations = [a for r in node.recurrences for a in r.activations]
    attributes: dict[str, Any] = {"hidden_size": node.hidden_size}
    attributes["direction"] = next(
        d for d, r in DIRECTIONS.items() if r == node.reversed
    )
    defaults = OPERATORS[first.operator].activations * len(node.recurrences)
    if tuple(a.name for a in activations) != defaults:
        attributes["activations"] = [a.name for a in activations]
    for name in ("alpha", "beta"):
        numbers = [getattr(a, name) for a in activations]
        if any(n is not None for n in numbers):
            given = [n for n in numbers if n is not None]
            attributes[f"activation_{name}"] = given
    if first.coupled:
        attributes["input_forget"] = 1
    if first.linear_before_reset:
        attributes["linear_before_reset"] = 1
    return attributes


def _activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]
) -> tuple[Activation, ...]:
    """Returns the activations, each with as many of the numbers as it takes."""
    left = iter(alphas), iter(betas)
    activations = []
    for name in names:
        if name not in KINDS:
            raise ValueError(
                f"`activations` must be among {', '.join(KINDS)}, but got {name!r}."
            )
        kind = KINDS[name]
        alpha = _next("activation_alpha", name, kind.alpha, left[0])
        beta = _next("activation_beta", name, kind.beta, left[1])
        activations.append(Activation(name, alpha, beta))
    for what, numbers in zip(
        ("activation_alpha", "activation_beta"), left, strict=True
    ):
        if list(numbers):
            raise ValueError(
                f"`{what}` must have no more numbers than {', '.join(names)} take."
            )
    return tuple(activations)


def _next(
    what: str, name: str, default: float | None, left: Iterator[float]
) -> float | None:
    if default is None:
        return None
    number = next(left, default)
    if number != number:
        raise ValueError(
            f"`{what}` must be given for the activation {name}: runtimes differ in its "
            "default."
        )
    return number


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.pop(name, 0)
    if value not in (0, 1):
        raise ValueError(f"`{name}` must be 0 or 1, but got {value}.")
    return bool(value)
