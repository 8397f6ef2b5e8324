"""Numbers as they lie in memory: integers, halves, other byte orders, and masks over them.

float16 and bfloat16 are widened by integer arithmetic where a processor has no
instruction for it: LLVM would call a library that is not there.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from nbfagg.cpu.jit import jit
from nbfagg.cpu.vector import BYTES, F32, lanes, load, peek, store
from nbfagg.fields import BRAIN, DOUBLE, HALF, KINDS, SINGLE, SWAPPED

_F32, _F64 = ir.FloatType(), ir.DoubleType()
_I8, _I16, _I32 = (ir.IntType(n) for n in (8, 16, 32))


def _like(value_type, element, constant):
    """Give a constant of a scalar or vector type that looks like `value_type`, of another element."""
    if isinstance(value_type, ir.VectorType):
        return ir.Constant(ir.VectorType(element, value_type.count), [constant] * value_type.count)
    return ir.Constant(element, constant)


def _widens_halves(context):
    """Say whether the target converts halves by an instruction."""
    codegen = context.codegen()
    features = getattr(codegen, "_tm_features", "") or ""
    return "+f16c" in features or "+avx512fp16" in features or "+fullfp16" in features


def half_to_float(context, builder, bits):
    """Turn the bits of float16 numbers, a scalar or a vector, into float32."""
    vector = isinstance(bits.type, ir.VectorType)
    single = ir.VectorType(_F32, bits.type.count) if vector else _F32
    if _widens_halves(context):
        half = ir.VectorType(ir.HalfType(), bits.type.count) if vector else ir.HalfType()
        return builder.fpext(builder.bitcast(bits, half), single)
    wide = ir.VectorType(_I32, bits.type.count) if vector else _I32

    def constant(number):
        return _like(bits.type, _I32, number)

    whole = builder.zext(bits, wide)
    sign = builder.shl(builder.and_(whole, constant(0x8000)), constant(16))
    magnitude = builder.shl(builder.and_(whole, constant(0x7FFF)), constant(13))
    # The exponent's bias grows from 15 to 127; a product also brings subnormals in order.
    scaled = builder.fmul(builder.bitcast(magnitude, single), _like(bits.type, _F32, 2.0**112))
    special = builder.or_(magnitude, constant(0x7F800000))
    finite = builder.icmp_unsigned("<", magnitude, constant(0x7C00 << 13))
    number = builder.select(finite, builder.bitcast(scaled, wide), special)
    return builder.bitcast(builder.or_(number, sign), single)


def brain_to_float(builder, bits):
    """Turn the bits of bfloat16 numbers, a scalar or a vector, into float32: its upper half."""
    vector = isinstance(bits.type, ir.VectorType)
    wide = ir.VectorType(_I32, bits.type.count) if vector else _I32
    single = ir.VectorType(_F32, bits.type.count) if vector else _F32
    whole = builder.shl(builder.zext(bits, wide), _like(bits.type, _I32, 16))
    return builder.bitcast(whole, single)


@intrinsic
def number(typingctx, kind, address):
    """Give the number of KINDS[kind], or of the other byte order SWAPPED further on, as float64."""

    def codegen(context, builder, signature, args):
        code, address = args
        start, done = builder.block, builder.append_basic_block("done")
        switch = builder.switch(code, done)
        found = [(ir.Constant(_F64, float("nan")), start)]
        for index, name in enumerate(KINDS):
            letter, item = name[0], int(name[1])
            for swapped in (False, True) if item > 1 else (False,):
                block = builder.append_basic_block(f"kind_{name}_{int(swapped)}")
                switch.add_case(ir.Constant(code.type, index + SWAPPED * swapped), block)
                builder.position_at_end(block)
                integer = ir.IntType(8 * item)
                bits = builder.load(builder.inttoptr(address, ir.PointerType(integer)), align=1)
                if swapped:
                    bits = builder.bswap(bits)
                if name == "f2":
                    value = builder.fpext(half_to_float(context, builder, bits), _F64)
                elif name == "b2":
                    value = builder.fpext(brain_to_float(builder, bits), _F64)
                elif name == "f4":
                    value = builder.fpext(builder.bitcast(bits, _F32), _F64)
                elif name == "f8":
                    value = builder.bitcast(bits, _F64)
                else:
                    value = (builder.sitofp if letter == "i" else builder.uitofp)(bits, _F64)
                found.append((value, block))
                builder.branch(done)
        builder.position_at_end(done)
        result = builder.phi(_F64)
        for value, block in found:
            result.add_incoming(value, block)
        return result

    return types.float64(types.int64, types.intp), codegen


def _loader(convert):
    @intrinsic
    def load_wide(typingctx, address):
        def codegen(context, builder, signature, args):
            bits = ir.VectorType(_I16, 16)
            value = builder.load(builder.inttoptr(args[0], ir.PointerType(bits)), align=1)
            return convert(context, builder, value)

        return F32(types.intp), codegen

    return load_wide


_load_halves = _loader(half_to_float)
_load_brains = _loader(lambda context, builder, bits: brain_to_float(builder, bits))


def load_formatted(like, kind, address):
    """Load a vector of the type of `like` from numbers of a kind that `is_fast`."""
    raise NotImplementedError("for compiled code")


@overload(load_formatted)
def _load_formatted(like, kind, address):
    if like == types.float64:
        return lambda like, kind, address: load(like, address)

    def single(like, kind, address):
        if kind == HALF:
            return _load_halves(address)
        if kind == BRAIN:
            return _load_brains(address)
        return load(like, address)

    return single


def is_fast(like, kind):
    """Say whether numbers of a kind load as vectors."""
    raise NotImplementedError("for compiled code")


@overload(is_fast)
def _is_fast(like, kind):
    if like == types.float64:
        return lambda like, kind: kind == DOUBLE
    return lambda like, kind: kind in (SINGLE, HALF, BRAIN)


@intrinsic
def keep_where(typingctx, x, address):
    """Give x where the bytes of a mask are not 0, else -inf."""

    def codegen(context, builder, signature, args):
        vt = args[0].type
        bytes_ = ir.VectorType(_I8, vt.count)
        mask = builder.load(builder.inttoptr(args[1], ir.PointerType(bytes_)), align=1)
        keep = builder.icmp_unsigned("!=", mask, ir.Constant(bytes_, [0] * vt.count))
        return builder.select(keep, args[0], ir.Constant(vt, [float("-inf")] * vt.count))

    return x(x, types.intp), codegen


@intrinsic
def peek_byte(typingctx, address):
    """Load the byte at `address`."""

    def codegen(context, builder, signature, args):
        value = builder.load(builder.inttoptr(args[0], ir.PointerType(_I8)), align=1)
        return builder.zext(value, ir.IntType(64))

    return types.int64(types.intp), codegen


# --- and back -----------------------------------------------------------------


def float_to_half(context, builder, value):
    """Round float32 numbers, a scalar or a vector, to the bits of float16, ties to even."""
    vector = isinstance(value.type, ir.VectorType)
    short = ir.VectorType(_I16, value.type.count) if vector else _I16
    if _widens_halves(context):
        half = ir.VectorType(ir.HalfType(), value.type.count) if vector else ir.HalfType()
        return builder.bitcast(builder.fptrunc(value, half), short)
    wide = ir.VectorType(_I32, value.type.count) if vector else _I32

    def constant(number):
        return _like(value.type, _I32, number)

    bits = builder.bitcast(value, wide)
    magnitude = builder.and_(bits, constant(0x7FFFFFFF))
    sign = builder.lshr(builder.and_(bits, constant(0x80000000)), constant(16))
    # Above the half way to 2**16 (which the carry below reaches), infinity; a NaN stays one.
    huge = builder.select(
        builder.icmp_unsigned(">", magnitude, constant(0x7F800000)), constant(0x7E00), constant(0x7C00)
    )
    # 2**-14 and up: move the exponent's bias, and round what falls off.
    odd = builder.and_(builder.lshr(magnitude, constant(13)), constant(1))
    moved = builder.add(builder.add(magnitude, constant(0xC8000FFF)), odd)
    normal = builder.lshr(moved, constant(13))
    # Below, adding 1/2 puts the last bit where a subnormal half has it.
    half_one = _like(value.type, _F32, 0.5)
    sum_ = builder.bitcast(builder.fadd(builder.bitcast(magnitude, value.type), half_one), wide)
    small = builder.sub(sum_, constant(0x3F000000))
    result = builder.select(builder.icmp_unsigned("<", magnitude, constant(0x38800000)), small, normal)
    result = builder.select(builder.icmp_unsigned("<", magnitude, constant(0x47800000)), result, huge)
    return builder.trunc(builder.or_(result, sign), short)


def float_to_brain(builder, value):
    """Round float32 numbers, a scalar or a vector, to the bits of bfloat16, ties to even."""
    vector = isinstance(value.type, ir.VectorType)
    wide = ir.VectorType(_I32, value.type.count) if vector else _I32
    short = ir.VectorType(_I16, value.type.count) if vector else _I16

    def constant(number):
        return _like(value.type, _I32, number)

    bits = builder.bitcast(value, wide)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.lshr(builder.add(builder.add(bits, constant(0x7FFF)), odd), constant(16))
    # A NaN's payload must not round up to an infinity, or over into the sign.
    quiet = builder.or_(builder.lshr(bits, constant(16)), constant(0x40))
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(nan, quiet, rounded), short)


def _storer(convert):
    @intrinsic
    def store_narrow(typingctx, address, value):
        def codegen(context, builder, signature, args):
            bits = convert(context, builder, args[1])
            builder.store(bits, builder.inttoptr(args[0], ir.PointerType(bits.type)), align=1)
            return context.get_dummy_value()

        return types.void(types.intp, value), codegen

    return store_narrow


_store_half = _storer(float_to_half)
_store_brain = _storer(lambda context, builder, value: float_to_brain(builder, value))


@intrinsic
def _store_float(typingctx, address, value):
    """Store a float as float32."""

    def codegen(context, builder, signature, args):
        number = args[1] if args[1].type == _F32 else builder.fptrunc(args[1], _F32)
        builder.store(number, builder.inttoptr(args[0], ir.PointerType(_F32)), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, value), codegen


@intrinsic
def _store_double(typingctx, address, value):
    """Store a float as float64."""

    def codegen(context, builder, signature, args):
        number = args[1] if args[1].type == _F64 else builder.fpext(args[1], _F64)
        builder.store(number, builder.inttoptr(args[0], ir.PointerType(_F64)), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, value), codegen


def store_formatted(like, kind, address, vector):
    """Store a vector as numbers of a kind that `is_fast`."""
    raise NotImplementedError("for compiled code")


@overload(store_formatted)
def _store_formatted(like, kind, address, vector):
    if like == types.float64:
        return lambda like, kind, address, vector: store(address, vector)

    def single(like, kind, address, vector):
        if kind == HALF:
            _store_half(address, vector)
        elif kind == BRAIN:
            _store_brain(address, vector)
        else:
            store(address, vector)

    return single


def put_number(like, kind, address, value):
    """Store a float as a number of a floating kind."""
    raise NotImplementedError("for compiled code")


@overload(put_number)
def _put_number(like, kind, address, value):
    def put(like, kind, address, value):
        if kind == HALF:
            _store_half(address, np.float32(value))
        elif kind == BRAIN:
            _store_brain(address, np.float32(value))
        elif kind == SINGLE:
            _store_float(address, value)
        else:
            _store_double(address, value)

    return put


@jit
def write_run(like, kind, item, values, count, target, pitch):
    """Write `count` numbers as those of another kind, `pitch` bytes apart."""
    done = 0
    if pitch == item and is_fast(like, kind):
        width = lanes(like)
        done = count // width * width
        for _ in range(count // width):
            store_formatted(like, kind, target, load(like, values))
            values += BYTES
            target += width * item
    for i in range(count - done):
        put_number(like, kind, target + i * pitch, peek(like, values + i * (BYTES // lanes(like))))
