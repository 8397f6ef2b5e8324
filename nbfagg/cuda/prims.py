"""What kernels are made of, on the device: loads and stores, shuffles, shared memory, rounding.

The only module that imports numba.cuda. `make` gives the primitives for one kind of
numbers; tests/cudasim.py has their plain twins by the same names, so that a kernel's
source runs in Python too. Why these and not Numba's own: 128-bit accesses carry
an alignment that Numba does not know of, its indexing of shared memory costs some
eight instructions an access, its division of integers 161, and a maximum that
keeps NaN has no name in Python.
"""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace

import numpy as np
from llvmlite import ir
from numba import cuda, types
from numba.cuda import libdevice
from numba.cuda.compiler import compile_cuda
from numba.cuda.dispatcher import CUDADispatcher
from numba.cuda.extending import intrinsic

from nbfagg.cuda.kinds import Kind

i8, i16, i32, i64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
f32, f64 = ir.FloatType(), ir.DoubleType()
# Bytes of a storage kind's Numba type.
NUMBA = {
    "f4": types.float32,
    "f8": types.float64,
    # Both halves travel as their bits, for one way through Numba serves both.
    "f2": types.uint16,
    "b2": types.uint16,
    **{f"{sign}{size}": getattr(types, f"{word}{8 * size}")
       for sign, word in (("i", "int"), ("u", "uint")) for size in (1, 2, 4, 8)},
}  # fmt: skip


class _Function(CUDADispatcher):
    """A function that kernels call, compiled for the target of the kernel.

    Numba asks the current device what to compile for, and there is none where kernels are built beforehand.
    Inlining such functions in Numba's own form instead takes 30 s a kernel, where this takes 3.
    """

    target = (8, 0)

    def compile_device(self, args, return_type=None):
        """Compile for argument types that have not come yet."""
        if args not in self.overloads:
            options = {"opt": 3, "fastmath": False}
            found = compile_cuda(
                self.py_func, return_type, args, debug=False, lineinfo=False, forceinline=True,
                inline="never", fastmath=False, nvvm_options=options, cc=self.target,
            )  # fmt: skip
            self.overloads[args] = found
            found.target_context.insert_user_function(found.entry_point, found.fndesc, [found.library])
        return self.overloads[args]


def jit(function):
    """Compile a function that kernels call."""
    return _Function(function, targetoptions={"device": True, "opt": True, "inline": "never"})


def _asm(builder, result, arguments, text, constraints, effect=False):
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=effect), arguments)


def _place(context, builder, kind, value, index):
    """Give the address of a number in an array in shared memory, or behind a pointer."""
    if isinstance(kind, types.CPointer):
        return builder.gep(value, [index])
    data = context.make_array(kind)(context, builder, value=value).data
    if index.type.width == 64:
        index = builder.trunc(index, i32)
    return builder.gep(data, [index], inbounds=True)


def set_target(target):
    """Say which compute capability functions are compiled for from now on."""
    _Function.target = target


def compile_kernel(function, kind, arguments, target, bounds):
    """Give a kernel's PTX, from its arguments' names and the threads and blocks to have room for."""
    from nbfagg.cuda import geometry

    real = types.float64 if kind.wide else types.float32
    number, result = types.CPointer(NUMBA[kind.storage]), types.CPointer(NUMBA[kind.result])
    known = {
        "a": number,
        "mask": types.CPointer(types.uint8),
        "limits": types.CPointer(types.int64),
        "alpha": result,
        "grad": result,
        "out": result,
        "lse": types.CPointer(real),
        "grad_lse": types.CPointer(real),
        "work": types.CPointer(real),
        "tickets": types.CPointer(types.int32),
        "listed": types.CPointer(types.int32),
        "law": types.UniTuple(real, 6),
        "geo": types.UniTuple(types.int64, geometry.LENGTH),
    }
    signature = types.void(*(known[name] for name in arguments))
    ptx, _ = cuda.compile(
        function, signature, cc=target, device=False, abi="numba", output="ptx", launch_bounds=bounds
    )
    return ptx


# --- threads -----------------------------------------------------------------


@jit
def thread():
    """Give the thread's number in its block."""
    return cuda.threadIdx.x


