"""Measurements -> rows: launches pooled, one row for each group of each case, in an order that reads well.

A run may hold 100,000 measurements, so samples are summarised in arrays of equal length, never row by row.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from commbench.collectives import COLLECTIVES, bandwidths
from commbench.records import Case, Measurement
from commbench.records.measurement import Status
from commbench.stats.summary import median_interval, pool_launches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_WORST: tuple[Status, ...] = ("ok", "skipped", "failed", "hung")
_BATCH = 2**18  # samples held as one array
# A quantile further out than the samples reach would be the maximum in disguise.
_ENOUGH = {0.95: 20, 0.99: 100}


class Row(msgspec.Struct, frozen=True, gc=False):
    """One line of the table: one group of one case, all its launches together. None: not known.

    Times are microseconds over the samples of all launches (each sample: the slowest rank); the median and
    its interval are pooled launch by launch (see pool_launches). Bandwidths follow from the median. `nbytes`
    is what was moved (where nothing was: what was asked). `between_us` is the standard deviation of the
    launch medians. `slowest` is the rank that was slowest in most samples, `slowest_share` in how many.
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


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How far the groups of one case are apart. The medians are those over the groups."""

    groups: int
    fastest: Row
    slowest: Row
    median_us: float
    median_busbw_gbps: float | None
    ratio: float | None


def rows(measurements: Iterable[Measurement], confidence: float = 0.95) -> list[Row]:
    """The rows of a run, without control measurements; of several answers to one question the last counts."""
    answers, starts = _in_order([m for m in measurements if not m.control])
    if not answers:
        return []
    stops = [*starts[1:], len(answers)]
    pooled = [_pooled(answers[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    columns = _statistics(answers, np.array(starts), pooled, confidence)
    columns |= _facts(pooled, columns["median_us"])
    return list(map(Row, *(columns[field] for field in Row.__struct_fields__)))


def _in_order(answers: Sequence[Measurement]) -> tuple[list[Measurement], list[int]]:
    """Series by series (all that is the same but the size), then by size, group and launch; where rows begin.

    Sorted by integers: hashing and comparing cases would take longer than all the statistics.
    """
    if not answers:
        return [], []
    of = [_series(m.case) for m in answers]
    place = {one: k for k, one in enumerate(sorted(set(of)))}
    keys = sorted(
        (place[one], m.case.nbytes, m.group, m.launch, k) for k, (one, m) in enumerate(zip(of, answers, strict=True))
    )
    last = [key for key, after in zip(keys, [*keys[1:], None], strict=True) if not after or key[:4] != after[:4]]
    starts = [k for k, key in enumerate(last) if k == 0 or key[:3] != last[k - 1][:3]]
    return [answers[key[4]] for key in last], starts


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


def _pooled(launches: Sequence[Measurement]) -> Measurement:
    """The launches of one row as if they were one: all samples, the worst status, every reason."""
    if len(launches) == 1:
        return launches[0]
    counted = [m.wrong for m in launches if m.wrong is not None]
    sampled = [m for m in launches if m.seconds] or launches
    return Measurement(
        case=launches[0].case,
        status=max((m.status for m in launches), key=_WORST.index),
        why="; ".join(_distinct(m.why for m in launches)),
        group=launches[0].group,
        ranks=max(m.ranks for m in launches),
        nbytes=max(m.nbytes for m in launches),
        seconds=tuple(chain.from_iterable(m.seconds for m in launches)),
        skew=tuple(chain.from_iterable(m.skew for m in launches)),
        slowest=tuple(chain.from_iterable(m.slowest for m in launches)),
        clock=sampled[0].clock,
        wrong=sum(counted) if counted else None,
        stopped=", ".join(_distinct(m.stopped for m in launches)),
    )


def _distinct(texts: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(text for text in texts if text)


def _facts(pooled: Sequence[Measurement], medians: Sequence[float | None]) -> dict[str, list[Any]]:
    """The columns that are read off, and the bandwidths that follow from the median."""
    cases = [m.case for m in pooled]
    settings = {case.settings: dict(case.settings) for case in cases}
    several = {m.case.groups for m in pooled if m.group}
    catalogue = [COLLECTIVES[case.op] for case in cases]
    nbytes = [
        0 if collective.factor is None else m.nbytes or m.case.nbytes
        for m, collective in zip(pooled, catalogue, strict=True)
    ]
    rates = [
        bandwidths(m.case.op, moved, m.ranks or 1, median / 1e6 if median else 0.0)
        for m, moved, median in zip(pooled, nbytes, medians, strict=True)
    ]
    return {
        "op": [case.op for case in cases],
        "backend": [case.backend for case in cases],
        "nbytes": nbytes,
        "dtype": [case.dtype for case in cases],
        "redop": [c.redop if collective.reduces else None for c, collective in zip(cases, catalogue, strict=True)],
        "mode": [case.mode for case in cases],
        "group": [f"{m.case.groups}[{m.group}]" if m.case.groups in several else m.case.groups for m in pooled],
        "ranks": [m.ranks or None for m in pooled],
        "in_place": [case.in_place for case in cases],
        "settings": [settings[case.settings] for case in cases],
        "samples": [len(m.seconds) for m in pooled],
        "algbw_gbps": [algbw for algbw, _ in rates],
        "busbw_gbps": [busbw for _, busbw in rates],
        "wrong": [m.wrong for m in pooled],
        "status": [m.status for m in pooled],
        "why": [m.why or None for m in pooled],
        "stopped": [m.stopped or None for m in pooled],
        "clock": [m.clock if m.seconds else None for m in pooled],
        "root": [case.root for case in cases],
        "asked": [case.nbytes for case in cases],
    }


def _statistics(
    answers: Sequence[Measurement],
    starts: "NDArray[np.int64]",
    pooled: Sequence[Measurement],
    confidence: float,
) -> dict[str, list[Any]]:
    """The columns that are computed from samples."""
    launches, times = _times(answers, starts, pooled, confidence)
    skew = _batched([m.skew for m in pooled], 1, lambda batch: np.median(batch, axis=1)[None])
    slowest = _batched([m.slowest for m in pooled], 2, _most_often)
    alone = np.array([m.ranks == 1 for m in pooled])  # nobody to be slower than
    skew[:, alone] = slowest[:, alone] = np.nan
    names = ("median_us", "ci_low_us", "ci_high_us", "between_us", "min_us", "p95_us", "p99_us", "mean_us")
    return {
        "launches": launches.tolist(),
        **{name: _known(_us(column)) for name, column in zip(names, times, strict=True)},
        "skew_us": _known(_us(skew[0])),
        "slowest": [None if rank is None else int(rank) for rank in _known(slowest[0])],
        "slowest_share": _known(slowest[1]),
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


def _times(
    answers: Sequence[Measurement],
    starts: "NDArray[np.int64]",
    pooled: Sequence[Measurement],
    confidence: float,
) -> "tuple[NDArray[np.int64], Floats]":
    """Launches with samples, and rows (median, low, high, between, min, p95, p99, mean)."""
    out = np.full((8, len(pooled)), np.nan)
    each = _batched(
        [m.seconds for m in answers],
        7,
        lambda batch: np.concatenate((np.stack(median_interval(batch, confidence)), _order_statistics(batch))),
    )
    sampled = ~np.isnan(each[0])
    launches = np.add.reduceat(sampled.astype(np.int64), starts)
    each = each[:, sampled]
    first = np.cumsum(launches) - launches
    for count in set(launches.tolist()) - {0}:
        members = np.flatnonzero(launches == count)
        medians, lows, highs = each[:3, first[members][:, None] + np.arange(count)]
        out[:4, members] = pool_launches(medians, lows, highs, confidence)
        if count == 1:  # nearly always, so the samples are not walked through again
            out[4:, members] = each[3:, first[members]]
        else:
            out[4:, members] = _batched([pooled[k].seconds for k in members.tolist()], 4, _order_statistics)
    return launches, out


def _batched(samples: Sequence[tuple[float, ...]], width: int, summarise: "Callable[[Floats], Floats]") -> "Floats":
    """`summarise` (rows x n samples -> width x rows) over all samples of equal count; NaN where none are."""
    by_length: dict[int, list[int]] = {}
    for k, one in enumerate(samples):
        by_length.setdefault(len(one), []).append(k)
    by_length.pop(0, None)
    out = np.full((width, len(samples)), np.nan)
    for length, members in by_length.items():
        step = max(1, _BATCH // length)
        for start in range(0, len(members), step):
            batch = members[start : start + step]
            values = chain.from_iterable([samples[k] for k in batch])
            array = np.fromiter(values, np.float64, len(batch) * length)
            out[:, batch] = summarise(array.reshape(-1, length))
    return out


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
