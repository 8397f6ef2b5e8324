"""The way from a device array to a launch, on a driver that has no GPU: standin.c, whose launches go to the
simulator."""

import ctypes
import gc
import math
import shutil
import subprocess
import time

import cudarun
import cudasim
import numpy as np
import pytest

import nbfagg
from nbfagg import reference
from nbfagg.cuda import arrays, build, driver, functions, geometry, kernels, launch
from nbfagg.cuda import plan as plans
from nbfagg.cuda.kinds import Kind, kind_of

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
HERE = __file__.rsplit("/", 1)[0]
LAUNCH = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint64,
    ctypes.c_void_p,
    ctypes.c_uint64,
)


@pytest.fixture(scope="session")
def standin(tmp_path_factory):
    path = tmp_path_factory.mktemp("standin") / "libstandin.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", f"{HERE}/standin.c", "-o", str(path)], check=True)
    return path


class Log(list):
    """What was launched: (kernel, kind, grid, block, shared bytes, stream)."""

    library = None
    failures = None


@pytest.fixture
def gpu(standin, monkeypatch, tmp_path):
    """A driver whose kernels run in the simulator, with limits that send small arrays every way."""
    monkeypatch.setattr(driver, "NAME", str(standin))
    monkeypatch.setattr(build, "folder", lambda: tmp_path)
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(
        build,
        "ptx_of",
        lambda kind, kernel, target, block: (f"{kernel} {kind.storage} {int(kind.wide)}", "entry"),
    )
    monkeypatch.setattr(build, "cubin_of", lambda ptx, target: ptx.encode())
    monkeypatch.setattr(plans, "STANDARD", cudarun.TINY)
    forget()
    log = Log()
    log.library = driver.library()
    log.library.standin_fail(b"", 0)

    def run(function, grid, block, shared, stream, parameters, size):
        try:
            name, storage, wide = ctypes.string_at(function).decode().split()
            kind = Kind(storage, wide == "1")
            log.append((name, storage, grid, block, shared, stream))
            simulate(name, kind, grid, block, shared, parameters, size)
        except Exception as error:  # ctypes would print and drop it
            log.failures = error

    callback = LAUNCH(run)
    log.library.standin_on_launch(callback)
    yield log
    log.library.standin_on_launch(LAUNCH())
    log.library.standin_fail(b"", 0)
    if log.failures:
        raise log.failures
    driver.free_workspace()
    gc.collect()
    assert log.library.standin_live() == 0
    assert log.library.standin_current() == 0
    forget()


def forget():
    driver.library.cache_clear()
    driver.count.cache_clear()
    driver._devices.clear()
    launch._ready.cache_clear()
    functions._plan_for.cache_clear()
    plans.make_plan.cache_clear()


def simulate(name, kind, grid, block, shared, parameters, size):
    """Run a kernel on what its parameters point to, read as the device would: by natural alignment."""
    made, arguments = kernels.KERNELS[name]
    real = kind.real
    given, at = [], 0
    types = {
        "a": cudasim.NUMPY[kind.storage], "mask": np.uint8, "limits": np.int64, "tickets": np.int32,
        "listed": np.int32,
        "lse": real, "work": real, "grad_lse": real,
    }  # fmt: skip
    for argument in arguments:
        if argument == "law":
            number = ctypes.c_double if kind.wide else ctypes.c_float
            given.append(tuple(map(real, (number * 6).from_address(parameters + at))))
            at += ctypes.sizeof(number) * 6
        elif argument == "geo":
            at += -at % 8
            given.append(tuple((ctypes.c_int64 * geometry.LENGTH).from_address(parameters + at)))
            at += 8 * geometry.LENGTH
        else:
            address = ctypes.c_uint64.from_address(parameters + at).value
            dtype = np.dtype(types.get(argument, cudasim.NUMPY[kind.result]))
            raw = (ctypes.c_char * (1 << 20)).from_address(address or ctypes.addressof(SPARE))
            given.append(np.frombuffer(raw, dtype))
            at += 8
    assert at == size
    room = shared // np.dtype(real).itemsize
    cudasim.launch(made(cudasim.make(kind), kind, block), grid, block, room, given)


SPARE = ctypes.create_string_buffer(1 << 20)


