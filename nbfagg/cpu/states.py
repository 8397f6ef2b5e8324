"""Merging and finishing the states of chunks: the formulas of scalar.py over arrays of cells."""

import math

from nbfagg import scalar
from nbfagg.cpu import exp  # noqa: F401  (registers the formulas with Numba)
from nbfagg.cpu.cache import compiled
from nbfagg.cpu.jit import jit


@jit
def is_poisoned(maximum, total):
    """Say whether a cell holds a NaN; a total of NaN alone may come from +inf."""
    return math.isnan(total) and maximum != math.inf


@compiled()
def merge_cells(one, other, result, law):
    """Write the merged states of the cells of two chunks; a state is a maximum, a total, what that lost."""
    for i in range(len(one)):
        max_a, sum_a, rest_a = one[i, 0], one[i, 1], one[i, 2]
        max_b, sum_b, rest_b = other[i, 0], other[i, 1], other[i, 2]
        if is_poisoned(max_a, sum_a) or is_poisoned(max_b, sum_b):
            result[i, 0], result[i, 1], result[i, 2] = -math.inf, math.nan, 0.0
        else:
            top, whole, rest = scalar.merge(max_a, sum_a, rest_a, max_b, sum_b, rest_b, law)
            result[i, 0] = top
            result[i, 1], result[i, 2] = scalar.add_exactly(whole, rest)


@compiled()
def total_cells(cells, offsets, totals, law):
    """Write the merged state of each row's cells, those of row r being offsets[r] to offsets[r + 1]."""
    for row in range(len(totals)):
        top, whole, rest = -math.inf, 0.0, 0.0
        poisoned = False
        for i in range(offsets[row], offsets[row + 1]):
            maximum, total, lost = cells[i, 0], cells[i, 1], cells[i, 2]
            poisoned = poisoned or is_poisoned(maximum, total)
            top, whole, rest = scalar.merge(top, whole, rest, maximum, total, lost, law)
        whole, rest = scalar.add_exactly(whole, rest)
        if poisoned:
            top, whole, rest = -math.inf, math.nan, 0.0
        totals[row, 0], totals[row, 1], totals[row, 2] = top, whole, rest


@compiled()
def finish_cells(cells, offsets, totals, log, law, alpha):
    """Write the weights (or their logarithms) of rows' cells, given the states of whole rows."""
    for row in range(len(totals)):
        top, whole, rest = totals[row, 0], totals[row, 1], totals[row, 2]
        for i in range(offsets[row], offsets[row + 1]):
            maximum, total, lost = cells[i, 0], cells[i, 1], cells[i, 2]
            if whole != whole:
                alpha[i] = math.nan
            elif log:
                alpha[i] = -math.inf
                if total != 0.0:
                    value = math.log(total / whole) + scalar.log_distance(maximum, top, law)
                    alpha[i] = 0.0 if value > 0.0 else value
            else:
                alpha[i] = 0.0
                if total != 0.0:
                    weight, below = weigh(total, lost, whole, rest)
                    alpha[i] = lower(weight, below, maximum, top, law)


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
