"""Pairs of ranks as a heat map: how fast each two of them exchanged, and which pair was slow.

Pairs of hosts that an acceptance test has meet are in meetings.py; the map is the same.
"""

import statistics
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from commbench.records import Machine
from commbench.report.html.examined import Examined, host, members
from commbench.report.html.phrases import short
from commbench.report.html.rowtable import percent
from commbench.report.view import ABOUT, figure, known_digits, one_line, size
from commbench.stats.rows import Row, series

MOST_NODES = 32  # on an axis
MOST_HEATS = 6
CLASSES = 9  # of colour


class Pair(NamedTuple):
    """What one pair reached. `told` are more cells of its line in the table of values."""

    a: int
    b: int
    value: float
    told: Sequence[str] = ()
    digits: int = 2
    pairs: int = 1  # of ranks, where those of two hosts were pooled


class Rim(NamedTuple):
    """A rectangle of rows and columns (both ends included) that a reason of the verdict points at, and its mirror."""

    label: str
    sure: bool
    rows: tuple[int, int]
    columns: tuple[int, int]


class Heat(NamedTuple):
    """One heat map.

    title     what was measured
    what      the values are: `Bus bandwidth`, `Time`; `note` says of whom and how
    rate      more is better
    nodes     the names on the axes; a Pair's a and b are indices into them, a < b
    places    the host of each node, "" where it is not known or the node is a host
    pairs     the slowest first
    silent    (a, b, status) of pairs without a value
    columns   of the table of values, behind that of the value: those of Pair.told
    rims      where what a verdict names is
    unit      of the values: GB/s, MB/s, % (more is better), ms or us (less is)
    low, high the values of the slowest and the fastest colour
    order     of the nodes that have room, which they were
    left_out  nodes that have no room
    """

    run: str
    title: str
    what: str
    note: str
    rate: bool
    unit: str
    nodes: Sequence[str]
    places: Sequence[str]
    pairs: Sequence[Pair]
    by_host: bool
    columns: Sequence[str]
    silent: Sequence[tuple[int, int, str]] = ()
    rims: Sequence[Rim] = ()
    low: float = 0.0
    high: float = 1.0
    order: Sequence[int] = ()
    left_out: int = 0

    def colour(self, value: float) -> int:
        """0 (slowest) to CLASSES - 1."""
        share = (value - self.low) / (self.high - self.low)
        return min(max(int(share * CLASSES), 0), CLASSES - 1)


def heats(one: Examined) -> list[Heat]:
    """Of every series of pairs: bandwidth at its largest size, and time at its smallest if that is another."""
    found: dict[tuple[Any, ...], dict[int, list[Row]]] = {}
    for row in one.rows:
        if row.layout == "pairs" and row.median_us and row.status == "ok":
            found.setdefault(series(row), {}).setdefault(row.asked, []).append(row)
    out = []
    traits = varying([sizes[min(sizes)][0] for sizes in found.values()])
    for sizes in found.values():
        for asked in sorted({max(sizes), min(sizes)}, reverse=True):
            rated = asked == max(sizes) and all(row.busbw_gbps for row in sizes[asked])
            out.append(_heat(one, sizes[asked], rated, traits))
    return [heat for heat in out if heat is not None]


def varying(rows: Sequence[Row]) -> list[str]:
    """What the titles must tell: the collective, and what differs between series."""
    told = {name: {cell(row) for row in rows} for name, (cell, _) in ABOUT.items()}
    return [name for name in ABOUT if name == "op" or (name not in ("group", "launches") and len(told[name]) > 1)]


def title(row: Row, traits: Iterable[str]) -> str:
    words = [ABOUT[name][1](row) for name in traits]
    return " · ".join(filter(None, (*words, size(row.nbytes) if row.nbytes else "")))


_AT_ONCE = "The pairs of a round were measured at the same time and share links."


