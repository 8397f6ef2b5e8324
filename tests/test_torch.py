"""PyTorch tensors: the same results as on arrays, in tensors, and errors that name device and dtype."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import run_python

import nbfagg
from nbfagg import reference

torch = pytest.importorskip("torch")

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
SHAPES = [(3, 10, 2, 10), (2, 300, 3, 70), (70, 16, 4), (1, 5), (2, 1, 1), (6, 40, 1, 2)]


def logits(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def wide(tensor):
    """As an array of what half precision stands for."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).numpy()


def mask_of(a):
    return torch.rand(a.shape, generator=torch.Generator().manual_seed(1)) > 0.3


LAYOUTS = {
    "contiguous": lambda a: a,
    "transposed": lambda a: a.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": lambda a: torch.cat((a, a), -1)[..., ::2] if a.shape[-1] > 1 else a,
    "expanded": lambda a: a[:1].expand(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_as_of_arrays(shape, dtype, layout):
    a = LAYOUTS[layout](logits(shape, DTYPES[dtype]))
    kept = a.clone()
    for keywords in ({}, {"log": True}, {"scale": 0.3}, {"keep_axis": ()}, {"keep_axis": (1, -1)}):
        if keywords.get("keep_axis") and a.ndim == 2:
            continue
        alpha, lse = nbfagg.fagg(a, return_lse=True, **keywords)
        wanted, wanted_lse = nbfagg.fagg(wide(a), return_lse=True, **keywords)
        assert alpha.dtype == a.dtype
        assert lse.dtype == torch.promote_types(a.dtype, torch.float32)
        # Half precision is the float32 result rounded once.
        assert torch.equal(alpha, torch.from_numpy(np.asarray(wanted)).to(a.dtype))
        # In half precision another layout's way is taken.
        np.testing.assert_allclose(lse.numpy(), wanted_lse, rtol=0 if a.dtype.itemsize > 2 else 2e-7)
        assert torch.equal(nbfagg.fagg(a, **keywords), alpha)
    assert torch.equal(a, kept)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_and_lengths_are_tensors_or_arrays(dtype):
    a = logits((4, 30, 3, 5), DTYPES[dtype])
    mask, lengths = mask_of(a[..., :1]), torch.tensor([30, 0, 7, 29])
    wanted = nbfagg.fagg(wide(a), where=mask.numpy(), lengths=lengths.numpy())
    wanted = torch.from_numpy(wanted).to(a.dtype)
    for where in (mask, mask.numpy()):
        for counts in (lengths, lengths.numpy(), lengths.tolist(), lengths.int()):
            assert torch.equal(nbfagg.fagg(a, where=where, lengths=counts), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("log", [False, True])
def test_packed_rows(dtype, log):
    a, offsets = logits((50, 3), DTYPES[dtype]), torch.tensor([0, 7, 7, 30, 50])
    alpha, lse = nbfagg.fagg_packed(a, offsets, log=log, return_lse=True)
    wanted, wanted_lse = nbfagg.fagg_packed(wide(a), offsets.numpy(), log=log, return_lse=True)
    assert torch.equal(alpha, torch.from_numpy(wanted).to(a.dtype))
    np.testing.assert_array_equal(lse.numpy(), wanted_lse)
    assert torch.equal(nbfagg.fagg_packed(a, offsets.int(), log=log), alpha)
    assert torch.equal(nbfagg.fagg_packed(a, offsets.tolist(), log=log), alpha)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("log", [False, True])
def test_gradients_by_hand(dtype, log):
    """`fagg_vjp` and its kin give what autograd does, in place too."""
    a = logits((3, 10, 2, 10), DTYPES[dtype]).requires_grad_()
    offsets = torch.tensor([0, 1, 3])
    for forward, backward, given in (
        (nbfagg.fagg, nbfagg.fagg_vjp, ()),
        (nbfagg.fagg_packed, nbfagg.fagg_packed_vjp, (offsets,)),
    ):
        alpha, lse = forward(a, *given, log=log, return_lse=True)
        weights, of_lse = logits(alpha.shape, alpha.dtype, seed=1), logits(lse.shape, lse.dtype, seed=2)
        (wanted,) = torch.autograd.grad((alpha, lse), a, (weights, of_lse))
        alpha, lse, b = alpha.detach(), lse.detach(), a.detach().clone()
        found = backward((weights, of_lse), b, *given, alpha, lse, log=log, return_lse=True)
        assert torch.equal(found, wanted)
        assert backward((weights, of_lse), b, *given, alpha, lse, log=log, return_lse=True, out=b) is b
        assert torch.equal(b, wanted)
        with pytest.raises(RuntimeError, match="does not support automatic differentiation"):
            backward(weights, a, *given, alpha, lse, log=log)


@pytest.mark.parametrize("dtype", DTYPES)
def test_states(dtype):
    a = logits((4, 30, 4, 5), DTYPES[dtype])
    chunks = [nbfagg.State.of(a[:, :, i : i + 2]) for i in (0, 2)]
    state = pickle.loads(pickle.dumps(chunks[0].merge(chunks[1])))
    assert isinstance(state.finalize(), torch.Tensor)
    assert state.finalize().dtype == a.dtype
    # Weights of either are within 3 ulp, logarithms (of size 1 and more) rounded on the way.
    eps = torch.finfo(a.dtype).eps
    torch.testing.assert_close(state.finalize(), nbfagg.fagg(a), rtol=4 * eps, atol=0)
    torch.testing.assert_close(state.finalize(log=True), nbfagg.fagg(a, log=True), rtol=4 * eps, atol=eps)
    torch.testing.assert_close(state.lse, nbfagg.fagg(a, return_lse=True)[1], rtol=4 * eps, atol=eps)
    with pytest.raises(RuntimeError, match=r"State\.of does not support automatic differentiation"):
        nbfagg.State.of(a.requires_grad_())


def test_bfloat16_needs_no_other_package():
    code = """
import sys
sys.modules["ml_dtypes"] = None
import torch, nbfagg
a = torch.linspace(-3, 3, 600).reshape(2, 10, 30)
wanted = nbfagg.fagg(a.bfloat16().float()).bfloat16()
print(torch.equal(nbfagg.fagg(a.bfloat16()), wanted))
a = torch.tensor([[float("inf"), float("nan")], [float("inf"), 0.0]]).bfloat16()
print(nbfagg.fagg(a, return_lse=True)[1].tolist())
"""
    assert run_python(code) == "True\n[nan, inf]\n"


def test_integers_are_computed_in_float64():
    a = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(nbfagg.fagg(a), nbfagg.fagg(a.double()))
    assert torch.equal(nbfagg.fagg(a > 3), nbfagg.fagg((a > 3).double()))


def test_out_is_written_and_returned():
    a, out = logits((3, 10, 2, 10)), torch.empty(3, 10)
    assert nbfagg.fagg(a, out=out) is out
    assert torch.equal(out, nbfagg.fagg(a))
    alpha, _ = nbfagg.fagg(a, out=out, return_lse=True)
    assert alpha is out
    packed = torch.empty(3)
    assert nbfagg.fagg_packed(a, [0, 1, 3], out=packed) is packed
    assert torch.equal(packed, nbfagg.fagg_packed(a, [0, 1, 3]))
    with pytest.raises(TypeError, match="out is a ndarray; want a tensor"):
        nbfagg.fagg(a, out=np.empty((3, 10), np.float32))
    out.fill_(7)
    for wrong, error in ((torch.empty(3, 9), ValueError), (torch.empty(3, 10).double(), TypeError)):
        with pytest.raises(error, match="out has"):
            nbfagg.fagg(a, out=wrong)
    with pytest.raises(RuntimeError, match="does not support automatic differentiation"):
        nbfagg.fagg(a.requires_grad_(), out=out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (lambda: torch.zeros(2, 3, device="meta"), NotImplementedError, "device 'meta'"),
        (lambda: torch.zeros(2, 3, dtype=torch.complex64), TypeError, "torch.complex64"),
        (lambda: torch.zeros(2, 3, dtype=torch.float8_e4m3fn), TypeError, "torch.float8_e4m3fn"),
        (lambda: torch.eye(3).to_sparse(), TypeError, "torch.sparse_coo"),
        (lambda: torch.tensor(1.0), ValueError, "scalar"),
    ],
)
def test_what_is_refused_by_name(a, error, message):
    for call in (
        nbfagg.fagg,
        nbfagg.State.of,
        lambda x: nbfagg.fagg_packed(x, [0, 2]),
        lambda x: nbfagg.fagg(x.requires_grad_() if x.is_floating_point() else x),
    ):
        with pytest.raises(error, match=message):
            call(a())


@pytest.mark.parametrize("wants_gradient", [False, True])
@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"keep_axis": 7}, ValueError, "keep_axis=.*out of range for a of shape"),
        ({"keep_axis": 0}, ValueError, "share an axis"),
        ({"keep_axis": 1.5}, TypeError, "keep_axis"),
        ({"where": torch.ones(3, 10, 2, 10)}, TypeError, "where has dtype float32"),
        ({"where": torch.ones(4, dtype=torch.bool)}, ValueError, "where has shape"),
        ({"where": torch.ones(10, dtype=torch.bool, device="meta")}, NotImplementedError, "where.*'meta'"),
        ({"lengths": torch.tensor([1, 2, 11])}, ValueError, "lengths from 1 to 11"),
        ({"lengths": torch.tensor([1.0, 2.0, 3.0])}, TypeError, "lengths has dtype"),
        ({"scale": -1.0}, ValueError, "scale=-1.0"),
        ({"scale": "2"}, TypeError, "scale='2'"),
        ({"log": "no"}, TypeError, "log is a str"),
        ({"workers": 0}, ValueError, "workers=0"),
    ],
)
def test_errors_are_those_of_arrays(keywords, error, message, wants_gradient):
    with pytest.raises(error, match=message):
        nbfagg.fagg(logits((3, 10, 2, 10)).requires_grad_(wants_gradient), **keywords)


