"""A queue of numbered tasks that threads draw from, and the functions that do them, called by address.

A task's function takes three integers: the address of the arguments that all
of a call's tasks share, that of the thread's memory, and the task's number.
So the loops of drive.py are compiled once for all of them, and each of them
once for all loops.

Halves dealt out beforehand wait for the slower thread: with one of two cores
busy elsewhere they took 14 times as long, drawn tasks twice as long.
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nbfagg import fields
from nbfagg.cpu import environment
from nbfagg.cpu.cache import compiled
from nbfagg.cpu.jit import inlined
from nbfagg.cpu.vector import peek, type_as

_SIGNATURE = types.none(types.intp, types.intp, types.intp)


@intrinsic
def take(typingctx, counter):
    """Give the number at the address `counter` and raise it by one, at once."""

    def codegen(context, builder, signature, args):
        i64 = ir.IntType(64)
        pointer = builder.inttoptr(args[0], ir.PointerType(i64))
        return builder.atomic_rmw("add", pointer, i64(1), "monotonic")

    return types.int64(types.intp), codegen


@intrinsic
def lower_to(typingctx, place, number):
    """Put a number at the address `place` if it is less than what is there, at once."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.PointerType(ir.IntType(64)))
        builder.atomic_rmw("min", pointer, args[1], "monotonic")
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), codegen


@intrinsic
def call(typingctx, function, arguments, memory, number):
    """Call a task's function by its address, in the usual floating-point environment."""

    def codegen(context, builder, signature, args):
        # What C would call void comes back from Numba as a pointer to nothing.
        kind = ir.FunctionType(ir.PointerType(ir.IntType(8)), [ir.IntType(64)] * 3)
        before = environment.change(builder, None)
        builder.call(builder.inttoptr(args[0], ir.PointerType(kind)), args[1:])
        environment.change(builder, before)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), codegen


@intrinsic
def _integers(typingctx, address):
    """Take an address for a pointer to int64."""
    pointer = types.CPointer(types.int64)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.intp), codegen


@inlined
def argument(arguments, field):
    """Give the integer that stands in a field of the arguments."""
    return peek(0, arguments + 8 * field)


@inlined
def _number(arguments, field):
    """Give the float64 that stands in a field of the arguments."""
    return peek(0.0, arguments + 8 * field)


@inlined
def table_of(arguments):
    """Give the plan's table as an array."""
    return numba.carray(
        _integers(argument(arguments, fields.TABLE)), (argument(arguments, fields.TABLE_SIZE),)
    )


@inlined
def unpack(like, arguments):
    """Give source (what gather.py reads by), table, scalar.Law, scale, log; addresses of out, lse, shared."""
    source = (
        argument(arguments, fields.PLACE),
        argument(arguments, fields.MASK),
        argument(arguments, fields.LENGTHS),
        argument(arguments, fields.APART_LSE),
    )
    law = (
        _number(arguments, fields.LAW),
        _number(arguments, fields.LAW + 1),
        type_as(like, _number(arguments, fields.LAW + 2)),
        type_as(like, _number(arguments, fields.LAW + 3)),
        _number(arguments, fields.LAW + 4),
    )
    return (
        source,
        table_of(arguments),
        law,
        _number(arguments, fields.SCALE),
        argument(arguments, fields.LOG) != 0,
        argument(arguments, fields.OUT),
        argument(arguments, fields.LSE),
        argument(arguments, fields.SHARED),
    )


class Later(ModuleType):
    """A module of this package that is imported when something of it is asked for.

    Numba asks when it compiles. Where kernels come from the disk cache, the
    150 functions that they were made of need not be there: 0.15 s.
    """

    def __getattr__(self, name):
        """Look into the module itself."""
        return getattr(importlib.import_module(f"nbfagg.cpu.{self.__name__}"), name)


class Task:
    """A task's function, which is compiled at its first use for each type of numbers.

    `make` gives, for a scalar `like`, a function of (arguments, memory, number).
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self._ready: dict[str, tuple[int, Any]] = {}

    def address(self, like: Any) -> int:
        """Give the address of the function for numbers of the type of `like`."""
        found = self._ready.get(like.dtype.char)
        if found is None:
            function = self._make(like)
            # One file in the cache for each, and no two of a name: see jit.jit_as.
            function.__name__ = function.__qualname__ = f"{self._make.__name__}_{like.dtype.name}"
            result = compiled()(function).get_compile_result(_SIGNATURE)
            name = result.fndesc.llvm_cfunc_wrapper_name
            found = result.library.get_pointer_to_function(name), result
            self._ready[like.dtype.char] = found
        return found[0]
