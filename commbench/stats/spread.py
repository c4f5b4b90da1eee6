"""How far apart the groups of one case are."""

import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from commbench.stats.rows import Row, series


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How far the groups of one case are apart. The medians are those over the groups."""

    groups: int
    fastest: Row
    slowest: Row
    median_us: float
    median_busbw_gbps: float | None
    ratio: float | None


# All that is told of a row but its group's number and its figures.
_question = attrgetter(
    *("asked", "nbytes", "groups", "op", "backend", "dtype", "redop", "mode", "in_place", "root"),
    *("settings", "launches", "clock"),
)


def alike(rows: Iterable[Row]) -> list[list[Row]]:
    """Neighbours of which the same is told but for the group's number and the figures: a case's many groups.

    What is worked out for the first of them holds for all; row by row a large table took twice as long.
    """
    return [list(same) for _, same in groupby(rows, _question)]


def spread(rows: Iterable[Row]) -> list[Spread]:
    """For each case that several groups answered: the fastest, the median and the slowest of them."""
    cases: dict[tuple[Any, ...], list[tuple[float, Row]]] = {}
    for same in alike(rows):
        # The world is one group by definition.
        timed = [(row.median_us, row) for row in same if row.median_us is not None and row.group != "world"]
        if timed:
            cases.setdefault((*series(same[0]), same[0].asked), []).extend(timed)
    return [_spread(group) for group in cases.values() if len(group) > 1]


def _spread(group: Sequence[tuple[float, Row]]) -> Spread:
    ordered = sorted(group, key=itemgetter(0))
    (best, fastest), (worst, slowest) = ordered[0], ordered[-1]
    rates = [row.busbw_gbps for _, row in group if row.busbw_gbps is not None]
    return Spread(
        groups=len(group),
        fastest=fastest,
        slowest=slowest,
        median_us=statistics.median(time for time, _ in ordered),
        median_busbw_gbps=statistics.median(rates) if rates else None,
        ratio=worst / best if best else None,
    )
