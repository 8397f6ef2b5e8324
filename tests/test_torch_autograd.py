"""Derivatives of any order: by autograd, by torch.func, in forward mode; compiled, exported, mapped."""

import numpy as np
import pytest

import nbfagg

torch = pytest.importorskip("torch")
from nbfagg.torch import AttentionPool, Fagg  # noqa: E402

OPS = torch.ops.nbfagg
# What PyTorch's own checks and transforms call of PyTorch.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def logits(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


MASK = torch.rand(2, 4, 1, 2, generator=torch.Generator().manual_seed(5)) > 0.3
LENGTHS = torch.tensor([4, 2])
KEYWORDS = {
    "plain": {},
    "scale": {"scale": 0.5},
    "mask": {"where": MASK},
    "lengths": {"lengths": LENGTHS},
    "both": {"where": MASK, "lengths": LENGTHS},
    "last axis": {"keep_axis": 3},
    "no batch": {"batch_axis": (), "keep_axis": (0, 2)},
    "nothing kept": {"keep_axis": ()},
    "softmax": {"keep_axis": (1, 2, 3)},
}
LAYOUTS = {
    "contiguous": lambda a: a,
    "transposed": lambda a: a.transpose(1, 3).contiguous().transpose(1, 3),
    "sliced": lambda a: torch.cat((a, a), 2)[:, :, ::2],
}


def finite(function):
    """-inf, as log alpha of what is left out, has no difference quotient."""

    def called(*inputs):
        outputs = function(*inputs)
        return tuple(torch.where(torch.isfinite(x), x, torch.zeros_like(x)) for x in outputs)

    return called


def by_softmax(a, keywords):
    """alpha and lse in PyTorch's own operators."""
    keep, batch = keywords.get("keep_axis", 1), keywords.get("batch_axis", 0)
    keep, batch = (x if isinstance(x, tuple) else (x,) for x in (keep, batch))
    x = keywords.get("scale", 1.0) * a
    if "where" in keywords:
        x = x.masked_fill(~keywords["where"], -torch.inf)
    if "lengths" in keywords:
        inside = torch.arange(a.shape[1]) < keywords["lengths"][:, None]
        x = x.masked_fill(~inside[:, :, None, None], -torch.inf)
    row = [axis for axis in range(a.ndim) if axis not in batch]
    terms = [axis for axis in row if axis not in keep]
    lse = torch.logsumexp(x, row, keepdim=True)
    p = torch.exp(x - lse)
    return p.sum(terms) if terms else p, lse.reshape([a.shape[axis] for axis in batch])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("name", KEYWORDS)
def test_first_and_second_derivatives(name, log, layout):
    a = LAYOUTS[layout](logits(2, 4, 3, 2)).requires_grad_()
    function = finite(lambda x: nbfagg.fagg(x, log=log, return_lse=True, **KEYWORDS[name]))
    assert torch.autograd.gradcheck(function, a, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, a)


@pytest.mark.parametrize("log", [False, True])
def test_derivatives_of_packed_rows(log):
    a, offsets = logits(7, 2).requires_grad_(), torch.tensor([0, 3, 3, 7])
    function = finite(lambda x: nbfagg.fagg_packed(x, offsets, log=log, return_lse=True))
    assert torch.autograd.gradcheck(function, a, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KEYWORDS)
def test_gradients_are_those_of_softmax(name, dtype):
    a = logits(2, 4, 3, 2, dtype=dtype).requires_grad_()
    exact = a.detach().double().requires_grad_()
    alpha, lse = nbfagg.fagg(a, return_lse=True, **KEYWORDS[name])
    wanted, wanted_lse = by_softmax(exact, KEYWORDS[name])
    weights, rows = logits(*alpha.shape, seed=1), logits(*lse.shape, seed=2)
    weights, rows = weights.to(alpha.dtype), rows.to(lse.dtype)
    (gradient,) = torch.autograd.grad((alpha, lse), a, (weights, rows))
    (wanted_gradient,) = torch.autograd.grad((wanted, wanted_lse), exact, (weights.double(), rows.double()))
    assert gradient.dtype == dtype
    # 4 ulp; terms that cancel are below 1, and so is what 2 ulp of them leave.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=4 * eps, atol=2 * eps)


