"""The samples of many measurements in one flat array, and summaries of those that are equally many."""

import struct
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

_BATCH = 2**14  # samples summarised together: the intermediate arrays stay in the cache


class Ordered(NamedTuple):
    """Samples of one question after another: where in `values` they begin, and how many they are."""

    values: "Floats"
    first: "Counts"
    counts: "Counts"

    def joined(self, starts: "NDArray[np.intp]") -> "Ordered":
        """Neighbours as one, beginning at `starts`."""
        if len(starts) == len(self.counts):
            return self
        before = np.cumsum(self.counts) - self.counts
        at = np.arange(self.counts.sum()) + np.repeat(self.first - before, self.counts)
        return Ordered(self.values[at], before[starts], np.add.reduceat(self.counts, starts))

    def summary(self, width: int, summarise: "Callable[[Floats], Floats]") -> "Floats":
        """`summarise` (k x n samples -> width x k) over all that have equally many; NaN where none are."""
        out = np.full((width, len(self.counts)), np.nan)
        for length in set(self.counts.tolist()) - {0}:
            members = np.flatnonzero(self.counts == length)
            step = max(1, _BATCH // length)
            for start in range(0, len(members), step):
                some = members[start : start + step]
                out[:, some] = summarise(self.values[self.first[some, None] + np.arange(length)])
        return out


class Samples:
    """Collects; Python's own numbers would take several times the memory."""

    def __init__(self) -> None:
        self._values, self._counts = bytearray(), array("q")

    def add(self, block: Sequence[Sequence[float]]) -> None:
        counts = list(map(len, block))
        # A quarter of the time that array or numpy take on short tuples.
        self._values += struct.pack(f"{sum(counts)}d", *chain.from_iterable(block))
        self._counts.extend(counts)

    def in_order(self, order: "NDArray[np.intp]") -> Ordered:
        """Those of the answers in `order`, in that order."""
        counts = np.array(self._counts)
        return Ordered(np.frombuffer(self._values), (np.cumsum(counts) - counts)[order], counts[order])
