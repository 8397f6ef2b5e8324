"""SIMD vectors as a Numba type, and the primitive operations on them.

A vector holds 64 bytes: 16 float32 or 8 float64 lanes, on every machine. LLVM
splits it into two registers under AVX2 and four under SSE or NEON, so the
order of every sum, and with it every bit of a result, is the same whatever the
processor's width. Loops written on these vectors need no auto-vectoriser: what
stands in the kernel is what runs.

Addresses are plain integers (bytes); nothing here checks a bound.
"""

import functools

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

BYTES = 64


_F32, _F64 = ir.FloatType(), ir.DoubleType()
_I8, _I32, _I64 = (ir.IntType(n) for n in (8, 32, 64))


class Vec(types.Type):
    """The Numba type of a vector: `lanes` numbers of the Numba type `dtype`."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vec({dtype}, {lanes})")


def _element(dtype):
    return _F32 if dtype == types.float32 else _F64


@intrinsic
def widened(typingctx, like):
    """Give a float64 vector with the lanes of `like`, holding nothing: a type to load by."""
    vec = WIDE if like == types.float32 else F64
    return vec(like), lambda context, builder, signature, args: ir.Constant(_llvm(vec), ir.Undefined)


def _llvm(vec):
    return ir.VectorType(_element(vec.dtype), vec.lanes)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _llvm(fe_type))


F32 = Vec(types.float32, 16)
F64 = Vec(types.float64, 8)
WIDE = Vec(types.float64, 16)  # the lanes of an F32 vector, widened


def _vec_of(like):
    """Give the vector type for a scalar or a vector `like`."""
    if isinstance(like, Vec):
        return like
    return F32 if like == types.float32 else F64


def _integers(vector_type):
    """Give the integer vector with the same lanes and bits."""
    bits = 32 if vector_type.element == _F32 else 64
    return ir.VectorType(ir.IntType(bits), vector_type.count)


def _fill(vector_type, value):
    return ir.Constant(vector_type, [value] * vector_type.count)


def _call(builder, name, result, args, suffix):
    """Call the LLVM intrinsic `name`; llvmlite cannot mangle vector types itself."""
    kind = {_F32: "f32", _F64: "f64"}[suffix.element]
    function_type = ir.FunctionType(result, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, function_type, f"{name}.v{suffix.count}{kind}")
    return builder.call(function, args)


def _pointer(builder, address, pointee):
    return builder.inttoptr(address, ir.PointerType(pointee))


# --- memory ------------------------------------------------------------------


@intrinsic
def load(typingctx, like, address):
    """Load the vector at `address`, of the type of the scalar or vector `like`."""
    vec = _vec_of(like)

    def codegen(context, builder, signature, args):
        value = builder.load(_pointer(builder, args[1], _llvm(vec)))
        value.align = _llvm(vec).element.get_abi_size(context.target_data)
        return value

    return vec(like, types.intp), codegen


@intrinsic
def load_first(typingctx, like, address, count, rest):
    """Load the first `count` lanes from `address`; the others are `rest`."""
    vec = _vec_of(like)

    def codegen(context, builder, signature, args):
        vt = _llvm(vec)
        mask = _first(builder, args[2], vt.count)
        other = _splat(builder, args[3], vt)
        pointer = _pointer(builder, args[1], vt)
        kind = "f32" if vt.element == _F32 else "f64"
        name = f"llvm.masked.load.v{vt.count}{kind}.p0"
        function_type = ir.FunctionType(vt, [pointer.type, _I32, mask.type, vt])
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        align = vt.element.get_abi_size(context.target_data)
        return builder.call(function, [pointer, _I32(align), mask, other])

    return vec(like, types.intp, types.intp, vec.dtype), codegen


@intrinsic
def load_doubled(typingctx, address):
    """Load 8 float32 numbers as float64 lanes."""

    def codegen(context, builder, signature, args):
        half = ir.VectorType(_F32, 8)
        return builder.fpext(builder.load(_pointer(builder, args[0], half), align=4), _llvm(F64))

    return F64(types.intp), codegen


@intrinsic
def load_first_doubled(typingctx, address, count):
    """Load the first `count` of 8 float32 numbers as float64 lanes; the others are -inf."""

    def codegen(context, builder, signature, args):
        half = ir.VectorType(_F32, 8)
        mask = _first(builder, args[1], 8)
        pointer = _pointer(builder, args[0], half)
        function_type = ir.FunctionType(half, [pointer.type, _I32, mask.type, half])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.masked.load.v8f32.p0")
        value = builder.call(function, [pointer, _I32(4), mask, _fill(half, float("-inf"))])
        return builder.fpext(value, _llvm(F64))

    return F64(types.intp, types.intp), codegen


@intrinsic
def load_apart(typingctx, like, address, pitch, count, rest):
    """Load the first `count` lanes from places `pitch` bytes apart; the others are `rest`."""
    vec = _vec_of(like)

    def codegen(context, builder, signature, args):
        vt = _llvm(vec)
        kind = "f32" if vt.element == _F32 else "f64"
        integers = ir.VectorType(_I64, vt.count)
        steps = ir.Constant(integers, list(range(vt.count)))
        places = builder.add(
            _splat(builder, args[1], integers), builder.mul(_splat(builder, args[2], integers), steps)
        )
        pointers = builder.inttoptr(places, ir.VectorType(ir.PointerType(vt.element), vt.count))
        mask = _first(builder, args[3], vt.count)
        function_type = ir.FunctionType(vt, [pointers.type, _I32, mask.type, vt])
        name = f"llvm.masked.gather.v{vt.count}{kind}.v{vt.count}p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        align = vt.element.get_abi_size(context.target_data)
        return builder.call(function, [pointers, _I32(align), mask, _splat(builder, args[4], vt)])

    return vec(like, types.intp, types.intp, types.intp, vec.dtype), codegen


@intrinsic
def store(typingctx, address, vector):
    """Store `vector` at `address`."""

    def codegen(context, builder, signature, args):
        instruction = builder.store(args[1], _pointer(builder, args[0], args[1].type))
        instruction.align = args[1].type.element.get_abi_size(context.target_data)
        return context.get_dummy_value()

    return types.void(types.intp, vector), codegen


@intrinsic
def store_first(typingctx, address, vector, count):
    """Store the first `count` lanes of `vector` at `address`."""

    def codegen(context, builder, signature, args):
        vt = args[1].type
        mask = _first(builder, args[2], vt.count)
        pointer = _pointer(builder, args[0], vt)
        kind = "f32" if vt.element == _F32 else "f64"
        function_type = ir.FunctionType(ir.VoidType(), [vt, pointer.type, _I32, mask.type])
        name = f"llvm.masked.store.v{vt.count}{kind}.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        align = vt.element.get_abi_size(context.target_data)
        builder.call(function, [args[1], pointer, _I32(align), mask])
        return context.get_dummy_value()

    return types.void(types.intp, vector, types.intp), codegen


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at `address`; any address is allowed."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(builder, args[0], _I8)
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def peek(typingctx, like, address):
    """Load the scalar at `address`, of the type of the scalar `like`."""

    def codegen(context, builder, signature, args):
        return builder.load(_pointer(builder, args[1], context.get_value_type(like)), align=1)

    return like(like, types.intp), codegen


@intrinsic
def poke(typingctx, address, value):
    """Store the scalar `value` at `address`."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], _pointer(builder, args[0], args[1].type), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, value), codegen