def test_what_is_saved_for_the_backward_pass():
    """a itself, and nothing else of its size."""
    a = logits(4, 50, 8, 16).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        nbfagg.fagg(a, return_lse=True)
    sizes = sorted(x.numel() for x in saved)
    assert sizes == [4, 200, a.numel()]
    assert any(x.data_ptr() == a.data_ptr() for x in saved)


def test_a_changed_input_is_noticed():
    a = logits(2, 3, 4).requires_grad_()
    b = a * 1.0
    alpha = nbfagg.fagg(b)
    b.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        alpha.sum().backward()


def test_integers_have_no_gradient():
    assert not nbfagg.fagg(torch.ones(2, 3, dtype=torch.int64)).requires_grad


def test_the_table_in_gradients():
    a = torch.zeros(4, 3, 2, dtype=torch.float64)
    a[0] = -torch.inf
    a[1, 0] = -torch.inf
    a[2, 1, 0] = torch.nan
    a.requires_grad_()
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    (gradient,) = torch.autograd.grad((alpha, lse), a, (torch.ones_like(alpha), torch.ones_like(lse)))
    assert (gradient[0] == 0).all()
    assert (gradient[1, 0] == 0).all()
    assert gradient[2].isnan().all()
    assert gradient[3].isfinite().all()


# --- compiled, exported, checked ---------------------------------------------

