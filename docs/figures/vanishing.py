"""Draws how much of a scalar state's change is left some steps later.

    python -m docs.figures.vanishing

writes docs/figures/vanishing.svg.
"""

from pathlib import Path

import numpy as np

from experiments.analysis.figures import figure

STEPS = 60


def logistic(z):
    return 1 / (1 + np.exp(-z))


# f and ḟ, both of z.
ACTIVATIONS = {
    "logistic": (logistic, lambda z: logistic(z) * (1 - logistic(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "identity": (lambda z: z, np.ones_like),
}
# The color says which activation it is.
CASES = [
    ("logistic", 2.0, "C0", "-"),
    ("logistic", 4.0, "C0", "--"),
    ("tanh", 0.9, "C1", "-"),
    ("tanh", 1.5, "C1", "--"),
    ("identity", 0.9, "C2", "-"),
    ("identity", 1.1, "C2", "--"),
]


def factors(name, w_m, xs):
    """Returns |∂h[i]/∂h[0]| for i = 0 … T: the product of wₘ ḟ(z[t])."""
    f, df = ACTIVATIONS[name]
    h, product, found = 0.0, 1.0, [1.0]
    for x in xs:
        z = x + w_m * h
        h, product = f(z), product * w_m * df(z)
        found.append(abs(product))
    return found


def main():
    xs = 0.5 * np.random.default_rng(0).standard_normal(STEPS)
    path = Path(__file__).with_suffix(".svg")
    with figure(path, size=(6.0, 4.0)) as (axes,):
        for name, w_m, color, style in CASES:
            label = f"{name}, wₘ = {w_m}"
            axes.plot(factors(name, w_m, xs), style, color=color, label=label)
        axes.set(yscale="log", ylim=(1e-12, 1e4))
        axes.set(xlabel="steps i", ylabel="|∂h[i] / ∂h[0]|")
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        axes.legend(fontsize="small", ncols=3, frameon=False, **above)


if __name__ == "__main__":
    main()
