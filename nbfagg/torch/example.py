"""A text classifier with attention pooling, trained with the seed's aggregation and with nbfagg's.

Run it: ``python -m nbfagg.torch.example``. The text is that of Python's own
help topics, which every Python has; the task is to tell from which topic a
paragraph comes. Trained are the same model, from the same start, on the same
batches, once for each form of the aggregation; then again with logits around
+100, where the naive form gives up.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import nbfagg

TOPICS = ("debugger", "formatstrings", "string-methods", "compound", "specialnames", "typesseq")
TOKENS, WORDS, WIDTH, HEADS, QUERIES = 96, 2000, 32, 8, 32
BATCH = 64

Form = Callable[[Tensor], Tensor]


def naive(a: Tensor) -> Tensor:
    """Aggregate as the formula stands."""
    e = torch.exp(a)
    return e.sum(dim=(2, 3)) / e.sum(dim=(1, 2, 3)).unsqueeze(1)


def fagg_stable(a: Tensor) -> Tensor:
    """Aggregate as the seed of this package did: each row's maximum is taken out first."""
    e = torch.exp(a - a.amax(dim=(1, 2, 3), keepdim=True))
    return e.sum(dim=(2, 3)) / e.sum(dim=(1, 2, 3)).unsqueeze(1)


class Texts(NamedTuple):
    """Paragraphs as numbers of words, 0 where a paragraph has ended, and their topics."""

    words: Tensor  # (paragraphs, TOKENS)
    topics: Tensor  # (paragraphs,)


def read_texts() -> tuple[Texts, Texts]:
    """Give paragraphs to learn from and to be tested with."""
    from pydoc_data.topics import topics

    paragraphs = []
    for label, topic in enumerate(TOPICS):
        for text in re.split(r"\n\s*\n", topics[topic]):
            found = re.findall(r"[a-z_]{2,}", text.lower())[:TOKENS]
            if len(found) >= 8:
                paragraphs.append((found, label))
    random.Random(0).shuffle(paragraphs)
    frequent = Counter(word for found, _ in paragraphs for word in found).most_common(WORDS - 2)
    numbers = {word: number for number, (word, _) in enumerate(frequent, 2)}
    words = torch.zeros(len(paragraphs), TOKENS, dtype=torch.long)
    for row, (found, _) in zip(words, paragraphs, strict=True):
        row[: len(found)] = torch.tensor([numbers.get(word, 1) for word in found])
    labels = torch.tensor([label for _, label in paragraphs])
    cut = len(paragraphs) * 4 // 5
    return Texts(words[:cut], labels[:cut]), Texts(words[cut:], labels[cut:])


class Classifier(nn.Module):
    """Words, each weighted by how all queries of all heads attend to it."""

    def __init__(self, form: Form, offset: float) -> None:
        super().__init__()
        self.form, self.offset = form, offset
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.attend = nn.Linear(WIDTH, HEADS * QUERIES)
        self.decide = nn.Linear(WIDTH, len(TOPICS))

    def forward(self, words: Tensor) -> Tensor:
        """Give a score for each topic."""
        values = self.embed(words)
        logits = self.attend(values).unflatten(-1, (HEADS, QUERIES)) + self.offset
        logits = logits.masked_fill((words == 0)[:, :, None, None], -torch.inf)
        alpha = self.form(logits)
        return self.decide(torch.bmm(alpha.unsqueeze(1), values).squeeze(1))


class Run(NamedTuple):
    """What a training came to."""

    losses: list[float]
    accuracy: float
    seconds: float  # a step
    peak: float | None  # MiB above the start


def _memory(field: str) -> float | None:
    """Give a field of this process's memory in MiB, where Linux tells."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return int(status.partition(field + ":")[2].split()[0]) / 1024


def _forget_peak() -> None:
    """Give freed memory back, and set the high-water mark to what is in use, where Linux lets one."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def train(form: Form, offset: float, steps: int, seed: int, learn: Texts, test: Texts) -> Run:
    """Train a classifier."""
    torch.manual_seed(seed)
    model = Classifier(form, offset)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    order = torch.randint(len(learn.topics), (steps, BATCH))
    losses = []
    _forget_peak()
    before, start = _memory("VmRSS"), time.perf_counter()
    for batch in order:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(learn.words[batch]), learn.topics[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    seconds = (time.perf_counter() - start) / steps
    highest = _memory("VmHWM")
    with torch.no_grad():
        right = (model(test.words).argmax(1) == test.topics).float().mean().item()
    peak = None if highest is None or before is None else highest - before
    return Run(losses, right, seconds, peak)


def main(arguments: list[str] | None = None) -> int:
    """Train with each form, print what came, and say whether the losses agree."""
    parser = argparse.ArgumentParser(prog="python -m nbfagg.torch.example", description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    learn, test = read_texts()
    print(f"{len(TOPICS)} topics, {len(learn.topics)} paragraphs to learn from, {len(test.topics)} to test")
    # Compiled, or loaded, before the clock runs.
    train(nbfagg.fagg, 0.0, 2, given.seed, learn, test)
    head = f"{'form':12} {'first':>8} {'last loss':>10} {'right':>7} {'ms a step':>10} {'peak MiB':>9}"
    failed = False
    for offset in (0.0, 100.0):
        print(f"\nlogits around {offset:g}\n{head}")
        runs = {}
        for name, form in (("naive", naive), ("fagg_stable", fagg_stable), ("nbfagg.fagg", nbfagg.fagg)):
            run = runs[name] = train(form, offset, given.steps, given.seed, learn, test)
            peak = "" if run.peak is None else f"{run.peak:.0f}"
            print(f"{name:12} {run.losses[0]:8.4f} {run.losses[-1]:10.4f} {run.accuracy:7.1%} "
                  f"{1e3 * run.seconds:10.1f} {peak:>9}")  # fmt: skip
        seed, ours = (torch.tensor(runs[name].losses) for name in ("fagg_stable", "nbfagg.fagg"))
        apart = (seed - ours).abs().max().item()
        agree = apart <= 1e-3
        failed |= not agree
        print(f"{'same losses within rounding' if agree else 'losses differ'}: {apart:.1e} apart at most")
        if not torch.tensor(runs["naive"].losses).isfinite().all():
            print("naive form: loss is nan")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
