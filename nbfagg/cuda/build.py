"""From a kernel's source to machine code, with no GPU needed; kept on disk from one process to the next.

Numba's own cache never finds kernels that a factory makes, and its dispatcher asks
for a GPU to compile for. So kernels go to PTX, through nvJitLink to a cubin, and
into files named by all that they depend on.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from nbfagg.cuda.kinds import Kind

# What makes the code of a kernel, besides its source.
TOOLS = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink")


def blocks_of(kind: Kind, kernel: str) -> int:
    """Give how many blocks of 256 threads a multiprocessor has to have registers for.

    64 registers a thread; 80 in walks, gradients and unaligned half precision; 128 in float64, and all there
    are where halves come to it eight at a time: with fewer, they spill.
    """
    if kind.wide:
        return 1 if kind.item == 2 else 2
    heavy = kernel.startswith("walk") or "gradient" in kernel or (kind.half and kernel.endswith("unaligned"))
    return 3 if heavy else 4


class Built(NamedTuple):
    """Machine code, and the name of the kernel in it."""

    code: bytes
    name: str


def sources() -> list[Path]:
    """Give the files that kernels are made from."""
    here = Path(__file__).parent
    return [*sorted(here.glob("*.py")), here.parent / "scalar.py", here.parent / "fields.py"]


@functools.cache
def fingerprint() -> str:
    """Give a digest of the kernels' sources and the tools that compile them."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.read_bytes())
    for tool in TOOLS:
        try:
            found = version(tool)
        except PackageNotFoundError:
            found = ""
        digest.update(f"{tool} {found};".encode())
    return digest.hexdigest()[:32]


def folder() -> Path | None:
    """Give where machine code is kept: beside Numba's, or below the user's cache folder; None for nowhere."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    try:
        base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return None
    return base / "nbfagg" / "cuda"


def ptx_of(kind: Kind, kernel: str, target: tuple[int, int], block: int) -> tuple[str, str]:
    """Compile a kernel: its PTX, and its name there."""
    # Untyped: kernels and what they are made of are typed by Numba.
    prims: Any = importlib.import_module("nbfagg.cuda.prims")
    from nbfagg.cuda.kernels import KERNELS

    made = KERNELS[kernel]
    prims.set_target(target)
    function = made.make(prims.make(kind), kind, block)
    ptx = prims.compile_kernel(function, kind, made.arguments, target, (block, blocks_of(kind, kernel)))
    found = re.search(r"\.visible \.entry (\w+)\(", ptx)
    if found is None:
        raise RuntimeError(f"nbfagg: the PTX of {kernel} for {kind} has no entry")
    return ptx, found[1]


def cubin_of(ptx: str, target: tuple[int, int]) -> bytes:
    """Make machine code of PTX."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    linker = Linker(
        ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch=f"sm_{target[0]}{target[1]}")
    )
    return bytes(linker.link("cubin").code)


def build(kind: Kind, kernel: str, target: tuple[int, int], block: int = 256) -> Built:
    """Give a kernel's machine code, from the disk if it is there."""
    name = f"{kernel}-{kind}-sm{target[0]}{target[1]}-{block}-{fingerprint()}.cubin"
    for place in (shipped(), folder()):
        if place is not None and (found := _read(place / name)) is not None:
            return found
    ptx, entry = ptx_of(kind, kernel, target, block)
    made = Built(cubin_of(ptx, target), entry)
    place = folder()
    if place is not None:
        keep(made, place / name)
    return made


def shipped() -> Path | None:
    """Give the folder of machine code built beforehand, where NBFAGG_CUBINS names one."""
    given = os.environ.get("NBFAGG_CUBINS")
    return Path(given) if given else None


def _read(path: Path) -> Built | None:
    """Read machine code: the kernel's name, a line feed, the code."""
    try:
        name, _, code = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return Built(code, name.decode())


def keep(made: Built, path: Path) -> None:
    """Write machine code for others to find, whole or not at all; quietly none where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(made.name.encode() + b"\n" + made.code)
        os.replace(file.name, path)
    except OSError:
        pass
