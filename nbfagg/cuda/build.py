"""From a kernel's source to machine code, with no GPU needed; kept on disk from one process to the next.

Numba's own cache never finds kernels that a factory makes, and its dispatcher asks
for a GPU to compile for. So kernels go to PTX, through nvJitLink to a cubin, and
into files named by all that they depend on.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from nbfagg.cuda.kinds import Kind, kind_of

# What makes the code of a kernel, besides its source.
TOOLS = ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink")


def blocks_of(kind: Kind, kernel: str) -> int:
    """Give how many blocks of 256 threads a multiprocessor has to have registers for.

    64 registers a thread; 80 in walks, gradients, packed rows of short tokens, unaligned half precision and
    unaligned pieces; 128 in float64, and all there are where halves come to it eight at a time: with fewer,
    they spill.
    """
    if kind.wide:
        return 1 if kind.item == 2 else 2
    heavy = kernel.startswith("walk") or "gradient" in kernel or (kind.half and kernel.endswith("unaligned"))
    heavy = heavy or kernel == "short_pieces_unaligned" or kernel.startswith("short_packed")
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
def source_stamp() -> str:
    """Give a digest of the kernels' sources."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]


@functools.cache
def tool_stamp() -> str:
    """Give a digest of what compiles them."""
    digest = hashlib.sha256()
    for tool in TOOLS:
        try:
            found = version(tool)
        except PackageNotFoundError:
            found = ""
        digest.update(f"{tool} {found};".encode())
    return digest.hexdigest()[:8]


def folder() -> Path | None:
    """Give where machine code is kept: in NUMBA_CACHE_DIR or the user's cache folder; None for nowhere."""
    if os.environ.get("NBFAGG_CACHE", "1") == "0":
        return None
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


def name_of(kind: Kind, kernel: str, target: tuple[int, int], block: int) -> str:
    """Give what a kernel's machine code is called, but for the tools that made it."""
    return f"{kernel}-{kind}-sm{target[0]}{target[1]}-{block}-{source_stamp()}"


def build(kind: Kind, kernel: str, target: tuple[int, int], block: int = 256) -> Built:
    """Give a kernel's machine code, from the disk if it is there."""
    name = name_of(kind, kernel, target, block)
    place = shipped()
    if place is not None and (found := _read(place / f"{name}.cubin")) is not None:
        return found
    place = folder()
    path = None if place is None else place / f"{name}-{tool_stamp()}.cubin"
    if path is not None and (found := _read(path)) is not None:
        return found
    try:
        if importlib.util.find_spec("numba_cuda") is None:
            raise ImportError("numba-cuda is not installed")
        ptx, entry = ptx_of(kind, kernel, target, block)
        made = Built(cubin_of(ptx, target), entry)
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"nbfagg: a is on a GPU, and its kernels cannot be compiled ({error}); want pip install "
            "'nbfagg[cuda]', or NBFAGG_CUBINS to name a folder of kernels built elsewhere"
        ) from error
    if path is not None:
        keep(made, path)
    return made


def ship(place: Path, targets: tuple[tuple[int, int], ...] = ((8, 0), (9, 0))) -> int:
    """Build all kernels of all floating-point types into a folder, for machines without compilers.

    ``python -m nbfagg.cuda.build FOLDER`` does that; NBFAGG_CUBINS=FOLDER has them found there.

    Returns
    -------
    int
        How many there are.
    """
    from nbfagg.cuda.kernels import KERNELS

    kinds = [kind_of(storage) for storage in ("f4", "f8", "f2", "b2")]
    count = 0
    for target in targets:
        for kind in kinds:
            for kernel in KERNELS:
                keep(build(kind, kernel, target), place / f"{name_of(kind, kernel, target, 256)}.cubin")
                count += 1
    return count


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


if __name__ == "__main__":
    print(f"{ship(Path(sys.argv[1]))} kernels in {sys.argv[1]}")
