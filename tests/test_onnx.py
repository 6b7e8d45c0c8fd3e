"""ONNX, both ways: onnxruntime runs what we write, and we run what it runs.

The oracles are onnxruntime, the backend tests of the package `onnx`, and, for the
operators around recurrent nodes, its reference implementation.
"""

import functools
import importlib
import io
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node as backend
from onnx.reference import ReferenceEvaluator

import jaxrnn
from jaxrnn import layers
from jaxrnn.interop.onnx import from_onnx, to_onnx
from jaxrnn.interop.onnx.cells import cell_of, own_cells
from jaxrnn.interop.onnx.operators import OPERATORS as AROUND
from jaxrnn.interop.onnx.recurrence import (
    KINDS,
    OPERATORS,
    Activation,
    Recurrence,
)

# Ours is compiled once for each layer, at this size; what is smaller is padded.
SIZE, BATCH, IN, HIDDEN, VOCABULARY = 7, 4, 3, 5, 9
KEY = jax.random.key(0)
REVERSED = functools.partial(jaxrnn.unroll, reverse=True)
CELLS = {
    "elman": jaxrnn.elman,
    "lstm": jaxrnn.lstm,
    "gru": jaxrnn.gru,
    "reset before": jaxrnn.make_gru(reset_after=False),
    "peephole and coupled": jaxrnn.make_lstm(peephole=True, coupled=True),
    "other activations": jaxrnn.make_lstm(
        peephole=True, activation="softsign", gate_activation="hard_logistic"
    ),
}


def layer_of(cell: jaxrnn.Cell, size: int = HIDDEN, **options: Any) -> layers.Layer:
    return layers.recurrent(cell, size, **options)


SOME = {
    **{name: layer_of(cell) for name, cell in CELLS.items()},
    "reverse": layer_of(jaxrnn.lstm, engine=REVERSED),
    "bidirectional": layers.bidirectional(layer_of(CELLS["peephole and coupled"])),
    "bidirectional, reverse": layers.bidirectional(
        layer_of(jaxrnn.gru, engine=REVERSED), "product"
    ),
    "a language model": layers.stack(
        layers.embedding(VOCABULARY, 4),
        layers.dropout(0.3),
        layer_of(layers.recurrent_dropout(jaxrnn.lstm, 0.4)),
        layers.layer_norm(1e-3),
        layer_of(layers.candidate_dropout(jaxrnn.gru, 0.4), 6),
        layers.dense(VOCABULARY),
    ),
    "both ways, deep": layers.bidirectional(
        layers.stack(
            layer_of(jaxrnn.gru, learn_initial_state=True),
            layers.residual(
                layers.stack(
                    layers.layer_norm(),
                    layers.bidirectional(layer_of(jaxrnn.elman), "mean"),
                )
            ),
        ),
        "sum",
    ),
    "a dense layer first": layers.stack(
        layers.dense(4),
        layers.residual(layer_of(jaxrnn.lstm, 4, learn_initial_state=True)),
    ),
}


# The rest is behind `slow`.
FAST = {"elman", "bidirectional", "a language model", "both ways, deep"}
each_layer = pytest.mark.parametrize(
    "layer",
    [
        pytest.param(a, id=name, marks=() if name in FAST else pytest.mark.slow)
        for name, a in SOME.items()
    ],
)


@functools.cache
def prepared(layer: layers.Layer) -> Any:
    """Parameters, and the compiled layer for `(params, state, xs, mask)`."""
    draws = np.random.default_rng(0)

    def moved(a):
        return a + jnp.asarray(0.3 * draws.standard_normal(a.shape), a.dtype)

    params = jax.tree.map(moved, layer.init(KEY, None if reads_ids(layer) else IN))
    return params, jax.jit(lambda p, s, xs, mask: layer.unroll(p, s, xs, mask=mask))


@functools.cache
def session(layer: layers.Layer, **options: bool) -> onnxruntime.InferenceSession:
    model = to_onnx(layer, prepared(layer)[0], **options)
    return run_by(model)


