"""Pairs of hosts that an acceptance test had meet, as heat maps: all its rounds together, host by host.

A test is held against those that ran beside it on the same rail: three or more in its round, else all of its kind.
Where the network is on record there is a second map, against what the links allow: it shows what slows a whole round
down alike, such as an uplink between two racks, which the first cannot.
"""

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from commbench.layouts import local_ranks
from commbench.report.html.culprits import Culprit
from commbench.report.html.examined import Examined, groups_of, meeting
from commbench.report.html.pairs import Heat, Pair, Rim, fitted, title, varying
from commbench.report.html.rowtable import percent
from commbench.report.view import figure, known_digits, one_line
from commbench.stats.rows import Row

_MOST_RIMS = 24
_BLANK = "An empty square: these two were not measured together."
_ENOUGH = 3  # tests of a round, for a median worth the name
_ROUND = re.compile(r".*/(in|across)/(\d+)(@\d+)?")

_Key = tuple[int, int, int]  # host, host, rail


class _Test(NamedTuple):
    """What one pair did on one rail in one round. `share`: its rate, by the median of those beside it."""

    key: _Key
    row: Row
    share: float = 0.0


def met(one: Examined, culprits: Sequence[Culprit] = ()) -> list[Heat]:
    """Of each kind of test the rates against the median of the round, and against the links where these are known."""
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in one.rows:
        if meeting(row.groups) is not None:
            kinds.setdefault(_kind(row), []).append(row)
    traits = varying([rows[0] for rows in kinds.values()])
    ordered = sorted(kinds.values(), key=lambda rows: rows[0].mode == "latency")
    return [heat for rows in ordered for heat in _heats(one, rows, traits, culprits)]


def _kind(row: Row) -> tuple[Any, ...]:
    settings = tuple(row.settings.items())
    return row.backend, row.op, row.dtype, row.redop, row.mode, row.in_place, row.root, settings, row.asked


def _heats(one: Examined, rows: Sequence[Row], traits: Iterable[str], culprits: Sequence[Culprit]) -> list[Heat]:
    every = _tests(one, rows)
    tests = _shares([test for test in every if test.row.status == "ok" and test.row.median_us])
    heard = {test.key[:2] for test in tests}
    silent = sorted({(*test.key[:2], test.row.status) for test in every if test.key[:2] not in heard})
    rails = len({test.key[2] for test in every})
    each = " on the slowest of its rails" if rails > 1 else ""
    name = title(rows[0], traits)
    looks: list[tuple[str, str, Callable[[_Test], float | None]]] = [
        (
            "Speed beside others",
            f"of every two hosts{each}, in % of the median of those that ran at the same time. {_BLANK}",
            lambda test: test.share,
        ),
        (
            "Speed beside what links allow",
            f"of every two hosts{each}, in % of what the links allow while all of the round share them. {_BLANK}",
            lambda test: test.row.wire_share if test.row.mode != "latency" else None,
        ),
    ]
    found = []
    for what, note, value in looks:
        pooled = _pooled(tests, value)
        names = [one_line(host.name) for host in one.run.machine.hosts]
        columns = (*(("rail",) if rails > 1 else ()), "tests", "lowest (%)", "time (us)", "±%", "wire%", "rounds")
        pairs = [Pair(a, b, own.middle) for (a, b), own in pooled.items()]
        heat = Heat(one.name, name, what, note, True, "%", names, [""] * len(names), pairs, True, columns, silent)
        if fit := fitted(heat, [host for culprit in culprits for host in culprit.hosts]):
            told = [
                pair._replace(told=_told(pooled[fit.order[pair.a], fit.order[pair.b]], rails > 1)) for pair in fit.pairs
            ]
            found.append(fit._replace(pairs=told, rims=_rims(fit.order, culprits)))
    return found


def _tests(one: Examined, rows: Sequence[Row]) -> list[_Test]:
    machine = one.run.machine
    local = local_ranks(machine.host_of)
    out = []
    for row in rows:
        groups = groups_of(row.groups, machine.host_of)
        _, _, index = row.group.partition("[")
        k = int(index.rstrip("]") or 0)
        if k < len(groups) and len(groups[k]) == 2:
            a, b = (machine.host_of[rank] for rank in groups[k])
            out.append(_Test((min(a, b), max(a, b), local[groups[k][0]]), row))
    return out


