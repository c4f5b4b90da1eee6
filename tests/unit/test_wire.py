"""The limit of the wire: physics on small fabrics, known figures, and what must hold everywhere."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commbench.collectives import COLLECTIVES, bandwidths
from commbench.errors import SpecError
from commbench.layouts import expand
from commbench.model.wire import Limit, beyond, limits, with_limits
from commbench.records import Case, Fabric, FabricHost, Host, Link, Machine, Measurement
from commbench.stats.rows import Row, rows

RATE = 125e6  # 1 Gbit/s
MIB = 2**20
CARRIED = sorted(set(COLLECTIVES) - {"barrier"})


def fabric(*lines: str, name: str = "test") -> Fabric:
    """From lines such as `h1-s1` or `s1-s2 0.5` (times 1 Gbit/s); what begins with h is a host."""
    links = []
    for line in lines:
        cable, _, times = line.partition(" ")
        one, _, other = cable.partition("-")
        links.append(Link(name=cable, ends=(one, other), rate=RATE * float(times or 1)))
    nodes = list(dict.fromkeys(end for link in links for end in link.ends))
    return Fabric(
        name=name,
        hosts=tuple(FabricHost(name=node) for node in nodes if node.startswith("h")),
        switches=tuple(node for node in nodes if not node.startswith("h")),
        links=tuple(links),
    )


STAR = fabric("h1-s", "h2-s", "h3-s", "h4-s")
RACKS = fabric("h1-a", "h2-a", "h3-b", "h4-b", "a-spine 0.5", "b-spine 0.5")
RAILS = fabric(*(f"h{k}-r{r}" for k in range(1, 5) for r in (1, 2)))
FAT = fabric("h1-a", "h2-a", "h3-b", "h4-b", *(f"{leaf}-{spine} 0.5" for leaf in "ab" for spine in "xy"))
RING = fabric(*(f"h{k}-s{k}" for k in range(1, 5)), *(f"s{k}-s{k % 4 + 1} 0.5" for k in range(1, 5)))
FABRICS = {"star": STAR, "racks": RACKS, "rails": RAILS, "fat": FAT, "ring": RING}


def ask(
    net: Fabric, op: str, groups: str = "world", nbytes: int = 10**9, per_host: int = 1, root: int = 0
) -> list[Limit | None]:
    names = [host.name for host in net.hosts]
    host_of = [rank // per_host for rank in range(per_host * len(names))]
    case = Case(op=op, backend="mpi", nbytes=nbytes, groups=groups, root=root)
    return limits(net, names, host_of, case, nbytes)


def one(net: Fabric, op: str, **more: Any) -> Limit:
    (limit,) = ask(net, op, **more)
    assert limit is not None
    return limit


def test_the_figure_of_the_lab() -> None:
    """16 MiB over four hosts of 1 Gbit/s: 201 ms, whoever computes it."""
    limit = one(STAR, "all_reduce", nbytes=16 * MIB)
    assert limit == Limit(pytest.approx(0.2013, abs=5e-5), limit.seconds, "h1-s")


@pytest.mark.parametrize("op", CARRIED)
def test_on_a_star_of_single_ranks_busbw_is_at_most_the_nic(op: str) -> None:
    limit = one(STAR, op)
    assert bandwidths(op, 10**9, 4, limit.seconds)[1] == pytest.approx(RATE / 1e9)


# (op, root) -> seconds for 1 GB over two racks of two hosts, in units of 8 s (1 GB over 1 Gbit/s). The uplink has half
# the rate of a NIC: what crosses counts double.
UPLINK = {
    ("all_reduce", 0): (2.0, "a-spine"),  # 1 each way over the uplink; 1.5 by the NICs
    ("all_gather", 0): (1.0, "a-spine"),
    ("reduce_scatter", 0): (1.0, "a-spine"),
    ("all_to_all", 0): (2.0, "a-spine"),  # 2 x 2 chunks of a quarter
    ("broadcast", 3): (2.0, "b-spine"),
    ("reduce", 3): (2.0, "a-spine"),
    ("gather", 0): (1.0, "a-spine"),
    ("scatter", 2): (1.0, "b-spine"),
    ("send_recv", 0): (2.0, "a-spine"),  # of the ring, two hops cross, one in each direction
}


@pytest.mark.parametrize(("op", "root"), UPLINK)
def test_between_racks_the_uplink_counts(op: str, root: int) -> None:
    limit = one(RACKS, op, root=root)
    seconds, link = UPLINK[op, root]
    assert limit.seconds == limit.alone == pytest.approx(8 * seconds)
    assert limit.link in (link, "b-spine" if link == "a-spine" else "a-spine")


def test_pairs_within_a_rack_feel_the_nic_and_pairs_between_racks_share_the_uplink() -> None:
    found = {}
    for round_ in range(3):
        symbol = f"pairs/{round_}"
        for pair, limit in zip(expand(symbol, range(4)), ask(RACKS, "send_recv", symbol), strict=True):
            assert limit is not None
            found[pair] = (round(limit.seconds), round(limit.alone), limit.link)
    assert found[0, 1] == (8, 8, "h1-a")
    assert found[2, 3] == (8, 8, "h3-b")
    assert {found[pair] for pair in ((0, 2), (0, 3), (1, 2), (1, 3))} == {(32, 16, "a-spine")}


def test_all_to_all_within_and_between_racks() -> None:
    assert [limit and limit.link for limit in ask(RACKS, "all_to_all", "mesh(r=2,h=2)/h")] == ["h1-a", "h3-b"]
    across = ask(RACKS, "all_to_all", "mesh(r=2,h=2)/r")
    assert [(limit.seconds, limit.alone) for limit in across if limit] == [(16, 8), (16, 8)]


def test_the_nics_of_a_host_add_up() -> None:
    limit = one(RAILS, "all_reduce")
    assert limit.link == "h1"
    assert limit.seconds == pytest.approx(one(STAR, "all_reduce").seconds / 2)


def test_a_host_does_not_forward_between_its_nics() -> None:
    """h1 is on two switches: without it they are apart, and h2 and h3 cannot meet."""
    assert ask(fabric("h1-r", "h1-q", "h2-r", "h3-q"), "send_recv", "pairs/0")[0] is not None
    broken = fabric("h1-r", "h1-q 0.1", "h2-r", "h3-q")
    assert one(broken, "all_reduce").seconds >= one(fabric("h1-r", "h2-r", "h3-r"), "all_reduce").seconds


def test_the_uplinks_of_a_leaf_add_up() -> None:
    limit = one(FAT, "all_to_all")
    assert limit.seconds == pytest.approx(8)
    slow = msgspec.structs.replace(
        FAT, links=tuple(msgspec.structs.replace(x, rate=x.rate / (1 if "h" in x.name else 4)) for x in FAT.links)
    )
    limit = one(slow, "all_to_all")
    assert (limit.seconds, limit.link) == (pytest.approx(32), "a")


def test_half_of_a_ring_is_a_cut() -> None:
    """Two hosts and two hosts: 4 chunks of a quarter over two links of half the rate; no single link tells."""
    limit = one(RING, "all_to_all")
    assert limit.seconds == pytest.approx(8)
    assert one(fabric(*(link.name + " 0.25" * (link.name[0] == "s") for link in RING.links)), "all_to_all").link in {
        f"s{k}-s{k % 4 + 1}+s{j}-s{j % 4 + 1}" for k in range(1, 5) for j in range(1, 5)
    }


def test_what_hangs_below_any_switch_is_a_cut() -> None:
    """Three levels, narrow at the top: the pod's uplinks, not a leaf's, are the bottleneck."""
    leaves = [f"h{k}-l{(k + 1) // 2}" for k in range(1, 9)]
    net = fabric(*leaves, *(f"l{k}-pod{(k + 1) // 2} 2" for k in range(1, 5)), "pod1-core 0.5", "pod2-core 0.5")
    assert one(net, "all_to_all").link == "pod1-core"


def test_a_chain_of_switches() -> None:
    net = fabric("h1-s1", "h2-s2", "h3-s3", "h4-s4", "s1-s2", "s2-s3 0.5", "s3-s4")
    limit = one(net, "all_to_all")
    assert (limit.link, limit.seconds) == ("s2-s3", pytest.approx(16))


def test_a_slow_nic_is_the_limit_of_its_groups_alone() -> None:
    net = fabric("h1-s", "h2-s", "h3-s", "h4-s 0.1")
    assert one(net, "all_reduce").link == "h4-s"
    found = {
        pair: limit.link
        for pair, limit in zip(expand("pairs/0", range(4)), ask(net, "send_recv", "pairs/0"), strict=True)
        if limit
    }
    assert [link for pair, link in found.items() if 3 in pair] == ["h4-s"]
    assert "h4-s" not in [link for pair, link in found.items() if 3 not in pair]


def test_ranks_of_a_host_share_its_nic_and_talk_inside() -> None:
    assert one(STAR, "all_reduce", per_host=4).seconds == one(STAR, "all_reduce").seconds
    rails = ask(STAR, "all_reduce", "rail", per_host=4)
    assert [limit and limit.seconds / limit.alone for limit in rails] == pytest.approx([4] * 4)
    assert ask(STAR, "all_reduce", "node", per_host=4) == [None] * 4


def test_hosts_back_to_back() -> None:
    limit = one(fabric("h1-h2"), "all_reduce")
    assert (limit.seconds, limit.link) == (pytest.approx(8), "h1-h2")


def test_unequal_groups_at_once() -> None:
    """(0, 3, 6) and two pairs on three hosts of three: every host sends for several groups."""
    net = fabric("h1-s", "h2-s", "h3-s")
    found = ask(net, "all_reduce", "every:4", per_host=3)
    assert all(limit and limit.seconds >= limit.alone for limit in found)


def test_nothing_to_carry_has_no_limit() -> None:
    assert ask(STAR, "barrier") == [None]
    assert ask(fabric("h1-s"), "all_reduce", per_host=4) == [None]


def test_a_host_that_the_fabric_does_not_have_is_an_error() -> None:
    case = Case(op="all_reduce", backend="mpi", nbytes=8)
    with pytest.raises(SpecError, match="x1: not a host of the fabric test"):
        limits(STAR, ["h1", "x1"], [0, 1], case, 8)


@given(
    net=st.sampled_from(sorted(FABRICS)),
    op=st.sampled_from(CARRIED),
    groups=st.sampled_from(["world", "rail", "every:2", "every:3", "pairs/1", "mesh(a=2,b=4)/a", "mesh(a=4,b=2)/a"]),
    root=st.integers(0, 7),
    nbytes=st.integers(1, 2**40),
)
def test_shared_is_never_below_alone_and_limits_grow_with_the_size(
    net: str, op: str, groups: str, root: int, nbytes: int
) -> None:
    once = ask(FABRICS[net], op, groups, 1, 2, root)
    scaled = ask(FABRICS[net], op, groups, nbytes, 2, root)
    assert len(once) == len(expand(groups, [rank // 2 for rank in range(8)]))
    for one_byte, limit in zip(once, scaled, strict=True):
        assert (one_byte is None) == (limit is None)
        if one_byte and limit:
            assert limit.seconds >= limit.alone > 0
            assert limit.seconds == pytest.approx(one_byte.seconds * nbytes)
            assert limit.link == one_byte.link


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=6), st.sampled_from(CARRIED), st.integers(0, 5))
def test_a_faster_link_never_raises_the_limit(rates: Sequence[float], op: str, faster: int) -> None:
    def with_rates(each: Sequence[float]) -> Fabric:
        links = zip(RACKS.links, each, strict=True)
        return msgspec.structs.replace(
            RACKS, links=tuple(msgspec.structs.replace(link, rate=RATE * rate) for link, rate in links)
        )

    more = [rate * (2 if k == faster else 1) for k, rate in enumerate(rates)]
    assert one(with_rates(more), op).seconds <= one(with_rates(rates), op).seconds * (1 + 1e-9)


# ---- rows --------------------------------------------------------------------------------------------------


def machine(net: Fabric | None, names: Sequence[str] = ("h1", "h2", "h3", "h4")) -> Machine:
    hosts = tuple(Host(name=name) for name in names)
    return Machine(hosts=hosts, host_of=tuple(range(len(hosts))), launcher="mpirun", fabric=net)


def answered(
    op: str, nbytes: int, seconds: float, groups: str = "world", group: int = 0, ranks: int = 4
) -> Measurement:
    case = Case(op=op, backend="mpi", nbytes=nbytes, groups=groups)
    return Measurement(case=case, nbytes=nbytes, seconds=(seconds,) * 30, group=group, ranks=ranks)


def test_rows_get_their_limits() -> None:
    found = with_limits(rows([answered("all_reduce", 16 * MIB, 0.25), answered("barrier", 0, 0.01)]), machine(STAR))
    known = {row.op: (row.wire_us, row.wire_link, row.wire_share) for row in found}
    assert known["barrier"] == (None, None, None)
    assert known["all_reduce"] == (pytest.approx(201326.592), "h1-s", pytest.approx(0.805, abs=1e-3))


def test_a_group_gets_the_limit_of_its_own_links() -> None:
    measured = [answered("send_recv", MIB, 1.0, "pairs/2", k, 2) for k in (0, 1)]
    found = with_limits(rows(measured), machine(RACKS))
    names = [[f"h{rank + 1}" for rank in pair] for pair in expand("pairs/2", range(4))]
    assert names == [["h1", "h2"], ["h3", "h4"]]
    assert [row.wire_link for row in found] == ["h1-a", "h3-b"]


def test_without_a_fabric_or_a_known_layout_rows_stay_as_they_are() -> None:
    measured = rows([answered("all_reduce", MIB, 1e-6)])
    assert with_limits(measured, machine(None)) == measured
    assert beyond(measured, machine(None)) is None
    assert with_limits(measured, machine(STAR, ("a", "b", "c", "d"))) == measured
    foreign = rows([answered("all_reduce", MIB, 1e-6, "mine", k) for k in range(2)])
    assert with_limits(foreign, machine(STAR)) == foreign


def test_a_figure_beyond_the_wire_is_told() -> None:
    wire = 2 * 3 / 4 * MIB / RATE

    def said(nbytes: int, share: float) -> str | None:
        measured: list[Row] = rows([answered("all_reduce", nbytes, share * wire * nbytes / MIB)])
        return beyond(measured, machine(STAR))

    assert said(MIB, 1.0) is None
    assert said(MIB, 0.99) is None
    assert said(512 * 1024, 0.5) is None  # a burst
    text = said(MIB, 0.5)
    assert text is not None
    assert text.startswith(
        "figure exceeds the wire: 1 row, e.g. all_reduce world 1MiB at 2 times the limit of its links"
    )
    measured = [answered("all_reduce", size, wire * size / MIB * f) for size, f in ((MIB, 0.8), (2 * MIB, 0.4))]
    assert "2 rows, e.g. all_reduce world 2MiB at 2.5 times" in (beyond(rows(measured), machine(STAR)) or "")


def test_other_groups_do_not_make_a_figure_suspicious() -> None:
    """What is shared is an assumption; only a group's own bytes are proof."""
    (limit, _) = ask(RACKS, "send_recv", "pairs/0", MIB)
    assert limit is not None
    assert limit.seconds == 2 * limit.alone
    measured = [answered("send_recv", MIB, limit.alone, "pairs/0", k, 2) for k in (0, 1)]
    assert beyond(rows(measured), machine(RACKS)) is None