def run_by(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def reads_ids(layer: layers.Layer) -> bool:
    try:
        layer.init(KEY)
    except TypeError:
        return False
    return True


def is_vectors(a: Any) -> bool:
    """Not the counts of steps, which only noise reads."""
    return a.ndim > 1


def assert_close(got: Any, expected: Any, atol: float = 1e-5) -> None:
    """Of lists, array by array. Where all is near 0 or below 10, 1e-5 is absolute."""
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


def assert_close_at_scale(got: Any, expected: Any) -> None:
    """The same for functions without a bound, which may reach large numbers."""
    scale = max(1.0, *(float(np.abs(a).max()) for a in expected))
    assert_close(got, expected, atol=1e-5 * scale)


@st.composite
def calls(draw: st.DrawFn) -> Any:
    """The shape of a call: T, B, lengths or None, whether it has a state, a seed."""
    size, batch = draw(st.integers(1, SIZE)), draw(st.integers(1, BATCH))
    lengths = st.lists(st.integers(0, size), min_size=batch, max_size=batch)
    given = draw(st.none() | lengths)
    return size, batch, given, draw(st.booleans()), draw(st.integers(0, 99))


def compare(layer: layers.Layer, call: Any, check: Any = assert_close) -> None:
    """Runs a call in onnxruntime, and the same one, padded and masked, in ours."""
    size, batch, lengths, has_state, seed = call
    draws = np.random.default_rng(seed)
    params, unroll = prepared(layer)
    made = session(layer, lengths=lengths is not None, initial_state=has_state)
    names = [i.name for i in made.get_inputs()]
    if names[0] == "ids":
        xs = draws.integers(0, VOCABULARY, (SIZE, BATCH)).astype(np.int32)
    else:
        xs = draws.standard_normal((SIZE, BATCH, IN), np.float32)
    state = jax.tree.map(
        lambda a: (
            jnp.asarray(has_state * draws.standard_normal(a.shape), a.dtype)
            if is_vectors(a)
            else a
        ),
        layer.initial_state(params, (BATCH,)),
    )
    if not has_state:
        state = layer.initial_state(params, (BATCH,))
    leaves = [np.asarray(a)[:batch] for a in jax.tree.leaves(state) if is_vectors(a)]

    feeds = [xs[:size, :batch]]
    feeds += [] if lengths is None else [np.asarray(lengths, np.int32)]
    feeds += leaves if has_state else []
    got = made.run(None, dict(zip(names, feeds, strict=True)))

    ends = np.zeros(BATCH, int)
    ends[:batch] = size if lengths is None else lengths
    mask = jaxrnn.lengths_to_mask(jnp.asarray(ends), SIZE)
    last, ys = unroll(params, state, jnp.asarray(xs), mask)
    lasts = [a[:batch] for a in jax.tree.leaves(last) if is_vectors(a)]
    check(got, [ys[:size, :batch], *lasts])


@each_layer
def test_onnxruntime_computes_what_the_layer_does(layer):
    """At any T, B and lengths, 0 included, from zeros and from given states."""

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(calls())
    def check(call):
        compare(layer, call)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("cell", own_cells().values(), ids=map(str, own_cells()))
def test_every_cell_that_has_a_node(cell):
    # Few steps: with relu as a gate the numbers grow faster than exponentially.
    call = 3, BATCH, [3, 2, 0, 1], True, 0
    compare(layer_of(cell), call, assert_close_at_scale)


@st.composite
def plans(draw: st.DrawFn, depth: int = 2) -> Any:
    """A kind of layer, and its options: `built` makes it.

    Layers are not made here, because beartype draws random numbers, which hypothesis
    forbids.
    """
    cell = st.sampled_from(sorted(CELLS)), st.booleans(), st.booleans()
    recurrent = st.tuples(st.just("recurrent"), *cell, st.integers(1, 6))
    kinds = ["recurrent", "dense", "layer_norm", "dropout"]
    kinds += ["bidirectional", "residual", "stack"] if depth else []
    match kind := draw(st.sampled_from(kinds)):
        case "recurrent":
            return draw(recurrent)
        case "dense":
            return kind, draw(st.integers(1, 6))
        case "bidirectional":
            merge = st.sampled_from(["concatenate", "sum", "mean", "product"])
            return kind, draw(recurrent | plans(depth - 1)), draw(merge)
        case "residual":
            return kind, draw(plans(depth - 1))
        case "stack":
            inner = st.lists(plans(depth - 1), min_size=1, max_size=3)
            return kind, *draw(inner)
    return (kind,)


def built(plan: Any) -> layers.Layer:
    """The layer of a plan, with a readout of IN numbers, so that each fits each."""
    match plan:
        case "recurrent", _, _, _, _:
            made = built_recurrent(plan)
        case "dense", size:
            made = layers.dense(size)
        case ("layer_norm",):
            return layers.layer_norm(0.1)
        case ("dropout",):
            made = layers.dropout(0.5)
        case "bidirectional", inner, merge:
            native = inner[0] == "recurrent"
            layer = built_recurrent(inner) if native else built(inner)
            made = layers.bidirectional(layer, merge)
        case "residual", inner:
            return layers.residual(built(inner))
        case _, *inner:
            return layers.stack(*map(built, inner))
    return layers.stack(made, layers.dense(IN))


def built_recurrent(plan: Any) -> layers.Layer:
    _, name, is_reversed, learned, size = plan
    engine = REVERSED if is_reversed else jaxrnn.unroll
    return layer_of(CELLS[name], size, engine=engine, learn_initial_state=learned)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(plans(), calls())
def test_onnxruntime_computes_what_any_stack_does(plan, call):
    compare(built(plan), call)


def test_recurrent_layers_are_native_nodes():
    layer = layers.stack(
        layers.bidirectional(layer_of(jaxrnn.lstm)), layer_of(jaxrnn.gru, 4)
    )
    model = to_onnx(layer, layer.init(KEY, IN), lengths=True, initial_state=True)
    nodes = {n.op_type: n for n in model.graph.node}
    assert {"LSTM", "GRU"} <= set(nodes) and not {"Loop", "Scan"} & set(nodes)
    assert len([n for n in model.graph.node if n.op_type in OPERATORS]) == 2
    attributes = {
        a.name: helper.get_attribute_value(a) for a in nodes["LSTM"].attribute
    }
    assert attributes == {"hidden_size": HIDDEN, "direction": b"bidirectional"}
    sizes = {i.name: i.type.tensor_type.shape.dim for i in model.graph.input}
    assert [d.dim_param or d.dim_value for d in sizes["xs"]] == ["T", "B", IN]
    assert [d.dim_param or d.dim_value for d in sizes["lengths"]] == ["B"]


@each_layer
def test_states_are_named_by_their_place(layer):
    params, _ = prepared(layer)
    state = layer.initial_state(params, (1,))
    places = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, a in jax.tree_util.tree_leaves_with_path(state)
        if is_vectors(a)
    ]
    made = session(layer, lengths=False, initial_state=True)
    inputs = [i.name for i in made.get_inputs()]
    outputs = [o.name for o in made.get_outputs()]
    assert inputs[1:] == [f"state/{place}" for place in places]
    assert outputs == ["ys", *(f"last/{place}" for place in places)]