def _first(builder, count, lanes):
    """Make the mask of the first `count` of `lanes` lanes."""
    it = ir.VectorType(_I64, lanes)
    return builder.icmp_signed(
        "<", ir.Constant(it, list(range(lanes))), _splat(builder, builder.sext(count, _I64), it)
    )


# --- arithmetic: no fast-math flag is ever set, so NaN and infinities stay ----


def _splat(builder, scalar, vector_type):
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, vector_type.count), [0] * vector_type.count)
    return builder.shuffle_vector(first, undefined, zeros)


@intrinsic
def splat(typingctx, like, scalar):
    """Make a vector of the type of `like` with `scalar` in every lane."""
    vec = _vec_of(like)
    return vec(like, vec.dtype), lambda context, builder, signature, args: _splat(
        builder, args[1], _llvm(vec)
    )


@intrinsic
def add(typingctx, x, y):
    """Give x + y."""
    return x(x, x), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def sub(typingctx, x, y):
    """Give x - y."""
    return x(x, x), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def mul(typingctx, x, y):
    """Give x * y."""
    return x(x, x), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def div(typingctx, x, y):
    """Give x / y."""
    return x(x, x), lambda context, builder, signature, args: builder.fdiv(*args)


@intrinsic
def negative(typingctx, x):
    """Give -x."""
    return x(x), lambda context, builder, signature, args: builder.fneg(args[0])


