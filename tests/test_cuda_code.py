"""The machine code of every CUDA kernel, for sm_80 and sm_90, with no GPU: what it uses, and what a logit
costs.

The budget of a main loop is what a multiprocessor can issue while its share of 4.3 TB/s comes in: 128 lanes
a clock
of 1.755 GHz on 132 of them are 27.6 instructions for each 4 bytes. So a loop may take that for each logit,
and as
much more as it moves more bytes for it: a mask's byte, a gradient's write.
"""

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import sass

pytest.importorskip("numba_cuda")
pytest.importorskip("nvidia")

from nbfagg.cuda import build, plan
from nbfagg.cuda.kernels import KERNELS
from nbfagg.cuda.kinds import Kind, kind_of

TARGETS = [(8, 0), (9, 0)]
FLOATS = [kind_of(storage) for storage in ("f4", "f8", "f2", "b2")]
# Other numbers go the ways that take any; float32 and halves in float64 arithmetic go all.
OTHERS = [kind_of(storage) for storage in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")]
WIDENED = [kind_of(storage, widened=True) for storage in ("f4", "f2", "b2")]
# Read like `rows_unaligned`: for one target.
ONCE = (
    "short_unaligned", "pieces_unaligned", "short_pieces_unaligned", "short_gradient_unaligned",
    "short_packed_unaligned", "packed_pieces_unaligned", "short_packed_pieces_unaligned",
)  # fmt: skip
BYTES_FOR_27 = 4.3e12 / 132 / 1.755e9 / 128
# Main loops: the instructions of memory that a turn has, in what number for one vector of 16 bytes (or one
# number),
# and the bytes moved for each number besides the number itself.
VECTOR, SINGLE = r"LDG.*\.128", r"LDG(?!.*\.128)"


def tool(name):
    import nvidia

    for folder in nvidia.__path__:
        path = Path(folder) / "cu13" / "bin" / name
        if path.exists():
            return str(path)
    return None


PTXAS, NVDISASM = tool("ptxas"), tool("nvdisasm")
pytestmark = pytest.mark.skipif(
    not (PTXAS and NVDISASM), reason="no ptxas or nvdisasm (pip install '.[cuda-code]')"
)


class Code(NamedTuple):
    registers: int
    stack: int
    spills: int
    shared: int  # bytes besides what a launch asks for
    text: str


class Case(NamedTuple):
    kernel: str
    kind: Kind
    target: tuple[int, int]

    def __str__(self):
        return f"{self.kernel}-{self.kind}-sm{self.target[0]}{self.target[1]}"


def cases():
    for target in TARGETS:
        for kernel in KERNELS:
            if target == (8, 0) and kernel in ONCE:
                continue
            yield from (Case(kernel, kind, target) for kind in FLOATS)
    # What differs in these is how numbers are read: once will do.
    for kernel in ("walk", "walk_masked", "walk_gradient"):
        yield from (Case(kernel, kind, (9, 0)) for kind in OTHERS if kind.storage in ("i1", "u4", "i8"))
    for kernel in (
        "rows",
        "rows_unaligned",
        "short",
        "short_packed",
        "rows_gradient",
        "short_gradient",
        "walk",
    ):
        yield from (Case(kernel, kind, (9, 0)) for kind in WIDENED)


CASES = {str(case): case for case in cases()}


def compiled(case):
    """Compile a kernel in a process of its own; give what ptxas says of it and its text."""
    ptx, _ = build.ptx_of(case.kind, case.kernel, case.target, 256)
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "k.ptx", Path(folder) / "k.cubin"
        source.write_text(ptx)
        arch = f"-arch=sm_{case.target[0]}{case.target[1]}"
        log = subprocess.run(
            [PTXAS, "-v", arch, str(source), "-o", str(cubin)], capture_output=True, text=True, check=True
        ).stderr
        text = subprocess.run([NVDISASM, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    stack, stores, loads = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    ).groups()
    registers, shared = re.search(r"Used (\d+) registers", log), re.search(r"(\d+) bytes smem", log)
    return Code(
        int(registers[1]), int(stack), int(stores) + int(loads), int(shared[1]) if shared else 0, text
    )


@pytest.fixture(scope="module")
def codes(request):
    """All that the tests to be run ask for, two at a time."""
    here = [item for item in request.session.items if item.path == request.path]
    wanted = sorted({item.callspec.params["name"] for item in here if hasattr(item, "callspec")})
    spawn = multiprocessing.get_context("spawn")
    workers = min(4, len(os.sched_getaffinity(0)))
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        return dict(
            zip(wanted, pool.map(compiled, [CASES[name] for name in wanted], chunksize=4), strict=True)
        )


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_keeps_to_its_registers(codes, name):
    case, code = CASES[name], codes[name]
    parsed = sass.parse(code.text)
    assert code.stack == 0
    assert code.spills == 0
    assert sass.local(parsed) == []
    room = 65536 // (256 * build.blocks_of(case.kind, case.kernel)) // 8 * 8
    assert code.registers <= room
    if not case.kind.wide:
        assert sass.float64(parsed) == []
    else:
        assert sass.float64(parsed)
    loads = collections.Counter(c.name for c in parsed if c.name.startswith("LDG"))
    if case.kernel.startswith(("rows", "short", "pieces")):
        assert any(".128" in load for load in loads)
    if case.kernel == "rows_gradient":
        assert any(c.name.startswith("STG") and ".128" in c.name for c in parsed)
    exponentials = sum(c.name == "MUFU.EX2" for c in parsed)
    # Gradients of log alpha take one more for each token, of any type.
    if case.kernel.startswith(("rows", "short", "pieces", "walk")) and "gradient" not in case.kernel:
        assert bool(exponentials) == case.kind.half


# (pattern, at least so many in a turn, numbers of a turn in vectors, or as such)
LOOPS = {
    "rows": (VECTOR, 4, 4),
    "rows_unaligned": (VECTOR, 8, 4),
    "walk": (SINGLE, 16, 16),
    "walk_masked": (SINGLE, 32, 16),
}
# Of half precision one by one, a load takes as many instructions as of float32, for half the bytes.
BEYOND = {("walk", 2): 1.04}


def cost(code, kernel, kind):
    """Give the instructions a number of a kernel's main loop."""
    pattern, least, count = LOOPS[kernel]
    if kernel == "rows_unaligned" and kind.item == 8:
        # Of the second 16 bytes half is wanted, and read.
        least = 4
    numbers = count * (kind.vector if pattern == VECTOR else 1)
    turns = [
        turn
        for loop in sass.loops(code)
        # The loop around it, over cells, comes past as many and more.
        if loop.last - loop.first < 2500 and (turn := sass.shortest_turn(code, loop, pattern, least))
    ]
    return min(turns) / numbers


@pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if case.kernel in LOOPS and case.kind in FLOATS]
)
def test_a_logit_costs_less_than_its_bytes(codes, name):
    case = CASES[name]
    paid = cost(sass.parse(codes[name].text), case.kernel, case.kind)
    moved = case.kind.item + (case.kernel == "walk_masked")
    budget = moved / BYTES_FOR_27 * BEYOND.get((case.kernel, case.kind.item), 1)
    print(f"{name}: {paid:.1f} of {budget:.1f}")
    assert paid <= budget
    if case.kernel.startswith("rows"):
        assert paid <= {4: 27, 2: 13, 8: 55}[case.kind.item]


