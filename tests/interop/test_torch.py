"""Weights beside PyTorch itself, where it is installed, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn
from jaxrnn import interop, layers

INPUTS, HIDDEN = 4, 8
CLOSE = {"rtol": 0, "atol": 1e-6}


def state_dict(gates=4, hidden=HIDDEN, inputs=INPUTS, suffix="_l0"):
    """A state dict of NumPy arrays, as a file of safetensors gives it."""
    random = np.random.default_rng(0)
    shapes = {
        "weight_ih": (gates * hidden, inputs),
        "weight_hh": (gates * hidden, hidden),
        "bias_ih": (gates * hidden,),
        "bias_hh": (gates * hidden,),
    }
    return {
        f"{name}{suffix}": random.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }


MODULES = {
    "rnn": ("RNN", {}),
    "relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {"num_layers": 2, "bidirectional": True, "dropout": 0.5}),
    "projected": ("LSTM", {"proj_size": 3}),
    "gru": ("GRU", {"num_layers": 2}),
    "unbiased": ("GRU", {"bias": False}),
    # A square matrix, which no check of shapes can see transposed.
    "square": ("LSTM", {"hidden_size": INPUTS}),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", MODULES)
def test_there_and_back(name):
    """The module's outputs; its state dict again, to the bit where biases are two."""
    torch = pytest.importorskip("torch")
    kind, options = MODULES[name]
    torch.manual_seed(0)
    module = getattr(torch.nn, kind)(INPUTS, **{"hidden_size": HIDDEN} | options).eval()
    xs = torch.randn(5, 2, INPUTS)
    expected = module(xs)[0].detach().numpy()
    net, params = interop.from_torch(module)
    _, ys = net.unroll(params, None, jnp.asarray(xs.numpy()))
    np.testing.assert_allclose(ys, expected, **CLOSE)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    module.load_state_dict(interop.to_torch(params, bias=module.bias))
    np.testing.assert_allclose(module(xs)[0].detach().numpy(), expected, **CLOSE)
    if module.bias:
        _, params = interop.from_torch(before, two_biases=True)
        assert all(
            torch.equal(before[name], tensor)
            for name, tensor in interop.to_torch(params).items()
        )


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_of_a_cell(name):
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, name)(INPUTS, HIDDEN)
    x = torch.randn(2, INPUTS)
    h = module(x)[0] if name == "LSTMCell" else module(x)
    net, params = interop.from_torch(module)
    _, y = net.step(params, None, jnp.asarray(x.numpy()))
    np.testing.assert_allclose(y, h.detach().numpy(), **CLOSE)
    module.load_state_dict(interop.to_torch(params, cell=True))


def test_the_module_may_train_on():
    """Neither side changes with the other: the arrays are copies."""
    torch = pytest.importorskip("torch")
    module = torch.nn.RNN(HIDDEN, HIDDEN)
    _, params = interop.from_torch(module)
    before = jax.tree.map(np.array, params)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7.0)
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_in_bfloat16():
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(INPUTS, HIDDEN, dtype=torch.bfloat16)
    _, params = interop.from_torch(module, two_biases=True)
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    for name, tensor in interop.to_torch(params).items():
        assert torch.equal(tensor, module.state_dict()[name])


def test_a_stack_of_both_ways_has_dropout_where_the_module_has():
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(INPUTS, HIDDEN, 2, dropout=0.5)
    net, params = interop.from_torch(module)
    xs = jnp.ones((3, 2, INPUTS))
    _, without = net.unroll(params, None, xs)
    _, dropped = net.unroll(params, None, xs, key=jax.random.key(0))
    assert np.abs(without - dropped).max() > 1e-3


def test_the_prefix_of_a_larger_model():
    part = state_dict(3)
    whole = {f"encoder.{name}": a for name, a in part.items()}
    whole["head.weight"] = np.zeros((2, HIDDEN), np.float32)
    _, params = interop.from_torch(whole, prefix="encoder.")
    _, expected = interop.from_torch(part)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert isinstance(params, jaxrnn.GRUParams)