def _shares(tests: Sequence[_Test]) -> list[_Test]:
    beside: dict[tuple[str, int], list[float]] = {}
    everyone: dict[int, list[float]] = {}
    for (_, _, rail), row, _ in tests:
        beside.setdefault((row.groups, rail), []).append(row.median_us or 0.0)
        everyone.setdefault(rail, []).append(row.median_us or 0.0)
    middle = {where: statistics.median(times) for where, times in beside.items() if len(times) >= _ENOUGH}
    overall = {rail: statistics.median(times) for rail, times in everyone.items()}
    return [
        test._replace(
            share=middle.get((test.row.groups, test.key[2]), overall[test.key[2]]) / (test.row.median_us or 1)
        )
        for test in tests
    ]


class _Pooled(NamedTuple):
    """The tests of two hosts on one rail: their shares in percent, with their rows, in ascending order."""

    rail: int
    middle: float
    tests: Sequence[tuple[float, Row]]


def _pooled(tests: Iterable[_Test], value: Callable[[_Test], float | None]) -> dict[tuple[int, int], _Pooled]:
    """Of each pair of hosts its slowest rail, by the median over its rounds."""
    found: dict[_Key, list[tuple[float, Row]]] = {}
    for test in tests:
        if (share := value(test)) is not None:
            found.setdefault(test.key, []).append((100 * share, test.row))
    slowest: dict[tuple[int, int], _Pooled] = {}
    for (a, b, rail), several in found.items():
        middle = statistics.median(share for share, _ in several)
        if (a, b) not in slowest or middle < slowest[a, b].middle:
            slowest[a, b] = _Pooled(rail, middle, sorted(several, key=itemgetter(0)))
    return slowest


def _told(own: _Pooled, rails: bool) -> Sequence[str]:
    row = own.tests[(len(own.tests) - 1) // 2][1]
    return (
        *((str(own.rail),) if rails else ()),
        str(len(own.tests)),
        figure(own.tests[0][0], 2),
        figure(row.median_us, int(known_digits([row])[0])),
        percent(row.half_width, "?"),
        percent(row.wire_share),
        _rounds([row for _, row in own.tests]),
    )


def _rounds(rows: Iterable[Row]) -> str:
    """`in/1, across/0, confirm ×3`."""
    names = []
    for row in rows:
        match = _ROUND.fullmatch(row.groups)
        rail = row.groups.rpartition(")")[2]
        names.append(f"{match[1]}/{match[2]}{match[3] or ''}" if match else f"confirm{rail}")
    return ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in Counter(names).items())


def _rims(order: Sequence[int], culprits: Iterable[Culprit]) -> list[Rim]:
    """Where the culprits are on the axes of a map that may have no room for all hosts.

    Of a host its row; of an uplink what a rack has with the others; of a path its one square.
    """
    place = {host: k for k, host in enumerate(order)}
    out: list[Rim] = []
    for one in culprits:
        at = {place[host] for host in one.hosts if host in place}
        others = set(range(len(order))) - at
        if one.kind == "path":
            pairs = [(min(at), min(at), max(at), max(at))] if len(at) == 2 else []
        elif one.kind == "uplink" and others:
            pairs = [(*rows, *columns) for rows in _neighbours(at) for columns in _neighbours(others)]
        else:
            pairs = [(*rows, 0, len(order) - 1) for rows in _neighbours(at)]
        out += [Rim(one.label, one.sure, (a, b), (c, d)) for a, b, c, d in pairs]
    return list(dict.fromkeys(out))[:_MOST_RIMS]


def _neighbours(places: Iterable[int]) -> list[tuple[int, int]]:
    """(first, last) of each run of neighbours."""
    runs: list[tuple[int, int]] = []
    for k in sorted(places):
        if runs and runs[-1][1] == k - 1:
            runs[-1] = (runs[-1][0], k)
        else:
            runs.append((k, k))
    return runs
