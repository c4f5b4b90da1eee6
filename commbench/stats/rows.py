"""Measurements -> rows: launches pooled, one row for each group of each case, in an order that reads well.

A run may hold 100,000 measurements, so samples are summarised in arrays of equal length, never row by row.
"""

import math
import re
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
_BATCH = 2**21  # samples held as one array
# A quantile further out than the samples reach would be the maximum in disguise.
_ENOUGH = {0.95: 20, 0.99: 100}


class Row(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
        return "pairs" if self.group.startswith("pairs/") else self.groups

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
    """The rows of a run. Control measurements are left out; of several answers to a question the last counts."""
    answers: dict[tuple[Case, int], dict[int, Measurement]] = {}
    for m in measurements:
        if not m.control:
            answers.setdefault((m.case, m.group), {})[m.launch] = m
    several = {case.groups for case, group in answers if group}
    keys = _sorted(answers)
    pooled = [[m for _, m in sorted(answers[key].items())] for key in keys]
    return [
        _row(case, f"{case.groups}[{group}]" if case.groups in several else case.groups, launches, statistics)
        for (case, group), launches, statistics in zip(keys, pooled, _statistics(pooled, confidence), strict=True)
    ]


def _sorted(keys: Iterable[tuple[Case, int]]) -> list[tuple[Case, int]]:
    """Series by series (all that is the same but the size), then by size and group."""
    series = {key: _series(key[0]) for key in keys}
    place = {one: k for k, one in enumerate(sorted(set(series.values())))}
    return sorted(series, key=lambda key: (place[series[key]], key[0].nbytes, key[1]))


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


def _statistics(pooled: Sequence[Sequence[Measurement]], confidence: float) -> Iterable[tuple[Any, ...]]:
    """(median, low, high, between, min, p95, p99, mean, skew, slowest, share) of each row; None: not known."""
    seconds, skew, slowest = (
        [_joined([getattr(m, field) for m in launches]) for launches in pooled]
        for field in ("seconds", "skew", "slowest")
    )
    columns = (
        *(_intervals([[m.seconds for m in launches if m.seconds] for launches in pooled], confidence) * 1e6),
        *(_batched(seconds, 4, _order_statistics) * 1e6),
        *(_batched(skew, 1, lambda batch: np.median(batch, axis=1)[None]) * 1e6),
        *_batched(slowest, 2, _most_often),
    )
    return zip(*(np.where(np.isnan(column), None, column).tolist() for column in columns), strict=True)


def _joined(parts: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    return parts[0] if len(parts) == 1 else tuple(chain.from_iterable(parts))


def _intervals(samples: Sequence[Sequence[tuple[float, ...]]], confidence: float) -> "Floats":
    """Rows (median, low, high, sd between launches); `samples` holds the launches of each row."""
    within = _batched(
        list(chain.from_iterable(samples)), 3, lambda batch: np.stack(median_interval(batch, confidence))
    )
    counts = np.array([len(launches) for launches in samples], dtype=np.int64)
    first = np.cumsum(counts) - counts
    out = np.full((4, len(samples)), np.nan)
    for count in set(counts.tolist()) - {0}:
        members = np.flatnonzero(counts == count)
        medians, lows, highs = within[:, first[members][:, None] + np.arange(count)]
        out[:, members] = pool_launches(medians, lows, highs, confidence)
    return out


def _batched(
    samples: Sequence[tuple[float, ...]], width: int, summarise: "Callable[[Floats], Floats]"
) -> "Floats":
    """`summarise` (rows x n samples -> width x rows) over all samples of equal count; NaN where there are none."""
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
            out[:, batch] = summarise(np.fromiter(values, np.float64, len(batch) * length).reshape(-1, length))
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
    at = run.argmax(axis=1)[:, None]
    return np.concatenate((np.take_along_axis(ordered, at, axis=1), np.take_along_axis(run, at, axis=1) / n), 1).T


def _row(case: Case, group: str, launches: Sequence[Measurement], statistics: tuple[Any, ...]) -> Row:
    median, low, high, between, least, p95, p99, mean, skew, slowest, share = statistics
    collective = COLLECTIVES[case.op]
    ranks = max(m.ranks for m in launches) or None
    nbytes = 0 if collective.factor is None else max(m.nbytes for m in launches) or case.nbytes
    algbw, busbw = bandwidths(case.op, nbytes, ranks or 1, median / 1e6 if median else 0.0)
    counted = [m.wrong for m in launches if m.wrong is not None]
    sampled = [m for m in launches if m.seconds]
    alone = ranks == 1  # nobody to be slower than
    return Row(
        op=case.op,
        backend=case.backend,
        nbytes=nbytes,
        dtype=case.dtype,
        redop=case.redop if collective.reduces else None,
        mode=case.mode,
        group=group,
        ranks=ranks,
        in_place=case.in_place,
        settings=dict(case.settings),
        launches=len(sampled),
        samples=sum(len(m.seconds) for m in sampled),
        median_us=median,
        ci_low_us=low,
        ci_high_us=high,
        min_us=least,
        p95_us=p95,
        p99_us=p99,
        mean_us=mean,
        skew_us=None if alone else skew,
        algbw_gbps=algbw,
        busbw_gbps=busbw,
        wrong=sum(counted) if counted else None,
        status=max((m.status for m in launches), key=_WORST.index),
        why=_distinct((m.why for m in launches), "; "),
        stopped=_distinct((m.stopped for m in launches), ", "),
        clock=_distinct((m.clock for m in sampled), ", "),
        root=case.root,
        asked=case.nbytes,
        between_us=between,
        slowest=None if alone or slowest is None else int(slowest),
        slowest_share=None if alone else share,
    )


def _distinct(texts: Iterable[str], separator: str) -> str | None:
    return separator.join(dict.fromkeys(text for text in texts if text)) or None


def spread(rows: Iterable[Row]) -> list[Spread]:
    """For each case that several groups answered: the fastest, the median and the slowest of them."""
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.median_us is not None:
            cases.setdefault((*series(row), row.asked), []).append(row)
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


def _spread(group: Sequence[Row]) -> Spread:
    times = {id(row): row.median_us or 0.0 for row in group}
    fastest = min(group, key=lambda row: times[id(row)])
    slowest = max(group, key=lambda row: times[id(row)])
    rates = [row.busbw_gbps for row in group if row.busbw_gbps is not None]
    return Spread(
        groups=len(group),
        fastest=fastest,
        slowest=slowest,
        median_us=float(np.median([*times.values()])),
        median_busbw_gbps=float(np.median(rates)) if rates else None,
        ratio=times[id(slowest)] / times[id(fastest)] if times[id(fastest)] else None,
    )
