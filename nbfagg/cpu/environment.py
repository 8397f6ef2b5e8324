"""The floating-point environment that kernels run in: rounded to nearest, nothing flushed to zero, no traps.

A thread inherits the environment of whoever starts it, for good: PyTorch's `set_flush_denormal`, say. Without
this, results would depend on which of a call's threads computes them. A small call takes no longer for it.
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
_ARM = platform.machine().lower() in ("aarch64", "arm64")
# Of MXCSR: all exceptions masked, nothing else. FPCR is 0.
_X86_USUAL, _ARM_USUAL = 0x1F80, 0

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _move(builder, name, slot):
    """Let a processor's instruction read or write 4 bytes of memory."""
    kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(ir.IntType(8))])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}")
    builder.call(function, [builder.bitcast(slot, ir.PointerType(ir.IntType(8)))])


def change(builder, new):
    """Put in place the environment `new`, or the usual one if that is None; give the one that there was."""
    if _X86:
        slot = cgutils.alloca_once(builder, _I32)
        if new is None:
            _move(builder, "stmxcsr", slot)
            old = builder.zext(builder.load(slot), _I64)
            new = _I64(_X86_USUAL)
        else:
            old = new
        builder.store(builder.trunc(new, _I32), slot)
        _move(builder, "ldmxcsr", slot)
        return old
    if _ARM:
        read = ir.InlineAsm(ir.FunctionType(_I64, []), "mrs $0, fpcr", "=r", side_effect=True)
        write = ir.InlineAsm(ir.FunctionType(ir.VoidType(), [_I64]), "msr fpcr, $0", "r", side_effect=True)
        old = builder.call(read, []) if new is None else new
        builder.call(write, [_I64(_ARM_USUAL) if new is None else new])
        return old
    return _I64(0)


@intrinsic
def enter(typingctx):
    """Take the usual environment; give what `leave` wants."""
    return types.int64(), lambda context, builder, signature, args: change(builder, None)


@intrinsic
def leave(typingctx, before):
    """Put back the environment that `enter` found."""

    def codegen(context, builder, signature, args):
        change(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
