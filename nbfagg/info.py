"""``nbfagg info`` and `nbfagg.show_config`: what this machine and this process give to nbfagg.

Nothing is started for it: no thread pool, no framework, no GPU context, no compilation.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

OPTIONAL = {
    "torch": ("torch",),
    "cupy": ("cupy", "cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x"),
    "dask": ("dask",),
    "ml_dtypes": ("ml_dtypes",),
    "numba-cuda": ("numba-cuda",),
}

# What stands for the version of an nbfagg that has none.
NOT_INSTALLED = "(not installed)"


def installed(*names: str) -> str | None:
    """Return the version of the first of the distributions that is installed, without importing it."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return None


def _numba() -> Any:
    """Return Numba: untyped, for its settings are made at run time, and imported no sooner than needed."""
    return import_module("numba")


def affinity() -> int:
    """Return how many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threading() -> dict[str, Any]:
    """Return Numba's threading layers: wanted, available, and the one that is or would be used."""
    numba = _numba()
    modules = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
    available = []
    for layer in numba.config.THREADING_LAYER_PRIORITY:
        try:
            import_module(f"numba.np.ufunc.{modules[layer]}")
        except (ImportError, KeyError):
            continue
        available.append(layer)

    wanted = str(numba.config.THREADING_LAYER).lower()
    # The rules of Numba's manual, section "Setting the threading layer".
    allowed = {
        "default": tuple(numba.config.THREADING_LAYER_PRIORITY),
        "safe": ("tbb",),
        "threadsafe": ("tbb", "omp"),
        "forksafe": ("tbb", "workqueue") if sys.platform == "linux" else ("tbb", "omp", "workqueue"),
    }.get(wanted, (wanted,))
    try:
        layer, running = numba.threading_layer(), True
    except ValueError:  # no parallel function has run yet
        layer, running = next((known for known in allowed if known in available), None), False
    return {
        "threading_wanted": wanted,
        "threading_available": available,
        "threading_layer": layer,
        "threading_running": running,
    }


def _cpu() -> dict[str, Any]:
    """Return the CPU that Numba compiles for, its vectors' width, and whether it fuses multiply and add."""
    import llvmlite.binding as llvm

    settings = _numba().config

    features: dict[str, bool]
    if settings.CPU_FEATURES is not None:
        signed = settings.CPU_FEATURES.split(",")
        features = {feature[1:]: feature[0] == "+" for feature in signed if feature}
    else:
        try:
            features = dict(llvm.get_host_cpu_features())
        except RuntimeError:  # LLVM does not know this operating system's way to ask
            features = {}
        if not settings.ENABLE_AVX:
            features = {name: on and not name.startswith("avx") for name, on in features.items()}
    machine = platform.machine().lower()
    arm = machine in ("arm64", "aarch64")
    # SSE2 and NEON are part of every 64-bit x86 and ARM.
    baseline = 128 if arm or machine in ("x86_64", "amd64") else 0
    widths = (("avx512f", 512), ("avx2", 256), ("sse2", 128), ("neon", 128))
    return {
        "cpu": settings.CPU_NAME or llvm.get_host_cpu_name(),
        "simd_bits": next((bits for name, bits in widths if features.get(name)), baseline),
        "fma": arm or bool(features.get("fma")),
    }


def _writable(path: Path) -> bool:
    """Say whether `path`, or the nearest directory above it that exists, can be written to."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return os.access(path, os.W_OK)


def _cache() -> dict[str, Any]:
    """Return where Numba keeps the compiled kernels."""
    if not import_module("nbfagg.cpu.cache").wanted():
        return {"cache_dir": None, "cache_writable": False}
    # Numba's own order: what the user set, beside the source, the user's cache.
    chosen = _numba().config.CACHE_DIR
    places = [Path(chosen)] if chosen else []
    places.append(Path(__file__).with_name("cpu") / "__pycache__")
    user = import_module("numba.misc.appdirs").AppDirs(appname="numba", appauthor=False)
    places.append(Path(user.user_cache_dir))
    place = next(filter(_writable, places), None)
    return {"cache_dir": str(place or places[0]), "cache_writable": place is not None}


def _gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs that the driver shows; none where there is no driver."""
    import ctypes

    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return []
        names = []
        for index in range(count.value):
            device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
            if driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDeviceGetName(name, 256, device):
                name.value = b"unnamed"
            names.append(name.value.decode(errors="replace"))
    except (OSError, AttributeError):
        return []
    return names


def config() -> dict[str, Any]:
    """Return what `show_config` prints.

    Returns
    -------
    dict
        ``nbfagg``, ``python``, ``numpy``, ``numba``, ``llvmlite`` : str
            Versions; None for what runs from its source without being installed.
        ``platform`` : str
            Operating system and machine.
        ``optional`` : dict of str or None
            Versions of frameworks, by name; none of them is imported.
        ``threading_wanted``, ``threading_available`` : str and list of str
            Numba's setting, and the layers that can be loaded.
        ``threading_layer``, ``threading_running`` : str or None, and bool
            The layer in use, or if none has been started, the one that would be.
        ``threads``, ``cpus`` : int
            Numba's number of threads, and the CPUs that this process may run on.
        ``cpu``, ``simd_bits``, ``fma`` : str, int and bool
            What Numba compiles for.
        ``cache_dir``, ``cache_writable`` : str or None, and bool
            Where compiled kernels are kept; None where NBFAGG_CACHE=0 says nowhere.
        ``gpus`` : list of str
            Names of the NVIDIA GPUs.
    """
    return {
        "nbfagg": installed("nbfagg"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: installed(name) for name in ("numpy", "numba", "llvmlite")},
        "optional": {name: installed(*names) for name, names in OPTIONAL.items()},
        **_threading(),
        "threads": int(_numba().config.NUMBA_NUM_THREADS),
        "cpus": affinity(),
        **_cpu(),
        **_cache(),
        "gpus": _gpus(),
    }


def show_config() -> None:
    """Print versions, threads, vector width, cache directory and GPUs, as a bug report wants them."""
    found = config()
    started = "in use" if found["threading_running"] else "would be used"
    others = [layer for layer in found["threading_available"] if layer != found["threading_layer"]]
    layers = [f"asked for: {found['threading_wanted']}"]
    if others:
        layers.append(f"{', '.join(others)} available too")
    if found["cache_dir"] is None:
        cache = "off (NBFAGG_CACHE=0)"
    else:
        cache = found["cache_dir"]
        cache += "" if found["cache_writable"] else " (cannot be written: each process compiles)"
    rows = {
        "nbfagg": found["nbfagg"] or NOT_INSTALLED,
        "python": f"{found['python']} on {found['platform']}",
        "numpy": found["numpy"],
        "numba": f"{found['numba']}, llvmlite {found['llvmlite']}",
        **{name: version or "-" for name, version in found["optional"].items()},
        "threading layer": f"{found['threading_layer'] or 'none'} {started} ({'; '.join(layers)})",
        "threads": f"{found['threads']} on {found['cpus']} CPUs",
        "CPU": found["cpu"],
        "SIMD": f"{found['simd_bits']} bits, {'with' if found['fma'] else 'without'} FMA",
        "kernel cache": cache,
        "GPU": ", ".join(found["gpus"]) or "-",
    }
    for name, value in rows.items():
        print(f"{name:<16} {value}")
