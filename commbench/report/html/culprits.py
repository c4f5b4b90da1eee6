"""What the reasons of a verdict point at: hosts of the machine, nodes and links of its network."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from commbench.records import Fabric, Run
from commbench.records.verdict import Component, Kind, Reason, Verdict
from commbench.report.fabric import Mark

_MOST = 40  # culprits that are marked


class Culprit(NamedTuple):
    """A component that a reason names.

    label  the number of its reason, with `?` where others explain the evidence as well
    hosts  indices into the machine's hosts: one, the two of a path, those of a rack; () where nobody can tell
    rail   None: all of them
    """

    label: str
    sure: bool
    kind: Kind
    hosts: tuple[int, ...]
    rail: int | None = None


def accuses(reason: Reason) -> bool:
    """Whether it names a culprit: what was not measured, or differs from what was asked for, is none."""
    return reason.fault != "not measured" and (reason.fault != "misconfigured" or reason.decides == "FAIL")


def culprits(run: Run, verdict: Verdict) -> list[Culprit]:
    """In the order of the reasons; what cannot be found on the machine is left out."""
    found = []
    places = {host.name: k for k, host in enumerate(run.machine.hosts)}
    for number, reason in enumerate(verdict.reasons, 1):
        if not accuses(reason):
            continue
        label = f"{number}{'?' * bool(reason.ties)}"
        for component in (reason.component, *reason.ties):
            hosts, rail = _hosts(run, component, places)
            if hosts:
                found.append(Culprit(label, not reason.ties, component.kind, hosts, rail))
    return found[:_MOST]


def _hosts(run: Run, component: Component, places: Mapping[str, int]) -> tuple[tuple[int, ...], int | None]:
    """(hosts, rail) of a component. A name may hold anything, ` - ` and ` rail ` too: names that exist decide."""
    id_, machine = component.id, run.machine
    if component.kind == "rank":
        known = id_.isdecimal() and int(id_) < machine.size
        return ((machine.host_of[int(id_)],) if known else ()), None
    if component.kind == "path":
        parts = id_.split(" - ")
        ends = ((" - ".join(parts[:k]), " - ".join(parts[k:])) for k in range(1, len(parts)))
        return next(((places[a], places[b]) for a, b in ends if a in places and b in places), ()), None
    name, _, rail = id_.rpartition(" rail ")
    for one, on in ((id_, None), (name, int(rail) if rail.isdecimal() else None)):
        if component.kind in ("host", "nic") and one in places:
            return (places[one],), on
        if component.kind == "uplink" and (members := _rack(run, one)):
            return tuple(sorted(places[host] for host in members if host in places)), on
    return (), None


def _rack(run: Run, name: str) -> Sequence[str]:
    """The hosts of a rack: as the spec names them, else those on the switch of that name."""
    spec = run.spec.get("accept")
    racks = spec.get("racks") if isinstance(spec, dict) else None
    if isinstance(racks, dict) and racks:
        return [str(host) for host in racks.get(name, ())]
    fabric = run.machine.fabric
    return [host.name for host in fabric.hosts if _leaf(fabric, host.name) == name] if fabric else ()


def _leaf(fabric: Fabric, host: str) -> str:
    return fabric.leaf(host) if fabric.links_of[host] else ""


# ---- on the network ----------------------------------------------------------------------------------------


def marks(run: Run, found: Iterable[Culprit]) -> list[Mark]:
    """The culprits as nodes and links of the run's network; none where it is not on record."""
    fabric = run.machine.fabric
    if fabric is None:
        return []
    names = [host.name for host in run.machine.hosts]
    return [
        Mark(one.label, one.sure, *_places(fabric, one, [names[k] for k in one.hosts if names[k] in fabric.links_of]))
        for one in found
    ]


def _places(fabric: Fabric, one: Culprit, hosts: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """(nodes, links). The k-th link of a host is its rail k."""
    if one.kind == "uplink":
        rails = range(len(fabric.links_of[hosts[0]])) if one.rail is None and hosts else [one.rail or 0]
        own = [(host, fabric.links_of[host]) for host in hosts]
        leaves = {links[rail].other(host) for host, links in own for rail in rails if rail < len(links)}
        ups = [link for leaf in leaves for link in fabric.links_of[leaf] if link.other(leaf) in fabric.switches]
        return frozenset() if ups else frozenset(leaves), frozenset(link.name for link in ups)
    if one.kind == "path":
        return frozenset(hosts), _between(fabric, *hosts) if len(hosts) == 2 else frozenset()
    if one.rail is not None and hosts and one.rail < len(fabric.links_of[hosts[0]]):
        return frozenset(), frozenset({fabric.links_of[hosts[0]][one.rail].name})
    return frozenset(hosts), frozenset()


def _between(fabric: Fabric, a: str, b: str) -> frozenset[str]:
    """The links of all shortest ways."""
    near, far = _distances(fabric, a), _distances(fabric, b)
    if b not in near:
        return frozenset()
    return frozenset(
        link.name
        for link in fabric.links
        for u, v in (link.ends, link.ends[::-1])
        if u in near and v in far and near[u] + 1 + far[v] == near[b]
    )


def _distances(fabric: Fabric, start: str) -> dict[str, int]:
    found = {start: 0}
    queue = deque(found)
    while queue:
        node = queue.popleft()
        for link in fabric.links_of[node]:
            if link.other(node) not in found:
                found[link.other(node)] = found[node] + 1
                queue.append(link.other(node))
    return found


def part(fabric: Fabric, marked: Sequence[Mark], most: int, near: int) -> Fabric | None:
    """The fabric; of one with more than `most` hosts `near` ones that are marked or beside those, with the switches
    above them; None where none is marked."""
    if len(fabric.hosts) <= most:
        return fabric
    nodes = {node for mark in marked for node in mark.nodes}
    nodes |= {end for link in fabric.links for mark in marked if link.name in mark.links for end in link.ends}
    if not nodes:
        return None
    leaf = {host.name: _leaf(fabric, host.name) for host in fabric.hosts}
    leaves = nodes | {leaf[name] for name in leaf if name in nodes}
    order = sorted(leaf, key=lambda name: (name not in nodes, leaf[name] not in leaves))
    chosen = {name for name in order[:near] if name in nodes or leaf[name] in leaves}
    kept = chosen | {link.other(host) for host in chosen for link in fabric.links_of[host]}
    above = {link.other(node) for node in kept & set(fabric.switches) for link in fabric.links_of[node]}
    kept |= (above & set(fabric.switches)) | (nodes & set(fabric.switches))
    return Fabric(
        name=fabric.name,
        hosts=tuple(host for host in fabric.hosts if host.name in chosen),
        switches=tuple(switch for switch in fabric.switches if switch in kept),
        links=tuple(link for link in fabric.links if kept.issuperset(link.ends)),
        routing=fabric.routing,
    )
