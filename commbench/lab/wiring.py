"""Fabric and addresses -> lines for `ip -batch` and `tc -batch`. Pure: nothing is carried out here.

Links are shaped by a token bucket at both ends. Its burst is what decides how well TCP fills the link: with 16,
32, 64 and 256 KB Gloo reached 0.74, 0.85, 0.96 and 0.98 of 1 Gbit/s at 16 MiB. A message smaller than the burst
does not feel the rate at all.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from commbench.lab.addresses import BRIDGE, Plan
from commbench.records import Fabric, Link

_BURST_TIME = 0.002  # seconds of the rate
_LEAST_BURST = 96 * 1024  # bytes: a packet of 64 KB that is still to be cut must fit
_QUEUE_TIME = 0.02  # seconds that a packet may wait in a full queue; with half of it Gloo fell from 0.96 to 0.82
_FIRST_INDEX = 1000
_LEAST_QUEUE = 2**20


class End(NamedTuple):
    """One end of a link: the interface `name` of `node`."""

    node: str
    name: str


def ends(plan: Plan) -> dict[str, tuple[End, ...]]:
    """link -> its two ends, in the order of the link."""
    found: dict[str, list[End]] = {}
    for interface in plan.interfaces:
        if interface.link:
            found.setdefault(interface.link, []).append(End(interface.node, interface.name))
    return {link: tuple(pair) for link, pair in found.items()}


def burst(rate: float) -> int:
    """Bytes that may pass at once on a link of `rate` bytes per second; the smallest message that feels the rate."""
    return max(int(rate * _BURST_TIME), _LEAST_BURST)


def cables(fabric: Fabric, plan: Plan, pids: Mapping[str, int]) -> Iterator[str]:
    """Every link as a pair of interfaces, each in the namespace of its node (held by `pids`)."""
    both = ends(plan)
    for number, link in enumerate(fabric.links):
        a, b = both[link.name]
        # Where both ends have the same index the kernel takes up to a second to notice that one went up or down.
        index = _FIRST_INDEX + 2 * number
        yield (
            f"link add {a.name} index {index} mtu {link.mtu} netns {pids[a.node]} type veth "
            f"peer name {b.name} index {index + 1} mtu {link.mtu} netns {pids[b.node]}"
        )


def setup(fabric: Fabric, plan: Plan, node: str) -> Iterator[str]:
    """What makes a node's interfaces work: bridge, addresses, routes."""
    yield "link set lo up"
    own = [interface for interface in plan.interfaces if interface.node == node]
    for interface in own:
        if interface.name == BRIDGE:
            # A learning switch: no spanning tree (there is one way only), ports forward at once.
            yield f"link add {BRIDGE} mtu {max(link.mtu for link in fabric.links_of[node])} type bridge forward_delay 0"
        if interface.address:
            yield f"address add {interface.address} dev {interface.name}"
        elif interface.link:
            yield f"link set {interface.name} master {BRIDGE}"
        yield f"link set {interface.name} up"
    yield from routes(plan, node)


def routes(plan: Plan, node: str, interface: str = "") -> Iterator[str]:
    """The node's routes, or only those over one interface."""
    for route in plan.routes:
        if route.node == node and any(not interface or via.endswith(f" {interface}") for via in route.via):
            hops = " ".join(f"nexthop via {via}" for via in route.via) if len(route.via) > 1 else f"via {route.via[0]}"
            yield f"route replace {route.to} {hops}"


def shaping(link: Link, end: End, share: float = 1.0) -> str:
    """The token bucket at one end of a link, at a share of its rate."""
    rate = link.rate * share
    queue = max(int(rate * _QUEUE_TIME), _LEAST_QUEUE)
    return f"qdisc replace dev {end.name} root tbf rate {max(int(rate * 8), 8)}bit burst {burst(rate)} limit {queue}"
