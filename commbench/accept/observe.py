"""From rows of the journal to what the locating half understands: seconds of each pair and rail in one meeting."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from commbench import matchings
from commbench.accept.locate import Fleet, Seen
from commbench.errors import SpecError
from commbench.layouts import expand
from commbench.model.wire import Limit, limits
from commbench.records import Case, Machine, Measurement

_SHARED = 1.05  # times what a pair alone would take: more, and pairs judge each other


def racks_of(machine: Machine, named: dict[str, tuple[str, ...]]) -> dict[str, tuple[int, ...]]:
    """Rack -> indices of its hosts: as named, else by the switch on a host's first link; {} where nobody tells."""
    index = {host.name: k for k, host in enumerate(machine.hosts)}
    if not named and machine.fabric is not None:
        leaves: dict[str, list[str]] = {}
        for name in index:
            if name in machine.fabric.links_of:
                leaves.setdefault(machine.fabric.leaf(name), []).append(name)
        named = {leaf: tuple(names) for leaf, names in leaves.items()}
    return {rack: tuple(index[name] for name in names if name in index) for rack, names in named.items()}


def fleet_of(machine: Machine, racks: dict[str, tuple[int, ...]]) -> Fleet:
    """The fleet of a run; hosts that no rack names are one rack of their own."""
    rack_of = [len(racks)] * len(machine.hosts)
    for number, hosts in enumerate(racks.values()):
        for host in hosts:
            rack_of[host] = number
    count = Counter(machine.host_of)
    each = [count[k] for k in range(len(machine.hosts))]
    return Fleet(len(machine.hosts), tuple(rack_of), min(each, default=1))


class Met(NamedTuple):
    """A meeting as it took place: what was seen, and the row of each of its groups (None: not measured)."""

    seen: Seen
    rows: tuple[Measurement | None, ...]


def meetings(measurements: Sequence[Measurement], machine: Machine) -> list[Met]:
    """The meetings of pairs in the order in which they took place; one that was measured in parts is one again."""
    found: list[list[Measurement]] = []
    last: tuple[Case, int] | None = None
    for rows in rounds(measurements):
        symbol, _, part = rows[0].case.groups.partition("#")
        whole = msgspec.structs.replace(rows[0].case, groups=symbol)
        index = int(part.partition("/")[0] or 0)
        if part and last and last[0] == whole and index > last[1]:
            found[-1] += rows
        else:
            found.append(list(rows))
        last = (whole, index)
    return [one for rows in found if (one := met(rows, machine))]


def met(rows: Sequence[Measurement], machine: Machine) -> Met | None:
    """One meeting from its rows; None where they are of no meeting of pairs.

    A group without a row, or with one that is not ok, is NaN: not measured.
    """
    symbol = rows[0].case.groups.partition("#")[0]
    meeting = matchings.parse(symbol)
    if meeting is None or not meeting.pairs:
        return None
    place = {group: index for index, group in enumerate(matchings.groups(meeting, machine.host_of))}
    seconds, wire = np.full(len(place), np.nan), np.full(len(place), np.nan)
    own: list[Measurement | None] = [None] * len(place)
    for case in dict.fromkeys(row.case for row in rows):
        groups = expand(case.groups, machine.host_of)
        for group, limit in zip(groups, expected(case, machine, len(groups)), strict=True):
            wire[place[group]] = limit
        for row in rows:
            if row.case == case and row.group < len(groups):
                at = place[groups[row.group]]
                own[at] = row
                seconds[at] = typical(row) if row.status == "ok" and row.seconds else np.nan
    known = bool(np.isfinite(wire[np.isfinite(seconds)]).all()) and bool(np.isfinite(wire).any())
    return Met(Seen(meeting, seconds, wire if known else None), tuple(own))


def typical(row: Measurement) -> float:
    """The seconds that a test is judged by: of bandwidth the median, which congestion of a moment does not move; of
    latency the mean, since a host whose processor is not there most of the time answers at once or much later."""
    return statistics.fmean(row.seconds) if row.case.mode == "latency" else statistics.median(row.seconds)


def expected(case: Case, machine: Machine, groups: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Seconds that the wire allows each group, where the fabric is known and bytes rule the time; else NaN."""
    unknown = np.full(groups, np.nan)
    if machine.fabric is None or case.mode == "latency":
        return unknown
    found = _limits(case, machine)
    if len(found) != groups or any(limit is None for limit in found):
        return unknown
    return np.array([limit.seconds for limit in found if limit is not None]) * _rail_alone(case, machine)


def _rail_alone(case: Case, machine: Machine) -> float:
    """How much less a rail carries than all links of a host, which is what the limits count with."""
    meeting = matchings.parse(case.groups)
    if machine.fabric is None or meeting is None or meeting.rail is None or not meeting.pairs:
        return 1.0
    links = machine.fabric.links_of[machine.hosts[meeting.pairs[0][0]].name]
    return sum(link.rate for link in links) / links[meeting.rail].rate if meeting.rail < len(links) else 1.0


def parts(case: Case, machine: Machine) -> int:
    """Into how many parts a meeting must be cut so that its pairs do not share a link with one another.

    1 where the fabric is not known: then nobody can tell.
    """
    meeting = matchings.parse(case.groups)
    if machine.fabric is None or case.mode == "latency" or meeting is None or not meeting.pairs:
        return 1
    for count in range(1, len(meeting.pairs) + 1):
        cut = [msgspec.structs.replace(case, groups=matchings.part(case.groups, k, count)) for k in range(count)]
        if all(
            limit is None or limit.seconds <= _SHARED * limit.alone for one in cut for limit in _limits(one, machine)
        ):
            return count
    return 1  # a pair alone shares with itself: rails on one link


def _limits(case: Case, machine: Machine) -> Sequence[Limit | None]:
    if machine.fabric is None:
        return ()
    try:
        return limits(machine.fabric, [host.name for host in machine.hosts], machine.host_of, case, case.nbytes)
    except SpecError:  # hosts that the fabric does not have
        return ()


def rounds(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """The rows of each case in each round, in the order in which they were measured."""
    found: dict[tuple[int, str], list[Measurement]] = {}
    for row in measurements:
        if not row.control:
            found.setdefault((row.launch, row.case.key), []).append(row)
    return [found[key] for key in sorted(found, key=lambda key: key[0])]
