"""A peer for `nbfagg bench --target cuda`: fagg as a plain Triton kernel. Imports Triton and PyTorch."""

import torch
import triton
import triton.language as tl


@triton.jit
def rows(a, out, tokens, terms, BLOCK: tl.constexpr):
    """Take a row a program: its maximum and sum in one read, its tokens in another."""
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    begin = a + row * tokens * terms
    for i in range(0, tokens * terms, BLOCK):
        inside = i + places < tokens * terms
        x = tl.load(begin + i + places, mask=inside, other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, x)
        safe = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - safe) + tl.exp(x - safe)
        top = new
    highest = tl.max(top, 0)
    whole = tl.sum(total * tl.exp(top - highest), 0)
    for token in range(tokens):
        part = tl.zeros((BLOCK,), tl.float32)
        for i in range(0, terms, BLOCK):
            inside = i + places < terms
            x = tl.load(begin + token * terms + i + places, mask=inside, other=float("-inf")).to(tl.float32)
            part += tl.exp(x - highest)
        tl.store(out + row * tokens + token, tl.sum(part, 0) / whole)


def run(a):
    """Give fagg of logits (B, L, N, H)."""
    out = torch.empty(a.shape[:2], dtype=a.dtype, device=a.device)
    terms = a.shape[2] * a.shape[3]
    rows[(a.shape[0],)](a, out, a.shape[1], terms, BLOCK=1024)
    return out
