"""Machine code read as text: instructions, loops, and the shortest turn of a loop.

A turn's shortest way is what it takes where nothing rare happens: no new largest
logit, no carry to an outer axis, no NaN.
"""

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


def parse(text):
    """Give a kernel's instructions."""
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
    return code


def loops(code):
    """Give the loops, by where their branches backward end and begin."""
    return [Loop(c.target, i) for i, c in enumerate(code) if c.target is not None and c.target <= i]


def count(code, loop, pattern):
    return sum(bool(re.match(pattern, c.name)) for c in code[loop.first : loop.last + 1])


def shortest_turn(code, loop, pattern):
    """Give the fewest instructions of a turn of a loop that come past all its `pattern` in one line of blocks.

    Dijkstra from the loop's head to its branch backward; where ways part, one that misses an
    instruction of `pattern` is not taken.
    """
    wanted = [i for i in range(loop.first, loop.last + 1) if re.match(pattern, code[i].name)]
    best = {}
    heap = [(0, loop.first, 0)]
    while heap:
        steps, at, seen = heapq.heappop(heap)
        if at in wanted and wanted.index(at) == seen:
            seen += 1
        if at == loop.last:
            if seen == len(wanted):
                return steps + 1
            continue
        if best.get((at, seen), steps + 1) <= steps:
            continue
        best[at, seen] = steps
        instruction = code[at]
        following = [] if instruction.name in ("EXIT",) and not instruction.conditional else [at + 1]
        if instruction.target is not None:
            if not instruction.conditional:
                following = []
            following.append(instruction.target)
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
