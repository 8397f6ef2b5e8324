"""Dask: what `nbfagg.fagg` and its kin do with Dask arrays.

Imported by `nbfagg` when a Dask array shows up; the functions here are the same, with `split_every` beside.

What a graph costs
------------------
Logits (B, L, K), with K the product of the summed axes, are cut into b, l and k chunks along the axes, and
lie on P workers. C = 24 bytes is a cell: a maximum, a sum, and what it lost.

==============================  ====================  ============================================
between workers                 bytes, at most        why
==============================  ====================  ============================================
only the batch axis is cut      0                     each chunk is a call of its own
totals of rows, up the tree     C B (p - 1)           a worker's chunks of a row are neighbours, and
                                                      their totals merge where they are
totals of rows, down again      C B (p - 1)           once to each other worker that holds a part
states of summed chunks         C B L (q - 1)         where q workers hold parts of one token
==============================  ====================  ============================================

if each worker's neighbours make whole subtrees. (Where a task of the tree takes those of two workers, up to
half of its split_every inputs move, so that a level may take split_every / 2 times as much.)

Here p <= min(l k, P) workers share a row and q <= min(k, P) share a token. So it is O(B L + B P) while a
token stays on one worker (q = 1: no cell moves) or on a few; K appears nowhere, and no logit ever moves. The
q - 1 is no weakness of the tree: q vectors that lie on q workers cannot be summed with less. Who can choose
cuts batch axes first, then kept ones, summed ones last.

The longest chain of tasks is, for split_every = s (4 by default), ::

    state, ceil(log_s k) merges, total, ceil(log_s l) merges, finish

(a level takes at least 2 chunks of each of several axes, whatever s is), each of them but the first as large
as a cell or a total. So on P workers the time is about (time of one read of B L K / P logits) + (log_s k) *
(C B L / b l bytes to move) + (log_s l) * (latency + C B / b bytes to move).

Chunks of CuPy's arrays stay on their GPU, where logits are read and gradients are written. Their states come
to the host, 24 bytes a token, and of gradients what is of the result's size comes and goes; nothing where
batch axes alone are cut. A worker's results are on the GPU that is current in it.

A gradient moves one number a row (16 bytes, with what it lost) up and down where the kept axis is cut, and
the states as above where summed ones are.
"""

from dask.sizeof import sizeof

from nbfagg.dask.functions import fagg, fagg_vjp, state_of
from nbfagg.dask.packed import fagg_packed, fagg_packed_vjp
from nbfagg.state import State

__all__ = ["fagg", "fagg_packed", "fagg_packed_vjp", "fagg_vjp", "state_of"]


@sizeof.register(State)
def _bytes_of_state(state: State) -> int:
    """Tell the scheduler what a state weighs: its cells."""
    return int(sizeof(state.cells))
