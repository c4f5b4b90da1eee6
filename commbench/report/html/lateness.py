"""Who was late, and by how much: how often each rank was the slowest, and how far ranks were apart at each size."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from commbench.errors import SpecError
from commbench.layouts import Groups, expand
from commbench.records import Machine, Measurement

_MOST_LINES = 7
_ENOUGH = 20  # samples: with fewer the 95th percentile would be the maximum in disguise


class RankShare(NamedTuple):
    """How often a rank was the slowest of its group.

    slowest    samples in which it was
    samples    samples in which it took part
    by_chance  the share that it would have if no rank differed: 1 / ranks of the group, averaged over samples
    """

    rank: int
    slowest: int
    samples: int
    by_chance: float

    @property
    def share(self) -> float:
        return self.slowest / self.samples

    @property
    def excess(self) -> float:
        """How many times as often as by chance."""
        return self.share / self.by_chance


class SkewAt(NamedTuple):
    """Microseconds between the slowest and the fastest rank, over the samples of one size; p95 from 20 samples on."""

    nbytes: int
    samples: int
    p25_us: float
    p50_us: float
    p75_us: float
    p95_us: float | None


class SkewLine(NamedTuple):
    label: str
    points: Sequence[SkewAt]


class Lateness(NamedTuple):
    """ranks: in ascending order, only those that took part. lines: one for each collective and backend."""

    ranks: Sequence[RankShare]
    lines: Sequence[SkewLine]
    left_out: int = 0  # lines


def lateness(machine: Machine, measurements: Iterable[Measurement]) -> Lateness:
    """Groups of one rank and control measurements do not count."""
    told = [m for m in measurements if not m.control and m.status == "ok" and m.ranks > 1]
    lines = _lines(told)
    return Lateness(_ranks(machine, told), lines[:_MOST_LINES], len(lines[_MOST_LINES:]))


def _ranks(machine: Machine, measurements: Iterable[Measurement]) -> list[RankShare]:
    last: dict[tuple[str, int, int], Counter[int]] = {}
    for m in measurements:
        if m.slowest:
            last.setdefault((m.case.groups, m.group, m.ranks), Counter()).update(m.slowest)
    layouts: dict[str, Groups] = {}
    slowest: Counter[int] = Counter()
    samples: Counter[int] = Counter()
    chance: dict[int, float] = {}
    for (symbol, index, size), counts in last.items():
        members = _members(layouts, machine, symbol, index, size)
        total = sum(counts.values())
        for rank in members:
            slowest[rank] += counts[rank]
            samples[rank] += total
            chance[rank] = chance.get(rank, 0.0) + total / size
    return [RankShare(rank, slowest[rank], samples[rank], chance[rank] / samples[rank]) for rank in sorted(samples)]


def _members(layouts: dict[str, Groups], machine: Machine, symbol: str, index: int, size: int) -> Sequence[int]:
    if symbol not in layouts:
        try:
            layouts[symbol] = expand(symbol, machine.host_of)
        except SpecError:  # a layout of another tool
            layouts[symbol] = ()
    groups = layouts[symbol]
    found = groups[index] if index < len(groups) else ()
    return found if len(found) == size else ()


def _lines(measurements: Sequence[Measurement]) -> list[SkewLine]:
    """Those with the most samples first."""
    found: dict[str, dict[int, list[float]]] = {}
    modes = {m.case.mode for m in measurements}
    for m in measurements:
        if m.skew:
            words = [m.case.op, m.case.backend, *([m.case.mode] if len(modes) > 1 else [])]
            found.setdefault(" · ".join(words), {}).setdefault(m.nbytes or m.case.nbytes, []).extend(m.skew)
    ordered = sorted(found.items(), key=lambda pair: -sum(map(len, pair[1].values())))
    return [SkewLine(label, [_at(nbytes, sizes[nbytes]) for nbytes in sorted(sizes)]) for label, sizes in ordered]


def _at(nbytes: int, seconds: Sequence[float]) -> SkewAt:
    p25, p50, p75, p95 = (np.quantile(seconds, (0.25, 0.5, 0.75, 0.95)) * 1e6).tolist()
    return SkewAt(nbytes, len(seconds), p25, p50, p75, p95 if len(seconds) >= _ENOUGH else None)
