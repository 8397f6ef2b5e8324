"""``nbfagg demo``: the attention of a real transformer, aggregated to one weight a word.

The logits are those of ``nbfagg/data`` (its README states their origin). A word that the model cuts into
several tokens gets the sum of their weights: alpha is a probability over the tokens, so that is the word's.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import nbfagg

SHIFT = 110  # moves every logit of the demo to where its exponential is above the largest float32

# From least to most, in the 256-colour cube: the low end recedes on black terminals and shows on white ones.
RAMP = (17, 53, 89, 125, 161, 203, 209, 215, 221, 228)


class Logits(NamedTuple):
    """The shipped attention logits.

    Attributes
    ----------
    logits : (B, L, N, H) float32 array
        Sentence, key token, head, query token; -inf at padding.
    lengths : (B,) int64 array
        How many of the L tokens each sentence has.
    tokens : (B, L) str array
        The key tokens as WordPiece has them.
    sentences : (B,) str array
        The sentences as written.
    layer : () int64 array
        Which layer of the model the logits are of.
    """

    logits: NDArray[np.float32]
    lengths: NDArray[np.int64]
    tokens: NDArray[np.str_]
    sentences: NDArray[np.str_]
    layer: NDArray[np.int64]


class Word(NamedTuple):
    """A word and its weight."""

    text: str
    weight: float


def load() -> Logits:
    """Load the shipped logits."""
    path = resources.files("nbfagg") / "data" / "minilm_attention.npz"
    with path.open("rb") as file, np.load(file) as archive:
        return Logits(*(archive[name] for name in Logits._fields))


def join(tokens: Sequence[str], weights: Sequence[float], sentence: str) -> list[Word]:
    """Join WordPiece tokens to words, spelled as in the sentence, each with the sum of its tokens' weights.

    Examples
    --------
    >>> join(["[CLS]", "sub", "##tract", "[SEP]"], [0.5, 0.2, 0.2, 0.1], "Subtract")
    [Word(text='[CLS]', weight=0.5), Word(text='Subtract', weight=0.4), Word(text='[SEP]', weight=0.1)]
    """
    words: list[Word] = []
    for token, weight in zip(tokens, weights, strict=True):
        if token.startswith("##") and words:
            text, before = words.pop()
            words.append(Word(text + token[2:], before + float(weight)))
        else:
            words.append(Word(token, float(weight)))
    # The model reads lower case; the reader need not.
    written, at = [], 0
    for text, weight in words:
        start = sentence.lower().find(text, at)
        if start >= 0:
            at = start + len(text)
            text = sentence[start:at]
        written.append(Word(text, weight))
    return written


def colours() -> int:
    """Return how many colours stdout shows: 0, 256, or 2**24.

    None where stdout is not a terminal, for ``TERM=dumb``, and where the user set ``NO_COLOR``.
    """
    terminal = sys.stdout is not None and sys.stdout.isatty()
    if not terminal or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("", "dumb"):
        return 0
    return 2**24 if os.environ.get("COLORTERM") in ("truecolor", "24bit") else 256


def _rgb(code: int) -> tuple[int, int, int]:
    """Return the red, green and blue of a colour of the 6 x 6 x 6 cube."""
    levels = (0, 95, 135, 175, 215, 255)
    code -= 16
    return levels[code // 36], levels[code // 6 % 6], levels[code % 6]


def shade(text: str, part: float, depth: int) -> str:
    """Put `text` on the colour that is `part` (0 to 1, cut there) of the ramp's way, in `depth` colours."""
    place = min(max(part, 0.0), 1.0) * (len(RAMP) - 1)
    if depth > 256:
        low = min(int(place), len(RAMP) - 2)
        ends = zip(_rgb(RAMP[low]), _rgb(RAMP[low + 1]), strict=True)
        red, green, blue = (round(a + (place - low) * (b - a)) for a, b in ends)
        back = f"2;{red};{green};{blue}"
    else:
        red, green, blue = _rgb(RAMP[round(place)])
        back = f"5;{RAMP[round(place)]}"
    # Black or white letters, whichever stands off: the weights are those of luminance.
    ink = 16 if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else 231
    return f"\x1b[38;5;{ink};48;{back}m{text}\x1b[0m"


