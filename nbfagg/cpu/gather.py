"""Logits that no kernel can read in place, brought side by side into a tile."""

from nbfagg.cpu.tiles import jit, lanes
from nbfagg.cpu.vector import BYTES
from nbfagg.fields import ROW_PITCH, TERMS


@jit
def locate(like, source, plan, row, token, tokens, term, terms, buffer):
    """Give the address at which `terms` terms of each of `tokens` tokens lie side by side."""
    return source + row * plan[ROW_PITCH] + (token * plan[TERMS] + term) * (BYTES // lanes(like))
