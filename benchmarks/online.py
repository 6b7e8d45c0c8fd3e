"""Counts what the rules of `jaxrnn.online` cost, and how far off their gradients are.

    python -m benchmarks.online                             a minute or two
    python -m benchmarks.online --sizes 16,32 --draws 64    quicker

Costs are those of one step and its gradient, for one sequence of 4 inputs: operations,
and bytes read and written, as XLA counts them in the compiled program, and the bytes of
the trace. Nothing is timed. An exponent is that of a power of H through the two largest
sizes; beside it stands the theory's. RTRL of a dense cell stops at `--dense`.

Errors are those of a fixed problem, in which an Elman network of 16 units, with
orthogonal weights, reads 20 inputs, and its loss weighs each output: the cosine with
the gradient of backpropagation through time, of a biased rule's gradient, or of one
draw on average; and the variance of an unbiased rule, E |ĝ - g|² / |g|².

The results go to `--out`, and the tables, in Markdown, to the terminal.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

import jaxrnn
from benchmarks import command, measure, problem, results, tables
from benchmarks.problem import Shape
from jaxrnn import Cell, online


class Rule(NamedTuple):
    """A rule, the theory's exponents of H for an Elman network, and its kind."""

    estimator: online.Estimator
    operations: int
    memory: int
    kind: str = "biased"


RULES = {
    "rtrl": Rule(online.rtrl(), 4, 3, "exact"),
    "snap": Rule(online.snap(), 2, 2),
    "rflo": Rule(online.rflo(), 2, 2),
    "eprop": Rule(online.eprop(0.5), 2, 2),
    "dni": Rule(online.dni(), 2, 1),
    "uoro": Rule(online.uoro(), 2, 2, "unbiased"),
    "kf_rtrl": Rule(online.kf_rtrl(), 3, 2, "unbiased"),
    "ok(1)": Rule(online.ok(1), 3, 2, "unbiased"),
    "ok(2)": Rule(online.ok(2), 3, 2, "unbiased"),
}
# A cell whose units are separate: RTRL is exact there at the cost of its parameters, of
# which an IndRNN has a multiple of H.
DIAGONAL = Rule(online.rtrl(), 1, 1, "exact")
CELLS = {"elman": jaxrnn.elman, "indrnn": jaxrnn.indrnn}
CASES = [("elman", name, rule) for name, rule in RULES.items()]
CASES.append(("indrnn", "rtrl", DIAGONAL))

INPUTS = 4
FIXED = Shape(20, 1, 4, 16)


def cost(rule: Rule, cell: Cell, hidden: int) -> dict[str, float]:
    """Returns operations and bytes of a step and its gradient, and the trace's bytes.

    Nothing is run: the program is compiled for these shapes.
    """
    estimator = rule.estimator
    if rule is RULES["dni"]:
        cell = online.synthesizing(cell)

    def arguments() -> Any:
        params = cell.init(jax.random.key(0), INPUTS, hidden)
        state = cell.initial_state(params, ())
        x, trace = jnp.zeros(INPUTS), estimator.init(cell, params, state)
        return params, state, x, trace, jax.random.key(0), state

    def step(params: Any, state: Any, x: Any, trace: Any, key: Any, g: Any) -> Any:
        state, trace = estimator.update(params, state, x, trace, key)
        return state, trace, estimator.gradient(params, trace, g)

    shapes = jax.eval_shape(arguments)
    compiled = jax.jit(step).lower(*shapes).compile()
    counted: Any = compiled.cost_analysis()
    trace = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(shapes[3]))
    operations, moved = counted["flops"], counted["bytes accessed"]
    return {"operations": operations, "bytes": moved, "trace": trace}


def costs(sizes: Sequence[int], dense: int) -> Iterator[dict[str, Any]]:
    """Yields a point for each case and size."""
    for cell, name, rule in CASES:
        most = dense if rule.operations == 4 else math.inf
        for hidden in (size for size in sizes if size <= most):
            counted = cost(rule, CELLS[cell], hidden)
            yield {"cell": cell, "rule": name, "H": hidden, **counted}


def exponent(points: Sequence[dict[str, Any]], field: str) -> float:
    """Returns e of field ~ Hᵉ through the two largest sizes of one case."""
    small, large = sorted(points, key=lambda point: point["H"])[-2:]
    return math.log(large[field] / small[field]) / math.log(large["H"] / small["H"])