@functools.cache
def fused():
    """Say whether the processor compiled for multiplies and adds in one instruction.

    Where it does not, LLVM calls the C library for each lane: 37 times as long for all of fagg.
    """
    codegen = cpu_target.target_context.codegen()
    module = llvm.parse_assembly(
        f'target triple = "{llvm.get_process_triple()}"\n'
        "declare float @llvm.fma.f32(float, float, float)\n"
        "define float @fused(float %x, float %y, float %z) {\n"
        "  %r = call float @llvm.fma.f32(float %x, float %y, float %z)\n"
        "  ret float %r\n"
        "}"
    )
    return "fmaf" not in codegen._tm.emit_assembly(module)


@intrinsic
def muladd(typingctx, x, y, z):
    """Give x * y + z, rounded once where the processor does that in one instruction, else twice.

    For products that are exact, or whose error is of no weight.
    """

    def codegen(context, builder, signature, args):
        if fused():
            return _call(builder, "llvm.fma", args[0].type, args, args[0].type)
        return builder.fadd(builder.fmul(args[0], args[1]), args[2])

    return x(x, x, x), codegen


@intrinsic
def fma(typingctx, x, y, z):
    """Give x * y + z, rounded once, or nearly so where the processor cannot: for what a product lost."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        if fused():
            return _call(builder, "llvm.fma", kind, args, kind)
        if kind.element == _F32:
            # The product is exact in float64; the sum is rounded there first.
            wide = ir.VectorType(_F64, kind.count)
            x, y, z = (builder.fpext(value, wide) for value in args)
            return builder.fptrunc(builder.fadd(builder.fmul(x, y), z), kind)
        return _multiply_add_exactly(builder, *args)

    return x(x, x, x), codegen


def _multiply_add_exactly(builder, x, y, z):
    """Give x * y + z in float64, by the product's error and the sum's (Dekker 1971).

    Halves are cut off by their bits: multiplying would overflow where x or y is large.
    """
    integers = _integers(x.type)

    def halves(value):
        bits = builder.and_(builder.bitcast(value, integers), _fill(integers, -(1 << 27)))
        high = builder.bitcast(bits, value.type)
        return high, builder.fsub(value, high)

    product = builder.fmul(x, y)
    (x_high, x_low), (y_high, y_low) = halves(x), halves(y)
    lost = builder.fsub(builder.fmul(x_high, y_high), product)
    for one, other in ((x_high, y_low), (x_low, y_high), (x_low, y_low)):
        lost = builder.fadd(lost, builder.fmul(one, other))
    total, rest = _add_exactly(builder, product, z, lost)
    exact = builder.fadd(total, rest)
    # Of infinities and NaN the error is a NaN.
    magnitude = _call(builder, "llvm.fabs", product.type, [product], product.type)
    finite = builder.fcmp_ordered("<", magnitude, _fill(product.type, float("inf")))
    return builder.select(finite, exact, builder.fadd(product, z))


@intrinsic
def larger(typingctx, x, y):
    """Give x where x > y, else y: a NaN in x is passed over, one in y is kept.

    One instruction on x86 (its maximum has just this rule), where
    llvm.maximum, which keeps either NaN, takes four.
    """

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return x(x, x), codegen


@intrinsic
def smaller(typingctx, x, y):
    """Give x where x < y, else y."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[0], args[1])

    return x(x, x), codegen


