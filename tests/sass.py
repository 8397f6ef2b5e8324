"""Machine code read as text: instructions, loops, and the shortest turn of a loop.

A turn's shortest way is what it takes where nothing rare happens: no new largest
logit, no carry to an outer axis, no NaN.
"""

import functools
import heapq
import re
from typing import NamedTuple

_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z0-9_.]+)(.*?);")
_FLOAT64 = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)|.*F64|MUFU\.(RCP|RSQ)64")


class Instruction(NamedTuple):
    name: str
    conditional: bool
    target: int | None  # of a branch


class Loop(NamedTuple):
    first: int
    last: int


@functools.cache
def parse(text):
    """Give a kernel's instructions; several tests look at each."""
    lines, labels = [], {}
    for line in text.splitlines():
        label = _LABEL.match(line)
        if label:
            labels[label[1]] = len(lines)
            continue
        found = _INSTRUCTION.search(line)
        if found:
            lines.append(found)
    code = []
    for predicate, name, rest in (found.groups() for found in lines):
        jump = re.search(r"\.L_x_\d+", rest) if name.startswith(("BRA", "CALL")) else None
        # A uniform predicate may stand behind the name.
        conditional = bool(predicate) or bool(re.match(r"\s*U?P\d|\s*!U?P\d", rest))
        target = labels.get(jump[0]) if jump and name.startswith("BRA") else None
        code.append(Instruction(name, conditional, target))
    return tuple(code)


def loops(code):
    """Give the loops, by where their branches backward end and begin."""
    return [Loop(c.target, i) for i, c in enumerate(code) if c.target is not None and c.target <= i]


def count(code, loop, pattern):
    return sum(bool(re.match(pattern, c.name)) for c in code[loop.first : loop.last + 1])


def shortest_turn(code, loop, pattern, least):
    """Give the fewest instructions of a turn of a loop that comes past at least so many of `pattern`.

    Dijkstra from the loop's head to its branch backward, over (place, how many were seen). None if no turn
    does.
    """
    best = {}
    heap = [(0, loop.first, 0)]
    while heap:
        steps, at, seen = heapq.heappop(heap)
        seen = min(least, seen + bool(re.match(pattern, code[at].name)))
        if best.get((at, seen), steps + 1) <= steps:
            continue
        best[at, seen] = steps
        if at == loop.last:
            if seen == least:
                return steps + 1
            continue
        instruction = code[at]
        following = [at + 1]
        if instruction.target is not None:
            following = [at + 1, instruction.target] if instruction.conditional else [instruction.target]
        elif instruction.name == "EXIT" and not instruction.conditional:
            following = []
        for place in following:
            # Forward only: an inner loop's own turn is not this one's.
            if at < place <= loop.last:
                heapq.heappush(heap, (steps + 1, place, seen))
    return None


def float64(code):
    """Give the instructions of float64 arithmetic."""
    return [c.name for c in code if _FLOAT64.match(c.name)]


def local(code):
    """Give the accesses to local memory."""
    return [c.name for c in code if re.match(r"LDL|STL", c.name)]
