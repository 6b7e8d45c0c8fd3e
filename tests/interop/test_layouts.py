"""The table of layouts: each library's order, axes and biases; and what it refuses."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import cells, interop
from jaxrnn.interop import keys, layouts, weights

INPUTS, HIDDEN = 2, 3
ENTRIES = [(lib, kind) for lib, kinds in layouts.LAYOUTS.items() for kind in kinds]


def params_with_biases(kind):
    """Parameters whose biases are not zero: normal numbers in all leaves."""
    shapes = weights.cell_of(kind).init(jax.random.key(0), INPUTS, HIDDEN)
    leaves, treedef = jax.tree.flatten(shapes)
    random = np.random.default_rng(0)
    return treedef.unflatten(
        [jnp.asarray(random.normal(size=a.shape), jnp.float32) for a in leaves]
    )


@pytest.mark.parametrize("library, kind", ENTRIES)
def test_there_and_back(library, kind):
    """Every layout, with shapes as they are foretold, gives the parameters again."""
    params = params_with_biases(kind)
    if (library, kind) == ("nnx", "gru"):  # which has no such bias
        params = params._replace(b_hn=jnp.zeros(HIDDEN))
    there = weights.weights_of(params, library)
    expected = weights.shapes_of(kind, library, INPUTS, HIDDEN)
    assert [a if a is None else a.shape for a in there] == [*expected]
    back = weights.params_of(there, kind, weights.cell_of(kind), library)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), back, params)


@pytest.mark.parametrize("library, order", {"keras": "zrn", "onnx": "zrn"}.items())
def test_another_order_of_gates(library, order):
    """Each gate's columns are found where the library's order has its letter."""
    params = params_with_biases("gru")
    w_ih, w_hh, b_ih, b_hh, _ = weights.weights_of(params, library)
    if library == "onnx":
        w_ih, w_hh = w_ih.T, w_hh.T
    for number, gate in enumerate("rzn"):
        here, there = (
            slice(HIDDEN * n, HIDDEN * (n + 1)) for n in (number, order.index(gate))
        )
        pairs = zip((w_ih, w_hh, b_ih), params, strict=False)
        for theirs, ours in pairs:
            np.testing.assert_array_equal(theirs[..., there], ours[..., here])
        np.testing.assert_array_equal(b_hh[there], params.b_hn * (gate == "n"))


def test_every_order_has_our_gates():
    for library, kind in ENTRIES:
        layout = layouts.LAYOUTS[library][kind]
        assert set(layout.order) == set(weights.GATES[kind])
        assert set(layout.b_ih + layout.b_hh) == set(layout.order)
        assert layouts.order_of(weights.GATES[kind], library) == layout.order


def test_permuted_is_undone():
    array = np.arange(8.0).reshape(1, 8)
    there = layouts.to_library(array, "ifgo", "onnx")
    np.testing.assert_array_equal(there, [[0, 1, 6, 7, 2, 3, 4, 5]])
    np.testing.assert_array_equal(layouts.from_library(there, "ifgo", "onnx"), array)


REFUSED = {
    "b_hn": (
        lambda: interop.to_flax(params_with_biases("gru"), jaxrnn.gru),
        "`target` must be one of linen.SimpleCell",
    ),
    "another library": (
        lambda: layouts.order_of("ifgo", "tensorflow"),  # type: ignore
        "`library` must be one of torch, linen",
    ),
    "no such cell": (
        lambda: weights.weights_of(params_with_biases("elman"), "equinox"),
        r"that Equinox has \(lstm, gru\), but got those of an Elman cell",
    ),
    "two biases": (
        lambda: weights.weights_of(
            interop.TwoBiases(params_with_biases("lstm"), jnp.ones(4 * HIDDEN)),
            "equinox",
        ),
        "must have one bias, as Equinox has here. Add them up",
    ),
    "our own cell": (
        lambda: weights.weights_of(cells.mgu.init(jax.random.key(0), 2, 3), "torch"),
        "a GRU, but got a MGUParams",
    ),
    "not of Flax": (
        lambda: interop.from_flax(3.0),
        "`source` must be an NNX module, its state",
    ),
    "unknown names of Flax": (
        lambda: interop.from_flax({"dense_i": {"kernel": np.ones((3, 4))}, "x": 1.0}),
        "must have dense_h/kernel",
    ),
    "not of Equinox": (
        lambda: interop.from_equinox({}),
        "must be an equinox.nn.LSTMCell or GRUCell",
    ),
    "not of Haiku": (
        lambda: interop.from_haiku(3.0),  # type: ignore
        "must be the parameters of a Haiku network",
    ),
    "no core of Haiku": (
        lambda: interop.from_haiku({"mlp/linear": {"w": np.ones((3, 4))}}),
        "Give the `name` of the module",
    ),
    "a key of Haiku": (
        lambda: interop.from_haiku({"lstm/linear": {"w": np.ones((7, 16))}}),
        "must have linear/b, but got linear/w",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, words = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_a_bias_that_the_target_lacks_is_not_dropped_unasked():
    """`nnx.GRUCell` has no `b_hn`."""
    nnx = pytest.importorskip("flax.nnx")
    params = params_with_biases("gru")
    with pytest.raises(ValueError, match="`b_hn` must be zero: Flax NNX's cell"):
        interop.to_flax(params, nnx.GRUCell)
    lossy = interop.to_flax(params, nnx.GRUCell, allow_lossy=True)
    assert set(keys.flat(lossy)) == {
        *("dense_i/kernel", "dense_i/bias", "dense_h/kernel"),
    }
    zero = params._replace(b_hn=jnp.zeros(HIDDEN))
    jax.tree.map(
        np.testing.assert_array_equal, lossy, interop.to_flax(zero, nnx.GRUCell)
    )


def test_flax_both_ways():
    """NNX and Linen name the two directions alike."""
    nn = pytest.importorskip("flax.linen")
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, INPUTS)), jnp.float32)
    rnns = [nn.RNN(nn.GRUCell(HIDDEN)) for _ in range(2)]
    module = nn.Bidirectional(*rnns, time_major=True)
    variables = module.init(jax.random.key(0), xs)
    net, params = interop.from_flax(variables)
    _, ys = net.unroll(params, None, xs)
    np.testing.assert_allclose(ys, module.apply(variables, xs), atol=1e-6)
    again = {"params": interop.to_flax(params, nn.GRUCell)}
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_an_nnx_module_tells_its_activation():
    nnx = pytest.importorskip("flax.nnx")
    sizes = INPUTS, HIDDEN
    cell = nnx.SimpleCell(*sizes, activation_fn=nnx.relu, rngs=nnx.Rngs(0))
    net, _ = interop.from_flax(cell)
    relu = jaxrnn.layers.recurrent(jaxrnn.make_elman("relu"), HIDDEN)
    assert net == relu
    unknown = nnx.SimpleCell(*sizes, activation_fn=nnx.gelu, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="`activation_fn` of `source` must be one of"):
        interop.from_flax(unknown)
    residual = nnx.SimpleCell(*sizes, residual=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="must have neither `residual` nor"):
        interop.from_flax(residual)


def test_importing_the_library_imports_no_other():
    others = "torch", "flax", "equinox", "keras", "haiku", "onnx", "tensorflow"
    code = f"import sys, jaxrnn; print([n for n in {others} if n in sys.modules])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