def heat(words: Sequence[Word], top: float, depth: int, width: int) -> Iterator[str]:
    """Yield the lines of a heat map: shaded words, and under each its weight.

    Parameters
    ----------
    words : sequence of Word
        The words of one sentence.
    top : float
        The weight at which the colour is full.
    depth : int
        How many colours the terminal shows, see `colours`.
    width : int
        The columns that a line may take.
    """
    above = below = ""
    used = 0
    for text, weight in words:
        cell = max(len(text) + 2, 6)
        if used and used + cell > width:
            yield above
            yield below.rstrip()
            above, below, used = "", "", 0
        above += shade(text.center(cell), weight / top, depth)
        below += f"{weight:.3f}".center(cell)
        used += cell
    yield above
    yield below.rstrip()


def bars(words: Sequence[Word], top: float, column: int, width: int) -> Iterator[str]:
    """Yield a line a word: the word, its weight, and a bar that is full at `top` and cut (``>``) above it.

    Parameters
    ----------
    words : sequence of Word
        The words of one sentence.
    top : float
        The weight whose bar fills the line.
    column : int
        The columns of the longest word.
    width : int
        The columns that a line may take.
    """
    room = width - column - 12
    for text, weight in words:
        bar = "#" * round(room * weight / top) if weight <= top else "#" * (room - 1) + ">"
        yield f"  {text:<{column}}  {weight:.4f}  {bar}".rstrip()


def run(sentence: int | None = None, *, plain: bool = False) -> int:
    """Show the demo.

    Parameters
    ----------
    sentence : int, optional
        Which one to show, counted from 1; all by default.
    plain : bool
        Numbers and bars even on a terminal with colours.

    Returns
    -------
    int
        0; or 1 where the moved logits do not give what is said of them.
    """
    from nbfagg import reference

    data = load()
    depth = 0 if plain else colours()
    width = min(shutil.get_terminal_size().columns, 100) if depth else 80
    heads, queries = data.logits.shape[2:]
    print("Which words does a transformer attend to? The attention logits of a real one")
    print(f"(MiniLM, layer {data.layer}) are an array (B, L, N, H) = {data.logits.shape}, float32, with")
    print(f"-inf for padding. fagg sums their exponentials over {heads} heads and {queries} queries to")
    print("one weight a word, 1 a sentence.", flush=True)

    alpha = nbfagg.fagg(data.logits)
    sentences = [
        join(data.tokens[b, :n].tolist(), alpha[b, :n].tolist(), str(data.sentences[b]))
        for b, n in enumerate(data.lengths)
    ]
    # One scale for all, without [CLS], so that shades compare between words and between sentences.
    top = max(weight for words in sentences for text, weight in words if text != "[CLS]")
    column = max(len(text) for words in sentences for text, _ in words)
    for b, words in enumerate(sentences):
        if sentence is None or sentence == b + 1:
            print()
            if depth:
                lines = heat(words, top, depth, width)
            else:
                print(textwrap.fill(f"{b + 1}. {data.sentences[b]}", width, subsequent_indent="   "))
                lines = bars(words, top, column, width)
            print(*lines, sep="\n")

    shown = sentences if sentence is None else sentences[sentence - 1 : sentence]
    parked = ", ".join(f"{words[0].weight:.2f}" for words in shown)
    if depth:
        print("\n 0 ", *(shade(" ", k / 31, depth) for k in range(32)), f" {top:.4f} and more", sep="")
    print(f"\n[CLS] takes {parked}, as it is known to do in such models.")
    scale = "colour" if depth else "bar"
    print(f"The {scale} is linear up to {top:.4f}, the heaviest other word, and cut above it.")

    moved = data.logits + np.float32(SHIFT)
    naive = reference.fagg(moved)
    stable = nbfagg.fagg(moved)
    broken, count = int(np.isnan(naive).sum()), int(data.lengths.sum())
    difference = float(np.abs(stable - alpha).max())
    # The sum rounds each logit by half of this at most, and so each exponential by that part of itself.
    step = float(np.spacing(moved.max()))
    same = difference <= step
    print(f"\nThe same logits + {SHIFT}, which must not change a weight:")
    print(f"  naive  {broken} of {count} tokens are NaN; exp overflows float32 at 88.72")
    print(f"  fagg   {'the same' if same else 'NOT the same'} weights; largest difference {difference:.1e}")
    return 0 if same and broken == count else 1