def test_views_with_lazy_bits():
    z = torch.complex(logits((2, 3, 4)), logits((2, 3, 4), seed=1))
    negated = z.conj().imag
    assert negated.is_neg()
    assert torch.equal(nbfagg.fagg(negated), nbfagg.fagg(-z.imag.clone()))


def test_torch_is_imported_by_nobody_but_the_caller():
    code = "import sys, numpy as np, nbfagg; nbfagg.fagg(np.zeros((2, 3))); print('torch' in sys.modules)"
    assert run_python(code) == "False\n"


def test_nothing_changes_without_torch():
    code = """
import sys
sys.modules["torch"] = None
import numpy as np, nbfagg
print(nbfagg.fagg(np.zeros((2, 4))).tolist()[0])
"""
    assert run_python(code) == "[0.25, 0.25, 0.25, 0.25]\n"


def samples(*names):
    """PyTorch's own sample inputs for softmax and its kin."""
    pytest.importorskip("expecttest")
    from torch.testing._internal.common_methods_invocations import op_db

    for operator in op_db:
        if operator.name in names:
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                if dtype in operator.dtypes:
                    for sample in operator.sample_inputs("cpu", dtype, requires_grad=False):
                        if sample.input.ndim:
                            yield sample


def noncontiguous(a):
    return torch.repeat_interleave(a, 2, -1)[..., ::2]