class Array:
    """A device array of no known library, in the stand-in's memory."""

    def __init__(self, values, stream=None, readonly=False, version=3, **interface):
        self.values = values
        self.interface = {
            "shape": values.shape, "typestr": values.dtype.str, "data": (values.ctypes.data, readonly),
            "strides": values.strides, "version": version, **interface,
        }  # fmt: skip
        if stream is not None:
            self.interface["stream"] = stream

    @property
    def __cuda_array_interface__(self):
        return self.interface


def values_of(a):
    """Read an array that nbfagg made."""
    interface = a.__cuda_array_interface__
    dtype = np.dtype(interface["typestr"])
    count = math.prod(interface["shape"])
    raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(interface["data"][0])
    return np.frombuffer(raw, dtype).reshape(interface["shape"]).copy()


def logits(*shape, dtype=np.float32, seed=0):
    return cudarun.lay(np.random.default_rng(seed).normal(0, 3, shape).astype(dtype))


def test_fagg(gpu):
    for shape, steps in (
        ((5, 3, 68), ["rows"]),
        ((5, 3, 69), ["rows_unaligned"]),
        ((5, 3, 8), ["short"]),
        ((5, 3, 7), ["short_unaligned"]),
        ((3, 1200, 1), ["pieces", "short_pieces"] * 2),
        ((2, 30, 40), ["rows", "weights"]),
        ((2, 3, 600), ["rows"]),
    ):
        gpu.clear()
        x = logits(*shape)
        alpha, lse = nbfagg.fagg(Array(x, stream=77), return_lse=True)
        exact, exact_lse = reference.oracle(x, return_lse=True)
        np.testing.assert_allclose(values_of(alpha), exact.astype(float), rtol=1e-6)
        np.testing.assert_allclose(values_of(lse), exact_lse.astype(float), rtol=1e-6)
        assert [entry[0] for entry in gpu] == steps
        plan = functions._plan_for("f4", False, x.shape, x.strides, True, 0, 1, False, None, False, None)
        assert [(e[2], e[3], e[4]) for e in gpu] == [(s.grid, plan.block, 4 * s.room) for s in plan.steps]
        assert {entry[5] for entry in gpu} == {77}
        # Tickets are back at 0: the same again.
        np.testing.assert_array_equal(values_of(nbfagg.fagg(Array(x, stream=77))), values_of(alpha))


def test_options(gpu):
    x = logits(4, 12, 7)
    random = np.random.default_rng(1)
    where = random.random(x.shape) < 0.7
    lengths = np.array([0, 12, 5, 7])
    alpha = nbfagg.fagg(Array(x), where=Array(where), lengths=Array(lengths), scale=0.5, log=True)
    exact = reference.oracle(x, where=where, lengths=lengths, scale=0.5, log=True).astype(float)
    np.testing.assert_allclose(values_of(alpha), exact, rtol=1e-5)
    # A mask that repeats itself is not expanded.
    alpha = nbfagg.fagg(Array(x), where=Array(where[:, :, :1]))
    np.testing.assert_allclose(
        values_of(alpha), reference.oracle(x, where=where[:, :, :1]).astype(float), rtol=1e-6
    )
    alpha = nbfagg.fagg(Array(x.transpose(2, 0, 1)), batch_axis=(1,), keep_axis=(2,))
    np.testing.assert_allclose(values_of(alpha), reference.oracle(x).astype(float), rtol=1e-6)
    out = Array(np.zeros((4, 12), np.float32))
    assert nbfagg.fagg(Array(x), out=out) is out
    np.testing.assert_allclose(out.values, reference.oracle(x).astype(float), rtol=1e-6)
    integers = random.integers(0, 9, (3, 4, 5))
    np.testing.assert_allclose(
        values_of(nbfagg.fagg(Array(integers))), reference.oracle(integers).astype(float)
    )
    half = logits(3, 4, 16, dtype=np.float16)
    assert values_of(nbfagg.fagg(Array(half))).dtype == np.float16
    assert values_of(nbfagg.fagg(Array(half), return_lse=True)[1]).dtype == np.float32
    np.testing.assert_array_equal(values_of(nbfagg.fagg(Array(x[:, :, :0]))), 0)


