"""Which sequences of the tokenised documents a store gets: the ways of the papers, by name.

concat        all documents one after the other, cut into sequences in order (run_clm's grouping; PV-Tuning's tuning)
unbiased      windows at random places of all documents one after the other (GPTQ, AQLM on WikiText-2): every token is
              as likely as any other
biased        a random document among those long enough, then a random window in it (GPTQ's C4, AQLM's RedPajama):
              short documents are never seen, and long ones as often as those that just suffice
biased-start  the start of a random document among those long enough (QuIP#'s RedPajama)
"""

import random
from typing import Any, Iterator

from errors import Error

NAMES = ("concat", "unbiased", "biased", "biased-start")
_TOGETHER = 256  # sequences checked for overlap in one go
_PATIENCE = 20  # draws a sequence wanted, at most


class Chosen:
    """Where the chosen sequences start, and how many were left out."""

    def __init__(self, length: int, wanted: int) -> None:
        self.length = length
        self.wanted = wanted  # 0: all
        self.starts: list[int] = []
        self.dropped = 0  # they share text with an excluded store

    def full(self) -> bool:
        """Whether no more are wanted."""
        return 0 < self.wanted <= len(self.starts)

    def take(self, tokens: Any, starts: list[int], excluded: Any) -> None:
        """Of candidates in order those that share nothing, until there are enough."""
        import numpy

        for first in range(0, len(starts), _TOGETHER):
            some = starts[first : first + _TOGETHER]
            shared = excluded.shared(numpy.stack([tokens[start : start + self.length] for start in some]))
            for start, windows in zip(some, shared):
                if self.full():
                    return
                if windows:
                    self.dropped += 1
                else:
                    self.starts.append(start)


def take_in_order(chosen: Chosen, tokens: Any, excluded: Any, first: int) -> int:
    """concat: whole sequences from `first` on; returns where the next one starts."""
    end = first + (len(tokens) - first) // chosen.length * chosen.length
    for start in range(first, end, _TOGETHER * chosen.length):
        if chosen.full():
            break
        chosen.take(tokens, list(range(start, min(end, start + _TOGETHER * chosen.length), chosen.length)), excluded)
    return end


def take_at_random(chosen: Chosen, tokens: Any, ends: Any, excluded: Any, sampling: str, seed: int) -> None:
    """unbiased, biased, biased-start: drawn until there are enough, none twice."""
    draws = _draws(chosen.length, len(tokens), ends, sampling, random.Random(seed))
    seen: set[int] = set()
    left = _PATIENCE * chosen.wanted + 100
    while not chosen.full():
        some = []
        while left > 0 and len(some) < min(_TOGETHER, chosen.wanted - len(chosen.starts)):
            start = next(draws)
            left -= 1
            if start not in seen:
                seen.add(start)
                some.append(start)
        if not some:
            raise Error(f"--sequences {chosen.wanted}: only {len(chosen.starts)} different ones of {chosen.length} tokens"
                        f" were found ({chosen.dropped} share text with --exclude): give more text, or ask for fewer")
        chosen.take(tokens, some, excluded)


def _draws(length: int, tokens: int, ends: Any, sampling: str, generator: random.Random) -> Iterator[int]:
    import numpy

    if sampling == "unbiased":
        if tokens < length:
            raise Error(f"--ctx {length}: there are {tokens} tokens in all: give more text or a smaller --ctx")
        while True:
            yield generator.randrange(tokens - length + 1)
    lengths = numpy.diff(ends.astype(numpy.int64), prepend=0)
    usable = numpy.flatnonzero(lengths >= length)
    if not usable.size:
        raise Error(f"--sampling {sampling}: no document has {length} tokens (the longest has"
                    f" {lengths.max() if lengths.size else 0}): use a smaller --ctx, or --sampling unbiased")
    while True:
        document = int(usable[generator.randrange(usable.size)])
        start = int(ends[document]) - int(lengths[document])
        yield start + (generator.randrange(int(lengths[document]) - length + 1) if sampling == "biased" else 0)
