"""What was measured, where and with what: one JSON file a figure."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "asv_bench" / "results" / "figures"
PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "torch", "jax", "openvino", "onnxruntime", "dask")


def progress(figure: str, line: str) -> None:
    print(f"{figure}: {line}", file=sys.stderr, flush=True)


def write(name: str, found: dict[str, Any]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(text({"figure": name, "machine": machine(), **_rounded(found)}), encoding="utf-8")
    progress(name, f"recorded in {os.path.relpath(path)}")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def text(found: dict[str, Any]) -> str:
    """JSON with a line for each entry of a list: short files, and differences that can be read."""
    entries = (f" {_compact(name)}: {_lines(value)}" for name, value in found.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, dict) and value:
        entries = [f"{_compact(name)}: {_compact(entry)}" for name, entry in value.items()]
        return "{\n  " + ",\n  ".join(entries) + "\n }"
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return "[\n  " + ",\n  ".join(map(_compact, value)) + "\n ]"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def machine() -> dict[str, Any]:
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = bool(_git("status", "--porcelain", "--", "nbfagg"))
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "simd": _simd(),
        "memory_gib": round(int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) / 2**20),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "threading_layer": _threading_layer(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("OMP_", "GOMP_", "MKL_", "NUMBA_", "OPENBLAS_")) and "DIR" not in name
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": (commit or "unknown") + (" and changes" if changed else ""),
    }


def caption(found: dict[str, Any], *packages: str) -> str:
    """One line below a table: the machine, the versions that matter to it, when, and how to do it again."""
    where = found["machine"]
    cores = f"{where['cores']} core" + "s" * (where["cores"] != 1)
    versions = [f"{name} {where['versions'][name]}" for name in packages if name in where["versions"]]
    parts = [f"{where['cpu']}, {cores}, {where['simd']}", f"Python {where['python']}", *versions]
    when = f"{where['date']}, commit {where['commit']}"
    return f"*{'; '.join(parts)}; {when}. `python -m asv_bench.figures {found['figure']}`*"


def _rounded(value: Any) -> Any:
    """Four digits: no figure here is better than that, and the files stay readable."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


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
        return numba.threading_layer() if numba else "none"
    except ValueError:  # nothing ran in parallel
        return "none"