@pytest.mark.parametrize("log", [False, True])
def test_softmax_samples(log):
    """Softmax is to keep every axis that is no batch axis."""
    count = 0
    for sample in samples("log_softmax" if log else "softmax", "masked.softmax"):
        (dim,), where = sample.args, sample.kwargs.get("mask")
        for a in (sample.input, noncontiguous(sample.input), 100 * sample.input, sample.input - 1e4):
            batch = tuple(axis for axis in range(a.ndim) if axis != dim % a.ndim)
            found = nbfagg.fagg(a, batch_axis=batch, keep_axis=dim, where=where, log=log)
            exact = reference.oracle(
                wide(a),
                batch_axis=batch,
                keep_axis=dim,
                where=None if where is None else where.numpy(),
                log=log,
            )
            wanted = torch.from_numpy(np.asarray(exact, np.float64))
            info = torch.finfo(a.dtype)
            step = 3 * info.eps if log else info.smallest_normal * info.eps
            torch.testing.assert_close(found.double(), wanted, rtol=3 * info.eps, atol=step)
            if where is None:
                # Its exponentials are off by |logit| / 2 units: 1e4 * 2**-53 = 1.1e-12, and so are its sums.
                theirs = getattr(torch, "log_softmax" if log else "softmax")(a.double(), dim)
                apart = 3 * info.eps + 2e-12
                torch.testing.assert_close(found.double(), theirs, rtol=apart, atol=step + 2e-12)
            count += 1
    assert count > 50