@intrinsic
def absolute(typingctx, x):
    """Give |x|."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.fabs", args[0].type, args, args[0].type)

    return x(x), codegen


@intrinsic
def select_above(typingctx, x, y, above, other):
    """Give `above` where x > y, else `other`, lane by lane; these may be of another type."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return above(x, x, above, above), codegen


@intrinsic
def any_above(typingctx, x, limit):
    """Say whether any lane of x is above `limit`."""

    def codegen(context, builder, signature, args):
        vt = args[0].type
        mask = builder.fcmp_ordered(">", args[0], _splat(builder, args[1], vt))
        bits = builder.bitcast(mask, ir.IntType(vt.count))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(x, x.dtype), codegen


@intrinsic
def all_below(typingctx, x, limit):
    """Say whether every lane of x is below `limit`, none being a NaN."""

    def codegen(context, builder, signature, args):
        vt = args[0].type
        mask = builder.fcmp_ordered("<", args[0], _splat(builder, args[1], vt))
        bits = builder.bitcast(mask, ir.IntType(vt.count))
        return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, -1))

    return types.boolean(x, x.dtype), codegen


@intrinsic
def power_of_two(typingctx, t):
    """Give 2**k, where the low bits of the number t hold k plus the exponent bias."""

    def codegen(context, builder, signature, args):
        it = _integers(args[0].type)
        mantissa = 23 if args[0].type.element == _F32 else 52
        return builder.bitcast(builder.shl(builder.bitcast(args[0], it), _fill(it, mantissa)), args[0].type)

    return t(t), codegen


