"""What stands out among rows: groups that are far behind, ranks that are late, jumps of latency. Nothing is said here.

None of this tests a hypothesis: it names what is largest, and nothing where that is not large.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from commbench.report.html.examined import Examined
from commbench.report.html.lateness import RankShare
from commbench.stats.rows import Row, series

_FAR = 1.25  # a group that takes so many times the median of the groups beside it is worth a sentence
_LATE = 1.5  # a rank that is the slowest so many times as often as by chance, ...
_LATE_SAMPLES = 100  # ... over at least so many samples
_JUMP = 1.2  # time that grows so many times faster than the message, surely


class Late(NamedTuple):
    run: Examined
    rank: RankShare


def slowest_group(rows: Iterable[Row]) -> tuple[Row, float] | None:
    """(row, times the median) of the group farthest behind the others of its matching; None where none is far.

    A matching is what ran at the same time: the groups of a layout, the pairs of one round. Two groups have no
    median worth the name; a pair alone in its round is held against all pairs of its case.
    """
    cases: dict[tuple[Any, ...], list[Row]] = {}
    everyone: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.status == "ok" and row.median_us and row.group != "world":
            cases.setdefault((*series(row), row.groups, row.asked), []).append(row)
            everyone.setdefault((*series(row), row.asked), []).append(row)
    found = []
    for key, matching in cases.items():
        beside = matching if len(matching) > 2 else everyone[(*key[:-2], key[-1])]
        if len(beside) > 2:
            middle = _median([row.median_us or 0.0 for row in beside])
            found += [((row.median_us or 0.0) / middle, row) for row in matching]
    ratio, worst = max(found, key=lambda pair: pair[0], default=(0.0, None))
    return (worst, ratio) if worst is not None and ratio >= _FAR else None


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def late_ranks(runs: Iterable[Examined]) -> list[Late]:
    """The rank of each run that was the slowest most often, where that is more than chance would have it."""
    out = []
    for one in runs:
        known = [rank for rank in one.lateness.ranks if rank.samples >= _LATE_SAMPLES]
        worst = max(known, key=lambda rank: rank.excess, default=None)
        # With two ranks one of them is the slower one most of the time: that is no news.
        if worst is not None and len(known) > 2 and worst.excess >= _LATE:
            out.append(Late(one, worst))
    return out


def jumps(rows: Iterable[Row]) -> list[tuple[float, Row, Row]]:
    """(factor, before, after) where the time surely grows faster than the message, the largest first.

    Surely: from the upper end of the interval before to the lower end of the one after.
    """
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.status == "ok" and row.nbytes and row.ci_low_us and row.ci_high_us:
            found.setdefault((*series(row), row.group), []).append(row)
    out = []
    for line in found.values():
        for before, after in pairwise(sorted(line, key=lambda row: row.nbytes)):
            low, high = after.ci_low_us or 0.0, before.ci_high_us or 1.0
            factor = low / high / (after.nbytes / before.nbytes) if after.nbytes > before.nbytes else 0.0
            if factor >= _JUMP:
                out.append((factor, before, after))
    return sorted(out, key=lambda one: -one[0])