def test_padding_may_hold_anything():
    """NaN, and numbers that are no ids, reach no output and no state."""
    lengths = np.array([4, 0, 2, 1], np.int32)
    inside = np.arange(SIZE)[:, None] < lengths
    for name, wrong in {"both ways, deep": np.nan, "a language model": 99}.items():
        made = session(SOME[name], lengths=True, initial_state=False)
        first = made.get_inputs()[0].name
        if first == "ids":
            xs = np.where(inside, np.int32(1), np.int32(wrong))
        else:
            xs = np.where(inside[..., None], np.float32(1), np.float32(wrong))
            xs = np.broadcast_to(xs, (SIZE, BATCH, IN))
        clean = np.where(xs == wrong, 0, np.nan_to_num(xs)).astype(xs.dtype)
        got, expected = (
            made.run(None, {first: a, "lengths": lengths}) for a in (xs, clean)
        )
        assert_close(got, expected, atol=0)
        assert not got[0][~inside].any()


def test_a_recurrent_layer_reads_ids():
    layer = layers.stack(layer_of(jaxrnn.gru), layers.dense(2))
    params = layer.init(KEY, VOCABULARY)
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (SIZE, BATCH))
    made = run_by(to_onnx(layer, params, ids=True))
    got = made.run(None, {"ids": ids.astype(np.int32)})
    last, ys = layer.unroll(params, None, jnp.asarray(ids))
    assert_close(got, [ys, *jax.tree.leaves(last)])