def test_gradient_and_packed(gpu):
    x = logits(4, 12, 7)
    random = np.random.default_rng(1)
    g, of_lse = random.normal(size=(4, 12)).astype(np.float32), random.normal(size=4).astype(np.float32)
    alpha, lse = nbfagg.fagg(Array(x), return_lse=True)
    given = nbfagg.fagg_vjp((Array(g), Array(of_lse)), Array(x), alpha, lse, return_lse=True)
    np.testing.assert_allclose(
        values_of(given), reference.fagg_vjp(g, x, grad_lse=of_lse).astype(float), atol=1e-6
    )
    rows, offsets = logits(30, 6), np.array([0, 4, 4, 30])
    alpha, lse = nbfagg.fagg_packed(Array(rows), Array(offsets), return_lse=True)
    exact, exact_lse = reference.fagg_packed(rows, offsets, return_lse=True)
    np.testing.assert_allclose(values_of(alpha), exact.astype(float), rtol=1e-6)
    np.testing.assert_allclose(values_of(lse), exact_lse.astype(float), rtol=1e-6)
    g = random.normal(size=30).astype(np.float32)
    given = values_of(nbfagg.fagg_packed_vjp(Array(g), Array(rows), Array(offsets), alpha, lse))
    wanted = reference.fagg_vjp(g[None, 4:], rows[None, 4:])
    np.testing.assert_allclose(given[4:], wanted[0].astype(float), atol=1e-6)
    # In place.
    place = Array(rows.copy())
    assert nbfagg.fagg_packed_vjp(Array(g), place, Array(offsets), alpha, lse, out=place) is place
    np.testing.assert_array_equal(place.values, given)


def test_packed_rows_too_large_for_a_block(gpu, monkeypatch):
    """Their list is kept from call to call, and empty at each: after more rows, and a call that failed."""
    first = np.array([0, 400, 410, 900])
    run = gpu.library.cuLaunchKernel

    def failing(function, *rest):
        return 700 if "pieces" in ctypes.string_at(function).decode() else run(function, *rest)

    for offsets in (first, np.array([0, 10, 500]), first):
        x = logits(offsets[-1], 3)
        alpha = nbfagg.fagg_packed(Array(x), Array(offsets))
        exact = reference.fagg_packed(x, offsets)
        np.testing.assert_allclose(values_of(alpha), exact.astype(float), rtol=1e-6)
        with monkeypatch.context() as patch:
            patch.setattr(gpu.library, "cuLaunchKernel", failing)
            with pytest.raises(driver.DriverError, match="the result is not to be used"):
                nbfagg.fagg_packed(Array(logits(900, 3)), Array(first))
    assert {(0, "work"), (0, "listed")} == set(driver.device(0)._spaces)


def test_rows_of_more_tokens_than_32_bits_count_are_refused():
    kind = kind_of("f2")
    tokens = 2**32
    for shape, strides, out in (
        ((1, tokens, 1), (2 * tokens, 2, 2), None),
        ((1, tokens, 1), (2, 2, 2), (2, 2, 2)),
    ):
        with pytest.raises(NotImplementedError, match=r"rows of 4294967296 tokens; want fewer than 2\*\*32"):
            plans.make_plan(kind, shape, strides, True, (0,), (1,), False, out=out)
    forward = plans.make_plan(kind, (tokens, 1), (2, 2), True, (), (0,), False, packed_rows=5)
    assert forward.steps[0].kernel.startswith("short_packed")
    with pytest.raises(NotImplementedError, match="want parts of fewer than"):
        plans.make_plan(kind, (tokens, 1), (2, 2), True, (), (0,), False, packed_rows=2**31)


class OnlyDLPack:
    """An array that has DLPack alone; NumPy's capsule with another device and another code of numbers."""

    def __init__(self, values, code=None):
        self.values, self.code = values, code

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream=None):
        capsule = self.values.__dlpack__()
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        tensor = arrays._Tensor.from_address(get(capsule, b"dltensor"))
        tensor.device = 2
        if self.code is not None:
            tensor.code = self.code
        self.capsule = capsule
        return capsule


def test_dlpack(gpu):
    x = np.random.default_rng(0).normal(0, 3, (3, 4, 8)).astype(np.float32)
    np.testing.assert_allclose(
        values_of(nbfagg.fagg(OnlyDLPack(x))), reference.oracle(x).astype(float), rtol=1e-6
    )
    brain = cudasim.stored(x, "b2")
    alpha = values_of(nbfagg.fagg(OnlyDLPack(brain, code=4)))
    exact = reference.oracle(cudasim.restored(brain, "b2").astype(float)).astype(float)
    np.testing.assert_allclose(cudasim.restored(alpha, "b2"), exact, rtol=2.0**-8)
    assert {entry[1] for entry in gpu} == {"f4", "b2"}
    with pytest.raises(TypeError, match="DLPack's code 5"):
        nbfagg.fagg(OnlyDLPack(x, code=5))


