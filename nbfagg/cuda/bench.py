"""``nbfagg bench --target cuda``: forward and gradient on the first GPU, beside the peers that are installed.

The GPU's copy bandwidth is measured first. Every figure is the median of events around
single calls, warmed, over inputs that together are several times as large as L2, so
that each call reads from memory. GB/s count the bytes that the operation has to move:
logits once, results once; of a gradient, logits and slopes once.
"""

from __future__ import annotations

import json as json_format
import math
import statistics
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# Those of the CPU's table, and what a GPU finds hard: many tiny rows, few long ones, large gradients.
SHAPES = (
    (32, 512, 12, 64),
    (8, 4096, 2, 10),
    (65536, 16, 4, 1),
    (4, 32768, 8, 64),
    (1, 8, 1, 1 << 24),
    (4096, 1, 1, 32768),
)
# Of packed rows: tokens, and terms of each; one in PACKED_ROW of the tokens begins a row, by chance.
PACKED = ((1 << 24, 1, 1), (1 << 22, 1, 8), (1 << 18, 1, 64))
PACKED_ROW = 512
DTYPES = ("float32", "float16", "bfloat16", "float64")
# Twice the L2 of an H200.
TURNED = 100 * 1024 * 1024
CALLS = 30


def _torch() -> Any:
    """Import PyTorch, untyped."""
    return import_module("torch")


def eager(a: Any) -> Any:
    """Give fagg by PyTorch's own operators."""
    torch = _torch()
    flat = torch.softmax(
        a.reshape(a.shape[0], -1).float() if a.dtype.itemsize == 2 else a.reshape(a.shape[0], -1), 1
    )
    return flat.reshape(a.shape).sum(dim=(2, 3)).to(a.dtype)


def by_logsumexp(a: Any) -> Any:
    """Give fagg as a softmax of tokens' log-sum-exps: the form that compilers fuse best."""
    torch = _torch()
    return torch.softmax(torch.logsumexp(a.flatten(2), 2), 1)


def triton_kernel() -> Callable[[Any], Any]:
    """Give a hand-written Triton kernel."""
    run: Callable[[Any], Any] = import_module("nbfagg.cuda.triton_peer").run
    return run


def by_cupy(a: Any) -> Any:
    """Give fagg by CuPy."""
    cupy = import_module("cupy")
    x = cupy.from_dlpack(a.detach())
    e = cupy.exp(x - x.max(axis=(1, 2, 3), keepdims=True))
    return e.sum(axis=(2, 3)) / e.sum(axis=(1, 2, 3))[:, None]


def peers(dtype: str) -> dict[str, Callable[[Any], Any]]:
    """Give what is installed, by name, that takes this dtype."""
    import nbfagg

    torch = _torch()
    found: dict[str, Callable[[Any], Any]] = {"nbfagg": nbfagg.fagg, "torch eager": eager}
    found["torch.compile softmax"] = torch.compile(eager)
    found["torch.compile logsumexp"] = torch.compile(by_logsumexp)
    for name, make in (("triton", triton_kernel), ("cupy", lambda: by_cupy)):
        try:
            import_module(name)
            if dtype != "float64" or name != "triton":
                found[name] = make()
        except ImportError:
            continue
    if dtype == "bfloat16":
        found.pop("cupy", None)
    return found


def timed(function: Callable[[Any], Any], inputs: list[Any], calls: int = CALLS) -> float:
    """Give the median seconds of single calls, turning over the inputs."""
    torch = _torch()
    for i in range(3):
        function(inputs[i % len(inputs)])
    torch.cuda.synchronize()
    marks = []
    for i in range(calls):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function(inputs[i % len(inputs)])
        end.record()
        marks.append((begin, end))
    torch.cuda.synchronize()
    return float(statistics.median(begin.elapsed_time(end) for begin, end in marks)) / 1e3


def copy_bandwidth(device: str) -> float:
    """Give the bytes a second of a copy, read and written."""
    torch = _torch()
    source = [torch.empty(1 << 26, device=device) for _ in range(2)]
    target = torch.empty_like(source[0])
    return float(2 * source[0].nbytes / timed(target.copy_, source))


def _slopes(function: Callable[[Any], Any], a: Any, g: Any) -> Any:
    """Give the gradient by one input."""
    return _torch().autograd.grad(function(a), a, g)


