"""The second grid: networks of layers, on small shapes, without times."""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import contest, layers, networks, problem, report, results, tables
from benchmarks.peers.networks import CONTESTANTS

SMALL = problem.Shape(T=5, B=4, I=3, H=6)
PACKAGES = {"keras": "keras", "pytorch": "torch", "flax-nnx": "flax"}
# Those whose packages are installed: the tests need only Flax.
NAMES = [
    name
    for name in CONTESTANTS
    if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name])
]
LINEAR = ["jaxrnn-parallel", "scan", "associative-scan"]
NOISY = "gru-3-layers-dropout"
# Each cell, two layers, both ways and dropout; what these leave is behind `slow`.
FAST = ["bilstm", NOISY, "lru", "mingru"]


def make(contestant, one):
    """A contestant, whatever its library warns of; None: it has no such cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CONTESTANTS[contestant](one)


def computed(contestant):
    """The outputs, the gradient of the inputs, and those of the matrices."""
    kinds, arguments = contestant.functions, contestant.arguments

    def both(*arguments):
        return kinds["forward"](*arguments), kinds["gradient"](*arguments)

    ys, (dxs, *params) = (jax.jit(both) if arguments else both)(*arguments)
    ys, dxs = (np.swapaxes(a, 0, 1) if contestant.batch_major else a for a in (ys, dxs))
    arrays = [np.asarray(p, np.float64) for p in jax.tree.leaves(params)]
    # Keras stacks two biases.
    return ys, dxs, [a for a in arrays if a.ndim == 2 and min(a.shape) > 2]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in networks.NETWORKS
    ],
)
def test_everyone_computes_the_same(name):
    """Outputs, the gradient of the inputs, and the size of that of the matrices, which
    does not depend on their layout."""
    one = networks.make(name, SMALL)
    contestants = {other: make(other, one) for other in NAMES}
    found = {
        other: computed(contestant.without_noise or contestant)
        for other, contestant in contestants.items()
        if contestant is not None
    }
    left_out = PACKAGES if networks.NETWORKS[name].cell in networks.LINEAR else LINEAR
    assert set(found) == {*NAMES} - {*left_out}
    ys, dxs, matrices = found["jaxrnn"]
    size = sum(np.sum(a**2) for a in matrices)
    assert size > 1 and np.abs(dxs).max() > 0.1
    for their_ys, their_dxs, theirs in found.values():
        np.testing.assert_allclose(their_ys, ys, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(their_dxs, dxs, rtol=1e-4, atol=1e-5)
        assert len(theirs) == len(matrices)
        assert sum(np.sum(a**2) for a in theirs) == pytest.approx(size, rel=1e-4)


def test_dropout_is_on_where_it_is_timed():
    """A unit that is dropped at both steps leaves no gradient in the matrix that reads
    it: about 0.2² of 200 units, in front of the second and of the third layer."""
    width = 200
    one = networks.make(NOISY, problem.Shape(T=2, B=1, I=3, H=width))
    for name in NAMES:
        if (contestant := make(name, one)) is None:
            continue
        *_, matrices = computed(contestant)
        dropped = []
        for matrix in matrices:
            if min(matrix.shape) == width:  # it reads units, not inputs
                matrix = matrix if len(matrix) == width else matrix.T
                gone = np.flatnonzero(~matrix.any(axis=1))
                dropped += [tuple(gone)] if len(gone) else []
        assert len(set(dropped)) == len(dropped) == 2, name
        assert all(len(units) < 20 for units in dropped), name  # σ = 2.8


def noisy_contestant(noise, quiet):
    """One that adds noise to its outputs, but is compared as `quiet`."""

    def outputs(params, xs, key):
        return xs + noise * jax.random.normal(key, xs.shape)

    def silent(params, xs):
        return xs + quiet

    fixed, xs = (jax.random.key(0),), jnp.ones((3, 2, 4))
    contestant = contest.from_outputs(outputs, (), xs, fixed=fixed)
    return contestant._replace(without_noise=contest.from_outputs(silent, (), xs))


def test_contestants_with_dropout_are_compared_without_it():
    makers = {
        "jaxrnn": lambda _: noisy_contestant(1.0, quiet=0.0),
        "same": lambda _: noisy_contestant(2.0, quiet=0.0),
        "other": lambda _: noisy_contestant(0.0, quiet=0.1),
    }
    one = problem.make("elman", problem.Shape(3, 2, 4, 4))
    found = contest.compare(one, makers, contest.KINDS, rounds=2)
    assert {name: r["difference"] for name, r in found["contestants"].items()} == {
        **{"jaxrnn": 0.0, "same": 0.0},
    }
    assert (
        "forward is off" in found["failed"]["other"]
        or "gradient is off" in (found["failed"]["other"])
    )


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_flops_of_a_network_count_every_matrix(name):
    network, (steps, batch, inputs, hidden) = networks.NETWORKS[name], SMALL
    ways = 1 + network.both_ways
    gates = {"lstm": 4, "gru": 3, "lru": 1, "min_gru": 2}[network.cell]
    recurrent = 0 if network.cell in networks.LINEAR else hidden
    read = [inputs, *[ways * hidden] * (network.depth - 1)]
    weights = sum(ways * gates * hidden * (size + recurrent) for size in read)
    params = jax.eval_shape(lambda: networks.make(name, SMALL).params)
    one = problem.Problem(name, SMALL, params, jnp.zeros(()))
    assert problem.flops(one, "forward") == 2 * steps * batch * weights
    assert problem.flops(one, "gradient") == 6 * steps * batch * weights


def test_the_grid_has_long_sequences_where_steps_are_linear():
    assert networks.shapes("bilstm") == networks.SHAPES
    assert networks.shapes("lru") == [*networks.SHAPES, networks.LONG]


def test_the_command_and_its_page(tmp_path):
    """A run of two small networks, its section of the page and its picture."""
    out, page = tmp_path / "layers.json", tmp_path / "grid"
    chosen = ["--network", "lru,mingru", "--points", "4,2,3,4", "--rounds", "2"]
    chosen += ["--contestants", "jaxrnn,scan", "--out", str(out)]
    assert layers.main(chosen) == 0
    points = results.read(out)["points"]
    assert [point["cell"] for point in points] == ["lru", "mingru"]
    assert all({*point["contestants"]} == {"jaxrnn", "scan"} for point in points)
    assert report.main([str(out), str(page), "--layers", str(out)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {"grid.png", "grid_memory.png", "grid_layers.png"}
    assert names == {"layers.json", "grid.md", *pictures}
    _, section = page.with_suffix(".md").read_text().split("## Networks of layers")
    for part in ("(grid_layers.png)", "`make bench-layers`", "### lru", "### mingru"):
        assert part in section
    assert section.count("\n| 4 2 3 4 | ") == 2


def point(network, shape, **milliseconds):
    """One point, the contestants' gradients taking these."""
    contestants = {
        name.replace("_", "-"): {
            "unlike": "",
            "gradient": {"ms": (ms, ms, ms), "temporary_bytes": None},
        }
        for name, ms in milliseconds.items()
    }
    return {"cell": network, "shape": shape, "contestants": contestants}


