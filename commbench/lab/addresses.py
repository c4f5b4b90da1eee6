"""Fabric -> the interfaces, addresses and routes of every node. Pure: nothing is carried out here.

Hosts do not forward. So the links fall into components: those that meet in a switch, and each cable between two
hosts alone. Each component is a network of its own, 10.C.0.0/16, and there is never a default route: the lab
reaches nothing else.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from commbench.records.fabric import Fabric, Link, Routing

BRIDGE = "br0"
MAX_NETWORKS = 250
# Links of one network: a /31 each out of its /16, or an address for each node (they are one more) in 250 of 256.
MAX_LINKS: dict[Routing, int] = {"shortest": 2**15, "bridge": 250 * 256 - 1}


class Interface(NamedTuple):
    """One interface of a node. `ethK` of a host and `portK` of a switch are at its link K, counted from 0.

    A switch that bridges also has `br0`, whose link is "", with an address for `lab check`. `address` has its
    prefix length; "" where there is none.
    """

    node: str
    name: str
    link: str
    address: str


class Route(NamedTuple):
    """A route of a node to the network `to`: each of `via` is `ADDRESS dev NAME`, several cost the same."""

    node: str
    to: str
    via: tuple[str, ...]


class Plan(NamedTuple):
    """All of a fabric. The two interfaces of a link stand in the order of its ends.

    names     host -> its first address, without the prefix length
    networks  the network of each component
    """

    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]
    names: dict[str, str]
    networks: tuple[str, ...]


def components(fabric: Fabric) -> list[list[Link]]:
    """The links that can reach each other without passing through a host, in the order of their first link.

    ValueError where there are more than there are addresses for.
    """
    above = {switch: switch for switch in fabric.switches}

    def root(node: str) -> str:
        while above[node] != node:
            above[node] = node = above[above[node]]
        return node

    for a, b in (link.ends for link in fabric.links):
        if a in above and b in above:
            above[root(a)] = root(b)
    found: dict[str, list[Link]] = defaultdict(list)
    for k, link in enumerate(fabric.links):
        inside = [end for end in link.ends if end in above]
        found[root(inside[0]) if inside else f"cable {k}"].append(link)
    if len(found) > MAX_NETWORKS:
        raise ValueError(
            f"{len(found)} separate networks are more than the {MAX_NETWORKS} that there are addresses for"
        )
    most, limit = max(map(len, found.values()), default=0), MAX_LINKS[fabric.routing]
    if most > limit:
        raise ValueError(f"{most:,} links in one network are more than the {limit:,} that there are addresses for")
    return list(found.values())


def circle(fabric: Fabric) -> tuple[str, Link] | None:
    """A way from a switch back to itself, and a link of it."""
    between: dict[str, list[Link]] = {switch: [] for switch in fabric.switches}
    for link in fabric.links:
        if all(end in between for end in link.ends):
            for end in link.ends:
                between[end].append(link)
    above: dict[str, Link | None] = {}

    def upward(node: str) -> Iterator[str]:
        yield node
        while link := above[node]:
            yield (node := link.other(node))

    for start in fabric.switches:
        todo = [] if start in above else [start]
        above.setdefault(start, None)
        for here in todo:  # which grows
            for link in between[here]:
                there = link.other(here)
                if link is above[here]:
                    continue
                if there in above:
                    left, right = list(upward(here)), list(upward(there))
                    meet = next(node for node in left if node in right)
                    way = left[: left.index(meet) + 1] + right[: right.index(meet)][::-1]
                    return " - ".join([*way, way[0]]), link
                above[there] = link
                todo.append(there)
    return None


def plan(fabric: Fabric) -> Plan:
    """Interfaces and routes of every node. ValueError as from `components`."""
    networks = components(fabric)
    numbered = _pairs if fabric.routing == "shortest" else _subnet
    addresses: dict[tuple[str, str], str] = {}  # (link, node) -> address with its prefix length
    for c, links in enumerate(networks):
        addresses |= numbered(fabric, c, links)
    interfaces = _interfaces(fabric, addresses)
    routes: list[Route] = []
    if fabric.routing == "shortest":
        at = {(one.link, one.node): one for one in interfaces}
        for c, links in enumerate(networks):
            routes += _routes(fabric, f"10.{c}.0.0/16", links, at)
    hosts = {host.name for host in fabric.hosts}
    names: dict[str, str] = {}
    for one in interfaces:
        if one.node in hosts:
            names.setdefault(one.node, one.address.partition("/")[0])
    return Plan(
        interfaces=tuple(interfaces),
        routes=tuple(routes),
        names={host.name: names[host.name] for host in fabric.hosts if host.name in names},
        networks=tuple(f"10.{c}.0.0/16" for c in range(len(networks))),
    )


def _subnet(fabric: Fabric, c: int, links: Iterable[Link]) -> dict[tuple[str, str], str]:
    """One subnet for the hosts of a bridged network, in their order, then its switches; ports have no address."""
    of: dict[str, list[str]] = defaultdict(list)
    for link in links:
        for end in link.ends:
            of[end].append(link.name)
    ends = [(link, host.name) for host in fabric.hosts for link in of.get(host.name, ())]
    ends += [("", switch) for switch in fabric.switches if switch in of]
    return {end: f"10.{c}.{i // 250}.{i % 250 + 1}/16" for i, end in enumerate(ends)}


def _pairs(fabric: Fabric, c: int, links: list[Link]) -> dict[tuple[str, str], str]:
    """A /31 for every link of a routed network; the host's end has the odd address."""
    switches = set(fabric.switches)
    found = {}
    for j, link in enumerate(links):
        for low, node in enumerate(sorted(link.ends, key=lambda end: end not in switches)):
            found[link.name, node] = f"10.{c}.{2 * j >> 8}.{(2 * j & 255) + low}/31"
    return found


