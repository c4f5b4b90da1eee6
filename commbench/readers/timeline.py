"""Intervals of time: how much is covered, and how much of one is covered by others. Arrays in, arrays out."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Cover(NamedTuple):
    """Disjoint intervals by ascending start, and the length covered before each of them."""

    starts: Floats
    ends: Floats
    before: Floats

    @property
    def length(self) -> float:
        return float(self.before[-1] + self.ends[-1] - self.starts[-1]) if len(self.starts) else 0.0

    def until(self, times: Floats) -> Floats:
        """Length covered before each time."""
        if not len(self.starts):
            return np.zeros(len(times))
        k = np.searchsorted(self.starts, times, side="right") - 1
        inside = np.minimum(times, self.ends[k]) - self.starts[k]
        return np.where(k < 0, 0.0, self.before[k] + inside)

    def within(self, starts: Floats, ends: Floats) -> Floats:
        """Length covered inside each of these intervals."""
        return self.until(ends) - self.until(starts)


def cover(starts: Floats, ends: Floats) -> Cover:
    """The union of intervals, in any order and overlapping in any way."""
    if not len(starts):
        return Cover(starts, ends, starts)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    first = np.ones(len(starts), dtype=bool)
    first[1:] = starts[1:] > ends[:-1]
    begins = starts[first]
    finishes = ends[np.append(first[1:], True)]
    lengths = finishes - begins
    return Cover(begins, finishes, np.cumsum(lengths) - lengths)


def holder(starts: Floats, ends: Floats, times: Floats) -> NDArray[np.int64]:
    """For each time the index of the interval that holds it (of the last that began before it); -1: none does."""
    if not len(starts):
        return np.full(len(times), -1, dtype=np.int64)
    order = np.argsort(starts, kind="stable")
    k = np.searchsorted(starts[order], times, side="right") - 1
    index = order[k]
    return np.where((k >= 0) & (times <= ends[index]), index, -1).astype(np.int64)