def test_two_biases_add_up():
    """Of a GRU, all but that of n, which the reset gate multiplies."""
    arrays = state_dict(3)
    _, two = interop.from_torch(arrays, two_biases=True)
    first, second = arrays["bias_ih_l0"], arrays["bias_hh_l0"]
    np.testing.assert_array_equal(two.cell.b, first)
    np.testing.assert_array_equal(two.b_hh, second[: 2 * HIDDEN])
    np.testing.assert_array_equal(two.cell.b_hn, second[2 * HIDDEN :])
    _, one = interop.from_torch(arrays)
    jax.tree.map(np.testing.assert_array_equal, interop.one_bias(two), one)


def changed(**changes):
    """A state dict with some arrays replaced, or taken out by None."""
    arrays = state_dict() | changes
    return {name: a for name, a in arrays.items() if a is not None}


LSTM = jaxrnn.lstm.init(jax.random.key(0), INPUTS, HIDDEN)
GRU = jaxrnn.gru.init(jax.random.key(0), INPUTS, HIDDEN)
REFUSED = {
    "missing": (
        lambda: interop.from_torch(changed(bias_hh_l0=None)),
        "`source` must have bias_hh_l0, but got weight_ih_l0",
    ),
    "nothing": (lambda: interop.from_torch({}), "weight_ih_l0, weight_hh_l0, but got"),
    "a layer is missing": (
        lambda: interop.from_torch(state_dict(suffix="_l1")),
        "must have weight_ih_l0",
    ),
    "unknown": (
        lambda: interop.from_torch(changed(scale=np.ones(3))),
        "also got scale. For a part of a model, give its `prefix`",
    ),
    "mis-shaped": (
        lambda: interop.from_torch(changed(bias_ih_l0=np.ones(3, np.float32))),
        r"bias_ih_l0 in `source` must have shape \(32,\), but got \(3,\)",
    ),
    "transposed": (
        lambda: interop.from_torch(changed(weight_hh_l0=np.ones((8, 32)))),
        r"weight_hh_l0 in `source` must have shape \(32, 8\), but got \(8, 32\)",
    ),
    "no gates": (
        lambda: interop.from_torch(state_dict(2)),
        r"must have shape \(8, 4\), but got \(16, 4\)",
    ),
    "not a module": (
        lambda: interop.from_torch(3.0),
        "must be a torch.nn.RNN, LSTM, GRU, one of their cells, or its state dict",
    ),
    "nonlinearity": (
        lambda: interop.from_torch(state_dict(1), nonlinearity="gelu"),
        '`nonlinearity` must be "tanh" or "relu"',
    ),
    "peepholes": (
        lambda: interop.to_torch(
            jaxrnn.make_lstm(peephole=True).init(jax.random.key(0), 3, 4)
        ),
        "an LSTM without peepholes",
    ),
    "reset before": (
        lambda: interop.to_torch(
            jaxrnn.make_gru(reset_after=False).init(jax.random.key(0), 3, 4)
        ),
        r"PyTorch has \(elman, lstm, gru\), but got those of a GRU that resets before",
    ),
    "two kinds": (
        lambda: interop.to_torch((LSTM, GRU)),
        "must be layers of one kind of cell",
    ),
    "a cell of two": (
        lambda: interop.to_torch(layers.BothWays(GRU, GRU), cell=True),
        "a single one for a PyTorch cell",
    ),
    "no bias": (
        lambda: interop.to_torch(LSTM, bias=False),
        "`b` must be zero: PyTorch's cell has no such bias. `allow_lossy=True`",
    ),
    "our own mis-shaped": (
        lambda: interop.to_torch(LSTM._replace(b=jnp.ones(3))),
        r"`b` must have shape \(32,\)",
    ),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, words = REFUSED[name]
    if "to_torch" in call.__code__.co_names:
        pytest.importorskip("torch")
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_lossy_where_allowed():
    pytest.importorskip("torch")
    made = interop.to_torch(LSTM, bias=False, allow_lossy=True)
    assert set(made) == {"weight_ih_l0", "weight_hh_l0"}
    zero = LSTM._replace(b=jnp.zeros(4 * HIDDEN))
    assert set(interop.to_torch(zero, bias=False)) == set(made)
