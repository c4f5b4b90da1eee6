"""The least time that the links of a known fabric allow a collective, whatever the algorithm.

A cut parts the hosts in two. Some bytes must cross it, because what one side needs the other side has, and no
algorithm carries them faster than the links of the cut allow: seconds >= bytes / rate, in each direction (links are
full duplex). Which bytes these are is in one table below. The links of a cut are those of the smallest total rate
that part its hosts (Ford and Fulkerson 1956, Maximal flow through a network). Hosts compute but do not forward, as
in the lab: a host with several NICs is an end of several links, never a way from one to the other. Switches forward
and do not compute: where they reduce (SHARP), the limits of all_reduce and reduce are not limits.

The cuts: every host; every rack (the hosts on the same switches); and for every link between switches the hosts that
are nearer to one of its ends. The last has each side of every link without a way around it, and what hangs below any
switch of a tree of several levels. Other cuts could only raise the limit.

An all_reduce has one more limit. Of every element at least P - 1 partial sums and P - 1 results leave the P hosts
that take part, so together they send 2(P - 1) times the message (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce
algorithms for clusters of workstations, JPDC 69): seconds >= 2(P - 1) nbytes / the sum of the hosts' rates. The same
holds for racks. With equal NICs and one rank a host this is the bus factor: busbw is at most the rate of a NIC.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from commbench.errors import SpecError
from commbench.layouts import expand
from commbench.records import Case, Fabric, Link, Machine
from commbench.stats.rows import Row
from commbench.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

# Links are shaped by token buckets, here and in clouds: messages up to a burst pass faster than the rate.
_BURST = 512 * 1024
_SLACK = 0.98  # headers are not counted and clocks are not perfect: closer to the limit than this is no surprise
_NAMED = 3  # links of a cut that are named one by one


class Limit(NamedTuple):
    """What the links allow one group of a case.

    seconds   a call takes at least this long while all groups of the layout move as many bytes at once, sharing
              the links fairly: an assumption, since one group may have ended before the others began
    alone     for the bytes of this group alone: a true lower bound, never above `seconds`
    link      what sets `seconds`: a link, or the node whose links together do
    """

    seconds: float
    alone: float
    link: str


def limits(
    fabric: Fabric, host_names: Sequence[str], host_of: Sequence[int], case: Case, nbytes: int
) -> list[Limit | None]:
    """The limit of each group of the case's layout when `nbytes` (as in nccl-tests) are moved.

    Rank r is on the host host_names[host_of[r]]. None where no byte has to cross a link: a barrier, or a group
    that stays within one host. SpecError: a layout that does not fit the ranks, a host the fabric does not have.
    """
    each = _per_byte(fabric, tuple(host_names), tuple(host_of), case.op, case.groups, case.root)
    return [limit and _scaled(limit, nbytes) for limit in each]


def with_limits(rows: Sequence[Row], machine: Machine) -> list[Row]:
    """The rows with `wire_us` and `wire_link`; as they are where the fabric is not known."""
    return [
        row
        if limit is None
        else msgspec.structs.replace(row, wire_us=round(limit.seconds * 1e6, 6), wire_link=limit.link)
        for row, limit in zip(rows, _of_rows(rows, machine), strict=True)
    ]


def beyond(rows: Sequence[Row], machine: Machine) -> str | None:
    """A sentence about rows that were faster than a group alone on its links can be; None where there is none.

    Such a figure is a sign that the bytes took another way than the fabric's links.
    """
    found = [
        (limit.alone * 1e6 / row.median_us, row)
        for row, limit in zip(rows, _of_rows(rows, machine), strict=True)
        if limit and row.median_us and row.nbytes > _BURST and row.median_us < _SLACK * limit.alone * 1e6
    ]
    if not found:
        return None
    ratio, worst = max(found, key=lambda pair: pair[0])
    return (
        f"figure exceeds the wire: {len(found)} row{'s' * (len(found) != 1)}, e.g. {worst.op} {worst.group} "
        f"{format_bytes(worst.nbytes)} at {ratio:.2g} times the limit of its links; "
        "is the traffic really on them (shared memory, loopback, a reducing switch)?"
    )


def _of_rows(rows: Sequence[Row], machine: Machine) -> Iterable[Limit | None]:
    """Each row's limit. A run may have 100,000 rows, but few questions that differ in more than the size."""
    if machine.fabric is None:
        return [None] * len(rows)
    questions = {(row.op, row.group, row.root) for row in rows}
    known = {question: _of_group(machine.fabric, machine, *question) for question in questions}
    each = (known[row.op, row.group, row.root] for row in rows)
    return [limit and _scaled(limit, row.nbytes) for row, limit in zip(rows, each, strict=True)]


def _of_group(fabric: Fabric, machine: Machine, op: str, group: str, root: int) -> Limit | None:
    symbol, _, index = group.partition("[")
    names = tuple(host.name for host in machine.hosts)
    try:
        each = _per_byte(fabric, names, machine.host_of, op, symbol, root)
    except SpecError:  # a layout of another tool, a host outside the fabric: nobody can tell
        return None
    k = int(index.rstrip("]") or 0)
    return each[k] if k < len(each) else None


