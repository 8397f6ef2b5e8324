"""From a plan and addresses to launches on the caller's stream."""

from __future__ import annotations

import ctypes
import functools
import struct
from typing import Any, NamedTuple

from nbfagg.cuda import build, driver, geometry
from nbfagg.cuda.kernels import KERNELS
from nbfagg.cuda.law import law_for
from nbfagg.cuda.plan import Plan

# Where the first row stands, counted from the end, since the geometry comes last.
_FIRST, _ROW = 8 * (geometry.FIRST - geometry.LENGTH), struct.Struct("=q")
# Numbers of the driver's list of launch options.
_END, _BUFFER, _BYTES = 0, 1, 2


class _Launch(NamedTuple):
    """One launch made ready: all but addresses are known."""

    kernel: str
    function: ctypes.c_void_p
    grid: int
    shared: int
    arguments: tuple[str, ...]  # names of the addresses, which come first among the parameters
    pack: Any  # of addresses
    first: int  # row with which it begins
    parameters: Any  # as they lie, to be used under the device's lock: the driver copies them at a launch
    options: Any
    size: Any


def layout_of(arguments: tuple[str, ...], wide: bool) -> str:
    """Give how a kernel's parameters lie, as struct writes it; all of them are aligned by their sizes."""
    letters = {"law": f"6{'d' if wide else 'f'}", "geo": f"{geometry.LENGTH}q"}
    return "=" + "".join(letters.get(name, "Q") for name in arguments)


@functools.lru_cache(maxsize=1024)
def _ready(plan: Plan, number: int, scale: float, flags: int) -> tuple[_Launch, ...]:
    """Build or load a plan's kernels on a device and make their parameters."""
    device = driver.device(number)
    geo = list(plan.geometry)
    geo[geometry.WANT_LSE] = geo[geometry.OF_LSE] = flags
    given: dict[str, tuple[float, ...]] = {"law": law_for(scale, plan.kind), "geo": tuple(geo)}
    ready: list[_Launch] = []
    for step in plan.steps:
        before = next((made for made in ready[-2:] if made.kernel == step.kernel), None)
        if before is not None:
            # Of the next group of rows.
            ready.append(before._replace(grid=step.grid, first=step.first))
            continue
        names = KERNELS[step.kernel].arguments
        key = (str(plan.kind), step.kernel, plan.block)
        make = functools.partial(build.build, plan.kind, step.kernel, device.target, plan.block)
        addresses = tuple(name for name in names if name not in given)
        packer = struct.Struct(layout_of(names, plan.kind.wide))
        rest = [value for name in names[len(addresses) :] for value in given[name]]
        parameters = ctypes.create_string_buffer(packer.pack(*(0 for _ in addresses), *rest), packer.size)
        size = ctypes.c_size_t(packer.size)
        ready.append(
            _Launch(
                kernel=step.kernel,
                first=step.first,
                function=device.function(key, make),
                grid=step.grid,
                shared=step.room * (8 if plan.kind.wide else 4),
                arguments=addresses,
                pack=struct.Struct(f"={len(addresses)}Q").pack_into,
                parameters=parameters,
                options=(ctypes.c_void_p * 5)(
                    _BUFFER, ctypes.addressof(parameters), _BYTES, ctypes.addressof(size), _END
                ),
                size=size,
            )
        )
    return tuple(ready)


def run(plan: Plan, number: int, stream: int, scale: float, addresses: dict[str, int], lse: bool) -> None:
    """Queue a plan's launches on a stream of a device; `lse` asks for, or brings a gradient of, the lse.

    `addresses` has those of arrays by the kernels' names for them; those that are missing are not looked at.
    """
    device = driver.device(number)
    entered = device.enter()
    try:
        ready = _ready(plan, number, scale, int(lse))
        in_groups = bool(plan.steps) and plan.steps[-1].first > 0
        with device.queue:
            if plan.space and "work" not in addresses:
                addresses["work"] = device.space(stream, "work", plan.space * (8 if plan.kind.wide else 4))
            if plan.geometry[geometry.LAST] and "tickets" not in addresses:
                addresses["tickets"] = device.space(stream, "tickets", 4 * plan.rows, zero=True)
            if plan.listed:
                if "listed" not in addresses:
                    addresses["listed"] = device.space(stream, "listed", 4 * plan.listed)
                # By each call, whatever became of the one before; of a captured one at each replay.
                code = device.driver.cuMemsetD8Async(addresses["listed"], 0, 4, stream)
                driver.check(device.driver, code, "clearing a workspace; nothing was written")
            for made in ready:
                made.pack(made.parameters, 0, *[addresses.get(name, 0) for name in made.arguments])
                if in_groups:
                    _ROW.pack_into(made.parameters, len(made.parameters) + _FIRST, made.first)
                code = device.driver.cuLaunchKernel(
                    made.function, made.grid, 1, 1, plan.block, 1, 1, made.shared, stream, None, made.options
                )
                if code:
                    driver.check(device.driver, code, "launching a kernel; the result is not to be used")
    finally:
        if entered:
            device.leave()