@jit
def block():
    """Give the block's number."""
    return cuda.blockIdx.x


@jit
def sync():
    """Wait for all threads of the block."""
    cuda.syncthreads()


@jit
def shuffle(value, distance):
    """Give the value of the lane whose number differs in the bits of `distance`."""
    return cuda.shfl_xor_sync(0xFFFFFFFF, value, distance)


@jit
def fence():
    """Have what was written seen by other blocks before what is written next."""
    cuda.threadfence()


@intrinsic
def draw(typing, tickets, index, count):
    """Draw so many tickets at once: give how many were drawn before."""

    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], args[0], args[1])
        return builder.atomic_rmw("add", place, args[2], "monotonic")

    return types.int32(tickets, index, types.int32), generate


def shared(count, real):
    """Make a function that gives an area in shared memory; each has its own."""
    kind = types.float64 if real is np.float64 else types.float32 if real is np.float32 else types.int32

    @cuda.jit(device=True, inline="always")
    def area():
        return cuda.shared.array(count, kind)

    return area


def dynamic(real):
    """Make a function that gives the area whose size the launch decides."""
    kind = types.float64 if real is np.float64 else types.float32

    @cuda.jit(device=True, inline="always")
    def area():
        return cuda.shared.array(0, kind, alignment=16)

    return area


@intrinsic
def divide(typing, number, by):
    """Give number // by for unsigned 32-bit numbers: 38 instructions where Numba's takes 161."""

    def generate(context, builder, sig, args):
        x, y = (builder.trunc(v, i32) if v.type.width == 64 else v for v in args)
        return builder.zext(builder.udiv(x, y), i64)

    return types.int64(number, by), generate


@intrinsic
def get(typing, array, index):
    """Read a number of the arithmetic: in shared memory, or written by another block (past L1)."""

    def generate(context, builder, sig, args):
        place = _place(context, builder, sig.args[0], args[0], args[1])
        if not isinstance(sig.args[0], types.CPointer):
            return builder.load(place)
        kind, letter = {types.float32: ("f32", "f"), types.float64: ("f64", "d")}[sig.args[0].dtype]
        text = f"ld.global.cg.{kind} $0, [$1];"
        return _asm(builder, place.type.pointee, [place], text, f"={letter},l,~{{memory}}", True)

    return array.dtype(array, index), generate