REFUSED = {
    "lru": (layer_of(jaxrnn.lru, 4), "LRUParams"),
    "mgu": (layer_of(jaxrnn.mgu), "MGUParams"),
    "hard_tanh": (layer_of(jaxrnn.make_elman("hard_tanh")), "other than hard_tanh"),
    "a pair": (layer_of(jaxrnn.make_elman((jnp.sin, jnp.cos))), "ElmanParams"),
    "projection": (layer_of(jaxrnn.make_lstm(projection=2)), "LSTMVariantParams"),
    "coupled": (
        layer_of(jaxrnn.make_lstm(coupled=True, gate_activation="tanh")),
        "coupled gates if these are logistic",
    ),
    "zoneout": (layer_of(layers.zoneout(jaxrnn.lstm, 0.2)), "zoneout"),
    "all states": (layer_of(jaxrnn.lstm, return_states=True), "return_states=True"),
    "one's own": (layers.dense(3)._replace(unroll=len), "a layer of your own"),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_layer_without_a_counterpart_is_refused(case):
    layer, words = case
    nested = layers.stack(layers.dense(3), layers.bidirectional(layer))
    for whole, place in ((layer, "the layer"), (nested, r"params\[1\]")):
        params = whole.init(KEY, IN)
        with pytest.raises(TypeError, match=words) as refusal:
            to_onnx(whole, params)
        refusal.match(place)


@pytest.mark.usefixtures("as_users_see_it")
def test_arguments_of_to_onnx_are_checked():
    layer = layers.stack(layer_of(jaxrnn.lstm), layers.dense(2))
    params = layer.init(KEY, IN)
    with pytest.raises(TypeError, match=r"layers\.recurrent\(cell, size\)"):
        to_onnx(jaxrnn.lstm, params[0])
    with pytest.raises(TypeError, match="bfloat16"):
        to_onnx(layer, layer.init(KEY, IN, jnp.bfloat16))
    with pytest.raises(TypeError, match="one dtype"):
        to_onnx(layer, (params[0], layer.init(KEY, IN, jnp.float16)[1]))
    with pytest.raises(TypeError, match="outside `jit`"):
        jax.jit(lambda p: len(to_onnx(layer, p).graph.node))(params)
    with pytest.raises(TypeError, match="entry for each of its 2 layers"):
        to_onnx(layer, params[:1])
    with pytest.raises(TypeError, match="must be DenseParams"):
        to_onnx(layers.dense(2), params[0])
    with pytest.raises(TypeError, match="LSTMParams"):
        to_onnx(layer_of(jaxrnn.lstm), params[1])
    with pytest.raises(ValueError, match="must be 4"):
        to_onnx(layer, (params[0], layers.dense(2).init(KEY, 4)))
    with pytest.raises(ValueError, match="must have weights"):
        to_onnx(layers.dropout(0.5), ())
    with pytest.raises(ValueError, match=r"layers\.embedding"):
        to_onnx(layers.dense(2), params[1], ids=True)
    with pytest.raises(TypeError, match="`lengths` must be True or False"):
        to_onnx(layer, params, lengths=[3, 2])


def test_without_the_package_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    layer = layers.dense(2)
    for call in (lambda: to_onnx(layer, layer.init(KEY, IN)), lambda: from_onnx(b"")):
        with pytest.raises(ImportError, match=r"pip install 'jaxrnn\[onnx\]'"):
            call()


# From ONNX.

for name in ("rnn", "lstm", "gru"):
    importlib.import_module(f"{backend.__name__}.{name}")  # fills the list
CASES = {case.name: case for case in backend._NodeTestCases}


def test_the_backend_has_its_tests():
    operators = [case.model.graph.node[0].op_type for case in CASES.values()]
    assert {name: operators.count(name) for name in OPERATORS} == dict(
        RNN=6, LSTM=6, GRU=6
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_of_the_backend(case):
    function, params = from_onnx(case.model)
    for inputs, expected in case.data_sets:
        got = function(params, *inputs)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=case.rtol, atol=case.atol)


class Case:
    """A model of one recurrent node with random weights, and inputs for it."""

    def __init__(
        self,
        operator: str,
        *,
        direction: str = "forward",
        sizes: tuple[int, int, int, int] = (5, 3, IN, 4),
        lengths: list[int] | None = None,
        initial: bool = False,
        bias: bool = True,
        peephole: bool = False,
        seed: int = 0,
        **attributes: Any,
    ) -> None:
        size, batch, inputs, hidden = sizes
        ways = 2 if direction == "bidirectional" else 1
        columns = OPERATORS[operator].gates * hidden
        draws = np.random.default_rng(seed)

        def draw(*shape):
            return draws.standard_normal(shape, np.float32)

        states = ("h", "c") if operator == "LSTM" else ("h",)
        weights = {"W": draw(ways, columns, inputs), "R": draw(ways, columns, hidden)}
        weights |= {"B": draw(ways, 2 * columns)} if bias else {}
        weights |= {"P": draw(ways, 3 * hidden)} if peephole else {}
        self.inputs = {"X": draw(size, batch, inputs)}
        if lengths is not None:
            self.inputs["lengths"] = np.asarray(lengths, np.int32)
        if initial:
            self.inputs |= {f"{s}0": draw(ways, batch, hidden) for s in states}
        known = {**weights, **self.inputs}
        names = ["X", "W", "R", "B", "lengths", *(f"{s}0" for s in states)]
        names += ["P"] if operator == "LSTM" else []
        if attributes.get("layout"):
            for name in {"X", "h0", "c0"} & set(self.inputs):
                self.inputs[name] = np.swapaxes(self.inputs[name], 0, 1).copy()
        outputs = ["Y", *(f"Y_{s}" for s in states)]
        self.node = helper.make_node(
            operator,
            [name if name in known else "" for name in names],
            outputs,
            hidden_size=hidden,
            direction=direction,
            **attributes,
        )
        ranks = {name: "TDBH" if name == "Y" else "DBH" for name in outputs}
        self.model = model_of([self.node], self.inputs, ranks, weights)


def model_of(nodes, inputs, outputs, weights=None, version=17):
    """A model; `outputs` are names with the names of their axes."""
    kinds = helper.np_dtype_to_tensor_dtype
    return helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [
                helper.make_tensor_value_info(name, kinds(a.dtype), a.shape)
                for name, a in inputs.items()
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, list(axes))
                for name, axes in outputs.items()
            ],
            [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
        ),
        opset_imports=[helper.make_opsetid("", version)],
        ir_version=8,
    )


def assert_runs_alike(case: Case) -> None:
    """In onnxruntime, and by `from_onnx`."""
    expected = run_by(case.model).run(None, case.inputs)
    function, params = from_onnx(case.model)
    got = function(params, *case.inputs.values())
    assert_close_at_scale(got, expected)


def activations(*names: str) -> dict[str, Any]:
    """The attributes of activations, with numbers for those that take some."""
    alphas = [0.3 + 0.1 * n for n, k in enumerate(names) if takes(k, "alpha")]
    betas = [0.7 - 0.1 * n for n, k in enumerate(names) if takes(k, "beta")]
    return {
        "activations": list(names),
        **({"activation_alpha": alphas} if alphas else {}),
        **({"activation_beta": betas} if betas else {}),
    }


def takes(kind: str, number: str) -> bool:
    return getattr(KINDS[kind], number) is not None


