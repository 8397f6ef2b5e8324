"""Tensors on a GPU, played by CPU tensors: the stand-in driver's memory is the host's, its launches are
simulated.

What only a GPU can show (streams, graphs, several devices) is not shown here.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_cuda_host import gpu, standin  # noqa: E402, F401

import nbfagg  # noqa: E402
from nbfagg import reference  # noqa: E402
from nbfagg.torch import device, functions, operators  # noqa: E402


@pytest.fixture(autouse=True)
def played(gpu, monkeypatch):  # noqa: F811
    """CPU tensors count as those of GPU 0, on stream 5."""
    for module in (functions, operators):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: device)
    monkeypatch.setattr(device, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(device, "number_of", lambda tensor: 0)
    monkeypatch.setattr(device, "stream_of", lambda tensor: 5)
    monkeypatch.setattr(device, "is_capturing", lambda: False)
    return gpu


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(3).to(dtype)


def exact(a, **options):
    return reference.oracle(a.detach().double().numpy(), **options).astype(float)


@pytest.mark.parametrize("shape", [(1, 3, 6), (5, 1, 6), (1, 1, 6)])
def test_axes_of_one_number_lie_anywhere(played, shape):
    a = normal(*shape).requires_grad_()
    nbfagg.fagg(a, batch_axis=1, keep_axis=0).square().sum().backward()
    alpha = nbfagg.fagg(a.detach().double(), batch_axis=1, keep_axis=0)
    exact = nbfagg.fagg_vjp(2 * alpha, a.detach().double(), alpha, alpha.sum(0), batch_axis=1, keep_axis=0)
    torch.testing.assert_close(a.grad, exact.float(), rtol=1e-5, atol=1e-6)
    lengths = torch.tensor([3, 9, 9])[::3]
    assert nbfagg.fagg(normal(1, 4, 6), lengths=lengths).shape == (1, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_values(played, dtype):
    a = normal(3, 5, 4, 2, dtype=dtype)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    assert alpha.dtype == (torch.float64 if dtype == torch.int32 else dtype)
    assert lse.dtype == (torch.float64 if dtype in (torch.int32, torch.float64) else torch.float32)
    tolerance = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}.get(dtype, 1e-6)
    np.testing.assert_allclose(alpha.double().numpy(), exact(a), rtol=tolerance)
    assert played
    assert {entry[5] for entry in played} == {5}


@pytest.mark.parametrize(("batch", "keep"), [(0, 1), (1, 0), ((0, 2), 1), ((), (0, 3))])
@pytest.mark.parametrize("log", [False, True])
def test_gradient(played, batch, keep, log):
    a = normal(3, 4, 2, 5, dtype=torch.float64).requires_grad_()
    alpha, lse = nbfagg.fagg(a, batch_axis=batch, keep_axis=keep, log=log, return_lse=True)
    g, h = torch.randn_like(alpha), torch.randn_like(lse)
    torch.autograd.backward((alpha, lse), (g, h))
    wanted = reference.fagg_vjp(
        g.numpy(), a.detach().numpy(), grad_lse=h.numpy(), batch_axis=batch, keep_axis=keep, log=log
    )
    np.testing.assert_allclose(a.grad.numpy(), wanted.astype(float), atol=1e-13)
    found = nbfagg.fagg_vjp(
        (g, h),
        a.detach(),
        alpha.detach(),
        lse.detach(),
        batch_axis=batch,
        keep_axis=keep,
        log=log,
        return_lse=True,
    )
    np.testing.assert_allclose(found.numpy(), wanted.astype(float), atol=1e-13)
    assert any("gradient" in entry[0] for entry in played)


def test_mask_lengths_out(played):
    a = normal(3, 6, 4)
    where = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(1)) < 0.7
    lengths = torch.tensor([2, 6, 0], dtype=torch.int32)
    out = torch.empty(3, 6)
    assert nbfagg.fagg(a, where=where, lengths=lengths, out=out) is out
    np.testing.assert_allclose(out.numpy(), exact(a, where=where.numpy(), lengths=lengths.numpy()), rtol=1e-6)
    b = a.clone().requires_grad_()
    nbfagg.fagg(b, where=where, lengths=lengths).square().sum().backward()
    wanted = reference.fagg_vjp(2 * out.numpy(), a.numpy(), where=where.numpy(), lengths=lengths.numpy())
    np.testing.assert_allclose(b.grad.numpy(), wanted.astype(float), atol=1e-6)


def test_packed(played):
    a = normal(20, 5).requires_grad_()
    offsets = torch.tensor([0, 3, 3, 20], dtype=torch.int32)
    alpha, _ = nbfagg.fagg_packed(a, offsets, return_lse=True)
    wanted = reference.fagg_packed(a.detach().numpy(), offsets.numpy())
    np.testing.assert_allclose(alpha.detach().numpy(), wanted.astype(float), rtol=1e-6)
    alpha[4].backward()
    g = np.zeros((1, 17))
    g[0, 1] = 1
    slopes = reference.fagg_vjp(g, a.detach().numpy()[None, 3:])
    np.testing.assert_allclose(a.grad[3:].numpy(), slopes[0].astype(float), atol=1e-6)
    assert {entry[0] for entry in played} >= {"short_packed_unaligned", "packed_dots"}


def test_half_precision_gradient(played):
    a = normal(3, 4, 8, dtype=torch.bfloat16).requires_grad_()
    alpha = nbfagg.fagg(a, log=True)
    alpha.sum().backward()
    assert a.grad.dtype == torch.bfloat16
    wanted = reference.fagg_vjp(np.ones((3, 4)), a.detach().double().numpy(), log=True).astype(float)
    np.testing.assert_allclose(a.grad.double().numpy(), wanted, atol=3e-2)


def test_a_captured_call_has_its_own_workspace(played, monkeypatch):
    from nbfagg.cuda import driver

    monkeypatch.setattr(device, "is_capturing", lambda: True)
    a = normal(2, 30, 40)
    np.testing.assert_allclose(nbfagg.fagg(a).numpy(), exact(a), rtol=1e-6)
    a = normal(2, 3, 600)
    np.testing.assert_allclose(nbfagg.fagg(a).numpy(), exact(a), rtol=1e-6)
    a = normal(400, 3)
    np.testing.assert_allclose(
        nbfagg.fagg_packed(a, torch.tensor([0, 400])).numpy(), exact(a[None])[0], rtol=1e-6
    )
    assert not driver.device(0)._spaces


def test_what_is_on_the_host_is_refused(monkeypatch):
    monkeypatch.setattr(device, "is_on_gpu", lambda tensor: tensor.dtype == torch.float32)
    a = normal(3, 4, 2)
    with pytest.raises(TypeError, match="where is a tensor on device 'cpu', a is on a GPU"):
        nbfagg.fagg(a, where=a > 0)
    with pytest.raises(TypeError, match="lengths is a list on the host"):
        nbfagg.fagg(a, lengths=[1, 2, 3])
    with pytest.raises(NotImplementedError, match=r"State\.of takes CuPy"):
        nbfagg.State.of(a)


def test_bench(played, monkeypatch, tmp_path, capsys):
    """`nbfagg bench --target cuda`, with a clock of its own: what it runs, and what it writes."""
    import json

    from nbfagg.cuda import bench

    class Event:
        clock = 0

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            Event.clock += 1
            self.at = Event.clock

        def elapsed_time(self, other):
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(bench, "TURNED", 1000)
    monkeypatch.setattr(bench, "PACKED_ROW", 10)
    shape = (3, 4, 2, 5)
    path = tmp_path / "bench.json"
    assert bench.main(str(path), (shape,), ((40, 1, 3),), ("float32", "bfloat16"), "cpu", calls=3) == 0
    report = json.loads(path.read_text())
    packed = [entry for entry in report["results"] if entry["peer"] == "nbfagg, packed"]
    assert [(entry["shape"], entry["dtype"], entry["what"]) for entry in packed] == [
        ([40, 1, 3], dtype, what)
        for dtype in ("float32", "bfloat16")
        for what in ("forward", "forward and gradient")
    ]
    assert "short_packed_unaligned" in {entry[0] for entry in played}
    assert {entry["peer"] for entry in report["results"]} >= {
        "nbfagg",
        "torch eager",
        "torch.compile logsumexp",
    }
    assert not any("error" in entry for entry in report["results"])
    assert all(entry["seconds"] == 1e-3 for entry in report["results"])
    forward = report["results"][0]
    assert forward["bytes"] == 4 * (3 * 4 * 2 * 5 + 3 * 4)
    assert forward["GB/s"] == pytest.approx(forward["bytes"] / 1e-3 / 1e9)
    a = normal(*shape)
    for peer in bench.peers("float32").values():
        np.testing.assert_allclose(peer(a).numpy(), exact(a), rtol=1e-5)
    assert "GB/s" in capsys.readouterr().out


def test_bench_without_a_gpu(capsys):
    from nbfagg.cuda import bench

    if torch.cuda.is_available():
        pytest.skip("there is one")
    from nbfagg import cli

    assert bench.main() == 1
    assert "sees no GPU" in capsys.readouterr().out
    assert cli.main(["bench", "--target", "cuda"]) == 1
    assert "sees no GPU" in capsys.readouterr().out
    assert cli.main(["bench", "--target", "cuda", "--list"]) == 2