def test_logsumexp_samples():
    count = 0
    for sample in samples("logsumexp"):
        if not sample.input.is_floating_point():
            continue
        dims = sample.args[0]
        dims = dims if isinstance(dims, tuple) else (dims,)
        a = sample.input
        batch = tuple(axis for axis in range(a.ndim) if axis not in {dim % a.ndim for dim in dims})
        _, lse = nbfagg.fagg(a, batch_axis=batch, keep_axis=(), return_lse=True)
        wanted = torch.logsumexp(a.double(), dims)
        torch.testing.assert_close(lse.double(), wanted, rtol=1e-6, atol=1e-6)
        count += 1
    assert count > 10


def test_modules():
    from nbfagg.torch import AttentionPool, Fagg

    a, values = logits((3, 10, 2, 10)), logits((3, 10, 7), seed=2)
    layer = Fagg(scale=0.5, log=True)
    assert torch.equal(layer(a), nbfagg.fagg(a, scale=0.5, log=True))
    assert repr(layer) == "Fagg(batch_axis=0, keep_axis=1, scale=0.5, log=True)"
    assert not layer.state_dict()
    assert not list(layer.parameters())
    lengths = torch.tensor([10, 0, 3])
    pooled = AttentionPool()(a, values, lengths=lengths)
    wanted = (nbfagg.fagg(a, lengths=lengths).unsqueeze(-1) * values).sum(1)
    torch.testing.assert_close(pooled, wanted)
    assert (pooled[1] == 0).all()
    with pytest.raises(ValueError, match="values has shape"):
        AttentionPool()(a, values[:, :9])
    with pytest.raises(TypeError, match="values is a ndarray; want a tensor"):
        AttentionPool()(a, values.numpy())
    with pytest.raises(TypeError, match="a is a ndarray; want a tensor"):
        AttentionPool()(a.numpy(), values)
    for layer in (Fagg, AttentionPool):
        with pytest.raises(ValueError, match="scale=-1"):
            layer(scale=-1)
        with pytest.raises(TypeError, match="scale is a tensor, through which no gradient passes"):
            layer(scale=torch.tensor(0.5))
    with pytest.raises(TypeError, match="log is a str"):
        Fagg(log="no")


def test_the_example():
    """The same losses with the seed's code, and an honest end where the naive form fails."""
    done = subprocess.run(
        [sys.executable, "-m", "nbfagg.torch.example", "--steps", "8", "--seed", "3"],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "same losses within rounding" in done.stdout
    assert "naive form: loss is nan" in done.stdout


def test_the_seed_agrees():
    a = logits((4, 50, 3, 8))
    e = torch.exp(a - a.amax(dim=(1, 2, 3), keepdim=True))
    seed = e.sum(dim=(2, 3)) / e.sum(dim=(1, 2, 3)).unsqueeze(1)
    torch.testing.assert_close(nbfagg.fagg(a), seed, rtol=1e-6, atol=0)
    assert reference.ulp_error(nbfagg.fagg(a).numpy(), reference.oracle(a.numpy())).max() <= 2


def test_out_with_the_negative_bit_is_refused():
    """It is a view of numbers that it shows negated; what is written would go into a copy."""
    a = logits((3, 4, 5))
    alpha, lse = nbfagg.fagg(a, return_lse=True)

    def negative(*shape):
        return torch.zeros(shape, dtype=torch.complex64).conj().imag

    with pytest.raises(ValueError, match=r"out is a view with the negative bit; want out.resolve_neg\(\)"):
        nbfagg.fagg(a, out=negative(3, 4))
    with pytest.raises(ValueError, match="negative bit"):
        nbfagg.fagg_vjp(alpha, a, alpha, lse, out=negative(3, 4, 5))
    with pytest.raises(ValueError, match="negative bit"):
        nbfagg.fagg_packed(a.reshape(12, 5), [0, 5, 12], out=negative(12))


def test_lengths_and_offsets_that_are_broadcast():
    a = logits((3, 4, 5)).requires_grad_()
    lengths = np.broadcast_to(2, (3,))
    assert torch.equal(nbfagg.fagg(a, lengths=lengths), nbfagg.fagg(a, lengths=[2, 2, 2]))
    none = torch.zeros(0, 5, requires_grad=True)
    assert nbfagg.fagg_packed(none, np.broadcast_to(0, (4,)), return_lse=True)[1].shape == (3,)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused():
    nested = torch.nested.nested_tensor([torch.zeros(3, 2), torch.zeros(1, 2)])
    with pytest.raises(TypeError, match=r"a is a nested tensor; want its rows .*fagg_packed"):
        nbfagg.fagg(nested)