NODES = {
    "lengths, both ways": Case(
        "RNN", direction="bidirectional", lengths=[5, 1, 3], initial=True
    ),
    "clip": Case("LSTM", clip=0.4, peephole=True, lengths=[2, 5, 1], initial=True),
    "clip of a GRU": Case("GRU", clip=0.4, linear_before_reset=1, direction="reverse"),
    "input_forget": Case("LSTM", input_forget=1, peephole=True, clip=1.5),
    "peepholes": Case("LSTM", peephole=True, direction="bidirectional", initial=True),
    "linear_before_reset": Case("GRU", linear_before_reset=1, initial=True),
    "no bias": Case("GRU", bias=False, direction="bidirectional"),
    "different f, g, h": Case("LSTM", **activations("HardSigmoid", "Elu", "Softsign")),
    "for each direction": Case(
        "GRU",
        direction="bidirectional",
        **activations("Sigmoid", "LeakyRelu", "HardSigmoid", "ScaledTanh"),
    ),
    "the rest": Case(
        "RNN", direction="bidirectional", **activations("ThresholdedRelu", "Affine")
    ),
    "defaults of numbers": Case(
        "RNN", direction="bidirectional", activations=["HardSigmoid", "LeakyRelu"]
    ),
}


FAST_NODES = {"lengths, both ways", "clip", "for each direction"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(a, id=name, marks=() if name in FAST_NODES else pytest.mark.slow)
        for name, a in NODES.items()
    ],
)
def test_a_node_is_run_as_onnxruntime_runs_it(case):
    assert_runs_alike(case)


@st.composite
def nodes(draw: st.DrawFn) -> Case:
    operator = draw(st.sampled_from(sorted(OPERATORS)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    sizes = tuple(draw(st.integers(1, most)) for most in (6, 4, 4, 9))
    # onnxruntime answers with zeros, not with the initial state, at length 0.
    lengths = st.lists(st.integers(1, sizes[0]), min_size=sizes[1], max_size=sizes[1])
    ways = 2 if direction == "bidirectional" else 1
    count = len(OPERATORS[operator].activations)
    attributes: dict[str, Any] = {}
    if draw(st.booleans()):
        names = [draw(st.sampled_from(sorted(KINDS))) for _ in range(count * ways)]
        attributes |= activations(*names)
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.25, 1.0, 3.0]))
    if operator == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    gates = attributes.get("activations", ["Sigmoid"])[::count]
    if operator == "LSTM" and set(gates) == {"Sigmoid"}:
        attributes["input_forget"] = draw(st.integers(0, 1))
    return Case(
        operator,
        direction=direction,
        sizes=sizes,
        lengths=draw(st.none() | lengths),
        initial=draw(st.booleans()),
        bias=draw(st.booleans()),
        peephole=operator == "LSTM" and draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
        **attributes,
    )


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(nodes())
def test_any_node_is_run_as_onnxruntime_runs_it(case):
    assert_runs_alike(case)


@pytest.mark.parametrize("operator", OPERATORS)
def test_batches_may_come_first(operator):
    """`layout=1`, which onnxruntime lacks, is the same with axes in other places."""
    options = {"direction": "bidirectional", "lengths": [5, 1, 3], "initial": True}
    first, other = Case(operator, **options), Case(operator, layout=1, **options)
    (f, params), (g, _) = from_onnx(first.model), from_onnx(other.model)
    y, *lasts = f(params, *first.inputs.values())
    got = g(params, *other.inputs.values())
    expected = [jnp.transpose(y, (2, 0, 1, 3))]
    assert_close(got, expected + [jnp.swapaxes(a, 0, 1) for a in lasts], atol=0)


def test_our_cells_run_the_nodes_that_they_equal():
    """A file of ours comes back with its cells, its weights and its gradient."""
    layer = layers.stack(
        layers.bidirectional(layer_of(jaxrnn.lstm)),
        layer_of(CELLS["peephole and coupled"]),
        layers.dense(2),
    )
    params, unroll = prepared(layer)
    function, got = from_onnx(to_onnx(layer, params, lengths=True))
    assert function.inputs == ("xs", "lengths")
    assert function.cells == {
        "0/LSTM": (jaxrnn.lstm, jaxrnn.lstm),
        "1/LSTM": (CELLS["peephole and coupled"],),
    }
    expected = {
        "0/LSTM": tuple(params[0]),
        "1/LSTM": (params[1],),
        "2/w": params[2].w,
        "2/b": params[2].b,
    }
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert_close(jax.tree.leaves(got), jax.tree.leaves(expected), atol=0)

    xs = jax.random.normal(KEY, (SIZE, BATCH, IN))
    lengths = jnp.array([7, 0, 3, 5])
    mask = jaxrnn.lengths_to_mask(lengths, SIZE)
    ours = jax.grad(lambda p: jnp.sum(unroll(p, None, xs, mask)[1] ** 2))(params)
    theirs = jax.jit(jax.grad(lambda p: jnp.sum(function(p, xs, lengths)[0] ** 2)))(got)
    leaves = [ours[0].forward, ours[0].backward, ours[1], ours[2].w, ours[2].b]
    order = ["0/LSTM", "1/LSTM", "2/w", "2/b"]
    assert_close(
        jax.tree.leaves([theirs[name] for name in order]), jax.tree.leaves(leaves)
    )