def _heat(one: Examined, rows: Sequence[Row], rated: bool, traits: Iterable[str]) -> Heat | None:
    machine = one.run.machine
    values = {}
    for row in rows:
        ranks = members(machine, row)
        if len(ranks) == 2:
            values[ranks[0], ranks[1]] = row
    if not values:
        return None
    plain = {both: (row.busbw_gbps if rated else row.median_us) or 0.0 for both, row in values.items()}
    unit, scale = _unit(rated, max(plain.values()))
    pairs = [
        Pair(a, b, scale * plain[a, b], _told(row), min(int(known_digits([row])[0]), 3))
        for (a, b), row in values.items()
    ]
    by_host = machine.size > MOST_NODES
    if by_host:
        pairs = _between_hosts(machine, pairs)
        names = [one_line(one_host.name) for one_host in machine.hosts]
    else:
        names = [f"{rank}" for rank in range(machine.size)]
    places = ["" if by_host else host(machine, k) for k in range(len(names))]
    whose = "hosts, the median over their ranks" if by_host else "ranks"
    what, note = "Bus bandwidth" if rated else "Time", f"in {unit} of every two {whose}. {_AT_ONCE}"
    columns = ("time (us)", "±%", "wire%", "round")
    return fitted(
        Heat(one.name, title(rows[0], traits), what, note, rated, unit, names, places, pairs, by_host, columns)
    )


def _told(row: Row) -> Sequence[str]:
    time = figure(row.median_us, int(known_digits([row])[0]))
    return time, percent(row.half_width, "?"), percent(row.wire_share), short(row.groups)


def fitted(heat: Heat, first: Sequence[int] = ()) -> Heat | None:
    """With pairs in order, colours that fit, and at most MOST_NODES nodes: `first`, then those of the slowest pairs."""
    pairs = sorted(heat.pairs, key=lambda pair: pair.value if heat.rate else -pair.value)
    order = _with_room(len(heat.nodes), pairs, (*first, *(node for a, b, _ in heat.silent for node in (a, b))))
    place = {node: k for k, node in enumerate(order)}
    kept = [pair._replace(a=place[pair.a], b=place[pair.b]) for pair in pairs if {pair.a, pair.b} <= place.keys()]
    silent = [(place[a], place[b], word) for a, b, word in heat.silent if {a, b} <= place.keys()]
    if not kept:
        return None
    worst, best = kept[0].value, kept[-1].value
    # Colours span at least a factor of two: small differences must not look like large ones.
    low, high = (min(worst, best / 2), best) if heat.rate else (max(worst, best * 2), best)
    names, places = [heat.nodes[k] for k in order], [heat.places[k] for k in order]
    left_out = len(heat.nodes) - len(order)
    return heat._replace(
        nodes=names, places=places, pairs=kept, silent=silent, low=low, high=high, order=order, left_out=left_out
    )


def _unit(rated: bool, most: float) -> tuple[str, float]:
    """(unit, factor from GB/s or us) in which the largest value has few digits."""
    if rated:
        return ("GB/s", 1.0) if most >= 0.1 else ("MB/s", 1e3)
    return ("ms", 1e-3) if most >= 1e4 else ("us", 1.0)


def _between_hosts(machine: Machine, pairs: Sequence[Pair]) -> list[Pair]:
    """The median over all pairs of ranks on two hosts."""
    pooled: dict[tuple[int, int], list[Pair]] = {}
    for pair in pairs:
        a, b = sorted((machine.host_of[pair.a], machine.host_of[pair.b]))
        if a != b:
            pooled.setdefault((a, b), []).append(pair)
    return [
        Pair(a, b, statistics.median(one.value for one in of), pairs=len(of))
        if len(of) > 1
        else of[0]._replace(a=a, b=b)
        for (a, b), of in pooled.items()
    ]


def _with_room(nodes: int, pairs: Sequence[Pair], first: Iterable[int]) -> list[int]:
    """At most MOST_NODES nodes in their own order: the first ones, then those of the slowest pairs."""
    if nodes <= MOST_NODES:
        return list(range(nodes))
    wanted: dict[int, None] = {}
    for node in chain(first, (node for pair in pairs for node in (pair.a, pair.b))):
        if len(wanted) < MOST_NODES:
            wanted[node] = None
    return sorted(wanted)