def test_a_network_s_table_has_the_comparisons_that_it_has():
    points = [
        point("bilstm", [1, 2, 3, 4], jaxrnn=10, keras=20, pytorch=5),
        point("lru", [1, 2, 3, 4], jaxrnn=10, scan=40, jaxrnn_parallel=30),
    ]
    head, (row,) = tables.shapes(points, "lru", results.OF_LAYERS)
    assert dict(zip(head[5:], row[5:], strict=True)) == {
        "gradient / a plain scan": "0.25",
        "gradient / our own loop, ours in parallel": "3.00",
    }
    head, (row,) = tables.shapes(points, "bilstm", results.OF_LAYERS)
    assert dict(zip(head[5:], row[5:], strict=True)) == {
        **{"gradient / Keras": "0.50", "gradient / PyTorch": "2.00"},
    }


def test_the_picture_has_a_row_for_each_point():
    points = [
        point("bilstm", [1, 2, 3, 4], jaxrnn=10, keras=20, pytorch=5),
        point("lru", [8, 2, 3, 4], jaxrnn=10, scan=40),
    ]
    machine = {"processor": "P", "cores": 2}
    panel, _ = report.draw_layers({"machine": machine, "points": points}).axes
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == ["bilstm  1 2 3 4", "lru  8 2 3 4"]
    drawn = [tuple(map(float, xy)) for line in panel.lines for xy in line.get_xydata()]
    assert {(0.5, 0.0), (2.0, 0.0), (0.25, 1.0)} <= {*drawn}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "lstm"], "names separated by commas, of lstm-2-layers, "),
        (["--contestants", "haiku"], "names separated by commas, of jaxrnn, "),
        (["--points", "0,1,1,1"], "shapes T,B,I,H, each at least 1, such as"),
    ],
)
def test_arguments_that_make_no_sense(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        layers.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line.startswith(f"error: argument {arguments[0]}: must be ")
    assert words in line
