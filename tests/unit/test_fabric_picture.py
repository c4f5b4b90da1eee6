"""A fabric as text and as a picture: every host, switch and link is there, once."""

import os
from pathlib import Path

import pytest

from commbench.errors import CommbenchError, SpecError
from commbench.records import Fabric, FabricHost, Link
from commbench.report.fabric import draw, text

RATE = 125e6
MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


def link(one: str, other: str, rate: float = RATE, mtu: int = 9000) -> Link:
    return Link(name=f"{one}-{other}", ends=(one, other), rate=rate, mtu=mtu)


def hosts(count: int, ranks: int = 1) -> tuple[FabricHost, ...]:
    return tuple(FabricHost(name=f"h{k + 1}", ranks=ranks) for k in range(count))


def racks(count: int, size: int, up: float = RATE, spines: int = 1) -> Fabric:
    tops = [f"spine{k + 1}" for k in range(spines)]
    return Fabric(
        name=f"{count} racks",
        hosts=hosts(count * size),
        switches=(*(f"leaf{k + 1}" for k in range(count)), *tops),
        links=(
            *(link(f"h{k + 1}", f"leaf{k // size + 1}") for k in range(count * size)),
            *(link(f"leaf{k + 1}", top, up) for k in range(count) for top in tops),
        ),
        routing="bridge" if spines == 1 else "shortest",
    )


def ring(count: int, size: int = 1) -> Fabric:
    return Fabric(
        name="ring",
        hosts=hosts(count * size),
        switches=tuple(f"s{k + 1}" for k in range(count)),
        links=(
            *(link(f"h{k + 1}", f"s{k // size + 1}") for k in range(count * size)),
            *(link(f"s{k + 1}", f"s{(k + 1) % count + 1}", RATE / 2) for k in range(count)),
        ),
        routing="shortest",
    )


STAR = Fabric(name="star", hosts=hosts(4), switches=("s1",), links=tuple(link(f"h{k}", "s1") for k in range(1, 5)))
RAILS = Fabric(
    name="rails",
    hosts=hosts(4, 2),
    switches=("rail1", "rail2"),
    links=tuple(link(f"h{k}", f"rail{r}", RATE * r, 9000 if r == 1 else 1500) for k in range(1, 5) for r in (1, 2)),
)
MIXED = Fabric(
    name="mixed $x$",
    hosts=(*hosts(2), FabricHost(name="h3", ranks=4, cpu=0.5)),
    switches=("s1", "s2", "s3"),
    links=(link("h1", "s1"), link("h2", "s2"), link("h3", "s3", RATE / 10), link("s1", "s2"), link("s1", "s3")),
)
FABRICS = {
    "star": STAR,
    "two racks": racks(2, 2, RATE / 4),
    "fat tree": racks(2, 2, RATE, 2),
    "rails": RAILS,
    "ring": ring(4),
    "wide ring": ring(6, 4),
    "64 hosts": racks(4, 16, 4 * RATE),
    "mixed": MIXED,
    "back to back": Fabric(name="pair", hosts=hosts(2), switches=(), links=(link("h1", "h2"),)),
    "one host": Fabric(name="one", hosts=hosts(1), switches=("s1",), links=(link("h1", "s1"),)),
}


def test_a_tree() -> None:
    assert list(text(racks(2, 2, RATE / 4))) == [
        "2 racks: 4 hosts, 1 rank each · 3 switches · 6 links",
        "spine1",
        "├── leaf1 (link leaf1-spine1, 250 Mbit/s)",
        "│   ├── h1: 1 rank (link h1-leaf1, 1 Gbit/s)",
        "│   └── h2: 1 rank (link h2-leaf1, 1 Gbit/s)",
        "└── leaf2 (link leaf2-spine1, 250 Mbit/s)",
        "    ├── h3: 1 rank (link h3-leaf2, 1 Gbit/s)",
        "    └── h4: 1 rank (link h4-leaf2, 1 Gbit/s)",
    ]