@each_layer
def test_our_files_come_back(layer):
    params, unroll = prepared(layer)
    model = to_onnx(layer, params, lengths=True, initial_state=True)
    function, got = from_onnx(model.SerializeToString())
    draws = np.random.default_rng(1)
    state = jax.tree.map(
        lambda a: (
            jnp.asarray(draws.standard_normal(a.shape), a.dtype) if is_vectors(a) else a
        ),
        layer.initial_state(params, (BATCH,)),
    )
    xs = jnp.asarray(draws.standard_normal((SIZE, BATCH, IN)), jnp.float32)
    xs = jnp.ones((SIZE, BATCH), jnp.int32) if reads_ids(layer) else xs
    lengths = jnp.array([3, 7, 0, 5])
    leaves = [a for a in jax.tree.leaves(state) if is_vectors(a)]
    answers = jax.jit(function)(got, xs, lengths, *leaves)
    last, ys = unroll(params, state, xs, jaxrnn.lengths_to_mask(lengths, SIZE))
    lasts = [a for a in jax.tree.leaves(last) if is_vectors(a)]
    assert_close(answers, [ys, *lasts])


def test_weights_that_two_nodes_read_stay_one_array():
    """So that their gradients are added up."""
    case = Case("RNN", sizes=(4, 2, 3, 3))
    again = helper.make_node("RNN", ["Z", "W", "R", "B"], ["Y2", "Y2_h"], hidden_size=3)
    squeeze = helper.make_node("Squeeze", ["Y", "axes"], ["Z"])
    arrays = {a.name: numpy_helper.to_array(a) for a in case.model.graph.initializer}
    weights = {**arrays, "axes": np.array([1])}
    model = model_of([case.node, squeeze, again], case.inputs, {"Y2": "TDBH"}, weights)
    function, params = from_onnx(model)
    assert set(params) == {"W", "R", "B"}
    expected = run_by(model).run(None, case.inputs)
    assert_close(function(params, case.inputs["X"]), expected)


def test_an_output_that_is_not_wanted_is_no_input():
    """An empty name says so of both. Constants may be numbers of Python."""
    case = Case("RNN", sizes=(4, 2, 3, 3))
    first = helper.make_node("RNN", ["X", "W", "R", "B"], ["", "Y_h"], hidden_size=3)
    again = helper.make_node("RNN", ["Y_h", "W", "R", "", ""], ["Y"], hidden_size=3)
    half = helper.make_node("Constant", [], ["half"], value_floats=[0.5])
    halved = helper.make_node("Mul", ["Y", "half"], ["Z"])
    weights = {a.name: numpy_helper.to_array(a) for a in case.model.graph.initializer}
    nodes = [first, again, half, halved]
    model = model_of(nodes, case.inputs, {"Z": "TDBH"}, weights)
    function, params = from_onnx(model)
    expected = run_by(model).run(None, case.inputs)
    assert_close(function(params, case.inputs["X"]), expected)


@pytest.mark.usefixtures("x64")
def test_in_double_precision():
    layer = layers.stack(layer_of(jaxrnn.lstm), layers.dense(2))
    params = layer.init(KEY, IN, jnp.float64)
    model = to_onnx(layer, params)
    function, got = from_onnx(model)
    xs = jax.random.normal(KEY, (SIZE, BATCH, IN))
    last, ys = layer.unroll(params, None, xs)
    assert_close(function(got, xs), [ys, *jax.tree.leaves(last)], atol=1e-12)
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        from_onnx(model)


@pytest.mark.slow
def test_a_cell_by_the_equations_of_onnx_has_a_right_adjoint():
    functions = Activation("Sigmoid"), Activation("Elu", 0.5)
    recurrence = Recurrence("GRU", functions, clip=0.5)
    cell = cell_of(recurrence)
    assert cell is cell_of(recurrence)
    jaxrnn.check_cell(cell, 2, 3)


# The operators around recurrent nodes, beside the reference implementation.