# Half precision has a token's cost for half the bytes; exponentials of bfloat16 reach further down.
BEYOND_SHORT = {"f4": 1, "f8": 1, "f2": 1.1, "b2": 1.35}
# Packed rows' loops have more to keep in mind, and may begin anywhere: two loads and a funnel shift a vector.
BEYOND_KERNEL = {
    "short": {"f4": 1, "f8": 1, "f2": 1, "b2": 1},
    "short_packed": {"f4": 1.02, "f8": 1.02, "f2": 1.1, "b2": 1.05},
    "short_packed_unaligned": {"f4": 1.2, "f8": 1.13, "f2": 1.27, "b2": 1.2},
}
SHORT = [name for name, case in CASES.items() if case.kernel in BEYOND_KERNEL and case.kind in FLOATS]


def beyond(case, usual):
    return usual[case.kind.storage] * BEYOND_KERNEL[case.kernel][case.kind.storage]


@pytest.mark.parametrize("name", SHORT)
def test_a_logit_of_a_short_token_costs_less_than_its_bytes(codes, name):
    """It is copied, gets its exponential, and is summed; a token is written, whose bytes count."""
    case = CASES[name]
    code = sass.parse(codes[name].text)
    staged = staging(code, case.kind)
    for terms in 1, 2, 3:
        wanted = {r"LDS\.128": 0, r"LDS(?!\.128)": 2 * terms, r"STG": 2}
        written = least(code, 2 * terms, wanted)
        paid = staged + written
        budget = (case.kind.item + case.kind.item / terms) / BYTES_FOR_27
        print(f"{name}, {terms} terms: {staged:.1f} + {written:.1f} of {budget:.1f}")
        assert paid <= budget * beyond(case, BEYOND_SHORT)


