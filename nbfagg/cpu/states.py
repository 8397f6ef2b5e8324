"""Merging and finishing the states of chunks: the formulas of scalar.py over arrays of cells."""

import math

from nbfagg import scalar
from nbfagg.cpu import exp  # noqa: F401  (registers the formulas with Numba)
from nbfagg.cpu.cache import compiled
from nbfagg.cpu.jit import inlined, jit

# A weight that is moved by no more octaves than this, and is no smaller before, does not become subnormal.
FEW, SMALL = -900, 2.0**-100


@jit
def is_poisoned(maximum, total):
    """Say whether a cell holds a NaN; a total of NaN alone may come from +inf."""
    return math.isnan(total) and maximum != math.inf


@jit
def is_near(maximum, law):
    """Say whether a maximum is finite and has no origin: its reference point is a power of two."""
    return abs(maximum * law[0]) <= law[4]


@jit
def exponent(maximum, law):
    """Give that power: scalar.shift of such a maximum, as an integer. Its branches took a third longer."""
    return 2 * math.ceil(maximum * law[0] * 0.5)


@inlined
def add_cell(whole, rest, cells, i, top, law):
    """Add a cell to a row's sum, relative to the point of `top`, which is near.

    To the bit what scalar.merge gives, which asks for both points and moves both sums.
    """
    old, octaves = cells[i, 0], -1020
    if is_near(old, law):
        octaves = exponent(old, law) - exponent(top, law)
    factor = scalar.two_to(octaves) if octaves > -1020 else scalar.rescale(old, top, law)
    whole, lost = scalar.add_exactly(whole, cells[i, 1] * factor)
    return whole, rest + cells[i, 2] * factor + lost


@jit
def merge_row(cells, first, stop, step, law):
    """Give the state of the cells of a row, whatever they are, and whether one is poisoned."""
    top, whole, rest, poisoned = -math.inf, 0.0, 0.0, False
    for i in range(first, stop, step):
        poisoned = poisoned or is_poisoned(cells[i, 0], cells[i, 1])
        top, whole, rest = scalar.merge(top, whole, rest, cells[i, 0], cells[i, 1], cells[i, 2], law)
    return top, whole, rest, poisoned


@jit
def write_state(states, i, top, whole, rest, poisoned):
    """Write a state whose sum is rounded anew."""
    if poisoned:
        states[i, 0], states[i, 1], states[i, 2] = -math.inf, math.nan, 0.0
    else:
        states[i, 0] = top
        states[i, 1], states[i, 2] = scalar.add_exactly(whole, rest)


@compiled()
def merge_cells(one, other, result, law):
    """Write the merged states of the cells of two chunks; a state is a maximum, a total, what that lost."""
    for i in range(len(one)):
        max_a, sum_a, rest_a = one[i, 0], one[i, 1], one[i, 2]
        max_b, sum_b, rest_b = other[i, 0], other[i, 1], other[i, 2]
        poisoned = is_poisoned(max_a, sum_a) or is_poisoned(max_b, sum_b)
        top = max_a if max_a > max_b else max_b
        if is_near(top, law):
            whole, rest = add_cell(0.0, 0.0, one, i, top, law)
            whole, rest = add_cell(whole, rest, other, i, top, law)
        else:
            top, whole, rest = scalar.merge(max_a, sum_a, rest_a, max_b, sum_b, rest_b, law)
        write_state(result, i, top, whole, rest, poisoned)


@compiled()
def total_cells(cells, offsets, totals, law):
    """Write the merged state of each row's cells, those of row r being offsets[r] to offsets[r + 1]."""
    for row in range(len(totals)):
        first, stop = offsets[row], offsets[row + 1]
        top, poisoned = -math.inf, False
        for i in range(first, stop):
            poisoned = poisoned or is_poisoned(cells[i, 0], cells[i, 1])
            if cells[i, 0] > top:
                top = cells[i, 0]
        whole, rest = 0.0, 0.0
        if is_near(top, law):
            for i in range(first, stop):
                whole, rest = add_cell(whole, rest, cells, i, top, law)
        else:
            top, whole, rest, poisoned = merge_row(cells, first, stop, 1, law)
        write_state(totals, row, top, whole, rest, poisoned)


