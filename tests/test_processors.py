"""Other processors, by the name that LLVM knows them by: the same promises, no call into the C library."""

import platform

import pytest
from helpers import run_python

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="processors of another kind")

# A kernel is not read from the disk here, since its machine code is looked at.
CODE = """
import numpy as np
from helpers import check
from nbfagg.cpu import drive, vector

random = np.random.default_rng(0)
for spread in (1, 30):
    for shape in ((3, 50, 12, 16), (40, 16, 4, 1), (2, 3, 9000), (2, 500, 1)):
        check(random.normal(0, spread, shape).astype(np.float32))
    check(random.normal(0, spread, (2, 30, 7)) + 1e4)
code = [found[1].library.get_asm_str() for found in drive.whole._ready.values()]
print(len(code), vector.fused(), any("fmaf" in text or "fma@" in text for text in code))
print(*(name in "".join(code) for name in ("zmm", "ymm", "vfmadd")))
"""


@pytest.mark.parametrize(
    ("name", "printed"),
    [("haswell", "2 True False\nFalse True True\n"), ("nehalem", "2 False False\nFalse False False\n")],
)
def test_an_older_processor(name, printed):
    settings = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": "", "NBFAGG_CACHE": "0"}
    assert run_python(CODE, **settings) == printed