CALLS = {
    "plain": lambda a: nbfagg.fagg(a * 2),
    "mask": lambda a: nbfagg.fagg(a, where=MASK),
    "lengths": lambda a: nbfagg.fagg(a, lengths=LENGTHS, log=False, scale=0.25),
    "lse": lambda a: torch.add(*(x.sum() for x in nbfagg.fagg(a, return_lse=True))),
    "log": lambda a: nbfagg.fagg(a, log=True, keep_axis=-1),
    "packed": lambda a: nbfagg.fagg_packed(a, torch.tensor([0, 0, 2])),
    "module": lambda a: Fagg(keep_axis=2)(a),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_compiled_as_one_graph(name, dynamic):
    call = CALLS[name]
    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    a = logits(2, 4, 3, 2).requires_grad_()
    b = a.detach().clone().requires_grad_()
    found, wanted = compiled(a), call(b)
    assert torch.equal(found, wanted)
    cotangent = logits(*found.shape, seed=3)
    found.backward(cotangent)
    wanted.backward(cotangent)
    assert torch.equal(a.grad, b.grad)
    with torch.no_grad():
        assert torch.equal(compiled(a), wanted)


def test_exported():
    a, values = logits(2, 4, 3, 2), logits(2, 4, 5)
    program = torch.export.export(Fagg(log=True), (a,))
    assert torch.equal(program.module()(a + 1), nbfagg.fagg(a + 1, log=True))
    assert "nbfagg.fagg" in str(program.graph)
    program = torch.export.export(AttentionPool(), (a, values, MASK))
    assert torch.equal(program.module()(a, values, MASK), AttentionPool()(a, values, MASK))


def of(*shape, dtype=torch.float32):
    return logits(*shape, dtype=dtype).requires_grad_()


OFFSETS = torch.tensor([0, 1, 1, 2])
INPUTS = {
    "plain": (OPS.fagg, (of(2, 4, 3, 2), [0], [1], None, None, 1.0, False, None)),
    "log": (OPS.fagg, (of(2, 4, 3, 2), [0], [1, 3], None, None, 0.5, True, 1)),
    "mask": (OPS.fagg, (of(2, 4, 3, 2), [0], [1], MASK, LENGTHS, 1.0, False, None)),
    "bfloat16": (OPS.fagg, (of(2, 4, 3, 2, dtype=torch.bfloat16), [], [1], MASK, None, 1.0, False, None)),
    "strided": (
        OPS.fagg,
        (logits(2, 3, 4, 2).transpose(1, 2).requires_grad_(), [0], [1], None, None, 1.0, False, None),
    ),
    "backward": (
        OPS.fagg_backward,
        (of(2, 4), of(2), of(2, 4, 3, 2), logits(2, 4).abs().float(), logits(2).float(), [0], [1], MASK, None,
         1.0, False, None),
    ),
    "packed": (OPS.fagg_packed, (of(2, 4), OFFSETS, 1.0, False, None)),
    "packed backward": (
        OPS.fagg_packed_backward,
        (of(2), of(3), of(2, 4), OFFSETS, logits(2).abs().float(), logits(3).float(), 1.0, False, None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_opcheck(name):
    operator, inputs = INPUTS[name]
    assert set(torch.library.opcheck(operator.default, inputs).values()) == {"SUCCESS"}


# --- transforms --------------------------------------------------------------


def each(call, *tensors):
    return torch.stack([call(*sample) for sample in zip(*tensors, strict=True)])


def test_mapped():
    a = logits(5, 2, 4, 3, 2)
    assert torch.equal(torch.vmap(nbfagg.fagg)(a), each(nbfagg.fagg, a))
    assert torch.equal(torch.vmap(nbfagg.fagg, in_dims=2)(a.movedim(0, 2)), each(nbfagg.fagg, a))
    _, lse = torch.vmap(lambda x: nbfagg.fagg(x, return_lse=True, keep_axis=2))(a)
    assert torch.equal(lse, each(lambda x: nbfagg.fagg(x, return_lse=True, keep_axis=2)[1], a))
    nested = torch.vmap(torch.vmap(lambda x: nbfagg.fagg(x, batch_axis=(), keep_axis=0)))(a)
    assert torch.equal(nested, nbfagg.fagg(a, batch_axis=(0, 1), keep_axis=2))


def test_mapped_masks_and_lengths():
    a, masks = logits(5, 2, 4, 3, 2), logits(5, 4, 1, 2, seed=4) > 0
    lengths = torch.tensor([[1, 2], [0, 4], [3, 3], [4, 4], [2, 0]])
    masked = lambda x, where: nbfagg.fagg(x, where=where)  # noqa: E731
    limited = lambda x, counts: nbfagg.fagg(x, lengths=counts)  # noqa: E731
    assert torch.equal(torch.vmap(masked)(a, masks), each(masked, a, masks))
    assert torch.equal(torch.vmap(limited)(a, lengths), each(limited, a, lengths))
    assert torch.equal(torch.vmap(masked, (None, 0))(a[0], masks), each(lambda m: masked(a[0], m), masks))
    both = lambda x, where, counts: nbfagg.fagg(x, where=where, lengths=counts)  # noqa: E731
    assert torch.equal(torch.vmap(both)(a, masks, lengths), each(both, a, masks, lengths))


@pytest.mark.parametrize("log", [False, True])
def test_functional_derivatives(log):
    a, weights = logits(3, 2, 4, 3), logits(2, 4, seed=1)

    def ours(x):
        alpha, lse = nbfagg.fagg(x, log=log, return_lse=True)
        return (alpha * weights).sum() + (lse**2).sum()

    def theirs(x):
        alpha, lse = by_softmax(x, {})
        return ((alpha.log() if log else alpha) * weights).sum() + (lse**2).sum()

    jacfwd, jacrev = torch.func.jacfwd, torch.func.jacrev
    for transform in (torch.func.grad, torch.func.hessian, jacfwd, lambda f: jacrev(jacfwd(f)),
                      lambda f: jacrev(jacrev(f)), lambda f: jacrev(jacrev(jacrev(f)))):  # fmt: skip
        torch.testing.assert_close(transform(ours)(a[0]), transform(theirs)(a[0]))
    torch.testing.assert_close(torch.vmap(torch.func.grad(ours))(a), torch.vmap(torch.func.grad(theirs))(a))
    tangent = logits(2, 4, 3, seed=2)
    torch.testing.assert_close(
        torch.func.jvp(ours, (a[0],), (tangent,)), torch.func.jvp(theirs, (a[0],), (tangent,))
    )


def test_tangents_of_tangents_are_refused():
    """PyTorch would give 0 for the second derivative."""
    double = torch.func.jacfwd(torch.func.jacfwd(lambda x: nbfagg.fagg(x).square().sum()))
    with pytest.raises(NotImplementedError, match="forward mode within forward mode"):
        double(logits(2, 4, 3))


def test_functional_derivatives_of_packed_rows():
    a, offsets = logits(3, 7, 2), torch.tensor([0, 3, 3, 7])
    ours = lambda x: (nbfagg.fagg_packed(x, offsets) ** 2).sum()  # noqa: E731
    theirs = lambda x: sum((by_softmax(x[i:j][None], {})[0] ** 2).sum() for i, j in ((0, 3), (3, 7)))  # noqa: E731
    torch.testing.assert_close(torch.func.hessian(ours)(a[0]), torch.func.hessian(theirs)(a[0]))
    torch.testing.assert_close(torch.vmap(torch.func.grad(ours))(a), torch.vmap(torch.func.grad(theirs))(a))
    assert torch.equal(
        torch.vmap(lambda x: nbfagg.fagg_packed(x, offsets))(a),
        each(lambda x: nbfagg.fagg_packed(x, offsets), a),
    )


def test_many_gradients_at_once():
    a = logits(2, 4, 3).requires_grad_()
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    for output in (alpha, lse):
        cotangents = logits(5, *output.shape, seed=1)
        (found,) = torch.autograd.grad(output, a, cotangents, is_grads_batched=True, retain_graph=True)
        wanted = [torch.autograd.grad(output, a, one, retain_graph=True)[0] for one in cotangents]
        torch.testing.assert_close(found, torch.stack(wanted))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed(reentrant):
    from torch.utils.checkpoint import checkpoint

    a = logits(2, 4, 3).requires_grad_()
    b = a.detach().clone().requires_grad_()
    (checkpoint(lambda x: nbfagg.fagg(x.sin()), a, use_reentrant=reentrant) ** 2).sum().backward()
    (nbfagg.fagg(b.sin()) ** 2).sum().backward()
    assert torch.equal(a.grad, b.grad)


def test_autocast():
    """The logits' own dtype stays: they are summed in float32 all the same, and copied nowhere."""
    layer = torch.nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = layer(logits(2, 4, 8, dtype=torch.float32))
        alpha = nbfagg.fagg(a)
    assert alpha.dtype == a.dtype == torch.bfloat16
    (alpha.float() ** 2).sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.any()


def test_traced():
    a = logits(2, 4, 3)
    traced = torch.jit.trace(lambda x: nbfagg.fagg(x), a)
    assert torch.equal(traced(a * 2), nbfagg.fagg(a * 2))


def test_modes_see_an_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **kwargs or {})

    with Watch():
        nbfagg.fagg(logits(2, 4, 3))
    assert "nbfagg.fagg.default" in seen


def test_a_tangent_of_a_cotangent():
    """The forward pass was made before the transform began."""
    a = logits(2, 3, 4).requires_grad_()
    offsets = torch.tensor([0, 2, 6])
    for output, wanted in (
        (nbfagg.fagg(a), by_softmax(a, {})[0]),
        (
            nbfagg.fagg_packed(a.reshape(6, 4), offsets),
            torch.cat([by_softmax(a.reshape(6, 4)[i:j][None], {})[0][0] for i, j in ((0, 2), (2, 6))]),
        ),
    ):
        start, tangent = torch.ones_like(wanted), logits(*wanted.shape, seed=1)

        def gradient(cotangent, of):
            return torch.autograd.grad(of, a, cotangent, retain_graph=True, create_graph=True)[0]

        for of in (output, wanted):
            _, along = torch.func.jvp(lambda c, of=of: gradient(c, of), (start,), (tangent,))
            squared = torch.func.grad(lambda c, of=of: gradient(c, of).square().sum())(start)
            if of is output:
                found = along, squared
        torch.testing.assert_close(found, (along, squared))


@pytest.mark.parametrize("how", ["lengths", "-inf", "where"])
def test_tokens_that_hold_nothing_have_no_derivative_of_log_alpha(how):
    a = logits(2, 4, 3)
    keywords = {"lengths": {"lengths": [2, 4]}, "-inf": {}, "where": {"where": torch.ones(2, 4, 1).bool()}}[
        how
    ]
    if how == "-inf":
        a[0, 2:] = -torch.inf
    if how == "where":
        keywords["where"][0, 2:] = False
    function = lambda x: nbfagg.fagg(x, log=True, **keywords)  # noqa: E731
    forward, reverse = torch.func.jacfwd(function)(a), torch.func.jacrev(function)(a)
    torch.testing.assert_close(forward, reverse)
    assert (forward[0, 2:] == 0).all()
    x, v = a.clone().requires_grad_(), torch.ones(2, 4, dtype=a.dtype, requires_grad=True)
    (g,) = torch.autograd.grad(function(x), x, v, create_graph=True)
    by_x, by_v = torch.autograd.grad(g, (x, v), torch.where(torch.isfinite(a), logits(2, 4, 3, seed=1), 0.0))
    assert (by_v[0, 2:] == 0).all()

    def of(y):
        return torch.autograd.grad(function(y), y, torch.ones(2, 4, dtype=a.dtype))[0]

    u, step = torch.where(torch.isfinite(a), logits(2, 4, 3, seed=1), 0.0), 1e-6
    for place in ((0, 0, 1), (1, 3, 2)):
        up, down = a.clone(), a.clone()
        up[place] += step
        down[place] -= step
        up.requires_grad_()
        down.requires_grad_()
        slope = ((of(up) - of(down)) / (2 * step) * u).sum()
        torch.testing.assert_close(by_x[place], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("a", "keywords", "error", "message"),
    [
        ((1, 2, 3), {"lengths": torch.tensor([-1, 7])}, ValueError, "lengths from -1 to 7"),
        ((1, 2, 3), {"lengths": torch.tensor([1.5, 2.5])}, TypeError, "lengths has dtype"),
        (
            (2, 3, 4, 2),
            {"batch_axis": (0, 1), "keep_axis": 2, "lengths": [3, 3]},
            ValueError,
            "one batch axis",
        ),
        ((2, 3, 4, 2), {"batch_axis": (), "keep_axis": 0, "lengths": [2]}, ValueError, "one batch axis"),
        ((2, 3, 4, 2), {"keep_axis": (), "lengths": [1, 2, 3]}, ValueError, "one kept axis"),
        ((2, 3, 4, 2), {"where": torch.ones(2, 3, 4, 2).bool()}, ValueError, "where has shape"),
        ((2, 3, 4), {"keep_axis": 7}, ValueError, r"keep_axis=7 is out of range for a of shape \(3, 4\)"),
        ((2, 3, 4), {"keep_axis": 1.0}, TypeError, "keep_axis=1.0"),
        ((2, 3, 4), {"scale": torch.tensor(0.5)}, TypeError, "scale is a tensor"),
        ((2, 3, 4), {"log": torch.tensor(True)}, TypeError, "log is a Tensor"),
        ((2, 3, 4), {"workers": "2"}, TypeError, "workers='2'"),
    ],
)
def test_errors_while_mapped(a, keywords, error, message):
    with pytest.raises(error, match=message):
        torch.vmap(lambda x: nbfagg.fagg(x, **keywords))(logits(*a))


def test_out_is_a_change_that_autograd_sees():
    a, out, x = logits(3, 5, 2), torch.ones(3, 5, dtype=torch.float64), logits(3, 5, seed=1).requires_grad_()
    y = (x * out).sum()
    nbfagg.fagg(a, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_an_arrays_mask_may_change_afterwards():
    a = logits(3, 5, 2).requires_grad_()
    mask, lengths = np.ones((3, 5, 1), bool), np.array([5, 3, 0])
    for array, keywords in ((mask, {"where": mask}), (lengths, {"lengths": lengths})):
        (wanted,) = torch.autograd.grad(nbfagg.fagg(a, **keywords).square().sum(), a)
        output = nbfagg.fagg(a, **keywords).square().sum()
        array[...] = 0
        (found,) = torch.autograd.grad(output, a)
        assert torch.equal(found, wanted)


def test_a_broadcast_array_is_saved_as_it_is():
    a, saved = logits(4, 50, 16).requires_grad_(), []
    mask = np.broadcast_to(np.ones((4, 50, 1), bool), a.shape)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        nbfagg.fagg(a, where=mask)
    assert sorted(x.untyped_storage().nbytes() for x in saved)[:2] == [32, 200]
    assert sum(x.untyped_storage().nbytes() > 4 * 50 * 8 for x in saved) == 1


@pytest.mark.parametrize("dtype", [">i4", "uint16", "uint32", "uint64", "int8"])
def test_lengths_of_any_integers(dtype):
    a, lengths = logits(3, 6, 2).requires_grad_(), np.array([6, 0, 4], dtype)
    (g,) = torch.autograd.grad(nbfagg.fagg(a, lengths=lengths).square().sum(), a, create_graph=True)
    assert torch.autograd.grad(g.square().sum(), a)[0].isfinite().all()


def test_packed_logits_without_further_axes():
    a = logits(5).requires_grad_()
    function = lambda x: nbfagg.fagg_packed(x, [0, 2, 2, 5])  # noqa: E731
    assert torch.autograd.gradcheck(function, a, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, a)


def test_compiled_and_mapped():
    a = logits(3, 5, 2, 4)
    mapped = torch.vmap(lambda x: nbfagg.fagg(x, batch_axis=(), keep_axis=0))
    assert torch.equal(torch.compile(mapped, backend="aot_eager")(a), mapped(a))
