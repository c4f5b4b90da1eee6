"""Addresses and routes: nobody shares one, and every packet arrives, whichever of the equal ways it takes."""

from ipaddress import ip_interface, ip_network
from itertools import combinations, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.lab.addresses import BRIDGE, Interface, Plan, Route, circle, components, plan
from commbench.records import Fabric, FabricHost, Link


def fabric(hosts: int, switches: int, pairs: list[tuple[str, str]], routing: str = "bridge") -> Fabric:
    """Hosts h0, h1, ..., switches s0, s1, ... and the links between the pairs."""
    return Fabric(
        name="test",
        hosts=tuple(FabricHost(name=f"h{k}") for k in range(hosts)),
        switches=tuple(f"s{k}" for k in range(switches)),
        links=tuple(Link(name=f"l{k}", ends=pair, rate=125e6) for k, pair in enumerate(pairs)),
        routing=routing,  # type: ignore[arg-type]
    )


@st.composite
def fabrics(draw: st.DrawFn) -> Fabric:
    """Bridged trees and routed graphs, up to three of them side by side, each with hosts; perhaps a cable as well."""
    routing = draw(st.sampled_from(["bridge", "shortest"]))
    hosts = draw(st.integers(1, 7))
    pairs: list[tuple[str, str]] = []
    switches = 0
    for _ in range(draw(st.integers(1, 3))):
        own = [f"s{switches + k}" for k in range(draw(st.integers(1, 5)))]
        switches += len(own)
        pairs += [(draw(st.sampled_from(own[:k])), own[k]) for k in range(1, len(own))]
        if routing == "shortest" and len(own) > 1:
            pairs += draw(st.lists(st.sampled_from(list(permutations(own, 2))), max_size=5))
        for k in range(hosts):
            most = 2 if routing == "shortest" else 1
            chosen = draw(st.lists(st.sampled_from(own), min_size=1, max_size=most))
            pairs += [(f"h{k}", leaf) if draw(st.booleans()) else (leaf, f"h{k}") for leaf in chosen]
    if hosts > 1 and draw(st.booleans()):
        pairs.append(("h0", "h1"))
    return fabric(hosts, switches, draw(st.permutations(pairs)), routing)


def arrivals(net: Fabric, planned: Plan, node: str, address: str, hops: int) -> set[str]:
    """Where packets from a node to an address end up, over every equal way; "lost" after too many hops."""
    own = [one for one in planned.interfaces if one.node == node and one.address]
    if any(ip_interface(one.address).ip == ip_interface(address).ip for one in own):
        return {node}
    if not hops:
        return {"lost"}
    if any(ip_interface(address).ip in ip_interface(one.address).network for one in own):
        # The neighbour: through a bridge, or at the other end of a cable.
        return {one.node for one in planned.interfaces if one.address.partition("/")[0] == address}
    fitting = [r for r in planned.routes if r.node == node and ip_interface(address).ip in ip_network(r.to)]
    if not fitting:
        return {"lost"}
    best = max(fitting, key=lambda route: ip_network(route.to).prefixlen)
    found = set()
    for via in best.via:
        gateway, _, name = via.split()
        port = next(one for one in own if one.name == name)
        assert ip_interface(gateway).ip in ip_interface(port.address).network
        other = next(one for one in planned.interfaces if one.link == port.link and one != port)
        assert other.address.partition("/")[0] == gateway
        assert other.node in net.switches, "hosts do not forward"
        found |= arrivals(net, planned, other.node, address, hops - 1)
    return found


@settings(max_examples=60, deadline=None)
@given(fabrics())
def test_every_packet_arrives(net: Fabric) -> None:
    planned = plan(net)
    assert planned == plan(net)
    given_out = [one.address.partition("/")[0] for one in planned.interfaces if one.address]
    assert len(set(given_out)) == len(given_out)
    network_of = {}
    for network, links in zip(planned.networks, components(net), strict=True):
        for link in links:
            network_of[link.name] = ip_network(network)
    ends = {(one.node, one.link): one for one in planned.interfaces}
    hosts = [host.name for host in net.hosts]
    for link in net.links:
        for node in link.ends:
            address = ends[node, link.name].address
            assert bool(address) == (node in hosts or net.routing == "shortest")
            assert not address or ip_interface(address).ip in network_of[link.name]
    for a, b in permutations(hosts, 2):
        reachable = {network_of[link.name] for link in net.links_of[a]}
        for link in net.links_of[b]:
            if network_of[link.name] in reachable:
                address = ends[b, link.name].address.partition("/")[0]
                assert arrivals(net, planned, a, address, len(net.switches) + 1) == {b}


