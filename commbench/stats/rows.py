"""Measurements -> rows: launches pooled, one row for each group of each case, in an order that reads well.

A run may hold 100,000 measurements, so samples are summarised in arrays (see samples.py), never row by row.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from commbench.collectives import COLLECTIVES, bandwidths
from commbench.records import Case, Measurement
from commbench.records.measurement import Status
from commbench.stats.samples import Ordered, Samples
from commbench.stats.summary import median_interval, pool_launches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_WORST: tuple[Status, ...] = ("ok", "skipped", "failed", "hung")
# A quantile further out than the samples reach would be the maximum in disguise.
_ENOUGH = {0.95: 20, 0.99: 100}


class Row(msgspec.Struct, frozen=True, gc=False):
    """One line of the table: one group of one case, all its launches together. None: not known.

    Times are microseconds over the samples of all launches (each sample: the slowest rank); the median and
    its interval are pooled launch by launch (see pool_launches). Bandwidths follow from the median. `nbytes`
    is what was moved (where nothing was: what was asked). `between_us` is the standard deviation of the
    launch medians. `slowest` is the rank that was slowest in most samples, `slowest_share` in how many.
    `wire_us` is the least time that the links of a known fabric allow, `wire_link` the link that sets it
    (see commbench.model.wire, which fills them in).
    """

    op: str
    backend: str
    nbytes: int
    dtype: str
    redop: str | None
    mode: str
    group: str
    ranks: int | None
    in_place: bool
    settings: dict[str, str]
    launches: int
    samples: int
    median_us: float | None
    ci_low_us: float | None
    ci_high_us: float | None
    min_us: float | None
    p95_us: float | None
    p99_us: float | None
    mean_us: float | None
    skew_us: float | None
    algbw_gbps: float | None
    busbw_gbps: float | None
    wrong: int | None
    status: Status
    why: str | None
    stopped: str | None
    clock: str | None
    root: int
    asked: int
    between_us: float | None
    slowest: int | None
    slowest_share: float | None
    wire_us: float | None = None
    wire_link: str | None = None

    @property
    def groups(self) -> str:
        """The layout's symbol: `node` of group `node[3]`."""
        return self.group.partition("[")[0]

    @property
    def layout(self) -> str:
        """As `groups`, but the rounds of `pairs` are one layout: only together do they meet every pair."""
        symbol = self.group.partition("[")[0]
        return "pairs" if symbol.startswith("pairs/") else symbol

    @property
    def half_width(self) -> float | None:
        """Half of the interval, as a share of the median."""
        if not self.median_us or self.ci_low_us is None or self.ci_high_us is None:
            return None
        return (self.ci_high_us - self.ci_low_us) / 2 / self.median_us

    @property
    def wire_share(self) -> float | None:
        """The least time that the links allow, as a share of the median."""
        return self.wire_us / self.median_us if self.wire_us is not None and self.median_us else None


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How far the groups of one case are apart. The medians are those over the groups."""

    groups: int
    fastest: Row
    slowest: Row
    median_us: float
    median_busbw_gbps: float | None
    ratio: float | None


class _Answer(NamedTuple):
    """A Measurement without its samples."""

    case: Case
    group: int
    launch: int
    ranks: int
    nbytes: int
    status: Status
    why: str
    clock: str
    wrong: int | None
    stopped: str


_answer = attrgetter(*_Answer._fields)


def rows(measurements: Iterable[Measurement], confidence: float = 0.95, *, who: bool = True) -> list[Row]:
    """The rows of a run, without control measurements; of several answers to one question the last counts.

    Each measurement is read once and not kept, so an iterator over a journal needs little memory. With
    `who` false the rank that was slowest is not looked for: the text table does not tell it.
    """
    answers: list[tuple[Any, ...]] = []
    times, skews, slowest = Samples(), Samples(), Samples()
    for m in measurements:
        if not m.control:
            answers.append(_answer(m))
            times.add(m.seconds)
            skews.add(m.skew)
            slowest.add(m.slowest if who else ())
    if not answers:
        return []
    told = dict(zip(_Answer._fields, zip(*answers, strict=True), strict=True))
    order, starts = _order(told)
    launches = times.in_order(order)
    pooled = {name: [column[k] for k in order[starts].tolist()] for name, column in told.items()}
    lengths = np.diff(np.append(starts, len(order)))
    for row in np.flatnonzero(lengths > 1).tolist():
        members = range(starts[row], starts[row] + lengths[row])
        sampled = [bool(launches.counts[k]) for k in members]
        one = _pooled([_Answer(*answers[order[k]]) for k in members], sampled)
        for name, value in one._asdict().items():
            pooled[name][row] = value
    skew, last = skews.in_order(order).joined(starts), slowest.in_order(order).joined(starts)
    alone = np.array(pooled["ranks"]) == 1  # nobody to be slower than
    columns = _times(launches, starts, confidence) | _who(skew, last, alone)
    columns |= _facts(pooled, columns["median_us"], columns["samples"])
    known = [field for field in Row.__struct_fields__ if field in columns]
    return list(map(Row, *(columns[field] for field in known)))


def _order(told: Mapping[str, Sequence[Any]]) -> "tuple[NDArray[np.intp], NDArray[np.intp]]":
    """Series by series (all that is the same but the size), then by size, group and launch; where rows begin.

    Sorted by integers: hashing and comparing cases would take longer than all the statistics.
    """
    cases: Sequence[Case] = told["case"]
    of = [_series(case) for case in cases]
    place = {one: k for k, one in enumerate(sorted(set(of)))}
    nbytes = [case.nbytes for case in cases]
    keys = np.column_stack(([place[one] for one in of], nbytes, told["group"], told["launch"]))
    order = np.lexsort(keys.T[::-1])  # stable: of equal ones the last answer is the last
    keys = keys[order]
    last = np.append((keys[1:] != keys[:-1]).any(axis=1), True)
    keys = keys[last, :3]
    first = np.append(True, (keys[1:] != keys[:-1]).any(axis=1))
    return order[last], np.flatnonzero(first)


def _series(case: Case) -> tuple[Any, ...]:
    return (
        case.backend,
        case.op,
        case.dtype,
        case.redop,
        case.mode,
        _natural(case.groups),
        case.in_place,
        case.root,
        case.settings,
    )


@lru_cache(maxsize=2**16)
def _natural(symbol: str) -> tuple[str | int, ...]:
    """Sorts pairs/10 after pairs/9."""
    return tuple(int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", symbol)))


def _pooled(launches: Sequence[_Answer], sampled: Sequence[bool]) -> _Answer:
    """The launches of one row as if they were one: the worst status, every reason."""
    counted = [answer.wrong for answer in launches if answer.wrong is not None]
    return launches[0]._replace(
        status=max((answer.status for answer in launches), key=_WORST.index),
        why="; ".join(_distinct(answer.why for answer in launches)),
        ranks=max(answer.ranks for answer in launches),
        nbytes=max(answer.nbytes for answer in launches),
        clock=launches[sampled.index(True) if any(sampled) else 0].clock,
        wrong=sum(counted) if counted else None,
        stopped=", ".join(_distinct(answer.stopped for answer in launches)),
    )


def _distinct(texts: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(text for text in texts if text)


def _facts(
    told: Mapping[str, Sequence[Any]], medians: Sequence[float | None], samples: Sequence[int]
) -> dict[str, Sequence[Any]]:
    """The columns that are read off, and the bandwidths that follow from the median."""
    cases: Sequence[Case] = told["case"]
    settings = {case.settings: dict(case.settings) for case in cases}
    several = {case.groups for case, group in zip(cases, told["group"], strict=True) if group}
    catalogue = [COLLECTIVES[case.op] for case in cases]
    nbytes = [
        0 if collective.factor is None else moved or case.nbytes
        for case, moved, collective in zip(cases, told["nbytes"], catalogue, strict=True)
    ]
    rates = [
        bandwidths(case.op, moved, ranks or 1, median / 1e6 if median else 0.0)
        for case, moved, ranks, median in zip(cases, nbytes, told["ranks"], medians, strict=True)
    ]
    return {
        **{name: list(map(attrgetter(name), cases)) for name in ("op", "backend", "dtype", "mode", "in_place", "root")},
        **{name: [value or None for value in told[name]] for name in ("ranks", "why", "stopped")},
        "nbytes": nbytes,
        "asked": [case.nbytes for case in cases],
        "redop": [c.redop if collective.reduces else None for c, collective in zip(cases, catalogue, strict=True)],
        "group": [
            f"{case.groups}[{group}]" if case.groups in several else case.groups
            for case, group in zip(cases, told["group"], strict=True)
        ],
        "settings": [settings[case.settings] for case in cases],
        "algbw_gbps": [algbw for algbw, _ in rates],
        "busbw_gbps": [busbw for _, busbw in rates],
        "wrong": told["wrong"],
        "status": told["status"],
        "clock": [clock if n else None for clock, n in zip(told["clock"], samples, strict=True)],
    }


def _who(skews: Ordered, slowest: Ordered, alone: "NDArray[np.bool_]") -> dict[str, Sequence[Any]]:
    """The columns about who was how much later than the others."""
    median = skews.summary(1, lambda batch: np.median(batch, axis=1)[None])
    most = slowest.summary(2, _most_often)
    median[:, alone] = most[:, alone] = np.nan
    return {
        "skew_us": _known(_us(median[0])),
        "slowest": [None if rank is None else int(rank) for rank in _known(most[0])],
        "slowest_share": _known(most[1]),
    }


def _us(seconds: "Floats") -> "Floats":
    """Microseconds to the picosecond: what is behind comes from the conversion."""
    return np.round(seconds * 1e6, 6)


def _known(column: "Floats") -> list[float | None]:
    """None where there is no number."""
    values: list[float | None] = column.tolist()
    for k in np.flatnonzero(np.isnan(column)).tolist():
        values[k] = None
    return values


def _times(each: Ordered, starts: "NDArray[np.intp]", confidence: float) -> dict[str, Sequence[Any]]:
    """The columns about time: launch by launch, then pooled."""
    whole = each.joined(starts)
    out = np.full((8, len(starts)), np.nan)  # median, low, high, between, min, p95, p99, mean
    out[4:] = whole.summary(4, _order_statistics)
    sampled = each.counts > 0
    launches = np.add.reduceat(sampled.astype(np.int64), starts)
    first = np.cumsum(launches) - launches
    estimates = each.summary(3, lambda batch: np.stack(median_interval(batch, confidence)))[:, sampled]
    for count in set(launches.tolist()) - {0}:
        members = np.flatnonzero(launches == count)
        medians, lows, highs = estimates[:, first[members][:, None] + np.arange(count)]
        out[:4, members] = pool_launches(medians, lows, highs, confidence)
    names = ("median_us", "ci_low_us", "ci_high_us", "between_us", "min_us", "p95_us", "p99_us", "mean_us")
    return {
        "launches": launches.tolist(),
        "samples": whole.counts.tolist(),
        **{name: _known(_us(column)) for name, column in zip(names, out, strict=True)},
    }


def _order_statistics(batch: "Floats") -> "Floats":
    """Rows (min, p95, p99, mean)."""
    n = batch.shape[1]
    ordered = np.sort(batch, axis=1)
    unknown = np.full(len(batch), np.nan)
    tails = [ordered[:, math.ceil(q * n) - 1] if n >= least else unknown for q, least in _ENOUGH.items()]
    return np.stack([ordered[:, 0], *tails, batch.mean(axis=1)])


def _most_often(batch: "Floats") -> "Floats":
    """Rows (the most frequent value, its share); of equals the smallest."""
    n = batch.shape[1]
    ordered = np.sort(batch, axis=1)
    index = np.arange(n)
    starts = np.ones(ordered.shape, dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = index + 1 - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
    at = run.argmax(axis=1)
    row = np.arange(len(batch))
    return np.stack([ordered[row, at], run[row, at] / n])


def spread(rows: Iterable[Row]) -> list[Spread]:
    """For each case that several groups answered: the fastest, the median and the slowest of them."""
    cases: dict[tuple[Any, ...], list[tuple[float, Row]]] = {}
    for row in rows:
        if row.median_us is not None and row.group != "world":  # which is one group by definition
            cases.setdefault((*series(row), row.asked), []).append((row.median_us, row))
    return [_spread(group) for group in cases.values() if len(group) > 1]


def series(row: Row) -> tuple[Any, ...]:
    """What is the same along a line of the plot: all but the size and the group."""
    return (
        row.backend,
        row.op,
        row.dtype,
        row.redop,
        row.mode,
        row.layout,
        row.in_place,
        row.root,
        tuple(row.settings.items()),
    )


def _spread(group: Sequence[tuple[float, Row]]) -> Spread:
    ordered = sorted(group, key=lambda timed: timed[0])
    (best, fastest), (worst, slowest) = ordered[0], ordered[-1]
    rates = [row.busbw_gbps for _, row in group if row.busbw_gbps is not None]
    return Spread(
        groups=len(group),
        fastest=fastest,
        slowest=slowest,
        median_us=statistics.median(time for time, _ in group),
        median_busbw_gbps=statistics.median(rates) if rates else None,
        ratio=worst / best if best else None,
    )
