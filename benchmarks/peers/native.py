"""Libraries with kernels of their own: PyTorch (oneDNN for the LSTM), onnxruntime."""
# pyright: reportMissingImports=false

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.contest import Contestant, Maker
from benchmarks.problem import Problem
from jaxrnn import devices, interop
from jaxrnn.interop.weights import weights_of
from jaxrnn.layers import BothWays


def torch_rnn(cell: str, layers: Any, dropout: float = 0.0) -> Any:
    """Returns `torch.nn.RNN`, `LSTM` or `GRU` with these weights.

    `layers` has a tuple for each layer, with parameters for each direction.
    """
    import torch

    make = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[cell]
    first = layers[0][0]
    ways = {"bidirectional": len(layers[0]) == 2, "dropout": dropout}
    rnn = make(len(first.w_ih), len(first.w_hh), len(layers), **ways)
    trees = [BothWays(*both) if len(both) == 2 else both[0] for both in layers]
    rnn.load_state_dict(interop.to_torch(trees))
    return rnn


def pytorch(problem: Problem) -> Contestant:
    """PyTorch's module of one layer."""
    return run_module(torch_rnn(problem.cell, ((problem.params,),)), problem.xs)


def run_module(rnn: Any, xs: Any) -> Contestant:
    """Returns the contestant of a module, time-major, with a thread per core."""
    import torch

    torch.set_num_threads(devices.cores())
    xs = torch.tensor(np.asarray(xs), requires_grad=True)

    def forward():
        with torch.inference_mode():
            return rnn(xs)[0]

    def gradient():
        return torch.autograd.grad((rnn(xs)[0] ** 2).sum(), [xs, *rnn.parameters()])

    return Contestant({"gradient": gradient, "forward": forward})


def pytorch_bfloat16(problem: Problem) -> Contestant:
    """The same under autocast to bfloat16; fails where the processor has no kernel."""
    import torch

    def under_autocast(function):
        def call():
            with torch.autocast("cpu", torch.bfloat16):
                return function()

        return call

    functions = pytorch(problem).functions
    functions = {kind: under_autocast(functions[kind]) for kind in functions}
    return Contestant(functions, unlike="autocast to bfloat16")


def onnx_session(problem: Problem, stateful: bool = False) -> tuple[Any, list[str]]:
    """Returns a session of onnxruntime for ONNX's RNN, LSTM or GRU, with all cores.

    It maps "X" to "Y" `[T, 1, B, H]`. If it is stateful, it takes and returns the
    states too, `[1, B, H]`; their names are those that are returned beside it.
    """
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    # The graph has one operator, with a leading axis for its one direction.
    cell, (size, batch, _, hidden) = problem.cell, problem.shape
    given = weights_of(problem.params, "onnx")
    biases = np.concatenate([given.b_ih, given.b_hh])
    arrays = {"W": given.w_ih, "R": given.w_hh, "B": biases}
    arrays = {name: np.ascontiguousarray(a[None]) for name, a in arrays.items()}
    tensors = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    operator = {"elman": "RNN", "lstm": "LSTM", "gru": "GRU"}[cell]
    options: dict[str, Any] = {"linear_before_reset": 1} if cell == "gru" else {}
    options["hidden_size"] = hidden
    states = (["h", "c"] if cell == "lstm" else ["h"]) if stateful else []
    # The unnamed input is the lengths.
    before, after = ["", *states] if stateful else [], [f"{s}_next" for s in states]
    node = helper.make_node(operator, ["X", *arrays, *before], ["Y", *after], **options)

    def described(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [described("X", problem.xs.shape)]
    inputs += [described(name, [1, batch, hidden]) for name in states]
    outputs = [described("Y", [size, 1, batch, hidden])]
    outputs += [described(name, [1, batch, hidden]) for name in after]
    graph = helper.make_graph([node], operator, inputs, outputs, tensors)
    # The versions of the GRU's last change: every onnxruntime reads them.
    opset = [helper.make_opsetid("", 14)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)

    # Threads that spin on after a run would slow the next contestant.
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = devices.cores()
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, ["CPUExecutionProvider"]
    )
    return session, states


def onnxruntime(problem: Problem) -> Contestant:
    """ONNX's RNN, LSTM or GRU, forward alone, with a thread per core."""
    session, _ = onnx_session(problem)
    inputs = {"X": np.asarray(problem.xs)}

    def forward():
        return np.asarray(session.run(["Y"], inputs)[0])[:, 0]

    return Contestant({"forward": forward})


CONTESTANTS: Mapping[str, Maker] = {
    **{"pytorch": pytorch, "pytorch-bfloat16": pytorch_bfloat16},
    "onnxruntime": onnxruntime,
}