def least(code, numbers, wanted):
    """Give the instructions a number of the shortest loop with just so many of each, by pattern."""
    fitting = [
        loop.last - loop.first + 1
        for loop in sass.loops(code)
        if all(sass.count(code, loop, pattern) == count for pattern, count in wanted.items())
    ]
    return min(fitting) / numbers


def staging(code, kind):
    """Give the instructions a number for the copy to shared memory, and for the exponential there."""
    lines = kind.vector * kind.real().itemsize // 16
    copies = [
        loop.last - loop.first + 1
        for loop in sass.loops(code)
        # From anywhere there are more loads than vectors.
        if sass.count(code, loop, r"STS\.128") == 4 * lines and 4 <= sass.count(code, loop, VECTOR) <= 8
    ]
    copy = min(copies) / (4 * kind.vector)
    return copy + least(code, 2 * kind.vector, {r"LDS\.128": 2 * lines, r"STS\.128": 2 * lines})


# Up to eight terms have a loop over tokens each, with none over terms inside (not in float64); of more a
# multiple of four is read four at once, any other number one by one.
BEYOND_TERMS = {
    (4, 8): {"f4": 0.88, "f8": 1, "f2": 0.96, "b2": 1.25},
    (5, 6, 7): {"f4": 0.97, "f8": 1.03, "f2": 1.13, "b2": 1.45},
    (12,): {"f4": 1.02, "f8": 1, "f2": 1.08, "b2": 1.41},
    (9, 13): {"f4": 1.15, "f8": 1.03, "f2": 1.4, "b2": 1.7},
}


@pytest.mark.parametrize("terms", sorted(itertools.chain(*BEYOND_TERMS)))
@pytest.mark.parametrize("name", SHORT)
def test_a_logit_of_four_or_more_costs_little_more_than_its_bytes(codes, name, terms):
    """Two tokens a turn, each with a loop over its terms; the shortest way that reads them all."""
    kind, code = CASES[name].kind, sass.parse(codes[name].text)
    fours = terms % 4 == 0
    pattern = r"LDS\.128" if fours else r"LDS(?!\.128)"
    wanted = 2 * terms * (kind.real().itemsize if fours else 16) // 16
    turns = [
        turn
        for loop in sass.loops(code)
        if sass.count(code, loop, "STG") == 2
        and bool(sass.count(code, loop, r"LDS\.128")) == fours
        and (turn := sass.shortest_turn(code, loop, pattern, wanted))
    ]
    paid = staging(code, kind) + min(turns) / (2 * terms)
    budget = (kind.item + kind.item / terms) / BYTES_FOR_27
    print(f"{name}, {terms} terms: {paid:.1f} of {budget:.1f}")
    usual = next(factors for counts, factors in BEYOND_TERMS.items() if terms in counts)
    assert paid <= budget * beyond(CASES[name], usual)


# What a token costs besides, 110 instructions, is not counted: 14 for each of 8 terms.
BEYOND_SHORT_GRADIENT = {"f4": 1, "f8": 1, "f2": 1.06, "b2": 1.06}


@pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if case.kernel == "short_gradient" and case.kind in FLOATS]
)
def test_a_gradient_of_short_tokens_costs_little_more_than_its_bytes(codes, name):
    """A logit is copied, compared, gets its exponential and its factor, and is written: loops of one each."""
    kind, code = CASES[name].kind, sass.parse(codes[name].text)
    lines = kind.vector * kind.real().itemsize // 16
    none = {"STG": 0, "LDG": 0, r"LDS\.128": 0}
    copy = least(code, 4 * kind.vector, {VECTOR: 4, r"STS\.128": 4 * lines})
    compare = least(code, 16, none | {r"LDS(?!\.128)": 16, "STS": 0})
    # By four, and by what comes between a reading and a writing of each.
    both = sorted(
        loop.last - loop.first + 1
        for loop in sass.loops(code)
        if all(sass.count(code, loop, p) == n for p, n in (none | {"LDS": 4, "STS": 4}).items())
    )
    write = least(code, kind.vector, {r"LDS\.128": lines, r"STG.*\.128": 1})
    paid = copy + compare + (both[0] + both[-1]) / 4 + write
    budget = 2 * kind.item / BYTES_FOR_27
    print(f"{name}: {paid:.1f} of {budget:.1f}")
    assert len(both) > 1
    assert paid <= budget * BEYOND_SHORT_GRADIENT[kind.storage]


@pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if case.kernel == "rows_gradient" and case.kind in FLOATS]
)
def test_a_gradient_costs_less_than_its_bytes(codes, name):
    """A logit is looked at twice: for its token's total, as by `rows`, and to write; all of that loop
    counts."""
    case = CASES[name]
    code = sass.parse(codes[name].text)
    first = sass.loops(code)
    total = min(
        turn
        for loop in first
        if loop.last - loop.first < 2500 and (turn := sass.shortest_turn(code, loop, VECTOR, 4))
    ) / (4 * case.kind.vector)
    writing = [
        loop.last - loop.first + 1
        for loop in first
        if sass.count(code, loop, VECTOR) == 2 and sass.count(code, loop, r"STG.*\.128") == 2
    ]
    paid = total + min(writing) / (2 * case.kind.vector)
    budget = 2 * case.kind.item / BYTES_FOR_27
    print(f"{name}: {paid:.1f} of {budget:.1f}")
    assert paid <= budget


def plans_of(kind):
    """Give plans that fill the shared memory of each kernel that has some of its own."""
    for terms in 1, 3, 4, 8:
        for rows, tokens in ((1000, 60), (1000, 2500), (3, 10**6)):
            shape = rows, tokens, terms
            strides = tuple(n * kind.item for n in (tokens * terms, terms, 1))
            yield plan.make_plan(kind, shape, strides, True, (0,), (1,), False)
            yield plan.make_plan(kind, shape, strides, True, (0,), (1,), False, out=strides)
            packed = (rows * tokens, terms), strides[1:]
            yield plan.make_plan(kind, *packed, True, (), (0,), False, packed_rows=rows)


@pytest.mark.parametrize(
    "name", [n for n, case in CASES.items() if case.target == (9, 0) and "short" in case.kernel]
)
def test_shared_memory_is_what_a_launch_gets_unasked(codes, name):
    case = CASES[name]
    rooms = [step.room for p in plans_of(case.kind) for step in p.steps if step.kernel == case.kernel]
    size = case.kind.real().itemsize
    print(f"{name}: {codes[name].shared} and up to {max(rooms, default=0) * size}")
    assert rooms or case.kernel in ("short_unaligned", "short_pieces_unaligned", "short_gradient_unaligned")
    assert codes[name].shared + max(rooms, default=0) * size <= plan.STANDARD.shared


def test_the_bars_can_fail():
    """A kernel in float64 arithmetic has float64 instructions; text with a spill and a long turn is seen."""
    text = """
.L_x_1:
  /*0000*/ LDG.E.128 R4, [R2] ;
  /*0010*/ @P0 BRA `(.L_x_2) ;
  /*0020*/ STL [R1], R4 ;
  /*0030*/ DFMA R4, R4, R4, R4 ;
.L_x_2:
  /*0040*/ @P1 BRA `(.L_x_1) ;
  /*0050*/ EXIT ;
"""
    code = sass.parse(text)
    assert sass.local(code) == ["STL"]
    assert sass.float64(code) == ["DFMA"]
    (loop,) = sass.loops(code)
    assert sass.shortest_turn(code, loop, VECTOR, 1) == 3
    assert sass.shortest_turn(code, loop, "DFMA", 1) == 5
    assert sass.shortest_turn(code, loop, "DFMA", 2) is None