@compiled()
def total_turned(cells, totals, law):
    """As `total_cells`, of rows of as many tokens each whose cells take turns.

    Row by row they would lie too far apart for a cache: 600 tokens of 512 rows took three times as long.
    """
    rows = len(totals)
    if rows == 0:
        return
    for row in range(rows):
        totals[row, 0], totals[row, 1], totals[row, 2] = -math.inf, 0.0, 0.0
    usual = True
    for first in range(0, len(cells), rows):
        for row in range(rows):
            i = first + row
            usual = usual and not is_poisoned(cells[i, 0], cells[i, 1])
            if cells[i, 0] > totals[row, 0]:
                totals[row, 0] = cells[i, 0]
    for row in range(rows):
        usual = usual and (totals[row, 0] == -math.inf or is_near(totals[row, 0], law))
    for first in range(0, len(cells) if usual else 0, rows):
        for row in range(rows):
            top = totals[row, 0]
            # A row whose maximum is -inf is one of nothing.
            if top != -math.inf:
                totals[row, 1], totals[row, 2] = add_cell(
                    totals[row, 1], totals[row, 2], cells, first + row, top, law
                )
    for row in range(rows):
        top, whole, rest, poisoned = totals[row, 0], totals[row, 1], totals[row, 2], False
        if not usual:
            top, whole, rest, poisoned = merge_row(cells, row, len(cells), rows, law)
        write_state(totals, row, top, whole, rest, poisoned)


@compiled()
def finish_cells(cells, offsets, totals, log, law, alpha):
    """Write the weights (or their logarithms) of rows' cells, given the states of whole rows."""
    for row in range(len(totals)):
        top, whole, rest = totals[row, 0], totals[row, 1], totals[row, 2]
        for i in range(offsets[row], offsets[row + 1]):
            alpha[i] = weight_of(cells, i, top, whole, rest, log, law)


@compiled()
def finish_turned(cells, totals, log, law, alpha):
    """As `finish_cells`, of rows whose cells take turns."""
    rows = len(totals)
    if rows == 0:
        return
    for first in range(0, len(cells), rows):
        for row in range(rows):
            top, whole, rest = totals[row, 0], totals[row, 1], totals[row, 2]
            alpha[first + row] = weight_of(cells, first + row, top, whole, rest, log, law)


@inlined
def weight_of(cells, i, top, whole, rest, log, law):
    """Give the weight of a cell in a row of such a state, or its logarithm."""
    maximum, total, lost = cells[i, 0], cells[i, 1], cells[i, 2]
    if whole != whole:
        return math.nan
    if log:
        if total == 0.0:
            return -math.inf
        value = math.log(total / whole) + scalar.log_distance(maximum, top, law)
        return 0.0 if value > 0.0 else value
    if total == 0.0:
        return 0.0
    weight, below = weigh(total, lost, whole, rest)
    if weight > SMALL and is_near(maximum, law) and is_near(top, law):
        octaves = exponent(maximum, law) - exponent(top, law)
        if octaves > FEW:
            return (weight + below) * scalar.two_to(octaves)
    return lower(weight, below, maximum, top, law)


@compiled()
def lse_of_totals(totals, law, scale, lse):
    """Write the log-sum-exp of each row's state."""
    for row in range(len(totals)):
        lse[row] = scalar.log_sum_exp(totals[row, 0], totals[row, 1], law, scale)


@compiled()
def dots_of(grad, weights, offsets, dots):
    """Write each row's sum of grad * weight, of whole products; a weight of 0 takes any gradient, NaN too."""
    for row in range(len(dots)):
        whole, rest = 0.0, 0.0
        for i in range(offsets[row], offsets[row + 1]):
            if weights[i] != 0.0:
                product, lost = scalar.multiply_exactly(grad[i], weights[i])
                # Halves of numbers near the end of the range overflow.
                if not abs(lost) < abs(product):
                    lost = 0.0
                whole, rounded = scalar.add_exactly(whole, product)
                rest += rounded + lost
        dots[row] = whole + rest if math.isfinite(whole) else whole


@jit
def weigh(total, lost, whole, rest):
    """Give (total + lost) / (whole + rest) as a rounded number and what that lost."""
    quotient = total / whole
    product, rounded = scalar.multiply_exactly(quotient, whole)
    return quotient, ((total - product) - rounded + lost - quotient * rest) / whole


@jit
def lower(weight, lost, old, new, law):
    """Move a weight from the point of `old` to that of `new`; it is rounded once, a subnormal one again."""
    if old == new:
        return weight + lost
    whole, rest = scalar.distance(old, new, law)
    if not whole > -2100.0:
        return 0.0
    # Five roundings one after the other were 3.04 ulp where logits are far off; the bound is 3.
    octaves = math.floor(whole)
    factor = math.pow(2.0, whole - octaves)
    product, rounded = scalar.multiply_exactly(weight, factor)
    moved = product + (rounded + lost * factor + product * (rest * scalar.LN_2))
    half = math.floor(0.5 * octaves)
    return moved * math.pow(2.0, half) * math.pow(2.0, octaves - half)