def test_what_has_its_line_already_is_an_arrow() -> None:
    assert list(text(racks(2, 2, RATE / 10, 2)))[-3:] == [
        "spine2",
        "├── -> leaf1 (link leaf1-spine2, 100 Mbit/s)",
        "└── -> leaf2 (link leaf2-spine2, 100 Mbit/s)",
    ]
    assert "├── -> h1 (link h1-rail2, 2 Gbit/s, mtu 1500)" in list(text(RAILS))
    assert list(text(ring(3)))[1:5] == [
        "s1",
        "├── h1: 1 rank (link h1-s1, 1 Gbit/s)",
        "├── -> s2 (link s1-s2, 500 Mbit/s)",
        "└── -> s3 (link s3-s1, 500 Mbit/s)",
    ]


@pytest.mark.parametrize("name", FABRICS)
def test_every_link_is_told_once_and_every_host(name: str) -> None:
    fabric = FABRICS[name]
    if len(fabric.hosts) > 16:
        return
    said = "\n".join(text(fabric))
    assert {x.name: said.count(f"link {x.name},") for x in fabric.links} == {x.name: 1 for x in fabric.links}
    lines = said.splitlines()
    for host in fabric.hosts:
        told = [line.lstrip("│├└─ ") for line in lines]
        assert sum(line.startswith(f"{host.name}: {host.ranks} rank") or line == host.name for line in told) == 1
    roots_and_branches = [line.lstrip("│├└─ ").partition(" ")[0] for line in lines]
    assert all(roots_and_branches.count(switch) == 1 for switch in fabric.switches)


def test_ranks_cores_and_other_names() -> None:
    lines = list(text(MIXED, {"h1": "10.0.0.1", "unknown": "x"}))
    assert lines[0] == "mixed $x$: 3 hosts, 6 ranks · 3 switches · 5 links"
    assert "├── h1 [10.0.0.1]: 1 rank (link h1-s1, 1 Gbit/s)" in lines
    assert "├── -> s2 (link s1-s2, 1 Gbit/s)" in list(text(MIXED, {"s2": "ns-s2"}))
    assert "└── h3: 4 ranks, 0.5 of the cores (link h3-s3, 100 Mbit/s)" in lines


def test_many_equal_hosts_share_a_line() -> None:
    lines = list(text(racks(4, 16, 4 * RATE)))
    assert len(lines) == 2 + 2 * 4
    assert lines[3] == "│   └── h1..h16: 1 rank each (links h1-leaf1..h16-leaf1, 1 Gbit/s)"
    slow = racks(4, 16)
    slow = Fabric(
        name="slow",
        hosts=slow.hosts,
        switches=slow.switches,
        links=tuple(link(*x.ends, RATE / 10) if x.name == "h5-leaf1" else x for x in slow.links),
    )
    assert [line.partition(": ")[0].strip("│├└─ ") for line in text(slow)][3:6] == ["h1..h4", "h5", "h6..h16"]


# ---- the file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FABRICS)
def test_whatever_the_fabric_is_it_is_drawn(tmp_path: Path, name: str) -> None:
    """In the SVG, text is drawn as shapes, each after a comment that says it."""
    fabric = FABRICS[name]
    draw(fabric, tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for node in fabric.links_of:
        assert f"<!-- {node}" in svg
    assert f"<!-- {fabric.name} -->" in svg


def test_rates_and_oversubscription_are_named(tmp_path: Path) -> None:
    draw(racks(2, 4, RATE / 2), tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg.count("<!-- 4 × 1 Gbit/s -->") == 2
    assert svg.count("<!-- 2 × 500 Mbit/s -->") == 1
    assert svg.count("<!-- 8:1 -->") == 2
    draw(STAR, tmp_path / "a.svg")
    assert "rate of the links below" not in (tmp_path / "a.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", MAGIC)
def test_the_format_follows_from_the_suffix(tmp_path: Path, form: str) -> None:
    first, second = tmp_path / f"a.{form}", tmp_path / f"b.{form.upper()}"
    draw(STAR, first)
    draw(STAR, second)
    assert first.read_bytes().startswith(MAGIC[form])
    assert first.read_bytes() == second.read_bytes()
    assert sorted(os.listdir(tmp_path)) == [first.name, second.name]


def test_other_formats_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="known: pdf, png, svg"):
        draw(STAR, tmp_path / "a.jpg")
    with pytest.raises(CommbenchError, match="cannot be written: No such file"):
        draw(STAR, tmp_path / "missing" / "a.png")
    assert os.listdir(tmp_path) == []
