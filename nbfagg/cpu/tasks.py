"""A queue of numbered tasks that threads draw from.

Halves dealt out beforehand wait for the slower thread: with one of two cores
busy elsewhere they took 14 times as long, drawn tasks twice as long.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def take(typingctx, counter):
    """Give the number at the address `counter` and raise it by one, at once."""

    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        pointer = builder.inttoptr(args[0], ir.PointerType(i64))
        return builder.atomic_rmw("add", pointer, i64(1), "monotonic")

    return types.int64(types.intp), codegen
