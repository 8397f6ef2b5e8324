"""How functions that kernels call are compiled: typed and lowered once each, optimised with the kernel only.

Numba optimises every function, with all that it calls, and makes machine code
of it, on the chance that Python calls it. In a tree of calls that is the
leaves over and over: two thirds of the time that a kernel took to compile.
Functions made here are handed on as they were lowered; the kernel that they
end up in is optimised once, as a whole.
"""

import numba
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

if numba.config.DISABLE_JIT:
    raise ImportError("nbfagg: kernels have to be compiled; want NUMBA_DISABLE_JIT not set")


class _Codegen:
    """A code generator for functions that have no machine code, and no environment.

    What kernels call handles no Python object, and raises nothing.
    """

    def __init__(self, codegen):
        self._codegen = codegen

    def __getattr__(self, name):
        return getattr(self._codegen, name)

    def set_env(self, name, environment):
        """Forget it: the disk cache would have the function's module imported to make it again."""
        getattr(environment, "_memo", {}).pop(name, None)


class _InnerLibrary(JITCodeLibrary):
    """A function's code with that of all it calls, as it was lowered."""

    @property
    def codegen(self):
        return _Codegen(self._codegen)

    def finalize(self):
        """Link what is called, and leave the rest to the kernel's library."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name):
        """Give none: nothing calls this but compiled code."""
        self._ensure_finalized()
        return 0


class _InnerCompiler(CompilerBase):
    """Numba's usual passes into a library that is not optimised."""

    def define_pipelines(self):
        state = self.state
        state.library = _InnerLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return [DefaultPassBuilder.define_nopython_pipeline(state)]


def _jit(**options):
    """Make a decorator for functions that kernels call.

    Numba compiles such a function anew for every constant that it is called
    with; here a constant counts as any other number of its type, which halves
    the time that a kernel takes to compile.
    """

    def decorate(function):
        dispatcher = numba.njit(
            error_model="numpy",
            no_cfunc_wrapper=True,
            no_cpython_wrapper=True,
            pipeline_class=_InnerCompiler,
            **options,
        )(function)
        template = dispatcher.get_call_template
        dispatcher.get_call_template = lambda args, kws: template(
            tuple(map(types.unliteral, args)), {name: types.unliteral(kind) for name, kind in kws.items()}
        )
        return dispatcher

    return decorate


jit, inlined = _jit(), _jit(forceinline=True)


def jit_as(name):
    """Compile a function under a name of its own.

    Numba names machine code by a function's qualified name and a counter that
    starts anew in every process. Two functions that one factory makes share the
    name; if one comes from the disk cache and the other is compiled, they may
    share the counter too, and then one runs in the other's place.
    """

    def decorate(function):
        function.__name__ = function.__qualname__ = name
        return jit(function)

    return decorate