X = np.arange(-12, 12, dtype=np.float32).reshape(2, 3, 4) / 8
BOTH = np.array([[True, False]]), np.array([[True], [False]])
IDS = np.array([[0, 2], [1, -1]])
AXES = np.array([1])
AROUND_CASES: list[tuple[Any, ...]] = [
    ("Abs", [X], {}),
    ("Add", [X, X[0]], {}),
    ("And", [*BOTH], {}),
    ("Cast", [X * 5], {"to": TensorProto.INT32}),
    ("Concat", [X, X], {"axis": 1}),
    ("ConstantOfShape", [np.array([2, 3])], {}),
    ("Div", [X, X + 3], {}),
    ("Div", [np.array([7, 8]), np.array([2, 3])], {}),
    ("Dropout", [X], {}),
    ("Equal", [X, X[:1]], {}),
    ("Expand", [X[:, :1], np.array([3, 1])], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Gather", [X, IDS], {"axis": 1}),
    ("Gemm", [X[0], X[1], X[0, :, :1]], {"alpha": 0.5, "beta": 2.0, "transB": 1}),
    ("Greater", [X, -X], {}),
    ("Identity", [X], {}),
    ("LayerNormalization", [X, X[0, 0], X[0, 1]], {"epsilon": 0.1}),
    ("Less", [X, -X], {}),
    ("LogSoftmax", [X], {"axis": 1}),
    ("MatMul", [X, X[0].T], {}),
    ("Mul", [X, X], {}),
    ("Neg", [X], {}),
    ("Not", [BOTH[0]], {}),
    ("OneHot", [IDS, np.array(3), np.float32([-1, 2])], {}),
    ("Or", [*BOTH], {}),
    ("Pow", [X, np.float32(2)], {}),
    ("Range", [np.array(1), np.array(9), np.array(3)], {}),
    ("ReduceMax", [X], {"axes": [1]}),
    ("ReduceMean", [X], {"axes": [1, 2], "keepdims": 0}),
    ("ReduceSum", [X, AXES], {}),
    ("Relu", [X], {}),
    ("Reshape", [X, np.array([0, -1])], {}),
    ("Shape", [X], {"start": 1}),
    ("Sigmoid", [X], {}),
    ("Slice", [X, np.array([2]), np.array([-99]), AXES, np.array([-2])], {}),
    ("Slice", [X, np.array([1, 0]), np.array([9, 1])], {}),
    ("Softmax", [X], {}),
    ("Split", [X, np.array([1, 3])], {"axis": 2}),
    ("Split", [X], {"axis": 2}),
    ("Sqrt", [abs(X)], {}),
    ("Squeeze", [X[:, :1], AXES], {}),
    ("Sub", [X, X[0]], {}),
    ("Tanh", [X], {}),
    ("Transpose", [X], {"perm": [2, 0, 1]}),
    ("Unsqueeze", [X, AXES], {}),
    ("Where", [X > 0, X, -X], {}),
]
# Inputs of these that are sizes or axes, and so must be constants.
STATIC = {"ConstantOfShape": {0}, "Range": {0, 1, 2}, "OneHot": {1}}
STATIC |= {"Expand": {1}, "ReduceSum": {1}, "Reshape": {1}, "Slice": {1, 2, 3, 4}}
STATIC |= {"Split": {1}, "Squeeze": {1}, "Unsqueeze": {1}}


def test_every_operator_has_a_case():
    assert {case[0] for case in AROUND_CASES} == set(AROUND)


@pytest.mark.parametrize("known", [False, True], ids=["inputs", "constants"])
@pytest.mark.parametrize(
    "case", AROUND_CASES, ids=[f"{n} {case[0]}" for n, case in enumerate(AROUND_CASES)]
)
def test_of_an_operator(case, known):
    """Of inputs, by JAX; of constants alone, by NumPy."""
    operator, arrays, attributes = case
    named = {f"x{n}": np.asarray(a) for n, a in enumerate(arrays)}
    fixed = {
        name for n, name in enumerate(named) if known or n in STATIC.get(operator, ())
    }
    outputs = ["a", "b"] if operator == "Split" else ["a"]
    steps = [
        helper.make_node(
            "Constant", [], [name], value=numpy_helper.from_array(named[name])
        )
        for name in fixed
    ]
    steps.append(helper.make_node(operator, list(named), outputs, **attributes))
    steps += [
        helper.make_node("Cast", [name], [f"{name}!"], to=TensorProto.FLOAT)
        for name in outputs
    ]
    inputs = {name: a for name, a in named.items() if name not in fixed}
    model = model_of(steps, inputs, {})
    reference = ReferenceEvaluator(model_with_outputs(model, outputs))
    expected = reference.run(None, inputs)
    shapes = {f"{name}!": a.shape for name, a in zip(outputs, expected, strict=True)}
    function, params = from_onnx(model_of(steps, inputs, shapes))
    got = function(params, *inputs.values())
    assert_close(got, expected, atol=1e-6)
    assert [a.shape for a in got] == [a.shape for a in expected]


def model_with_outputs(model, names):
    """The same model, with outputs of unknown shapes, as the reference reads it."""
    for name in names:
        model.graph.output.append(
            helper.make_tensor_value_info(f"{name}!", TensorProto.FLOAT, None)
        )
    return model


# Files that are refused.


def test_a_file_that_is_no_model_is_refused(tmp_path):
    whole = Case("LSTM").model.SerializeToString()
    path = tmp_path / "model.onnx"
    for text in (b"", b"not a model", b"\x00\x01\x02", whole[:-9], whole[9:]):
        path.write_bytes(text)
        for model, words in ((text, "`model`"), (path, "model.onnx")):
            with pytest.raises(
                ValueError, match=f"{words}.* is not a valid ONNX model"
            ):
                from_onnx(model)
    path.write_bytes(whole)
    assert from_onnx(path)[0].outputs == ("Y", "Y_h", "Y_c")
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")
    with pytest.raises(TypeError, match="but got None"):
        from_onnx(None)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(0), st.integers(0, 255), st.booleans())