def errors(draws: int) -> Iterator[dict[str, Any]]:
    """Yields the cosine with BPTT and the variance, for each rule that has its own.

    DNI's depends on what its synthesizer has learned, and e-prop's is RFLO's unless the
    readout is leaky.
    """
    cell = jaxrnn.elman
    params = problem.weights(cell, jax.random.key(0), FIXED.I, FIXED.H)
    xs, state = problem.inputs(FIXED)[:, 0], cell.initial_state(params, ())
    weights = jax.random.normal(jax.random.key(2), (FIXED.T, FIXED.H))

    def value(params: Any) -> Array:
        return jnp.sum(weights * jaxrnn.unroll(cell, params, state, xs)[1])

    exact = ravel_pytree(jax.jit(jax.grad(value))(params))[0]
    for name, rule in RULES.items():
        if name in ("dni", "eprop"):
            continue
        found = _gradients(rule, cell, params, state, (xs, weights), draws)
        norms = jnp.linalg.norm(found, axis=1) * jnp.linalg.norm(exact)
        off = jnp.sum((found - exact) ** 2, axis=1).mean() / jnp.sum(exact**2)
        cosine = float(jnp.mean(found @ exact / norms))
        yield {"rule": name, "kind": rule.kind, "cosine": cosine, "off": float(off)}


def _gradients(
    rule: Rule, cell: Cell, params: Any, state: Any, given: Any, draws: int
) -> Array:
    """Returns gradients `[N, |θ|]`: one, or as many as are drawn."""
    fn = online.online_value_and_grad(rule.estimator, _weighed)

    def gradient(key: Array) -> Array:
        carry = online.online_start(rule.estimator, cell, params, state, key)
        grads = fn((params, ()), carry, online.Batch(*given))[1]
        return ravel_pytree(grads[0])[0]

    keys = jax.random.split(jax.random.key(3), draws if rule.kind == "unbiased" else 1)
    return jax.jit(jax.vmap(gradient))(keys)


def _weighed(rest: Any, h: Array, weights: Array) -> Array:
    return jnp.sum(weights * h)


def cost_rows(points: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns a head, and a row for each case, at the largest size that it has."""
    found = []
    for cell, name, rule in CASES:
        own = [p for p in points if (p["cell"], p["rule"]) == (cell, name)]
        last = max(own, key=lambda point: point["H"])
        row = [cell, name, str(last["H"])]
        for field, theory in (
            ("operations", rule.operations),
            ("bytes", ""),
            ("trace", rule.memory),
        ):
            fitted = f"{exponent(own, field):.2f}" if len(own) > 1 else ""
            row += [f"{last[field]:.3g}", f"{fitted} ({theory})" if theory else fitted]
        found.append(row)
    head = ["cell", "rule", "H", "operations", "exponent (theory's)"]
    head += ["bytes moved", "exponent", "bytes of the trace", "exponent (theory's)"]
    return head, found


def error_rows(points: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns a head, and a row for each rule."""
    found = [
        [
            point["rule"],
            point["kind"],
            f"{point['cosine']:.3f}",
            f"{point['off']:.3g}" if point["kind"] == "unbiased" else "",
        ]
        for point in points
    ]
    return ["rule", "", "cosine with BPTT", "variance"], found


@command.command
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = command.Parser("online", __doc__)
    add = parser.add_argument
    sizes, out = [16, 32, 64, 128, 256], Path("benchmarks/results/online.json")
    add("--sizes", type=command.sizes, default=sizes, help="of H: 16,32,64,128,256")
    add("--dense", type=command.at_least(1), default=128, help="128")
    add("--draws", type=command.at_least(2), default=4096, help="4096")
    add("--out", type=Path, default=out, help=str(out))
    options = parser.parse_args(argv)
    found = {
        "machine": measure.machine(),
        "points": [*costs(sorted(options.sizes), options.dense)],
        "errors": [*errors(options.draws)],
    }
    results.write(options.out, found)
    print("\n".join(tables.markdown(*cost_rows(found["points"]))), end="\n\n")
    print("\n".join(tables.markdown(*error_rows(found["errors"]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
