"""Libraries with kernels of their own: PyTorch (oneDNN for the LSTM), and onnxruntime."""
# pyright: reportMissingImports=false

from typing import Any

import numpy as np

from benchmarks import contest
from benchmarks.problem import GATES, Problem
from jaxrnn import devices


def pytorch(of: Problem) -> contest.Contestant:
    """`torch.nn.RNN`, `LSTM` or `GRU`, time-major, as many threads as cores."""
    import torch

    torch.set_num_threads(devices.cores())
    rnn = torch_rnn(of.cell, of.params)
    xs = torch.tensor(np.asarray(of.xs), requires_grad=True)
    params = list(rnn.parameters())

    def forward():
        with torch.inference_mode():
            return rnn(xs)[0]

    def gradient():
        *dparams, dxs = torch.autograd.grad((rnn(xs)[0] ** 2).sum(), [*params, xs])
        return dparams, dxs

    programs = {"forward": forward, "gradient": gradient}
    return contest.Contestant(
        {kind: contest.Program(f) for kind, f in programs.items()}
    )


def pytorch_bfloat16(of: Problem) -> contest.Contestant:
    """The same under autocast to bfloat16."""
    import torch

    programs = {}
    for kind, program in pytorch(of).programs.items():

        def call(run=program.call):
            with torch.autocast("cpu", torch.bfloat16):
                return run()

        call()  # not every processor has a kernel: then it fails here, and is missing
        programs[kind] = contest.Program(call)
    return contest.Contestant(programs, unlike="autocast to bfloat16")


def torch_rnn(cell: str, params: Any) -> Any:
    """PyTorch's module with the given weights; its second bias has only the GRU's `b_hn`."""
    import torch

    make = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[cell]
    inputs, columns = params.w_ih.shape
    rnn = make(inputs, columns // GATES[cell])
    weights = {
        "weight_ih_l0": params.w_ih.T,
        "weight_hh_l0": params.w_hh.T,
        "bias_ih_l0": params.b,
        "bias_hh_l0": second_bias(cell, params),
    }
    rnn.load_state_dict(
        {name: torch.tensor(np.asarray(w)) for name, w in weights.items()}
    )
    return rnn


def second_bias(cell: str, params: Any) -> np.ndarray:
    """Zeros `[G]`, but for the GRU's `b_hn` in the place of its last gate."""
    bias = np.zeros_like(params.b)
    if cell == "gru":
        bias[-len(params.b_hn) :] = params.b_hn
    return bias


def onnxruntime(of: Problem) -> contest.Contestant:
    """ONNX's RNN, LSTM or GRU, forward alone, as many threads as cores."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    order = {"elman": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}[
        of.cell
    ]  # i o f c; z r h

    def reordered(a: Any) -> np.ndarray:
        """[..., G] to [1, G', ...]: one direction, the gates in ONNX's order."""
        parts = np.split(np.asarray(a), len(order), axis=-1)
        return np.concatenate([parts[gate] for gate in order], axis=-1).T[None]

    biases = [reordered(of.params.b), reordered(second_bias(of.cell, of.params))]
    weights = {
        "W": reordered(of.params.w_ih),
        "R": reordered(of.params.w_hh),
        "B": np.concatenate(biases, axis=1),
    }
    attributes: dict[str, Any] = {"linear_before_reset": 1} if of.cell == "gru" else {}
    operator = {"elman": "RNN", "lstm": "LSTM", "gru": "GRU"}[of.cell]
    graph = helper.make_graph(
        [
            helper.make_node(
                operator, ["X", *weights], ["Y"], hidden_size=of.shape.H, **attributes
            )
        ],
        operator,
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, of.xs.shape)],
        [
            helper.make_tensor_value_info(
                "Y", TensorProto.FLOAT, [of.shape.T, 1, of.shape.B, of.shape.H]
            )
        ],
        [
            numpy_helper.from_array(np.ascontiguousarray(w), name)
            for name, w in weights.items()
        ],
    )
    # The versions that ONNX had when its GRU last changed: every onnxruntime reads them.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8
    )
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = devices.cores()
    # Threads that spin on after a run would take a core from whoever comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    xs = np.asarray(of.xs)

    def forward():
        return np.asarray(session.run(["Y"], {"X": xs})[0])[
            :, 0
        ]  # [T, D, B, H], one direction

    return contest.Contestant({"forward": contest.Program(forward)})


CONTESTANTS = {
    "pytorch": pytorch,
    "pytorch-bfloat16": pytorch_bfloat16,
    "onnxruntime": onnxruntime,
}