def measure(shape: tuple[int, ...], dtype: str, device: str, calls: int = CALLS) -> list[dict[str, Any]]:
    """Measure all peers on one shape: forward, and forward with gradient."""
    inputs = _inputs(shape, dtype, device)
    g = _torch().randn(shape[:2], device=device).to(inputs[0].dtype)
    found = []
    for name, function in peers(dtype).items():
        found += _measured(name, function, inputs, g, calls, with_gradient=name not in ("triton", "cupy"))
    return found


def measure_packed(
    shape: tuple[int, ...], dtype: str, device: str, calls: int = CALLS
) -> list[dict[str, Any]]:
    """Measure packed rows of so many tokens together, that end anywhere: a few are ten times the mean."""
    import nbfagg

    torch = _torch()
    inputs = _inputs(shape, dtype, device)
    g = torch.randn(shape[:1], device=device).to(inputs[0].dtype)
    ends = torch.randint(
        0, shape[0] + 1, (shape[0] // PACKED_ROW,), generator=torch.Generator().manual_seed(0)
    )
    offsets = torch.cat([torch.tensor([0]), ends.sort().values, torch.tensor([shape[0]])]).to(device)
    return _measured("nbfagg, packed", lambda a: nbfagg.fagg_packed(a, offsets), inputs, g, calls)


def _inputs(shape: tuple[int, ...], dtype: str, device: str) -> list[Any]:
    """Give arrays of logits that together are several times as large as L2."""
    torch = _torch()
    kind = getattr(torch, dtype)
    count = min(8, max(1, -(-TURNED // (math.prod(shape) * kind.itemsize))))
    return [torch.randn(shape, dtype=torch.float32, device=device).mul_(3).to(kind) for _ in range(count)]


def _measured(
    name: str,
    function: Callable[[Any], Any],
    inputs: list[Any],
    g: Any,
    calls: int,
    with_gradient: bool = True,
) -> list[dict[str, Any]]:
    """Measure one peer."""
    size, small = inputs[0].nbytes, g.nbytes
    ways: dict[str, tuple[int, Callable[[Any], Any]]] = {"forward": (size + small, function)}
    if with_gradient:
        ways["forward and gradient"] = (3 * size + 2 * small, lambda a: _slopes(function, a, g))
    found = []
    for what, (bytes_moved, way) in ways.items():
        entry: dict[str, Any] = {
            "shape": tuple(inputs[0].shape), "dtype": str(inputs[0].dtype).removeprefix("torch."),
            "peer": name, "what": what, "bytes": bytes_moved,
        }  # fmt: skip
        try:
            for a in inputs:
                a.requires_grad_(what != "forward")
            seconds = timed(way, inputs, calls)
            entry |= {"seconds": seconds, "GB/s": bytes_moved / seconds / 1e9}
        except Exception as error:  # a peer that cannot is no reason to stop
            entry["error"] = f"{type(error).__name__}: {error}"
        finally:
            for a in inputs:
                a.requires_grad_(False)
        found.append(entry)
    return found


def main(
    json: str | None = None,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    packed: tuple[tuple[int, ...], ...] = PACKED,
    dtypes: tuple[str, ...] = DTYPES,
    device: str = "cuda",
    calls: int = CALLS,
) -> int:
    """Measure all shapes and print a line each; also write them to a file as JSON.

    Parameters
    ----------
    json : str, optional
        The file.
    shapes, packed, dtypes, device, calls
        What is measured, where, and how many calls the medians are of.

    Returns
    -------
    int
        0; or 1 if there is no PyTorch with a GPU.
    """
    try:
        torch = _torch()
    except ImportError:
        print("nbfagg: bench --target cuda measures with PyTorch's events; want pip install torch")
        return 1
    if device == "cuda" and not torch.cuda.is_available():
        print("nbfagg: PyTorch sees no GPU; want one, and a PyTorch built for CUDA")
        return 1
    bandwidth = copy_bandwidth(device)
    print(f"copy: {bandwidth / 1e9:.0f} GB/s read and written\n", flush=True)
    found = []
    kinds = [(shape, measure) for shape in shapes] + [(shape, measure_packed) for shape in packed]
    for shape, measured in kinds:
        for dtype in dtypes:
            for entry in measured(shape, dtype, device, calls):
                found.append(entry)
                told = entry.get("error") or f"{entry['GB/s']:8.0f} GB/s {entry['seconds'] * 1e6:9.1f} us"
                print(f"{shape!s:<24}{dtype:<10}{entry['peer']:<26}{entry['what']:<22}{told}", flush=True)
    if json is not None:
        name = torch.cuda.get_device_name() if device == "cuda" else device
        report = {"device": name, "torch": torch.__version__, "copy GB/s": bandwidth / 1e9, "results": found}
        Path(json).write_text(json_format.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0