def test_a_damaged_file_gives_a_model_or_a_clear_error(where, byte, cut):
    whole = bytearray(Case("GRU", sizes=(2, 2, 1, 1)).model.SerializeToString())
    where %= len(whole)
    whole[where] = byte
    try:
        from_onnx(bytes(whole[:where] if cut else whole))
    except ValueError as error:
        assert str(error)


def edited(operator="LSTM", version=17, node=None, weights=None, **attributes):
    """A model of one node, changed so that ONNX accepts it and we do not."""
    case = Case(operator, **attributes)
    known = {a.name: numpy_helper.to_array(a) for a in case.model.graph.initializer}
    outputs = {"Y": "TDBH"} if node is None else {node.output[0]: "TBI"}
    return model_of(
        [node or case.node], case.inputs, outputs, {**known, **(weights or {})}, version
    )


WRONG = {
    "an operator": (
        lambda: edited(node=helper.make_node("Sin", ["X"], ["S"])),
        "operator Sin of ai.onnx is not supported, but only Abs, Add",
    ),
    "an old version": (lambda: edited(version=9), r"convert_version\(model, 17\)"),
    "an activation": (
        lambda: edited("RNN", activations=["Selu"]),
        "among Relu, Tanh.*'Selu'",
    ),
    "too few activations": (
        lambda: edited("LSTM", activations=["Tanh"]),
        "must be 3 for each of 1 direction",
    ),
    "no number": (
        lambda: edited("RNN", activations=["Affine"]),
        "`activation_alpha` must be given for the activation Affine",
    ),
    "too many numbers": (
        lambda: edited("RNN", activations=["Tanh"], activation_alpha=[1.0]),
        "no more numbers than Tanh take",
    ),
    "input_forget": (
        lambda: edited(input_forget=1, activations=["Tanh"] * 3),
        "`input_forget` must go with gates",
    ),
    "clip": (lambda: edited("GRU", clip=-1.0), "`clip` must be above 0"),
    "layout": (lambda: edited(layout=2), "`layout` must be 0 or 1"),
    "shapes": (
        lambda: edited(weights={"B": np.zeros((1, 3), np.float32)}),
        r"input B of LSTM 'Y' must have shape \(1, 32\), but has \(1, 3\)",
    ),
    "an output": (
        lambda: edited(
            node=helper.make_node("Dropout", ["X"], ["Z", "M"]),
        ),
        "output 'M' is not computed",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_is_not_supported_is_refused_by_its_name(case):
    make, words = case
    with pytest.raises(ValueError, match=words):
        from_onnx(make())


@pytest.mark.usefixtures("as_users_see_it")
def test_arguments_of_the_function_are_checked():
    case = Case("LSTM", lengths=[1, 2, 3])
    function, params = from_onnx(case.model)
    x, lengths = case.inputs.values()
    with pytest.raises(TypeError, match=r"2 input\(s\), X, lengths, but got 1"):
        function(params, x)
    with pytest.raises(TypeError, match="`X` must be float32, but got int32"):
        function(params, x.astype(np.int32), lengths)
    with pytest.raises(ValueError, match=r"`X` must have shape \(5, 3, 3\)"):
        function(params, x[0], lengths)
    with pytest.raises(TypeError, match="`X` must be an array"):
        function(params, "x", lengths)


def test_a_size_that_an_input_decides_is_refused():
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    inputs = {"x": X, "shape": np.array([24])}
    function, params = from_onnx(model_of([node], inputs, {"y": "N"}))
    with pytest.raises(ValueError, match="`shape` must not depend on the values") as e:
        function(params, *inputs.values())
    assert "This was in Reshape 'y'." in e.value.__notes__


@pytest.mark.slow
@pytest.mark.parametrize("batch_first", [False, True])
def test_files_of_pytorch(batch_first):
    """A whole model of several layers, at other sizes than it was exported with."""
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            nn, first = torch.nn, {"batch_first": batch_first}
            self.embedding = nn.Embedding(VOCABULARY, 4)
            self.lstm = nn.LSTM(4, 5, 2, bidirectional=True, **first)
            self.gru = nn.GRU(10, 6, **first)
            self.rnn = nn.RNN(6, 3, nonlinearity="relu", **first)
            self.out = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2), nn.Softmax(-1))

        def forward(self, ids):
            xs, _ = self.lstm(self.embedding(ids))
            xs, last = self.gru(xs)
            return self.out(self.rnn(xs)[0]), last

    torch.manual_seed(0)
    model, file = Model().eval(), io.BytesIO()
    ids = torch.randint(0, VOCABULARY, (SIZE, BATCH))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        torch.onnx.export(
            model,
            (ids,),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["ids"],
            dynamic_axes={"ids": [0, 1]},
        )
    function, params = from_onnx(file.getvalue())
    ids = torch.randint(0, VOCABULARY, (5, 6))
    with torch.no_grad():
        expected = [a.numpy() for a in model(ids)]
    assert_close(function(params, ids.numpy()), expected)
    assert [cells[0] for cells in function.cells.values()] == [
        jaxrnn.lstm,
        jaxrnn.lstm,
        jaxrnn.gru,
        jaxrnn.make_elman("relu"),
    ]