@intrinsic
def put(typing, array, index, value):
    """Write a number of the arithmetic, in shared or global memory."""

    def generate(context, builder, sig, args):
        builder.store(args[2], _place(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, index, array.dtype), generate


def _line(array, index):
    """Give the vector of 16 bytes of an array's numbers, and the type of such a tuple."""
    kind, count = (f64, 2) if array.dtype == types.float64 else (f32, 4)
    return ir.VectorType(kind, count), types.UniTuple(array.dtype, count)


@intrinsic
def get_quad(typing, array, index):
    """Read 16 aligned bytes of shared memory."""
    line, numbers = _line(array, index)

    def generate(context, builder, sig, args):
        place = builder.bitcast(_place(context, builder, array, args[0], args[1]), line.as_pointer())
        found = builder.load(place, align=16)
        parts = [builder.extract_element(found, ir.Constant(i32, j)) for j in range(line.count)]
        return context.make_tuple(builder, sig.return_type, parts)

    return numbers(array, index), generate


@intrinsic
def put_quad(typing, array, index, values):
    """Write 16 aligned bytes of shared memory."""
    line, numbers = _line(array, index)

    def generate(context, builder, sig, args):
        place = builder.bitcast(_place(context, builder, array, args[0], args[1]), line.as_pointer())
        found = ir.Constant(line, ir.Undefined)
        for j in range(line.count):
            found = builder.insert_element(found, builder.extract_value(args[2], j), ir.Constant(i32, j))
        builder.store(found, place, align=16)
        return context.get_dummy_value()

    return types.void(array, index, numbers), generate


@intrinsic
def integer(typing, array, index):
    """Read a flag, a length or an offset, as int64."""

    def generate(context, builder, sig, args):
        value = builder.load(_place(context, builder, sig.args[0], args[0], args[1]))
        wide = value.type.width == 64
        extend = builder.sext if sig.args[0].dtype.signed else builder.zext
        return value if wide else extend(value, i64)

    return types.int64(array, index), generate


# --- arithmetic --------------------------------------------------------------


def _arithmetic(wide):
    """Give what depends on the type of the arithmetic alone."""
    kind, word, bits, bias = (f64, i64, 52, 1023) if wide else (f32, i32, 23, 127)
    number = types.float64 if wide else types.float32

    @intrinsic
    def power(typing, t):
        """Give 2**n from n in the low bits of t, bias and all."""

        def generate(context, builder, sig, args):
            moved = builder.shl(builder.bitcast(args[0], word), ir.Constant(word, bits))
            return builder.bitcast(moved, kind)

        return number(number), generate

    @intrinsic
    def exponent(typing, x):
        """Give floor(log2 x) of a positive normal number, as one of the arithmetic."""

        def generate(context, builder, sig, args):
            moved = builder.lshr(builder.bitcast(args[0], word), ir.Constant(word, bits))
            return builder.sitofp(builder.sub(moved, ir.Constant(word, bias)), kind)

        return number(number), generate

    @intrinsic
    def mantissa(typing, x):
        """Give x * 2**-floor(log2 x) of a positive normal number, in [1, 2)."""

        def generate(context, builder, sig, args):
            low = builder.and_(builder.bitcast(args[0], word), ir.Constant(word, (1 << bits) - 1))
            one = ir.Constant(word, bias << bits)
            return builder.bitcast(builder.or_(low, one), kind)

        return number(number), generate

    if wide:
        fma, ceiling = libdevice.fma_rn, libdevice.ceil

        @jit
        def larger(low, x):
            return low if x < low else x

        @jit
        def maximum(x, y):
            # The hardware has none that keeps NaN.
            return x if x > y or x != x else y

        @jit
        def highest(x, y):
            return x if x > y else y

        ex2 = None
    else:
        fma, ceiling = libdevice.fmaf_rn, libdevice.ceilf

        @intrinsic
        def ex2(typing, x):
            """Give 2**x, within 2**-22 of it, as PTX's manual has it."""

            def generate(context, builder, sig, args):
                return _asm(builder, f32, args, "ex2.approx.ftz.f32 $0, $1;", "=f,f")

            return types.float32(types.float32), generate

        @intrinsic
        def larger(typing, low, x):
            """Give the larger number; of a NaN the other one, for a row's maximum has seen it."""

            def generate(context, builder, sig, args):
                return _asm(builder, f32, args, "max.f32 $0, $1, $2;", "=f,f,f")

            return types.float32(types.float32, types.float32), generate

        @intrinsic
        def maximum(typing, x, y):
            def generate(context, builder, sig, args):
                return _asm(builder, f32, args, "max.NaN.f32 $0, $1, $2;", "=f,f,f")

            return types.float32(types.float32, types.float32), generate

        highest = maximum

    half = np.float64(0.5) if wide else np.float32(0.5)
    one = np.float64(1.0) if wide else np.float32(1.0)

    @jit
    def frexp(x):
        return mantissa(x) * half, exponent(x) + one

    # What the formulas look up in `math`, in this type.
    names = ModuleType("math")
    names.inf = np.float64(math.inf) if wide else np.float32(math.inf)
    names.isinf, names.isnan, names.log, names.exp = math.isinf, math.isnan, math.log, math.exp
    names.ceil, names.frexp = ceiling, frexp
    return SimpleNamespace(
        fma=fma, larger=larger, maximum=maximum, highest=highest, power=power, ex2=ex2, math=names
    )


# --- numbers in memory -------------------------------------------------------


def _widen(builder, kind, bits):
    """Give a number in memory as one of the arithmetic."""
    target = f64 if kind.wide else f32
    if kind.storage == "f2":
        value = _asm(builder, f32, [bits], "cvt.f32.f16 $0, $1;", "=f,h")
    elif kind.storage == "b2":
        value = builder.bitcast(builder.shl(builder.zext(bits, i32), ir.Constant(i32, 16)), f32)
    elif kind.storage[0] == "f":
        value = bits
    else:
        return (builder.sitofp if kind.storage[0] == "i" else builder.uitofp)(bits, target)
    return builder.fpext(value, target) if value.type != target else value


def _halves(builder, kind, word):
    """Give the two half-precision numbers in 32 bits as float32 ones."""
    if kind.storage == "b2":
        low = builder.bitcast(builder.shl(word, ir.Constant(i32, 16)), f32)
        return low, builder.bitcast(builder.and_(word, ir.Constant(i32, 0xFFFF0000)), f32)
    text = "{.reg .b16 l,h; mov.b32 {l,h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h;}"
    pair = _asm(builder, ir.LiteralStructType([f32, f32]), [word], text, "=f,=f,r")
    return builder.extract_value(pair, 0), builder.extract_value(pair, 1)


def _unpack(builder, kind, words):
    """Give the numbers in four 32-bit words."""
    if kind.storage in ("f2", "b2"):
        values = [value for word in words for value in _halves(builder, kind, word)]
        return [builder.fpext(value, f64) for value in values] if kind.wide else values
    if kind.item == 4:
        return [_widen(builder, kind, builder.bitcast(word, f32)) for word in words]
    pairs = zip(words[::2], words[1::2], strict=True)
    joined = [
        builder.or_(builder.zext(low, i64), builder.shl(builder.zext(high, i64), ir.Constant(i64, 32)))
        for low, high in pairs
    ]
    return [builder.bitcast(bits, f64) for bits in joined]


def _load16(builder, address):
    """Read 16 aligned bytes as four words, past L1: each is wanted once."""
    text = "ld.global.nc.L1::no_allocate.L2::256B.v4.b32 {$0,$1,$2,$3}, [$4];"
    words = _asm(builder, ir.LiteralStructType([i32] * 4), [address], text, "=r,=r,=r,=r,l")
    return [builder.extract_value(words, j) for j in range(4)]


def _load_shared_line(builder, address):
    """Read 16 aligned bytes that a neighbour reads too, through L1."""
    text = "ld.global.nc.v4.b32 {$0,$1,$2,$3}, [$4];"
    words = _asm(builder, ir.LiteralStructType([i32] * 4), [address], text, "=r,=r,=r,=r,l")
    return [builder.extract_value(words, j) for j in range(4)]


def _funnel(builder, kind, words, offset):
    """Give the four words that begin `offset` bytes into eight."""

    def choose(bit, moved):
        on = builder.icmp_unsigned("!=", builder.and_(offset, ir.Constant(i32, bit)), ir.Constant(i32, 0))
        return [builder.select(on, words[j + moved], words[j]) for j in range(len(words) - moved)]

    words = choose(8, 2)
    if kind.item <= 4:
        words = choose(4, 1)
    if kind.item == 2:
        # An odd number of halves: two words make one.
        amount = builder.shl(builder.and_(offset, ir.Constant(i32, 2)), ir.Constant(i32, 3))
        words = [
            _asm(
                builder, i32, [words[j], words[j + 1], amount], "shf.r.clamp.b32 $0, $1, $2, $3;", "=r,r,r,r"
            )
            for j in range(4)
        ]
    return words[:4]


def make(kind: Kind) -> SimpleNamespace:
    """Give all primitives for one kind of numbers in memory."""
    number = types.float64 if kind.wide else types.float32
    lanes = kind.vector
    # In memory, the result's numbers: the same, or float64 of integers.
    result = Kind(kind.result, kind.wide)

    @intrinsic
    def load(typing, array, index):
        """Read one number."""

        def generate(context, builder, sig, args):
            place = _place(context, builder, sig.args[0], args[0], args[1])
            letter = {1: "c", 2: "h", 4: "r", 8: "l"}[kind.item]
            if kind.storage in ("f4", "f8"):
                letter = {4: "f", 8: "d"}[kind.item]
                text = f"ld.global.nc.f{8 * kind.item} $0, [$1];"
                bits = _asm(builder, place.type.pointee, [place], text, f"={letter},l")
            else:
                bits = builder.load(place)
            return _widen(builder, kind, bits)

        return number(array, index), generate

    @intrinsic
    def load_result(typing, array, index):
        """Read one number of the result's type."""

        def generate(context, builder, sig, args):
            place = _place(context, builder, sig.args[0], args[0], args[1])
            return _widen(builder, result, builder.load(place))

        return number(array, index), generate

    @intrinsic
    def load_vector(typing, array, index):
        """Read 16 bytes of numbers from an address that is a multiple of 16."""

        def generate(context, builder, sig, args):
            place = _place(context, builder, sig.args[0], args[0], args[1])
            return context.make_tuple(
                builder, sig.return_type, _unpack(builder, kind, _load16(builder, place))
            )

        return types.UniTuple(number, lanes)(array, index), generate

    @intrinsic
    def load_anywhere(typing, array, index):
        """Read 16 bytes of numbers from any address: the two aligned 16 that hold them, and a funnel shift.

        What lies beyond is thrown away; it shares its 16 bytes with numbers that are wanted, and so is there.
        """

        def generate(context, builder, sig, args):
            place = builder.ptrtoint(_place(context, builder, sig.args[0], args[0], args[1]), i64)
            first = builder.and_(place, ir.Constant(i64, -16))
            last = builder.and_(builder.add(place, ir.Constant(i64, 15)), ir.Constant(i64, -16))
            words = _load_shared_line(builder, first) + _load_shared_line(builder, last)
            offset = builder.trunc(builder.and_(place, ir.Constant(i64, 15)), i32)
            words = _funnel(builder, kind, words, offset)
            return context.make_tuple(builder, sig.return_type, _unpack(builder, kind, words))

        return types.UniTuple(number, lanes)(array, index), generate

    def narrowed(builder, value):
        if result.storage == "f4" and kind.wide:
            return builder.fptrunc(value, f32)
        if result.storage in ("f2", "b2"):
            target = "f16" if result.storage == "f2" else "bf16"
            if kind.wide:
                # Through float32 it would be rounded twice; float64 arithmetic on halves is for scales
                # far off, whose results' last bit nobody has promised.
                value = builder.fptrunc(value, f32)
            return _asm(builder, i16, [value], f"cvt.rn.{target}.f32 $0, $1;", "=h,f")
        return value

    def paired(builder, low, high):
        """Give two numbers in half precision in 32 bits."""
        if kind.wide:
            low, high = builder.fptrunc(low, f32), builder.fptrunc(high, f32)
        target = "f16x2" if result.storage == "f2" else "bf16x2"
        return _asm(builder, i32, [high, low], f"cvt.rn.{target}.f32 $0, $1, $2;", "=r,f,f")

    @intrinsic
    def store(typing, array, index, value):
        """Write one number of the result, rounded to its type."""

        def generate(context, builder, sig, args):
            place = _place(context, builder, sig.args[0], args[0], args[1])
            builder.store(narrowed(builder, args[2]), place)
            return context.get_dummy_value()

        return types.void(array, index, number), generate

    @intrinsic
    def store_vector(typing, array, index, values):
        """Write 16 bytes of numbers to an address that is a multiple of 16."""

        def generate(context, builder, sig, args):
            place = _place(context, builder, sig.args[0], args[0], args[1])
            parts = [builder.extract_value(args[2], j) for j in range(lanes)]
            if result.item == 2:
                # A vector of eight 16-bit numbers would be stored one by one.
                parts = [paired(builder, *parts[j : j + 2]) for j in range(0, lanes, 2)]
            else:
                parts = [narrowed(builder, part) for part in parts]
            line = ir.VectorType(parts[0].type, len(parts))
            vector = ir.Constant(line, ir.Undefined)
            for j, part in enumerate(parts):
                vector = builder.insert_element(vector, part, ir.Constant(i32, j))
            builder.store(vector, builder.bitcast(place, line.as_pointer()), align=16)
            return context.get_dummy_value()

        return types.void(array, index, values), generate

    return SimpleNamespace(
        jit=jit, thread=thread, block=block, sync=sync, shuffle=shuffle, fence=fence, draw=draw,
        shared=shared, dynamic=dynamic, divide=divide, get=get, put=put, integer=integer, get_quad=get_quad,
        put_quad=put_quad,
        load=load, load_result=load_result, load_vector=load_vector, load_anywhere=load_anywhere,
        store=store, store_vector=store_vector, **vars(_arithmetic(kind.wide)),
    )  # fmt: skip
