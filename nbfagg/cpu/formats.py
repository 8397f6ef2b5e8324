"""Numbers as they lie in memory: integers, halves, other byte orders, and masks over them.

float16 and bfloat16 are widened by integer arithmetic where a processor has no
instruction for it: LLVM would call a library that is not there.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from nbfagg.cpu.vector import F32, load
from nbfagg.fields import BRAIN, HALF, KINDS, SWAPPED

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
        return lambda like, kind: kind == 1
    return lambda like, kind: kind == 0 or kind == HALF or kind == BRAIN


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
