"""The table of peers: who else computes this, each as its own good user would write it.

A maker takes a writable C-contiguous array (B, L, N, H) and returns a call without arguments, which gives (B,
L) as something that `np.asarray` takes. What a user does once (compiling, handing the array over) is the
maker's part. Nothing is imported before its maker is called, and everybody keeps their own number of threads.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .turns import Call


class Unavailable(Exception):
    """The peer is not installed, or does not do this dtype."""


def _numpy(a: NDArray[Any]) -> Call:
    def call() -> NDArray[Any]:
        e = a - a.max(axis=(1, 2, 3), keepdims=True)
        np.exp(e, out=e)
        tokens: NDArray[Any] = e.sum(axis=(2, 3))
        tokens /= tokens.sum(axis=1, keepdims=True)
        return tokens

    return call


def _numpy_ufuncs(a: NDArray[Any]) -> Call:
    """Do the same without the methods' wrappers and with fewer axes: quicker where calls are small."""
    x = a.reshape(*a.shape[:2], -1)

    def call() -> NDArray[Any]:
        e = np.subtract(x, np.maximum.reduce(x.reshape(x.shape[0], -1), axis=1)[:, None, None])
        np.exp(e, e)
        tokens: NDArray[Any] = np.add.reduce(e, axis=2)
        tokens /= np.add.reduce(tokens, axis=1)[:, None]
        return tokens

    return call


def _scipy_softmax(a: NDArray[Any]) -> Call:
    from scipy.special import softmax

    return lambda: softmax(a, axis=(1, 2, 3)).sum(axis=(2, 3))


def _scipy_logsumexp(a: NDArray[Any]) -> Call:
    from scipy.special import logsumexp

    return lambda: np.exp(logsumexp(a, axis=(2, 3)) - logsumexp(a, axis=(1, 2, 3))[:, None])


def _torch_seed(a: NDArray[Any]) -> Call:
    """Run the code that this package began as."""
    import torch

    x = torch.from_numpy(a)

    def call() -> Any:
        e = torch.exp(x - x.amax(dim=(1, 2, 3), keepdim=True))
        return e.sum(dim=(2, 3)) / e.sum(dim=(1, 2, 3)).unsqueeze(1)

    return call


def _torch_softmax(a: NDArray[Any]) -> Call:
    import torch

    x = torch.from_numpy(a)
    return lambda: x.flatten(1).softmax(1).view(x.shape).sum(dim=(2, 3))


def _torch_compile(a: NDArray[Any]) -> Call:
    import torch

    if not shutil.which(os.environ.get("CXX", "c++")):
        raise Unavailable("torch.compile needs a C++ compiler")

    def aggregate(x: Any) -> Any:
        return torch.exp(torch.logsumexp(x, (2, 3)) - torch.logsumexp(x, (1, 2, 3)).unsqueeze(1))

    # A ninth shape would run uncompiled: the limit is on versions of one function, and this is one.
    torch.compiler.reset()
    return partial(torch.compile(aggregate, dynamic=False), torch.from_numpy(a))


def _jax(a: NDArray[Any]) -> Call:
    import jax

    if a.dtype != np.float32:
        raise Unavailable("JAX computes in float32 unless the whole process is told otherwise")

    @jax.jit
    def aggregate(x: Any) -> Any:
        tokens = jax.numpy.exp(x - x.max(axis=(1, 2, 3), keepdims=True)).sum(axis=(2, 3))
        return tokens / tokens.sum(axis=1, keepdims=True)

    x = jax.numpy.asarray(a)
    return lambda: aggregate(x).block_until_ready()


def _openvino(a: NDArray[Any]) -> Call:
    # Its import reports to its maker over the network, from a forked child; without that module it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    from openvino import opset13 as ops

    if a.dtype != np.float32:
        raise Unavailable("OpenVINO's CPU plugin computes float64 in float32")
    x = ops.parameter(a.shape, openvino.Type.f32)
    e = ops.exp(ops.subtract(x, ops.reduce_max(x, [1, 2, 3], keep_dims=True)))
    tokens = ops.reduce_sum(e, [2, 3])
    alpha = ops.divide(tokens, ops.reduce_sum(tokens, [1], keep_dims=True))
    # float32 said aloud: left alone it may take bfloat16 where the CPU has it, which is another operation.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Model([alpha], [x], "fagg")
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(a, shared_memory=True))

    def call() -> NDArray[Any]:
        request.infer(share_outputs=True)
        alpha: NDArray[Any] = request.get_output_tensor().data
        return alpha

    return call


def _onnxruntime(a: NDArray[Any], form: str) -> Call:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[a.dtype.name]
    constants = {
        "shape": np.array(a.shape),
        "row": np.array([1, 2, 3]),
        "token": np.array([2, 3]),
        "tokens": np.array([1]),
    }
    if form == "softmax":
        nodes = [
            helper.make_node("Flatten", ["a"], ["flat"], axis=1),
            helper.make_node("Softmax", ["flat"], ["p"], axis=1),
            helper.make_node("Reshape", ["p", "shape"], ["p4"]),
            helper.make_node("ReduceSum", ["p4", "token"], ["alpha"], keepdims=0),
        ]
    else:
        nodes = [
            helper.make_node("ReduceMax", ["a", "row"], ["m"]),
            helper.make_node("Sub", ["a", "m"], ["d"]),
            helper.make_node("Exp", ["d"], ["e"]),
            helper.make_node("ReduceSum", ["e", "token"], ["s"], keepdims=0),
            helper.make_node("ReduceSum", ["s", "tokens"], ["z"]),
            helper.make_node("Div", ["s", "z"], ["alpha"]),
        ]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "fagg",
        [helper.make_tensor_value_info("a", kind, a.shape)],
        [helper.make_tensor_value_info("alpha", kind, a.shape[:2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})[0]


PEERS: dict[str, Callable[[NDArray[Any]], Call]] = {
    "NumPy": _numpy,
    "NumPy, ufuncs only": _numpy_ufuncs,
    "SciPy softmax": _scipy_softmax,
    "SciPy logsumexp": _scipy_logsumexp,
    "PyTorch, the seed's": _torch_seed,
    "torch.softmax + sum": _torch_softmax,
    "torch.compile": _torch_compile,
    "JAX jit": _jax,
    "OpenVINO": _openvino,
    "ONNX Runtime, softmax": partial(_onnxruntime, form="softmax"),
    "ONNX Runtime, exp": partial(_onnxruntime, form="exp"),
}


def make(name: str, a: NDArray[Any]) -> Call:
    """Give the peer's call; `Unavailable` says why there is none."""
    if not (a.flags.c_contiguous and a.flags.writeable and a.ndim == 4):
        raise ValueError("peers take writable C-contiguous arrays (B, L, N, H)")
    try:
        return PEERS[name](a)
    except ImportError as missing:
        raise Unavailable(f"{missing.name} is not installed") from missing


def available(
    a: NDArray[Any], names: Iterable[str] | None = None, *, note: Callable[[str], object]
) -> dict[str, Call]:
    """Give the calls of those that are there, of all if none are named; `note` hears of the others."""
    calls = {}
    for name in PEERS if names is None else names:
        try:
            calls[name] = make(name, a)
        except Unavailable as why:
            note(f"without {name}: {why}")
    return calls