@settings(max_examples=100, deadline=None)
@given(fabrics())
def test_names_and_numbers(net: Fabric) -> None:
    planned = plan(net)
    for node, links in net.links_of.items():
        own = [one for one in planned.interfaces if one.node == node and one.link]
        word = "port" if node in net.switches else "eth"
        assert [(one.name, one.link) for one in own] == [(f"{word}{k}", link.name) for k, link in enumerate(links)]
    assert all(len(one.name) <= 15 for one in planned.interfaces)
    # The two ends of a link in its order.
    for link in net.links:
        assert tuple(one.node for one in planned.interfaces if one.link == link.name) == link.ends
    first = {host.name: net.links_of[host.name][0].name for host in net.hosts}
    at = {(one.node, one.link): one.address.partition("/")[0] for one in planned.interfaces}
    assert planned.names == {host: at[host, link] for host, link in first.items()}
    assert not [route for route in planned.routes if route.to in ("default", "0.0.0.0/0")]
    bridges = {one.node for one in planned.interfaces if one.name == BRIDGE}
    assert bridges == (set(net.switches) if net.routing == "bridge" else set())


def test_a_bridged_star() -> None:
    planned = plan(fabric(2, 1, [("h1", "s0"), ("h0", "s0")]))
    assert planned == Plan(
        interfaces=(
            Interface("s0", "br0", "", "10.0.0.3/16"),
            Interface("h1", "eth0", "l0", "10.0.0.2/16"),
            Interface("s0", "port0", "l0", ""),
            Interface("h0", "eth0", "l1", "10.0.0.1/16"),
            Interface("s0", "port1", "l1", ""),
        ),
        routes=(),
        names={"h0": "10.0.0.1", "h1": "10.0.0.2"},
        networks=("10.0.0.0/16",),
    )


def test_a_routed_square_uses_both_ways() -> None:
    pairs = [("h0", "s0"), ("h1", "s2"), *zip(["s0", "s1", "s2", "s3"], ["s1", "s2", "s3", "s0"], strict=True)]
    planned = plan(fabric(2, 4, pairs, "shortest"))
    assert planned.names == {"h0": "10.0.0.1", "h1": "10.0.0.3"}
    assert planned.routes[0] == Route("h0", "10.0.0.0/16", ("10.0.0.0 dev eth0",))
    assert Route("s0", "10.0.0.2/31", ("10.0.0.5 dev port1", "10.0.0.10 dev port2")) in planned.routes
    assert [route.node for route in planned.routes] == ["h0", "h1", "s0", "s1", "s1", "s2", "s3", "s3"]


def test_each_rail_and_each_cable_is_a_network() -> None:
    rails = fabric(2, 2, list(product(["h0", "h1"], ["s0", "s1"])))
    assert [[link.name for link in links] for links in components(rails)] == [["l0", "l2"], ["l1", "l3"]]
    assert plan(rails).networks == ("10.0.0.0/16", "10.1.0.0/16")
    cable = plan(fabric(2, 0, [("h0", "h1")]))
    assert cable.names == {"h0": "10.0.0.1", "h1": "10.0.0.2"}
    assert plan(fabric(2, 0, [("h0", "h1")], "shortest")).routes == ()


def test_more_than_250_hosts_in_one_network() -> None:
    planned = plan(fabric(1000, 1, [(f"h{k}", "s0") for k in range(1000)]))
    assert [planned.names[host] for host in ("h0", "h249", "h250", "h999")] == [
        "10.0.0.1",
        "10.0.0.250",
        "10.0.1.1",
        "10.0.3.250",
    ]


def test_a_thousand_hosts_are_routed_by_leaf() -> None:
    leaves, spines = [f"s{k}" for k in range(25)], [f"s{25 + k}" for k in range(8)]
    pairs = [(f"h{k}", leaves[k // 40]) for k in range(1000)] + list(product(leaves, spines))
    planned = plan(fabric(1000, 33, pairs, "shortest"))
    assert len(planned.routes) == 1000 + 25 * 960 + 8 * 1000
    assert {len(route.via) for route in planned.routes if route.node in leaves} == {8}
    assert {len(route.via) for route in planned.routes if route.node in spines} == {1}


def test_what_has_no_room() -> None:
    with pytest.raises(ValueError, match="276 separate networks are more than the 250"):
        plan(fabric(24, 0, [(f"h{a}", f"h{b}") for a, b in combinations(range(24), 2)]))
    with pytest.raises(ValueError, match="40,000 links in one network are more than the 32,768"):
        plan(fabric(0, 2, [("s0", "s1")] * 40_000, "shortest"))
    last = plan(fabric(0, 2, [("s0", "s1")] * 2**15, "shortest")).interfaces[-1]
    assert last.address == "10.0.255.255/31"


def test_a_circle_is_named() -> None:
    assert circle(fabric(0, 3, [("s0", "s1"), ("s1", "s2")])) is None
    way, _ = circle(fabric(0, 4, [("s3", "s0"), ("s0", "s1"), ("s1", "s2"), ("s2", "s0")])) or ("", None)
    assert sorted(way.split(" - ")[1:]) == ["s0", "s1", "s2"]
    assert way.split(" - ")[0] == way.split(" - ")[-1]
    way, _ = circle(fabric(0, 2, [("s0", "s1"), ("s1", "s0")])) or ("", None)
    assert way in ("s0 - s1 - s0", "s1 - s0 - s1")
    # Hosts do not forward: rails are no circle.
    assert circle(fabric(2, 2, list(product(["h0", "h1"], ["s0", "s1"])))) is None