def _scaled(limit: Limit, nbytes: int) -> Limit:
    return Limit(limit.seconds * nbytes, limit.alone * nbytes, limit.link)


# ---- bytes over cuts ---------------------------------------------------------------------------------------


class _Split(NamedTuple):
    """How cuts part the n ranks of a group; one element a cut."""

    n: int
    a: "Floats"  # ranks inside
    b: "Floats"  # ranks outside
    root: "Floats"  # 1: the root is inside
    hops: "Floats"  # ranks inside whose next one (as a ring) is outside


# (out, in): shares of nbytes that must leave and enter a cut which has ranks on both sides. A chunk is nbytes / n
# where the collective cuts its message into n; a chunk of a sum crosses as one chunk, however many ranks gave to it.
_CROSSING: dict[str, Callable[[_Split], "tuple[Floats | float, Floats | float]"]] = {
    "all_reduce": lambda s: (1.0, 1.0),
    "all_gather": lambda s: (s.a / s.n, s.b / s.n),
    "reduce_scatter": lambda s: (s.b / s.n, s.a / s.n),
    "all_to_all": lambda s: (s.a * s.b / s.n, s.a * s.b / s.n),
    "broadcast": lambda s: (s.root, 1 - s.root),
    "reduce": lambda s: (1 - s.root, s.root),
    "gather": lambda s: ((1 - s.root) * s.a / s.n, s.root * s.b / s.n),
    "scatter": lambda s: (s.root * s.b / s.n, (1 - s.root) * s.a / s.n),
    "send_recv": lambda s: (s.hops, s.hops),  # what leaves a ring comes back
}


@lru_cache(maxsize=2**12)
def _per_byte(
    fabric: Fabric, host_names: tuple[str, ...], host_of: tuple[int, ...], op: str, symbol: str, root: int
) -> tuple[Limit | None, ...]:
    """The limits for nbytes = 1: they grow with it in proportion."""
    groups, cuts = expand(symbol, host_of), _cuts(fabric)
    if op not in _CROSSING or not cuts.names:
        return (None,) * len(groups)
    place = {host.name: k for k, host in enumerate(fabric.hosts)}
    if strangers := set(host_names) - set(place):
        raise SpecError(f"{', '.join(sorted(strangers))}: not a host of the fabric {fabric.name}")
    at = np.array([place[name] for name in host_names])[list(host_of)]
    inside = [cuts.inside[:, at[list(group)]] for group in groups]
    own = np.stack([_crossing(op, ranks, root) for ranks in inside])
    all_at_once = np.where(own > 0, own.sum(axis=0), 0)
    rates, names = np.tile(cuts.rates, 2), cuts.names * 2
    bounds = [(all_at_once / rates, own / rates, np.tile(np.arange(len(cuts.names)), (len(groups), 2)))]
    if op == "all_reduce":
        touched = np.stack([ranks.any(axis=1) for ranks in inside])
        bounds += [_together(touched[:, part], cuts.rates[part], part) for part in cuts.partitions]
    shared, alone, which = (np.concatenate(columns, axis=1) for columns in zip(*bounds, strict=True))
    most = shared.argmax(axis=1)
    return tuple(
        Limit(float(shared[k, best]), float(alone[k].max()), names[which[k, best]]) if shared[k, best] > 0 else None
        for k, best in enumerate(most.tolist())
    )


def _crossing(op: str, inside: "Flags", root: int) -> "Floats":
    """What must leave each cut, then what must enter each; 0 where all ranks are on one side."""
    n = inside.shape[1]
    a = inside.sum(axis=1).astype(np.float64)
    hops = (inside & ~np.roll(inside, -1, axis=1)).sum(axis=1)
    out = _CROSSING[op](_Split(n, a, n - a, inside[:, min(root, n - 1)].astype(np.float64), hops.astype(np.float64)))
    return np.concatenate([np.where((a > 0) & (a < n), share, 0.0) for share in out])


def _together(touched: "Flags", rates: "Floats", part: "NDArray[np.intp]") -> "tuple[Floats, Floats, NDArray[np.intp]]":
    """The limit of an all_reduce from what disjoint cuts send together: (all groups at once, alone, which cut).

    touched[g, p] tells whether group g has ranks in cut p. Of another group whose cuts are not all among one's own,
    at least what every cut sends for itself is counted: nbytes each. The slowest cut stands for all of them.
    """
    held = touched.astype(np.int64)
    parts = held.sum(axis=1)
    common = held @ held.T
    sent = np.where(common == parts, 2 * (parts - 1), common).sum(axis=1)
    rate = np.maximum(held @ rates, rates.min())
    crossed = parts > 1
    slowest = part[np.where(touched, rates, np.inf).argmin(axis=1)]
    return (
        np.where(crossed, sent / rate, 0.0)[:, None],
        np.where(crossed, 2 * (parts - 1) / rate, 0.0)[:, None],
        slowest[:, None],
    )


