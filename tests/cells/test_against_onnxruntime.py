"""The cells' outputs and last states against onnxruntime's RNN, LSTM and GRU, in
float32.

A third party's equations: nothing here can share a mistake with our cells but the
translation of the weights, and that is written out below, from ONNX's operator texts.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import jaxrnn
from tests.cases import ACTIVATIONS, problem

OPSET, IR = (
    14,
    8,
)  # where these operators have their present meaning; any onnxruntime reads it
INPUTS, HIDDEN = 4, 5

# Float32 and exp, tanh of another make: some 10 roundings a step, in states of order 1.
RTOL, ATOL = 1e-5, 2e-6


class Operator(NamedTuple):
    """An ONNX operator: its gates as indices of ours, and its attributes."""

    name: str
    order: tuple[int, ...]
    attributes: dict


CELLS = {
    "elman": (jaxrnn.elman, Operator("RNN", (0,), {"activations": ["Tanh"]})),
    "logistic": (
        ACTIVATIONS["logistic"],
        Operator("RNN", (0,), {"activations": ["Sigmoid"]}),
    ),
    "relu": (ACTIVATIONS["relu"], Operator("RNN", (0,), {"activations": ["Relu"]})),
    "softsign": (
        ACTIVATIONS["pair"],
        Operator("RNN", (0,), {"activations": ["Softsign"]}),
    ),
    "identity": (
        ACTIVATIONS["identity"],
        Operator(
            "RNN",
            (0,),
            {
                "activations": ["Affine"],
                "activation_alpha": [1.0],
                "activation_beta": [0.0],
            },
        ),
    ),
    "lstm": (jaxrnn.lstm, Operator("LSTM", (0, 3, 1, 2), {})),  # i o f c; ours: i f g o
    "gru": (
        jaxrnn.gru,
        Operator("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    ),  # z r h; r z n
    "reset before": (
        jaxrnn.make_gru(reset_after=False),
        Operator("GRU", (1, 0, 2), {"linear_before_reset": 0}),
    ),
    "peepholes": (jaxrnn.make_lstm(peephole=True), Operator("LSTM", (0, 3, 1, 2), {})),
    "softsign, hard gates": (
        jaxrnn.make_lstm(activation="softsign", gate_activation="hard_logistic"),
        Operator(
            "LSTM",
            (0, 3, 1, 2),
            {
                "activations": ["HardSigmoid", "Softsign", "Softsign"],
                "activation_alpha": [1 / 6],
                "activation_beta": [0.5],
            },
        ),
    ),
}


@functools.cache
def session(cell, direction):
    _, operator = CELLS[cell]
    states = ["initial_h", "initial_c"] if operator.name == "LSTM" else ["initial_h"]
    lasts = ["Y_h", "Y_c"] if operator.name == "LSTM" else ["Y_h"]
    ranks = {"X": 3, "W": 3, "R": 3, "B": 2, "sequence_lens": 1} | dict.fromkeys(
        states, 3
    )
    if cell == "peepholes":
        ranks |= {"P": 2}
    outputs = {"Y": 4} | dict.fromkeys(lasts, 3)

    def values(ranks):
        kinds = {"sequence_lens": TensorProto.INT32}
        return [
            helper.make_tensor_value_info(
                name, kinds.get(name, TensorProto.FLOAT), [None] * rank
            )
            for name, rank in ranks.items()
        ]

    node = helper.make_node(
        operator.name,
        list(ranks),
        list(outputs),
        hidden_size=HIDDEN,
        direction=direction,
        **operator.attributes,
    )
    graph = helper.make_graph([node], "cell", values(ranks), values(outputs))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR
    )
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def weights(params, order):
    """W `[1, G, I]`, R `[1, G, H]`, B `[1, 2G]`: rows for columns, ONNX's order of the
    gates."""

    def gates(a):
        blocks = np.split(np.asarray(a), len(order), axis=-1)
        return np.concatenate([blocks[i].T for i in order])

    recurrent_bias = np.zeros_like(params.b)
    if isinstance(params, jaxrnn.GRUParams):
        recurrent_bias[2 * HIDDEN :] = (
            params.b_hn
        )  # h, the candidate, is the last gate in both
    bias = np.concatenate([gates(params.b), recurrent_bias])
    w_hh = getattr(params, "w_hh", None)
    if w_hh is None:  # of the GRU with reset before the product
        w_hh = np.concatenate([params.w_rz, params.w_n], axis=-1)
    feed = {"W": gates(params.w_ih)[None], "R": gates(w_hh)[None], "B": bias[None]}
    if getattr(params, "peepholes", None) is not None:  # i o f; ours: i f o
        i, f, o = np.split(np.asarray(params.peepholes), 3)
        feed["P"] = np.concatenate([i, o, f])[None]
    return feed


def by_onnxruntime(cell, params, state, xs, lengths, reverse):
    """The last state and the outputs, as `jaxrnn.unroll` returns them."""
    feed = weights(params, CELLS[cell][1].order)
    feed |= {"X": np.asarray(xs), "sequence_lens": np.asarray(lengths, np.int32)}
    feed |= {
        f"initial_{name}": np.asarray(s)[None] for name, s in state._asdict().items()
    }
    ys, *lasts = session(cell, "reverse" if reverse else "forward").run(None, feed)
    return type(state)(*(last[0] for last in lasts)), ys[:, 0]


@functools.cache
def by_jaxrnn(cell, reverse):
    @jax.jit
    def run(params, state, xs, lengths):
        mask = jaxrnn.lengths_to_mask(lengths, xs.shape[0])
        return jaxrnn.unroll(
            CELLS[cell][0], params, state, xs, mask=mask, reverse=reverse, chunk=4
        )

    return run


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_onnxruntime(cell, reverse):
    """Full and ragged batches of several T, from a state that is not zero."""
    longest = problem(CELLS[cell][0], 11, (3,), INPUTS, HIDDEN, dtype=jnp.float32)
    for lengths in ([6, 6, 6], [6, 3, 0], [11, 4, 1]):
        case = longest._replace(xs=np.asarray(longest.xs)[: max(lengths)])
        expected = by_onnxruntime(cell, *case[:3], lengths, reverse)
        if 0 in lengths:
            # After no step, ONNX's last state is 0; ours is the initial one.
            empty = lengths.index(0)
            assert not any(last[empty].any() for last in expected[0])
            for last, first in zip(expected[0], case.state, strict=True):
                last[empty] = first[empty]
        got = by_jaxrnn(cell, reverse)(*case[:3], jnp.asarray(lengths))
        chex.assert_trees_all_close(got, expected, rtol=RTOL, atol=ATOL)
        chex.assert_shape(got[1], (max(lengths), 3, HIDDEN))


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_streaming_equals_onnxruntime(cell):
    """`jaxrnn.step`, fed one input at a time, is the operator's forward pass."""
    case = problem(CELLS[cell][0], 11, (3,), INPUTS, HIDDEN, dtype=jnp.float32)
    one = jax.jit(functools.partial(jaxrnn.step, CELLS[cell][0]))
    state, hs = case.state, []
    for x in np.asarray(case.xs):
        state, h = one(case.params, state, x)
        hs.append(h)
    expected = by_onnxruntime(cell, *case[:3], [11, 11, 11], reverse=False)
    chex.assert_trees_all_close((state, jnp.stack(hs)), expected, rtol=RTOL, atol=ATOL)
