"""Seconds of a collective by its bytes: monotone lines through measured sizes, and where the measurements end.

Monotone, because a longer message can always carry a shorter one. Beyond the measured sizes there is no measurement:
there the interval is what monotony alone tells.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from commbench.errors import SpecError
from commbench.records import Measurement
from commbench.stats.rows import Row, rows, series

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

Side = Literal["seconds", "low", "high"]
SIDES: tuple[Side, Side, Side] = ("seconds", "low", "high")


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one collective on one set of ranks by its bytes; all tuples have one entry a measured size.

    low, high  the interval; empty where a size was measured too few times to have one
    what       which collective, for sentences: `all_reduce gloo 4 ranks`
    """

    nbytes: tuple[int, ...]
    seconds: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    what: str = ""

    def at(self, nbytes: "ArrayLike", side: Side = "seconds") -> "Floats":
        """Seconds of each size: straight lines between measured sizes.

        Below the smallest its own time (low: 0), above the largest on along the last line (low: the time of the
        largest, high: infinite). NaN for low and high where there is no interval.
        """
        sizes = np.asarray(nbytes, np.float64)
        known = np.array(getattr(self, side), np.float64)
        if not len(known):
            return np.full(sizes.shape, np.nan)
        measured = np.array(self.nbytes, np.float64)
        found: Floats = np.asarray(np.interp(sizes, measured, known))
        if side == "low":
            return np.where(sizes < measured[0], 0.0, found)
        if side == "high":
            return np.where(sizes > measured[-1], np.inf, found)
        before = (measured[-2], known[-2]) if len(known) > 1 else (0.0, 0.0)
        rise = (known[-1] - before[1]) / (measured[-1] - before[0])
        return np.where(sizes > measured[-1], known[-1] + rise * (sizes - measured[-1]), found)

    def outside(self, sizes: Iterable[int]) -> tuple[int, ...]:
        """Those of the sizes that are not between the smallest and the largest measured one."""
        return tuple(sorted({size for size in sizes if not self.nbytes[0] <= size <= self.nbytes[-1]}))

    def scaled(self, factor: float) -> "Curve":
        """The same collective, `factor` times as slow at every size."""
        changed = {side: tuple(factor * value for value in getattr(self, side)) for side in SIDES}
        return msgspec.structs.replace(self, **changed)


def curve(points: Sequence[tuple[int, float, float | None, float | None]], what: str = "") -> Curve:
    """A Curve through (bytes, seconds, low, high), made monotone by the least squares of change.

    SpecError: no points, a time that is not positive, a size twice.
    """
    ordered = sorted(points)
    sizes = [point[0] for point in ordered]
    if not ordered or sizes[0] < 1 or len(set(sizes)) < len(sizes) or not all(0 < p[1] < math.inf for p in ordered):
        raise SpecError(f"{what or 'a collective'}: times of at least one size are needed, each positive and told once")
    seconds = _monotone([point[1] for point in ordered])
    if any(point[2] is None or point[3] is None for point in ordered):
        return Curve(nbytes=tuple(sizes), seconds=seconds, what=what)
    low = _monotone([point[2] or 0.0 for point in ordered])
    high = _monotone([math.inf if point[3] is None else point[3] for point in ordered])
    return Curve(
        nbytes=tuple(sizes),
        seconds=seconds,
        low=tuple(map(min, low, seconds)),
        high=tuple(map(max, high, seconds)),
        what=what,
    )


def _monotone(values: Sequence[float]) -> tuple[float, ...]:
    """The nearest sequence that never falls: neighbours that do share their mean (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        count = 1
        while blocks and blocks[-1][0] > value:
            mean, before = blocks.pop()
            value, count = (value * count + mean * before) / (count + before), count + before
        blocks.append((value, count))
    return tuple(value for value, count in blocks for _ in range(count))


def measured_curve(measurements: Iterable[Measurement], op: str, **match: object) -> Curve:
    """The Curve of a run's collective `op`; `match` are columns of Row (`ranks=4`, `dtype="float32"`).

    Only answers that were ok count; where several groups ran at once, the slowest. SpecError where nothing is
    left, or more than one series: then it names the columns in which they differ.
    """
    found = [
        row
        for row in rows(measurements)
        if row.op == op and row.status == "ok" and row.median_us and row.nbytes
        if all(getattr(row, name) == value for name, value in match.items())
    ]
    if not found:
        raise SpecError(f"no measured {op}{_told(match)}: measure it at the sizes that buckets have")
    if len({(series(row), row.ranks) for row in found}) > 1:
        names = ("backend", "dtype", "redop", "mode", "layout", "in_place", "root", "settings", "ranks")
        differ = [name for name in names if len({str(getattr(row, name)) for row in found}) > 1]
        raise SpecError(f"{op} was measured in several ways; choose one by {', '.join(differ)}")
    slowest: dict[int, Row] = {}
    for row in found:
        kept = slowest.get(row.nbytes)
        if kept is None or (row.median_us or 0) > (kept.median_us or 0):
            slowest[row.nbytes] = row
    points = [
        (
            nbytes,
            (row.median_us or 0) / 1e6,
            None if row.ci_low_us is None else row.ci_low_us / 1e6,
            None if row.ci_high_us is None else row.ci_high_us / 1e6,
        )
        for nbytes, row in slowest.items()
    ]
    return curve(points, f"{op} {found[0].backend} {found[0].ranks} ranks")


def _told(match: Mapping[str, object]) -> str:
    return " with " + ", ".join(f"{name} {value}" for name, value in match.items()) if match else ""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a collective costs, and what it costs the computing beside it.

    alone   while nothing is computed
    loaded  while the model computes; None: the same. `alone.scaled(delta)` where only a factor is known
    gamma   how many times as long computing takes while a collective runs; at least 1
    """

    alone: Curve
    loaded: Curve | None = None
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.gamma < math.inf:
            raise SpecError(f"gamma {self.gamma}: computing beside a collective takes at least as long as alone")

    def at(self, nbytes: "ArrayLike", side: Side = "seconds") -> "tuple[Floats, Floats]":
        """(seconds alone, seconds under load) of each size; under load is never the faster."""
        alone = self.alone.at(nbytes, side)
        return alone, alone if self.loaded is None else np.maximum(alone, self.loaded.at(nbytes, side))

    def outside(self, sizes: Iterable[int]) -> tuple[int, ...]:
        sizes = tuple(sizes)
        loaded = () if self.loaded is None else self.loaded.outside(sizes)
        return tuple(sorted({*self.alone.outside(sizes), *loaded}))

    @property
    def largest(self) -> int:
        """The largest size that was measured in every way."""
        return min(one.nbytes[-1] for one in (self.alone, self.loaded) if one is not None)