# ---- cuts of a fabric --------------------------------------------------------------------------------------


class _Cuts(NamedTuple):
    """What is the same for all questions about a fabric.

    names, rates   of each cut: what it is called, and the bytes per second of its links in each direction
    inside         inside[c, h]: cut c has host h inside
    partitions     cuts that share no host: every host, every rack
    """

    names: tuple[str, ...]
    rates: "Floats"
    inside: "Flags"
    partitions: tuple["NDArray[np.intp]", ...]


@lru_cache(maxsize=8)
def _cuts(fabric: Fabric) -> _Cuts:
    everyone = frozenset(host.name for host in fabric.hosts)
    alone = [frozenset({host.name}) for host in fabric.hosts]
    racks = _racks(fabric)
    wanted = dict.fromkeys([*alone, *racks, *_sides(fabric)])
    found = {hosts: _least(fabric, hosts) for hosts in wanted if hosts and hosts != everyone}
    found = {hosts: cut for hosts, cut in found.items() if cut[1]}  # without links there is no way to measure
    place = {hosts: k for k, hosts in enumerate(found)}
    return _Cuts(
        names=tuple(name for name, _ in found.values()),
        rates=np.array([rate for _, rate in found.values()], np.float64),
        inside=np.array([[host.name in hosts for host in fabric.hosts] for hosts in found], np.bool_).reshape(
            len(found), len(fabric.hosts)
        ),
        partitions=tuple(
            np.array([place[hosts] for hosts in parts], np.intp)
            for parts in (alone, racks)
            if len(parts) > 1 and all(hosts in place for hosts in parts)
        ),
    )


def _racks(fabric: Fabric) -> list[frozenset[str]]:
    """The hosts that hang on the same switches."""
    racks: dict[frozenset[str], list[str]] = {}
    for host in fabric.hosts:
        racks.setdefault(frozenset(link.other(host.name) for link in fabric.links_of[host.name]), []).append(host.name)
    return [frozenset(hosts) for hosts in racks.values()]


def _sides(fabric: Fabric) -> Iterable[frozenset[str]]:
    """For every link between switches: the hosts nearer to its first end, and those nearer to its second."""
    hops = {switch: _hops(fabric, switch) for switch in fabric.switches}
    far = len(fabric.links) + 1
    for link in fabric.links:
        if set(link.ends) <= hops.keys():
            one, other = (hops[end] for end in link.ends)
            nearer = {host.name: one.get(host.name, far) - other.get(host.name, far) for host in fabric.hosts}
            yield frozenset(host for host, by in nearer.items() if by < 0)
            yield frozenset(host for host, by in nearer.items() if by > 0)


def _hops(fabric: Fabric, start: str) -> dict[str, int]:
    """Links on the shortest way from a switch to every node."""
    hops = {start: 0}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for link in fabric.links_of[node] if node in fabric.switches else ():
            if (other := link.other(node)) not in hops:
                hops[other] = hops[node] + 1
                queue.append(other)
    return hops


def _least(fabric: Fabric, inside: frozenset[str]) -> tuple[str, float]:
    """(name, rate) of the links of smallest total rate that part these hosts from all others."""
    spare: dict[tuple[str, str], float] = {}  # (link, from) -> what it can still carry; not there: all of its rate
    while isinstance(found := _way(fabric, inside, spare), list):
        most = min(spare.get((link.name, node), link.rate) for node, link in found)
        for node, link in found:
            back = (link.name, link.other(node))
            spare[link.name, node] = spare.get((link.name, node), link.rate) - most
            spare[back] = spare.get(back, link.rate) + most
    cut = [link for link in fabric.links if len(found & set(link.ends)) == 1]
    return _name(cut, found), sum(link.rate for link in cut)


def _way(
    fabric: Fabric, inside: frozenset[str], spare: dict[tuple[str, str], float]
) -> list[tuple[str, Link]] | set[str]:
    """The shortest way out along links with something to spare, or, if there is none, the nodes still reached."""
    hosts = {host.name for host in fabric.hosts}
    came: dict[str, tuple[str, Link] | None] = dict.fromkeys(sorted(inside))
    queue = deque(came)
    while queue:
        node = queue.popleft()
        for link in fabric.links_of[node]:
            other = link.other(node)
            if other in came or spare.get((link.name, node), link.rate) <= 1e-9 * link.rate:
                continue
            came[other] = (node, link)
            queue.append(other)
            if other in hosts:
                way = []
                while step := came[other]:
                    way.append(step)
                    other = step[0]
                return way
    return set(came)


def _name(cut: Sequence[Link], near: set[str]) -> str:
    """A link's own name; of several links the node they share, on the near side if there is a choice."""
    if len(cut) == 1:
        return cut[0].name
    shared = set.intersection(*(set(link.ends) for link in cut)) if cut else set()
    if shared:
        return min(shared, key=lambda node: (node not in near, node))
    more = [f"{len(cut) - _NAMED} more"] if len(cut) > _NAMED else []
    return "+".join([*(link.name for link in cut[:_NAMED]), *more])
