"""Trials in, ratios with intervals out: what the measurements of a search prove. Pure.

A trial is one Measurement of a case. Trial k of a candidate and trial k of the default (of the same question, with no
settings of the search) were made right after one another, in random order: what both have in common, a busy moment or
a slow host, cancels in the logarithm of their ratio. That difference is the unit, and its spread over trials the
noise. A trial is one figure, its median; the samples within do not tell what the next trial would give.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from commbench.records import Case, Measurement
from commbench.stats.ratios import moderated, student
from commbench.tune.candidates import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


_FAR = 3.0  # standard deviations from the middle beyond which a difference counts as that far
_MAD = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


class Point(msgspec.Struct, frozen=True):
    """A question without the settings of the search."""

    case: Case

    @classmethod
    def of(cls, case: Case) -> "Point":
        return cls(msgspec.structs.replace(case, settings=()))

    @property
    def series(self) -> Case:
        """What all sizes of it have in common."""
        return msgspec.structs.replace(self.case, nbytes=0)


class Trials:
    """The figures of a search: for each point, settings and round the log of seconds, NaN for a trial without one.

    The round of a trial is its Measurement's `launch`; of two trials in one round the last counts.
    """

    def __init__(self, measurements: Iterable[Measurement] = ()) -> None:
        self.logs: dict[Point, dict[Settings, dict[int, float]]] = {}
        self.void: dict[tuple[Point, Settings], str] = {}
        self.about: dict[Point, tuple[int, int]] = {}  # ranks of the group, bytes really moved
        trials: dict[tuple[Case, int], list[Measurement]] = {}
        for m in measurements:
            if not m.control:
                trials.setdefault((m.case, m.launch), []).append(m)
        for rows in trials.values():
            self.add(rows)

    def add(self, rows: Sequence[Measurement]) -> None:
        """One trial: a Measurement a group of the layout, of which the slowest counts."""
        point, settings = Point.of(rows[0].case), rows[0].case.settings
        why = next((_why(m) for m in rows if _why(m)), "")
        if why:
            self.void.setdefault((point, settings), why)
        figure = math.nan if why else max(math.log(float(np.median(m.seconds))) for m in rows)
        self.logs.setdefault(point, {}).setdefault(settings, {})[rows[0].launch] = figure
        self.about.setdefault(point, (rows[0].ranks, rows[0].nbytes))

    def rounds(self, point: Point) -> int:
        """How many rounds the default has."""
        return len(self.logs.get(point, {}).get((), ()))

    def next_round(self, point: Point) -> int:
        """The number of the next round: beyond every one that was begun, also by a search that was cut off."""
        return 1 + max((k for figures in self.logs.get(point, {}).values() for k in figures), default=-1)

    def tried(self, point: Point) -> list[Settings]:
        """What has figures at this point, the default first where it has."""
        return [s for s in sorted(self.logs.get(point, {})) if (point, s) not in self.void]

    def against(self, point: Point, settings: Settings, base: Settings) -> "Floats":
        """log(time / time of `base`) of each round that both have."""
        mine, other = (self.logs.get(point, {}).get(s, {}) for s in (settings, base))
        found = np.array([figure - other[k] for k, figure in mine.items() if k in other], np.float64)
        return found[~np.isnan(found)]

    def log_time(self, point: Point, settings: Settings) -> float:
        """Of the default: the centre of its logs. Of others: that, and the centre of the differences from it."""
        base = self.logs.get(point, {}).get((), {})
        known = [value for value in base.values() if not math.isnan(value)]
        middle = centre(np.array(known))
        return middle + centre(self.against(point, settings, ())) if settings else middle


def _why(m: Measurement) -> str:
    if m.status != "ok":
        return m.why or m.status
    if not m.seconds or min(m.seconds) <= 0:
        return "no time above 0"
    if m.wrong is None and m.case.op != "barrier":
        return "its data was not checked"
    return ""


def centre(row: "Floats") -> float:
    """The mean of the middle half: a slow trial does not move it."""
    if not len(row):
        return math.nan
    cut = (len(row) + 1) // 4
    return float(np.sort(row)[cut : len(row) - cut].mean())


def _tamed(differences: "Sequence[Floats]") -> "list[Floats]":
    """Rows whose far values are drawn to three times the scatter of all rows from the row's middle (winsorised): one
    trial in a busy moment would otherwise be most of the variance, and so hide what the others show."""
    middles = [float(np.median(row)) if len(row) else math.nan for row in differences]
    apart = [
        np.abs(row - middle) * math.sqrt(len(row) / (len(row) - 1))
        for row, middle in zip(differences, middles, strict=True)
        if len(row) > 1
    ]
    if not apart:
        return list(differences)
    reach = _FAR * _MAD * float(np.median(np.concatenate(apart)))
    return [np.clip(row, middle - reach, middle + reach) for row, middle in zip(differences, middles, strict=True)]


class Interval(NamedTuple):
    """log ratio and half its interval (NaN: one trial tells nothing of the next), and from how many trials."""

    log_ratio: float
    half: float
    trials: int

    @property
    def change(self) -> float:
        """As a share: -0.1 takes a tenth less."""
        return math.expm1(self.log_ratio)

    @property
    def low(self) -> float:
        return self.log_ratio - self.half

    @property
    def high(self) -> float:
        return self.log_ratio + self.half


def intervals(
    differences: "Sequence[Floats]", blocks: Sequence[Hashable], confidence: float, tests: int
) -> list[Interval]:
    """An interval for the mean of each row of differences; `tests` of them hold together (Bonferroni).

    Rows with few trials are helped by the others (moderated t, see commbench.stats.ratios); here it is the variance
    of a single difference that rows are taken to have alike, since they may have unlike numbers of trials. Rows of
    one block (a point) share their rounds and their base, so they say partly the same; rows of two blocks come from
    different trials.
    """
    differences = _tamed(differences)
    counts = np.array([len(row) for row in differences], np.float64)
    means = [float(row.mean()) if len(row) else math.nan for row in differences]
    half = np.full(len(differences), np.nan)
    known = np.flatnonzero(counts > 1)
    if len(known):
        most = int(counts.max())
        place = {block: k * most for k, block in enumerate(dict.fromkeys(blocks[k] for k in known.tolist()))}
        apart = np.zeros((len(known), most * len(place)))
        for k, row in enumerate(known.tolist()):
            at = place[blocks[row]]
            apart[k, at : at + len(differences[row])] = differences[row] - means[row]
        freedom = counts[known] - 1
        length = np.linalg.norm(apart, axis=1, keepdims=True)
        residuals = np.divide(apart, length, out=np.zeros_like(apart), where=length > 0)
        variance, freedom = moderated(length[:, 0] ** 2 / freedom, freedom, residuals)
        half[known] = student(freedom, (1 - confidence) / max(tests, 1)) * np.sqrt(variance / counts[known])
    return [Interval(m, float(h), int(c)) for m, h, c in zip(means, half, counts, strict=True)]
