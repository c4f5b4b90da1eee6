"""Measurements -> rows: launches pooled, one row for each group of each case, in an order that reads well.

A run may hold 100,000 measurements, so samples are summarised in arrays (see samples.py), never row by row.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from commbench.collectives import bandwidths, catalogue
from commbench.records import Case, Measurement
from commbench.records.measurement import Kind, Status
from commbench.stats.samples import Ordered, Samples
from commbench.stats.summary import median_interval, middle, pool_launches

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
    `groups` is the layout's symbol: `node` of group `node[3]`. `wire_us` is the least time that the links of a
    known fabric allow, `wire_link` the link that sets it (commbench.model.wire fills them in). Where `kind` is not
    `samples`, another tool told this statistic instead of its samples: `median_us` holds it, without an interval of
    its own, and of the other statistics only those are known that the tool told too.
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
    groups: str
    wire_us: float | None = None
    wire_link: str | None = None
    kind: Kind = "samples"

    @property
    def layout(self) -> str:
        """As `groups`, but the rounds of `pairs` are one layout: only together do they meet every pair. So are meetings
        of hosts, those of each rail by themselves."""
        if self.groups.startswith(("racks(", "meet(")):
            _, at, rail = self.groups.partition("#")[0].rpartition("@")
            return f"meetings{at}{rail}" if at else "meetings"
        return "pairs" if self.groups.startswith("pairs/") else self.groups

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


class Unattributed(Measurement, frozen=True, kw_only=True):
    """A Measurement to decode where nobody asks who was slowest: skipping those numbers takes a quarter off."""

    slowest: msgspec.Raw = msgspec.Raw(b"[]")  # type: ignore[assignment]


# What is read of a measurement but its case and its samples.
_ANSWER = ("group", "launch", "ranks", "nbytes", "status", "why", "clock", "wrong", "stopped", "kind")
_BLOCK = 64  # measurements taken apart together: twice as fast as one by one, and few enough for the cache


def rows(measurements: Iterable[Measurement], confidence: float = 0.95, *, brief: bool = False) -> list[Row]:
    """The rows of a run, without control measurements; of several answers to one question the last counts.

    Each measurement is read once and not kept, so an iterator over a journal needs little memory. `brief` works out
    what the text table tells, and leaves out the tails, the minimum, the mean, and who was slowest.
    """
    numbers: dict[Case, int] = {}
    told: dict[str, list[Any]] = {name: [] for name in ("case", *_ANSWER)}  # the case by its number
    foreign: dict[int, dict[str, float]] = {}  # what another tool told beside its figure
    times, skews, slowest = Samples(), Samples(), Samples()
    counting = (m for m in measurements if not m.control)
    while block := list(islice(counting, _BLOCK)):
        foreign |= {k: m.told for k, m in enumerate(block, len(told["case"])) if m.kind != "samples"}
        told["case"] += [numbers.setdefault(m.case, len(numbers)) for m in block]
        for name in _ANSWER:
            told[name] += map(attrgetter(name), block)
        times.add([m.seconds for m in block])
        skews.add([m.skew for m in block])
        slowest.add([() if brief else m.slowest for m in block])
    if not numbers:
        return []
    cases = list(numbers)
    order, starts = _order(cases, told)
    launches = times.in_order(order)
    pooled = _pooled(told, order, starts, launches.counts > 0)
    skew, last = skews.in_order(order).joined(starts), slowest.in_order(order).joined(starts)
    alone = np.array(pooled["ranks"]) == 1  # nobody to be slower than
    columns = _times(launches, starts, confidence, brief) | _who(skew, last, alone)
    columns |= _facts(cases, pooled, columns["median_us"], columns["samples"])
    if foreign:
        _as_told(columns, [foreign.get(k) for k in order[starts].tolist()], pooled["kind"])
    known = [field for field in Row.__struct_fields__[:-3] if field in columns]
    made = list(map(Row, *(columns[field] for field in known)))
    if foreign:
        made = [msgspec.structs.replace(row, kind=kind) for row, kind in zip(made, pooled["kind"], strict=True)]
    return made


def _as_told(columns: dict[str, Sequence[Any]], told: Sequence[dict[str, float] | None], kinds: Sequence[str]) -> None:
    """One number has no minimum and no tail: those that the other tool told, where it told them."""
    for field in ("min", "p95", "p99", "mean"):
        own: Sequence[float | None] = columns[f"{field}_us"]
        columns[f"{field}_us"] = [
            value if said is None or kind == field else said[field] * 1e6 if field in said and launches == 1 else None
            for value, said, kind, launches in zip(own, told, kinds, columns["launches"], strict=True)
        ]


def _order(cases: Sequence[Case], told: Mapping[str, Sequence[Any]]) -> "tuple[NDArray[np.intp], NDArray[np.intp]]":
    """Series by series (all that is the same but the size), then by size, group and launch; where rows begin.

    Sorted by integers: hashing and comparing cases would take longer than all the statistics.
    """
    of = list(map(_series, cases))
    place = {one: k for k, one in enumerate(sorted(set(of)))}
    asked = np.array([(place[one], case.nbytes) for one, case in zip(of, cases, strict=True)])
    keys = np.column_stack((asked[told["case"]], told["group"], told["launch"]))
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


def _pooled(
    told: Mapping[str, Sequence[Any]],
    order: "NDArray[np.intp]",
    starts: "NDArray[np.intp]",
    sampled: "NDArray[np.bool_]",
) -> dict[str, list[Any]]:
    """The launches of one row as if they were one: the worst status, every reason, the clock of the samples."""
    if len(starts) == len(order):
        return {name: _at(column, order) for name, column in told.items()}
    pooled = {name: _at(told[name], order[starts]) for name in ("case", "group", "kind")}
    for name in ("ranks", "nbytes"):
        pooled[name] = np.maximum.reduceat(np.array(told[name])[order], starts).tolist()
    severity = np.array([_WORST.index(status) for status in told["status"]])
    pooled["status"] = _at(_WORST, np.maximum.reduceat(severity[order], starts))
    position = np.arange(len(order))
    first = np.minimum.reduceat(np.where(sampled, position, len(order)), starts)
    pooled["clock"] = _at(told["clock"], order[np.where(first < len(order), first, starts)])
    checked = np.array([wrong is not None for wrong in told["wrong"]])[order]
    wrong = np.add.reduceat(np.array([wrong or 0 for wrong in told["wrong"]])[order], starts).tolist()
    anyone = np.logical_or.reduceat(checked, starts).tolist()
    pooled["wrong"] = [count if known else None for count, known in zip(wrong, anyone, strict=True)]
    bounds = list(pairwise([*starts.tolist(), len(order)]))
    for name, between in (("why", "; "), ("stopped", ", ")):
        texts = _at(told[name], order)
        pooled[name] = [
            texts[start] if end - start == 1 else between.join(dict.fromkeys(filter(None, texts[start:end])))
            for start, end in bounds
        ]
    return pooled


def _at(column: Sequence[Any], places: "NDArray[np.intp]") -> list[Any]:
    return list(map(column.__getitem__, places.tolist()))


def _facts(
    cases: Sequence[Case],
    told: Mapping[str, Sequence[Any]],
    medians: Sequence[float | None],
    samples: Sequence[int],
) -> dict[str, Sequence[Any]]:
    """The columns that are read off, and the bandwidths that follow from the median."""
    of: Sequence[int] = told["case"]
    ops = [catalogue(case.op) for case in cases]
    each: dict[str, list[Any]] = {
        name: [getattr(case, name) for case in cases]
        for name in ("op", "backend", "dtype", "mode", "groups", "in_place", "root")
    }
    each["redop"] = [c.redop if known.reduces else None for c, known in zip(cases, ops, strict=True)]
    each["settings"] = [dict(case.settings) for case in cases]
    each["asked"] = [case.nbytes for case in cases]
    columns = {name: list(map(values.__getitem__, of)) for name, values in each.items()}
    several = {cases[k].groups for k in {k for k, group in zip(of, told["group"], strict=True) if group}}
    symbols = [(case.groups, case.groups in several) for case in cases]
    carries = [known.send != "0" for known in ops]  # a barrier has no size
    nbytes = [
        (moved or asked) if carries[k] else 0
        for k, moved, asked in zip(of, told["nbytes"], columns["asked"], strict=True)
    ]
    # What 1 GB in 1 s comes to, once for each collective and number of ranks: rates are proportional to it.
    sides = list(zip(columns["op"], told["ranks"], strict=True))
    unit = {(op, ranks): bandwidths(op, 10**9, ranks or 0, 1.0) for op, ranks in set(sides)}
    seconds = np.array(medians, np.float64) / 1e6
    rates = np.array(nbytes) / np.where(seconds > 0, seconds, np.nan) / 1e9
    algbw, busbw = rates * np.array([unit[side] for side in sides], np.float64).T
    return {
        **columns,
        **{name: [value or None for value in told[name]] for name in ("ranks", "why", "stopped")},
        "nbytes": nbytes,
        "group": [_named(*symbols[k], group) for k, group in zip(of, told["group"], strict=True)],
        "algbw_gbps": _known(algbw),
        "busbw_gbps": _known(busbw),
        "wrong": told["wrong"],
        "status": told["status"],
        "clock": [clock if n else None for clock, n in zip(told["clock"], samples, strict=True)],
    }


@lru_cache(maxsize=2**16)
def _named(symbol: str, several: bool, group: int) -> str:
    return f"{symbol}[{group}]" if several else symbol


def _who(skews: Ordered, slowest: Ordered, alone: "NDArray[np.bool_]") -> dict[str, Sequence[Any]]:
    """The columns about who was how much later than the others."""
    median = skews.summary(1, lambda batch: middle(np.sort(batch, axis=1))[None])
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


def _times(
    each: Ordered, starts: "NDArray[np.intp]", confidence: float, brief: bool = False
) -> dict[str, Sequence[Any]]:
    """The columns about time: launch by launch, then pooled."""
    whole = each.joined(starts)
    out = np.full((8, len(starts)), np.nan)  # median, low, high, between, min, p95, p99, mean
    if not brief:
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
    unknown: dict[str, Sequence[Any]] = {name: [None] * len(starts) for name in names}
    told = names[:3] if brief else names
    return {
        "launches": launches.tolist(),
        "samples": whole.counts.tolist(),
        **(unknown | {name: _known(_us(column)) for name, column in zip(told, out, strict=False)}),
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
