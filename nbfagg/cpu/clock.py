"""What time it is, for compiled code."""

import time

from numba import types

from nbfagg.cpu.jit import jit
from nbfagg.cpu.vector import peek

# Later than any time.
NEVER = 2**63 - 1

_CLOCK = getattr(time, "CLOCK_MONOTONIC", None)  # none on Windows
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))

if _CLOCK is None:

    @jit
    def now(scratch):
        """Give no time: nobody is ever seen to wait."""
        return 0

else:

    @jit
    def now(scratch):
        """Give nanoseconds since some moment; `scratch` is the address of 16 bytes that are free."""
        _clock_gettime(_CLOCK, scratch)
        return peek(0, scratch) * 1_000_000_000 + peek(0, scratch + 8)
