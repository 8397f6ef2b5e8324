"""Where something was measured, and with what."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Any

from nbfagg.info import affinity, installed

PACKAGES = (
    *("nbfagg", "numpy", "numba", "llvmlite"),
    *("scipy", "torch", "jax", "openvino", "onnxruntime", "dask", "numbagg"),
)


def machine() -> dict[str, Any]:
    """Describe the machine, the versions, the settings and the day, as JSON takes it."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": affinity(),
        "simd": _simd(),
        "memory_gib": round(int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) / 2**20),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := installed(name))},
        "threading_layer": _threading_layer(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("OMP_", "GOMP_", "MKL_", "NUMBA_", "OPENBLAS_")) and "DIR" not in name
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def describe(where: dict[str, Any], *packages: str) -> str:
    """Give the machine and the versions of these packages in one line."""
    cores = f"{where['cores']} core" + "s" * (where["cores"] != 1)
    versions = [f"{name} {where['versions'][name]}" for name in packages if name in where["versions"]]
    return "; ".join([f"{where['cpu']}, {cores}, {where['simd']}", f"Python {where['python']}", *versions])


def rounded(value: Any) -> Any:
    """Keep four digits of every float in it: no time here is known better, and records stay readable."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _simd() -> str:
    flags = (_field("/proc/cpuinfo", "flags") or _field("/proc/cpuinfo", "Features")).split()
    known = {"avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE", "asimd": "NEON"}
    return next((name for flag, name in known.items() if flag in flags), "no known SIMD")


def _threading_layer() -> str:
    numba = sys.modules.get("numba")
    try:
        return str(numba.threading_layer()) if numba else "none"
    except ValueError:  # nothing ran in parallel
        return "none"
