"""Pairs of ranks as a heat map: how fast each two of them exchanged, and which pair was slow."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from commbench.records import Machine
from commbench.report.html.examined import Examined, host, members
from commbench.report.view import ABOUT, one_line, size
from commbench.stats.rows import Row, series

MOST_NODES = 32  # on an axis
MOST_HEATS = 6
CLASSES = 9  # of colour


class Pair(NamedTuple):
    """What one pair reached. `row` is None where several pairs of ranks were pooled for two hosts."""

    a: int
    b: int
    value: float
    row: Row | None
    pairs: int = 1


class Heat(NamedTuple):
    """One heat map.

    title     what was measured
    rate      the values are bandwidths; else times
    nodes     the names on the axes; a Pair's a and b are indices into them, a < b
    places    the host of each node, "" where it is not known or the node is a host
    pairs     the slowest first
    unit      of the values: GB/s or MB/s (more is better), ms or us (less is)
    low, high the values of the slowest and the fastest colour
    left_out  nodes that have no room
    """

    run: str
    title: str
    rate: bool
    unit: str
    nodes: Sequence[str]
    places: Sequence[str]
    pairs: Sequence[Pair]
    low: float
    high: float
    by_host: bool
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
    traits = _varying([sizes[min(sizes)][0] for sizes in found.values()])
    for sizes in found.values():
        for asked in sorted({max(sizes), min(sizes)}, reverse=True):
            rated = asked == max(sizes) and all(row.busbw_gbps for row in sizes[asked])
            out.append(_heat(one, sizes[asked], rated, traits))
    return [heat for heat in out if heat is not None]


def _varying(rows: Sequence[Row]) -> list[str]:
    """What the titles must tell: the collective, and what differs between series."""
    told = {name: {cell(row) for row in rows} for name, (cell, _) in ABOUT.items()}
    return [name for name in ABOUT if name == "op" or (name not in ("group", "launches") and len(told[name]) > 1)]


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
    pairs = [Pair(a, b, scale * plain[a, b], row) for (a, b), row in values.items()]
    by_host = machine.size > MOST_NODES
    if by_host:
        pairs = _between_hosts(machine, pairs)
        names = [one_line(one_host.name) for one_host in machine.hosts]
    else:
        names = [f"{rank}" for rank in range(machine.size)]
    places = ["" if by_host else host(machine, k) for k in range(len(names))]
    pairs.sort(key=lambda pair: pair.value if rated else -pair.value)
    order, kept = _with_room(len(names), pairs)
    if not kept:
        return None
    words = [ABOUT[name][1](rows[0]) for name in traits]
    title = " · ".join(filter(None, (*words, size(rows[0].nbytes) if rows[0].nbytes else "")))
    worst, best = kept[0].value, kept[-1].value
    # Colours span at least a factor of two: small differences must not look like large ones.
    low, high = (min(worst, best / 2), best) if rated else (max(worst, best * 2), best)
    shown = [names[k] for k in order], [places[k] for k in order]
    return Heat(one.name, title, rated, unit, *shown, kept, low, high, by_host, len(names) - len(order))


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
        Pair(a, b, statistics.median(one.value for one in of), of[0].row if len(of) == 1 else None, len(of))
        for (a, b), of in pooled.items()
    ]


def _with_room(nodes: int, pairs: Sequence[Pair]) -> tuple[list[int], list[Pair]]:
    """At most MOST_NODES nodes, those of the slowest pairs, in their own order; the pairs between them."""
    if nodes <= MOST_NODES:
        return list(range(nodes)), list(pairs)
    wanted: dict[int, None] = {}
    for pair in pairs:
        for node in (pair.a, pair.b):
            if len(wanted) < MOST_NODES:
                wanted[node] = None
    order = sorted(wanted)
    place = {node: k for k, node in enumerate(order)}
    kept = [pair._replace(a=place[pair.a], b=place[pair.b]) for pair in pairs if {pair.a, pair.b} <= place.keys()]
    return order, kept