@intrinsic
def round_up(typingctx, x):
    """Give the smallest integer not below x."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.ceil", args[0].type, args, args[0].type)

    return x(x), codegen


@intrinsic
def float_of_bits(typingctx, bits):
    """Give the float64 with the bits of an int64."""
    return types.float64(types.int64), lambda context, builder, signature, args: builder.bitcast(
        args[0], _F64
    )


# --- between types and lanes --------------------------------------------------


@intrinsic
def widen(typingctx, x):
    """Turn 16 float32 lanes into 16 float64 ones."""
    return WIDE(F32), lambda context, builder, signature, args: builder.fpext(args[0], _llvm(WIDE))


@intrinsic
def narrow(typingctx, x):
    """Turn 16 float64 lanes into 16 float32 ones, each rounded to nearest."""
    return F32(WIDE), lambda context, builder, signature, args: builder.fptrunc(args[0], _llvm(F32))


@intrinsic
def largest(typingctx, x):
    """Give the largest lane of x, which holds no NaN."""

    def codegen(context, builder, signature, args):
        vt = args[0].type
        function_type = ir.FunctionType(vt.element, [vt])
        kind = "f32" if vt.element == _F32 else "f64"
        name = f"llvm.vector.reduce.fmax.v{vt.count}{kind}"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        return builder.call(function, args, fastmath=("nnan",))

    return x.dtype(x), codegen


@intrinsic
def first_lane(typingctx, x):
    """Give the first lane of x."""
    return x.dtype(x), lambda context, builder, signature, args: builder.extract_element(args[0], _I32(0))


def _halves(builder, value):
    count = value.type.count // 2
    undefined = ir.Constant(value.type, ir.Undefined)
    masks = [ir.Constant(ir.VectorType(_I32, count), list(range(i, i + count))) for i in (0, count)]
    return [builder.shuffle_vector(value, undefined, mask) for mask in masks]


@intrinsic
def total(typingctx, x):
    """Sum the lanes of x: halves onto halves, the same order on every machine."""

    def codegen(context, builder, signature, args):
        value = args[0]
        while value.type.count > 1:
            value = builder.fadd(*_halves(builder, value))
        return builder.extract_element(value, _I32(0))

    return x.dtype(x), codegen


@intrinsic
def total_exactly(typingctx, high, low):
    """Sum the lanes of the unevaluated sum high + low, halves onto halves, with what each addition loses."""

    def codegen(context, builder, signature, args):
        value, rest = _totals(builder, *args)
        return builder.fadd(value, rest)

    return high.dtype(high, high), codegen


@intrinsic
def total_lost(typingctx, high, low):
    """Give what `total_exactly` loses in its last addition."""

    def codegen(context, builder, signature, args):
        value, rest = _totals(builder, *args)
        return builder.fsub(rest, builder.fsub(builder.fadd(value, rest), value))

    return high.dtype(high, high), codegen


def _totals(builder, value, rest):
    while value.type.count > 1:
        rest = builder.fadd(*_halves(builder, rest))
        value, rest = _add_exactly(builder, *_halves(builder, value), rest)
    return [builder.extract_element(x, _I32(0)) for x in (value, rest)]


def _fold(builder, left, right, low, high):
    """Add lanes `low` of two vectors to lanes `high`; a vector comes with what it has lost, or None."""
    x, y = (_pick(builder, left[0], right[0], lanes) for lanes in (low, high))
    if left[1] is None:
        return builder.fadd(x, y), None
    lost = builder.fadd(*(_pick(builder, left[1], right[1], lanes) for lanes in (low, high)))
    return _add_exactly(builder, x, y, lost)


def _add_exactly(builder, x, y, lost):
    """Give x + y, and `lost` with what this addition loses (Knuth's two-sum)."""
    whole = builder.fadd(x, y)
    part = builder.fsub(whole, x)
    rounded = builder.fadd(builder.fsub(x, builder.fsub(whole, part)), builder.fsub(y, part))
    return whole, builder.fadd(lost, rounded)


def _pick(builder, left, right, lanes):
    """Make a vector of these lanes of the two, counted through both."""
    mask = ir.Constant(ir.VectorType(_I32, len(lanes)), lanes)
    return builder.shuffle_vector(left, right, mask)


def _neighbours(lanes, block):
    """Give the lanes of two vectors that are added in pairs, each pair within 16 bytes."""
    low = []
    for start in range(0, lanes, block):
        for vector in (0, lanes):
            low += range(vector + start, vector + start + block, 2)
    return low, [lane + 1 for lane in low]


def _blocks(lanes, block):
    """Give the lanes of two vectors that are added in pairs of whole blocks."""
    low = []
    for start in range(0, 2 * lanes, 2 * block):
        low += range(start, start + block)
    return low, [lane + block for lane in low]


def _halve(builder, left, right, places, step):
    """Add each lane of two vectors to the one that lies `step` behind it in memory, as `places` tells."""
    lanes = len(places[0])
    block = 16 * lanes // BYTES
    through = [*places[0], *places[1]]
    low, high = _neighbours(lanes, block)
    if any(through[i] + step != through[j] for i, j in zip(low, high, strict=True)):
        low, high = _blocks(lanes, block)
    return _fold(builder, left, right, low, high), [through[i] for i in low]


def _load_vectors(builder, vt, address, count, exactly):
    """Load `count` vectors one after the other, as pairs for `_fold`."""
    vectors = []
    for j in range(count):
        value = builder.load(_pointer(builder, builder.add(address, _I64(BYTES * j)), vt))
        value.align = 4 if vt.element == _F32 else 8
        vectors.append((value, _fill(vt, 0.0) if exactly else None))
    return vectors


def _groups(builder, vectors):
    """Sum groups of as many neighbours as there are vectors."""
    lanes = vectors[0][0].type.count
    places = [list(range(j * lanes, (j + 1) * lanes)) for j in range(len(vectors))]
    step = 1
    while len(vectors) % 2 == 0:
        pairs = [
            _halve(builder, *vectors[j : j + 2], places[j : j + 2], step) for j in range(0, len(vectors), 2)
        ]
        step *= 2
        vectors, places = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    terms = len(vectors)
    # Where the lanes lie that hold number 0, 1, 2, ... of what is left.
    order = sorted((start, v, lane) for v in range(terms) for lane, start in enumerate(places[v]))
    result = None
    for term in range(terms):
        wanted = [order[j * terms + term][1:] for j in range(lanes)]
        value, lost = (_collect(builder, part, wanted) for part in zip(*vectors, strict=True))
        if result is None:
            result = value, lost
        elif lost is None:
            result = builder.fadd(result[0], value), None
        else:
            result = _add_exactly(builder, result[0], value, builder.fadd(result[1], lost))
    return result


def _collect(builder, vectors, wanted):
    """Make a vector whose lanes are the wanted (vector, lane)."""
    if vectors[0] is None:
        return None
    gathered = None
    for v, value in enumerate(vectors):
        if gathered is None:
            gathered = _pick(builder, value, value, [lane if w == v else 0 for w, lane in wanted])
        else:
            index = [len(wanted) + lane if w == v else j for j, (w, lane) in enumerate(wanted)]
            gathered = _pick(builder, gathered, value, index)
    return gathered


@intrinsic(prefer_literal=True)
def sum_groups(typingctx, like, address, width):
    """Sum groups of `width` neighbours: lane j gives x[j*width] + ... + x[j*width + width - 1].

    `width` is a literal. As many groups as there are lanes are read from
    `address`. Neighbours are added in pairs while `width` is even: three
    instructions a vector, since lanes stay within 16 bytes, or these move as
    one, and are put into order at the end. An odd rest takes a shuffle a term.
    """
    vec = _vec_of(like)

    def codegen(context, builder, signature, args):
        vectors = _load_vectors(builder, _llvm(vec), args[1], width.literal_value, False)
        return _groups(builder, vectors)[0]

    return vec(like, types.intp, width), codegen


@intrinsic(prefer_literal=True)
def groups_lost(typingctx, like, address, width):
    """Give what `sum_groups` loses; LLVM computes the sums only once."""
    vec = _vec_of(like)

    def codegen(context, builder, signature, args):
        vectors = _load_vectors(builder, _llvm(vec), args[1], width.literal_value, True)
        return _groups(builder, vectors)[1]

    return vec(like, types.intp, width), codegen


def _rows(builder, vectors):
    """Sum each of as many vectors as there are lanes into a lane: each round halves them."""
    lanes = block = len(vectors)
    while len(vectors) > 1:
        low, high = [], []
        for start in range(0, 2 * lanes, block):
            low += range(start, start + block // 2)
            high += range(start + block // 2, start + block)
        vectors = [_fold(builder, vectors[j], vectors[j + 1], low, high) for j in range(0, len(vectors), 2)]
        block //= 2
    return vectors[0]


@intrinsic
def sum_rows(typingctx, like, address):
    """Sum each of the vectors that lie at `address`, as many as there are lanes, into a lane."""
    vec = _vec_of(like)

    def codegen(context, builder, signature, args):
        return _rows(builder, _load_vectors(builder, _llvm(vec), args[1], vec.lanes, False))[0]

    return vec(like, types.intp), codegen


@intrinsic
def rows_lost(typingctx, like, address):
    """Give what `sum_rows` loses."""
    vec = _vec_of(like)

    def codegen(context, builder, signature, args):
        return _rows(builder, _load_vectors(builder, _llvm(vec), args[1], vec.lanes, True))[1]

    return vec(like, types.intp), codegen


# --- what depends on the type -------------------------------------------------


def lanes(like):
    """Give the number of lanes of a vector of the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(lanes)
def _lanes(like):
    count = 16 if like == types.float32 else 8
    return lambda like: count


def lanes_of(vector):
    """Give the number of lanes of a vector."""
    raise NotImplementedError("for compiled code")


@overload(lanes_of)
def _lanes_of(vector):
    count = vector.lanes
    return lambda vector: count


def type_as(like, value):
    """Convert `value` to the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(type_as)
def _type_as(like, value):
    if like == types.float32:
        return lambda like, value: np.float32(value)
    return lambda like, value: np.float64(value)