def _interfaces(fabric: Fabric, addresses: dict[tuple[str, str], str]) -> list[Interface]:
    switches = set(fabric.switches)
    count: dict[str, int] = defaultdict(int)
    found = []
    if fabric.routing == "bridge":
        found += [Interface(switch, BRIDGE, "", addresses.get(("", switch), "")) for switch in fabric.switches]
    for link in fabric.links:
        for node in link.ends:
            name = f"{'port' if node in switches else 'eth'}{count[node]}"
            count[node] += 1
            found.append(Interface(node, name, link.name, addresses.get((link.name, node), "")))
    return found


def _routes(fabric: Fabric, network: str, links: list[Link], at: dict[tuple[str, str], Interface]) -> list[Route]:
    """Routes inside a routed network: hosts to all of it over their switches, switches to every host's link."""
    switches = {switch: k for k, switch in enumerate(fabric.switches)}
    between: dict[str, list[Link]] = defaultdict(list)  # switch -> its links to switches
    leaves: dict[str, list[Link]] = defaultdict(list)  # switch -> its links to hosts
    uplinks: dict[str, list[str]] = defaultdict(list)  # host -> its hops

    def hop(link: Link, node: str) -> str:
        """The way over a link from a node."""
        other = at[link.name, link.other(node)].address.partition("/")[0]
        return f"{other} dev {at[link.name, node].name}"

    for link in links:
        inside = [end for end in link.ends if end in switches]
        if len(inside) == 2:
            for end in inside:
                between[end].append(link)
        elif inside:
            host = link.other(inside[0])
            leaves[inside[0]].append(link)
            uplinks[host].append(hop(link, host))
    routes = [Route(host.name, network, tuple(uplinks[host.name])) for host in fabric.hosts if host.name in uplinks]
    toward = []
    for leaf, ports in leaves.items():
        far = _distances(leaf, between)
        targets = [at[port.name, leaf].address for port in ports]
        for switch in sorted(far, key=switches.__getitem__):
            if switch != leaf:
                ways = [link for link in between[switch] if far[link.other(switch)] < far[switch]]
                via = tuple(hop(link, switch) for link in ways)
                toward += [Route(switch, target, via) for target in targets]
    return routes + sorted(toward, key=lambda route: switches[route.node])


def _distances(start: str, between: dict[str, list[Link]]) -> dict[str, int]:
    """Links from a switch to every other one."""
    far, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for link in between.get(here, ()):
            there = link.other(here)
            if there not in far:
                far[there] = far[here] + 1
                queue.append(there)
    return far