def zeros(*shape, dtype=np.float32, **interface):
    return Array(np.zeros(shape, dtype), **interface)


BAD = [
    (lambda x: nbfagg.fagg(Array(x), where=x > 0), TypeError, "where is a ndarray on the host"),
    (lambda x: nbfagg.fagg(Array(x), lengths=[1, 2, 3]), TypeError, "lengths is a list on the host"),
    (
        lambda x: nbfagg.fagg(Array(x), lengths=zeros(3, dtype="i4")),
        TypeError,
        "lengths has numbers i4.*int64",
    ),
    (lambda x: nbfagg.fagg(Array(x), lengths=zeros(4, dtype="i8")), ValueError, r"lengths has shape \(4,\)"),
    (lambda x: nbfagg.fagg(Array(x), where=Array(x[:, :2] > 0)), ValueError, "where has shape .*broadcast"),
    (lambda x: nbfagg.fagg(Array(x), where=Array(x)), TypeError, "where has numbers f4"),
    (lambda x: nbfagg.fagg(Array(x), keep_axis=5), ValueError, "keep_axis=5 is out of range"),
    (lambda x: nbfagg.fagg(Array(x), keep_axis=0), ValueError, "share an axis"),
    (lambda x: nbfagg.fagg(Array(x), out=zeros(3, 5)), ValueError, r"out has shape \(3, 5\)"),
    (lambda x: nbfagg.fagg(Array(x), out=zeros(3, 4, dtype="f8")), TypeError, "out has numbers f8"),
    (lambda x: nbfagg.fagg(Array(x), out=zeros(3, 4, readonly=True)), ValueError, "not writeable"),
    (lambda x: nbfagg.fagg(Array(x), out=Array(x[:, :, 0])), ValueError, "shares memory with a"),
    (lambda x: nbfagg.fagg(Array(x), out=Array(np.zeros((4, 3), "f4").T)), ValueError, "in one piece"),
    (lambda x: nbfagg.fagg(Array(x), scale=0), ValueError, "scale=0"),
    (lambda x: nbfagg.fagg(Array(x.astype(complex))), TypeError, "a has type <c16"),
    (lambda x: nbfagg.fagg(Array(x.astype(">f4"))), TypeError, "a has type >f4"),
    (lambda x: nbfagg.fagg(Array(x, mask=Array(x))), TypeError, "mask in its interface"),
    (lambda x: nbfagg.fagg(Array(np.array(x[0, 0, 0]))), ValueError, "scalar"),
    (lambda x: nbfagg.fagg_packed(Array(x), zeros(2, 2, dtype="i8")), ValueError, "offsets has shape"),
    (
        lambda x: nbfagg.fagg_vjp(Array(x), Array(x), Array(x), None),
        ValueError,
        r"grad has shape \(3, 4, 8\)",
    ),
    (lambda x: nbfagg.State.of(Array(x)), NotImplementedError, r"State\.of takes CuPy"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_arguments(gpu, call, error, message):
    with pytest.raises(error, match=message):
        call(logits(3, 4, 8))
    assert not gpu


def test_too_many_axes(gpu):
    a = np.zeros((2, 3) * 6, np.float32)[(slice(None), slice(None, None, 2)) * 6]
    with pytest.raises(NotImplementedError, match=r"summed axes, no two of which.*contiguous copy"):
        nbfagg.fagg(Array(a))
    assert not gpu


def test_where_there_is_one_gpu_none_is_asked_for(gpu, monkeypatch):
    x = logits(2, 3, 4)
    gpu.library.standin_fail(b"cuPointerGetAttribute", 1)
    with pytest.raises(driver.DriverError, match="asking whose memory an array is"):
        nbfagg.fagg(Array(x))
    with monkeypatch.context() as patch:
        patch.setattr(driver, "count", lambda: 1)
        alpha = nbfagg.fagg(Array(x))
    np.testing.assert_allclose(values_of(alpha), reference.oracle(x).astype(float), rtol=1e-6)


def test_arrays_on_two_devices(gpu, monkeypatch):
    x = logits(3, 4, 8)
    lengths = np.array([1, 2, 3])
    monkeypatch.setattr(driver, "device_of", lambda address: int(address == lengths.ctypes.data))
    with pytest.raises(ValueError, match="lengths is on GPU 1, a on GPU 0"):
        nbfagg.fagg(Array(x), lengths=Array(lengths))


def test_no_memory(gpu):
    x = logits(2, 30, 40)
    out = Array(np.full((2, 30), 7, np.float32))
    gpu.library.standin_fail(b"cuMemAlloc", 2)
    with pytest.raises(
        MemoryError, match=r"no GPU memory \(\d+ bytes\) for a workspace; nothing was written"
    ):
        nbfagg.fagg(Array(x), out=out)
    with pytest.raises(MemoryError, match="for the result"):
        nbfagg.fagg(Array(x))
    assert (out.values == 7).all()
    gpu.library.standin_fail(b"", 0)
    np.testing.assert_allclose(values_of(nbfagg.fagg(Array(x))), reference.oracle(x).astype(float), rtol=1e-6)


@pytest.mark.parametrize(
    ("at", "code", "message"),
    [
        (b"cuModuleLoadData", 209, "no machine code fits this GPU"),
        (b"cuModuleLoadData", 222, "older than the toolkit"),
        (b"cuLaunchKernel", 719, r"CUDA_ERROR_SOMETHING \(719\).*result is not to be used"),
    ],
)
def test_driver_errors(gpu, at, code, message):
    gpu.library.standin_fail(at, code)
    with pytest.raises(driver.DriverError, match=message):
        nbfagg.fagg(Array(logits(3, 4, 8)))


@pytest.mark.parametrize(("code", "message"), [(100, "sees no GPU"), (35, "too old")])
def test_driver_that_does_not_start(gpu, code, message):
    gpu.library.standin_fail(b"cuInit", code)
    forget()
    with pytest.raises(driver.DriverError, match=message):
        nbfagg.fagg(Array(logits(3, 4, 8)))
    gpu.library.standin_fail(b"", 0)
    forget()


def test_no_driver(monkeypatch):
    monkeypatch.setattr(driver, "NAME", "libnothing.so.1")
    forget()
    with pytest.raises(driver.DriverError, match=r"there is no libnothing\.so\.1; want NVIDIA's driver"):
        nbfagg.fagg(Array(logits(3, 4, 8)))
    forget()


def test_workspace_is_kept_and_given_back(gpu):
    x = logits(2, 30, 40)
    for _ in range(3):
        nbfagg.fagg(Array(x))
    device = driver.device(0)
    kept = {key: len(spaces) for key, spaces in device._spaces.items()}
    assert kept == {(0, "work"): 1}
    nbfagg.fagg(Array(x, stream=5))
    assert set(device._spaces) == {(0, "work"), (5, "work")}
    assert driver.free_workspace() == 2 * 4096
    assert not device._spaces


def test_groups_of_rows_begin_anew_in_each_call(gpu):
    x = logits(3, 1200, 1)
    once, again = (values_of(nbfagg.fagg(Array(x))) for _ in range(2))
    np.testing.assert_array_equal(again, once)
    assert [launch[2] for launch in gpu[:4]] == [launch[2] for launch in gpu[4:]]


def test_machine_code_is_kept_on_disk(gpu, tmp_path):
    x = logits(3, 4, 68)
    nbfagg.fagg(Array(x))
    (kept,) = tmp_path.glob(f"rows-f4-sm90-64-{build.source_stamp()}-{build.tool_stamp()}.cubin")
    assert kept.read_bytes() == b"entry\nrows f4 0"
    before = gpu.library.standin_loads()
    forget()
    kept.write_bytes(b"entry\nrows f4 0")
    build_again = build.build(kind_of("f4"), "rows", (9, 0), 64)
    assert build_again == build.Built(b"rows f4 0", "entry")
    assert gpu.library.standin_loads() == before


def test_a_folder_that_cannot_be_written_is_quiet(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    build.keep(build.Built(b"code", "entry"), blocked / "below.cubin")


def test_the_packing_of_parameters_is_what_a_kernel_declares():
    pytest.importorskip("numba_cuda")
    import re

    for storage in ("f4", "f8"):
        kind = kind_of(storage)
        ptx, _ = build.ptx_of(kind, "totals", (9, 0), 256)
        declared = re.search(r"\.visible \.entry \w+\((.*?)\)", ptx, re.DOTALL)[1]
        found = re.findall(r"\.param \.([a-z])(\d+)", declared)
        letters = launch.layout_of(kernels.KERNELS["totals"].arguments, kind.wide)
        wanted = [("u", "64"), *[("f", "64" if kind.wide else "32")] * 6, *[("u", "64")] * geometry.LENGTH]
        assert found == wanted
        assert letters == f"=Q6{'d' if kind.wide else 'f'}{geometry.LENGTH}q"


def test_a_call_is_a_few_times_its_launch(gpu):
    """10 us a call are 9 launches of 1.1 us, as measured on an idle machine; in turns, for the machine may
    be busy."""
    gpu.library.standin_on_launch(LAUNCH())
    a, out = Array(logits(3, 10, 4, 8)), Array(np.zeros((3, 10), np.float32))
    a.interface["stream"] = 9
    nbfagg.fagg(a, out=out)
    ((made,),) = [launch._ready(plan, 0, 1.0, 0) for plan in PLANS(a)]
    # A thread that works with a GPU has its context current.
    driver.device(0).enter()

    def bare():
        gpu.library.cuLaunchKernel(
            made.function, made.grid, 1, 1, 64, 1, 1, made.shared, 9, None, made.options
        )

    # Bursts shorter than what another process is given at a time.
    def took(function):
        start = time.perf_counter()
        for _ in range(20):
            function()
        return (time.perf_counter() - start) / 20

    turns = [(took(lambda: nbfagg.fagg(a, out=out)), took(bare)) for _ in range(300)]
    driver.device(0).leave()
    call, least = (min(turn[i] for turn in turns) for i in range(2))
    print(f"{call * 1e6:.1f} us a call, {least * 1e6:.1f} a launch")
    assert call < 12 * least


def PLANS(a):
    view = arrays.view_of("a", a)
    return [
        functions._plan_for(
            "f4", False, view.shape, view.strides, view.address % 16 == 0, 0, 1, False, None, False, None
        )
    ]


def test_check(gpu, capsys):
    """`nbfagg check --target cuda` on what is small of it."""
    from nbfagg.cuda import check

    code = check.run(most=500, tokens=300, sizes=(1, 3, 301))
    text = capsys.readouterr().out
    assert "WRONG" not in text, text
    assert code == 0
    assert {name for name in ("packed", "mask", "lengths", "huge", "gradient") if name in text} == {
        "packed", "mask", "lengths", "huge", "gradient",
    }  # fmt: skip


def test_check_can_fail(gpu, capsys, monkeypatch):
    from nbfagg.cuda import check

    monkeypatch.setattr(check, "CASES", ())
    right = functions.fagg
    monkeypatch.setattr(check.functions, "fagg", lambda a, **options: right(a, **options | {"scale": 1.0001}))
    assert check.run(tokens=300, sizes=(1, 3, 100)) == 1
    assert "WRONG" in capsys.readouterr().out


def test_without_compilers(gpu, monkeypatch):
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        RuntimeError, match=r"numba-cuda is not installed\); want pip install 'nbfagg\[cuda\]'"
    ):
        nbfagg.fagg(Array(logits(3, 4, 8)))
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: name)

    def no_nvvm(*arguments):
        raise OSError("libnvvm.so is not there")

    monkeypatch.setattr(build, "ptx_of", no_nvvm)
    with pytest.raises(RuntimeError, match=r"libnvvm\.so is not there"):
        nbfagg.fagg(Array(logits(3, 4, 8)))


def test_kernels_built_elsewhere(gpu, monkeypatch, tmp_path):
    """They are found without compilers, and whatever the versions of these are."""
    shipped = tmp_path / "shipped"
    assert build.ship(shipped, ((9, 0),)) == 4 * len(kernels.KERNELS)
    assert len([*shipped.iterdir()]) == 4 * len(kernels.KERNELS)
    monkeypatch.setenv("NBFAGG_CUBINS", str(shipped))
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    found = build.build(kind_of("b2"), "walk", (9, 0))
    assert found == build.Built(b"walk b2 0", "entry")
