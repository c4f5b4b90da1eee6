"""Topologies: what may be written, what it means, and the one line that a mistake gets."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from commbench.errors import SpecError
from commbench.lab.addresses import components, plan
from commbench.records import Fabric
from commbench.spec.document import TOPOLOGY, shipped
from commbench.spec.topology import FAULTS, ScriptedFault, Topology, load, parse_fault
from commbench.units import format_rate, parse_rate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.yaml"


def written(**changes: str) -> str:
    """A good topology, a key a line: hosts 1, switches 2, links 3, the others behind it."""
    good = {"hosts": "h[1-4]", "switches": "leaf1", "links": "[{from: h[1-4], to: leaf1, rate: 1Gbit/s}]"}
    return "".join(f"{key}: {value}\n" for key, value in (good | changes).items())


def accepted(path: Path, *overrides: str, **changes: str) -> Topology:
    path.write_text(written(**changes))
    return load(str(path), overrides)


def refusal(path: Path, text: str, *overrides: str) -> str:
    sentence = refused(load, path, text, *overrides)
    assert len(sentence) < 2500
    return sentence


def names(fabric: Fabric) -> list[str]:
    return [host.name for host in fabric.hosts]


# ---- what is meant ----------------------------------------------------------------------------------------


def test_a_star(path: Path) -> None:
    found = accepted(path)
    fabric = found.fabric
    assert (fabric.name, fabric.routing, found.faults) == ("net", "bridge", ())
    assert names(fabric) == ["h1", "h2", "h3", "h4"]
    assert fabric.switches == ("leaf1",)
    assert [link.name for link in fabric.links] == ["h1-leaf1", "h2-leaf1", "h3-leaf1", "h4-leaf1"]
    assert {(link.rate, link.mtu) for link in fabric.links} == {(125e6, 9000)}
    assert {(host.ranks, host.cpu) for host in fabric.hosts} == {(1, None)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h[1-4]", ["h1", "h2", "h3", "h4"]),
        ("[h1, h2, h3, h4]", ["h1", "h2", "h3", "h4"]),
        ("[h[3-4], h[1-2]]", ["h3", "h4", "h1", "h2"]),
        ("{h[1-2]: {ranks: 2}, h[3-4]: }", ["h1", "h2", "h3", "h4"]),
        ("\n  h[1-3]: {cpu: 50%}\n  h4: {ranks: 8, cpu: 100%}", ["h1", "h2", "h3", "h4"]),
    ],
)
def test_ways_to_write_hosts(path: Path, text: str, expected: list[str]) -> None:
    assert names(accepted(path, hosts=text).fabric) == expected


def test_what_is_said_of_hosts(path: Path) -> None:
    fabric = accepted(path, hosts="{h[1-3]: {cpu: 50%, ranks: 2}, h4: {cpu: 100%}}").fabric
    assert [(host.ranks, host.cpu) for host in fabric.hosts] == [(2, 0.5)] * 3 + [(1, 1.0)]


def test_ranges_keep_zeros_and_may_be_several(path: Path) -> None:
    fabric = accepted(
        path, hosts="r[1-2]n[08-11]", links="[{from: r[1-2]n[08-11], to: leaf1, rate: 25MB/s, mtu: 1500}]"
    ).fabric
    assert names(fabric) == [f"r{r}n{n}" for r in (1, 2) for n in ("08", "09", "10", "11")]
    assert {(link.rate, link.mtu) for link in fabric.links} == {(25e6, 1500)}


def test_links_are_all_pairs_and_may_be_named(path: Path) -> None:
    fabric = accepted(
        path,
        switches="[leaf[1-2], spine[1-2]]",
        links="[{from: h[1-2], to: leaf1, rate: 1Gbit/s}, {from: h[3-4], to: leaf2, rate: 1Gbit/s},"
        " {from: leaf[1-2], to: spine[1-2], rate: 1Gbit/s, name: [up[1-3], last]}]",
        routing="shortest",
    ).fabric
    assert [(link.name, link.ends) for link in fabric.links[4:]] == [
        ("up1", ("leaf1", "spine1")),
        ("up2", ("leaf1", "spine2")),
        ("up3", ("leaf2", "spine1")),
        ("last", ("leaf2", "spine2")),
    ]


def test_parallel_links_are_numbered(path: Path) -> None:
    links = "[{from: h[1-4], to: leaf1, rate: 1Gbit/s}, {from: h1, to: leaf1, rate: 1Gbit/s}]"
    found = accepted(path, links=links, routing="shortest", faults="[{at: 0s, down: h1-leaf1#2}]")
    assert found.fabric.links[-1].name == found.faults[0].target == "h1-leaf1#2"


def test_a_plain_cable_needs_no_switch(path: Path) -> None:
    path.write_text("hosts: [a, b]\nlinks: [{from: a, to: b, rate: 1Gbit/s}]\n")
    fabric = load(str(path)).fabric
    assert (fabric.switches, fabric.links[0].name) == ((), "a-b")


def test_faults(path: Path) -> None:
    found = accepted(
        path,
        faults="\n  - {at: 0s, flap: h2-leaf1, period: 200ms, for: 3s}\n  - {at: 2s, pause: h[3-4]}\n"
        "  - {at: 2s, starve: h4, to: 10%}\n  - {at: 3s, slow: h3, to: 0.4, for: 1s}\n  - {at: 4s, resume: h3}\n"
        "  - {at: 5s, loss: h1-leaf1, to: 1%}\n  - {at: 6s, down: h1-leaf1}\n  - {at: 7s, up: h1-leaf1}",
    ).faults
    assert found == (
        ScriptedFault(at=0.0, kind="flap", target="h2-leaf1", period=0.2, duration=3.0),
        ScriptedFault(at=2.0, kind="pause", target="h3"),
        ScriptedFault(at=2.0, kind="pause", target="h4"),
        ScriptedFault(at=2.0, kind="starve", target="h4", share=0.1),
        ScriptedFault(at=3.0, kind="slow", target="h3", share=0.4, duration=1.0),
        ScriptedFault(at=4.0, kind="resume", target="h3"),
        ScriptedFault(at=5.0, kind="loss", target="h1-leaf1", share=0.01),
        ScriptedFault(at=6.0, kind="down", target="h1-leaf1"),
        ScriptedFault(at=7.0, kind="up", target="h1-leaf1"),
    )
    assert {fault.kind for fault in found} == set(FAULTS)


def test_overrides(path: Path) -> None:
    fabric = accepted(path, "links[0].rate=200Mbit/s", "hosts={h[1-4]: {ranks: 2}}", "routing=shortest").fabric
    assert (fabric.links[0].rate, fabric.hosts[0].ranks, fabric.routing) == (25e6, 2, "shortest")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("slow", "h3", "40%"), ScriptedFault(at=0.0, kind="slow", target="h3", share=0.4)),
        (("slow", "h3", "100%", "2s"), ScriptedFault(at=0.0, kind="slow", target="h3", share=1.0, duration=2.0)),
        (("flap", "a-b", "200ms"), ScriptedFault(at=0.0, kind="flap", target="a-b", period=0.2)),
        (("up", "a-b"), ScriptedFault(at=0.0, kind="up", target="a-b")),
    ],
)
def test_a_fault_in_words(words: tuple[str, ...], fault: ScriptedFault) -> None:
    assert parse_fault(*words) == fault


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("slwo", "h3"), "unknown fault 'slwo'; did you mean 'slow'? known: down, flap, "),
        (("at", "h3"), "unknown fault 'at'; known: "),
        (("slow", "h3"), "fault slow: $.to: is missing; say to what share"),
        (("flap", "h3", "often"), "fault flap: $.period: 'often' is not a time with its unit"),
        (("down", "h3", "40%"), "fault down: $.to: does not go with down; it goes with slow, loss, starve"),
        (("up", "h3", None, "3s"), "fault up: $.for: does not go with up; it goes with slow, down, "),
    ],
)
def test_a_wrong_word_for_a_fault(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(SpecError, match="^" + re.escape(sentence)):
        parse_fault(*words)


# ---- what is shipped --------------------------------------------------------------------------------------

SHAPES = {  # hosts, switches, links, networks, rates in Mbit/s, routing
    "star4": (4, 1, 4, 1, {1000}, "bridge"),
    "star8": (8, 1, 8, 1, {200}, "bridge"),
    "two-racks": (8, 3, 10, 1, {200}, "bridge"),
    "three-racks": (6, 4, 9, 1, {200}, "bridge"),
    "fat-tree": (4, 4, 8, 1, {100}, "shortest"),
    "rails": (4, 2, 8, 2, {200}, "bridge"),
    "ring": (4, 4, 8, 1, {100}, "shortest"),
}


def test_every_shipped_topology_is_known_here() -> None:
    assert set(SHAPES) == set(shipped(TOPOLOGY))
    assert not set(SHAPES) & set(shipped())


@pytest.mark.parametrize("name", SHAPES)
def test_shipped_topologies(name: str) -> None:
    fabric = load(name).fabric
    rates = {round(link.rate * 8e-6) for link in fabric.links}
    shape = (len(fabric.hosts), len(fabric.switches), len(fabric.links), len(components(fabric)), rates, fabric.routing)
    assert shape == SHAPES[name]
    assert fabric.name == name
    assert {link.mtu for link in fabric.links} == {9000}
    assert set(plan(fabric).names) == set(names(fabric))
    assert re.match(r"# \S.*[.:?]", shipped(TOPOLOGY)[name].read_text())


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"unknown topology 'star5'; did you mean 'star\d'\? known: fat-tree, rails, "):
        load("star5")


# ---- bad input --------------------------------------------------------------------------------------------

LINK = "{from: h[1-4], to: leaf1, rate: 1Gbit/s}"
TWO = "leaf[1-2]"  # with LINK alone, leaf2 has no link


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"host": "h1"}, "FILE:4: $.host: unknown key 'host'; did you mean 'hosts'?"),
        # hosts and switches
        ({"hosts": "h_1"}, "FILE:1: $.hosts: 'h_1' is not the name of a host; write up to 32 letters, digits"),
        ({"hosts": "[h1, 2]"}, "FILE:1: $.hosts[1]: 2 is not a name; write one as in h1"),
        ({"hosts": "[1h]"}, "FILE:1: $.hosts[0]: '1h' is not the name of a host"),
        ({"hosts": "h-"}, "FILE:1: $.hosts: 'h-' is not the name of a host"),
        ({"hosts": "h" * 33}, "FILE:1: $.hosts: 'hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh' is not the name of a host"),
        ({"hosts": "[]"}, "FILE:1: $.hosts: the list is empty"),
        ({"hosts": "{}"}, "FILE:1: $.hosts: there is none; name them"),
        ({"hosts": ""}, "FILE:1: $.hosts: null is not a name"),
        ({"hosts": "h[4-1]"}, "FILE:1: $.hosts: 'h[4-1]' runs downwards"),
        ({"hosts": "h[1-5000]"}, "FILE:1: $.hosts: more than 4,096 are too many"),
        ({"hosts": "h[0-999999999]"}, "FILE:1: $.hosts: 'h[0-999999999]' stands for 1,000,000,000 names"),
        ({"hosts": "[h[1-4], h2]"}, "FILE:1: $.hosts[1]: 'h2' is already the name of a host (FILE:1: $.hosts[0]); "),
        ({"hosts": "[h[1-4], H2]"}, "FILE:1: $.hosts[1]: 'H2' is already the name of a host"),
        ({"hosts": "{h[1-4]: {rank: 2}}"}, "FILE:1: $.hosts.h[1-4].rank: unknown key 'rank'; did you mean 'ranks'?"),
        ({"hosts": "{h[1-4]: {ranks: 1025}}"}, "FILE:1: $.hosts.h[1-4].ranks: 1025 is not a whole number from 1 to"),
        ({"hosts": "{h[1-4]: {cpu: 101%}}"}, "FILE:1: $.hosts.h[1-4].cpu: '101%' is not a share of the cores; write"),
        ({"hosts": "{h[1-4]: {cpu: 0.5%}}"}, "FILE:1: $.hosts.h[1-4].cpu: '0.5%' is not a share of the cores"),
        ({"hosts": "{h[1-4]: 2}"}, "FILE:1: $.hosts.h[1-4]: 2 is not a mapping; known keys: cpu, ranks"),
        ({"switches": "h1"}, "FILE:2: $.switches: 'h1' is already the name of a host (FILE:1: $.hosts)"),
        ({"switches": "{leaf1: }"}, "FILE:2: $.switches: a mapping is not a name"),
        ({"switches": TWO}, "FILE:2: $.switches: leaf2 has no link; "),
        ({"hosts": "h[1-5]"}, "FILE:1: $.hosts: h5 has no link; link it, or leave it out"),
        # links
        ({"links": LINK}, "FILE:3: $.links: a mapping is not a list of mappings; write one, as in [{from: "),
        ({"links": "[h1]"}, "FILE:3: $.links[0]: 'h1' is not a mapping; known keys: from, mtu"),
        ({"links": "[]"}, "FILE:1: $.hosts: h1 has no link"),
        ({"links": "[{from: h1, rate: 1Gbit/s}]"}, "FILE:3: $.links[0].to: is missing; say between what"),
        ({"links": "[{from: h1, to: leaf1}]"}, "FILE:3: $.links[0].rate: is missing; say how fast"),
        (
            {"links": "[{from: h1, to: lea1, rate: 1Gbit/s}]"},
            "FILE:3: $.links[0].to: unknown host or switch 'lea1'; did you mean 'leaf1'? known: h1, h2, h3, h4, leaf1",
        ),
        ({"links": "[{from: [h1, h9], to: leaf1, rate: 1Gbit/s}]"}, "FILE:3: $.links[0].from[1]: unknown host or"),
        ({"links": "[{from: h1, to: h1, rate: 1Gbit/s}]"}, "FILE:3: $.links[0]: links h1 to itself"),
        *(
            ({"links": f"[{{from: h[1-4], to: leaf1, rate: {rate}}}]"}, "FILE:3: $.links[0].rate: ")
            for rate in ("1Gb/s", "0", "0Gbit/s", "1000", "0.5Mbit/s", "2Tbit/s", "-1Gbit/s", "[]", "fast", "true")
        ),
        ({"links": f"[{LINK[:-1]}, mtu: 500}}]"}, "FILE:3: $.links[0].mtu: 500 is not a whole number from 576 to"),
        ({"links": f"[{LINK[:-1]}, mtu: 65536}}]"}, "FILE:3: $.links[0].mtu: 65536 is not a whole number"),
        ({"links": f"[{LINK[:-1]}, name: up[1-3]}}]"}, "FILE:3: $.links[0].name: there are 4 links here and 3 names"),
        ({"links": f"[{LINK[:-1]}, name: up/[1-4]}}]"}, "FILE:3: not YAML: "),
        ({"links": f"[{LINK[:-1]}, name: 'u/[1-4]'}}]"}, "FILE:3: $.links[0].name: 'u/1' is not a name"),
        ({"links": f"[{LINK[:-1]}, name: h[1-4]}}]"}, "FILE:3: $.links[0].name: 'h1' is already the name of a host"),
        (
            {"hosts": "h[1-400]", "switches": "s[1-400]", "links": "[{from: h[1-400], to: s[1-400], rate: 1Gbit/s}]"},
            "FILE:3: $.links[0]: more than 65,536 links are too many",
        ),
        # the whole
        ({"routing": "ospf"}, "FILE:4: $.routing: unknown routing 'ospf'; known: bridge, shortest"),
        (
            {
                "switches": "s[1-3]",
                "links": "[{from: h[1-4], to: s1, rate: 1Gbit/s}, {from: s1, to: s2, rate: 1Gbit/s}"
                ",\n {from: s2, to: s3, rate: 1Gbit/s}, {from: s3, to: s1, rate: 1Gbit/s}]",
            },
            "FILE:4: $.links[2]: bridges would send packets round s2 - s1 - s3 - s2 for ever; write routing: shortest",
        ),
        (
            {
                "switches": TWO,
                "links": "[{from: h[1-2], to: leaf1, rate: 1Gbit/s}, {from: h[3-4], to: leaf2, rate: 1Gbit/s}]",
            },
            "FILE:1: $.hosts: h1 and h3 cannot reach each other, and hosts do not forward; link them",
        ),
        (
            {"links": f"[{LINK}, {{from: h2, to: leaf1, rate: 1Gbit/s}}]"},
            "FILE:3: $.links[1]: a second link of h2 into one bridged network would carry nothing",
        ),
        (
            {
                "hosts": "[a, b, c]",
                "switches": "s",
                "links": "[{from: [a, b], to: c, rate: 1Gbit/s}, {from: a, to: s, rate: 1Gbit/s}]",
            },
            "FILE:1: $.hosts[1]: a and b cannot reach each other",
        ),
        (
            {
                "hosts": "h[1-251]",
                "switches": "s[1-251]",
                "routing": "shortest",
                "links": "[{from: h[1-251], to: s[1-251], rate: 1Gbit/s}]",
            },
            "FILE:3: $.links: 251 separate networks are more than the 250 that there are addresses for",
        ),
        (
            {
                "switches": "[leaf1, s[1-200], t[1-200]]",
                "routing": "shortest",
                "links": f"[{LINK}, {{from: s[1-200], to: t[1-200], rate: 1Gbit/s}}]",
            },
            "FILE:3: $.links: 40,000 links in one network are more than the 32,768 that there are addresses for",
        ),
        # faults
        ({"faults": "{at: 3s}"}, "FILE:4: $.faults: a mapping is not a list of mappings"),
        ({"faults": "[{at: 3s}]"}, "FILE:4: $.faults[0]: write one of slow, down, up, flap, "),
        ({"faults": "[{at: 3s, pause: h1, resume: h1}]"}, "FILE:4: $.faults[0]: write one of slow, "),
        ({"faults": "[{at: 3s, brake: h1}]"}, "FILE:4: $.faults[0].brake: unknown key 'brake'; "),
        ({"faults": "[{pause: h1}]"}, "FILE:4: $.faults[0].at: is missing; say when"),
        ({"faults": "[{at: 3, pause: h1}]"}, "FILE:4: $.faults[0].at: 3 is not a time after the start"),
        ({"faults": "[{at: 3s, slow: h1}]"}, "FILE:4: $.faults[0].to: is missing; say to what share"),
        ({"faults": "[{at: 3s, slow: h1, to: 0%}]"}, "FILE:4: $.faults[0].to: '0%' is not a share; write 40%"),
        ({"faults": "[{at: 3s, flap: h1-leaf1}]"}, "FILE:4: $.faults[0].period: is missing; say how often"),
        (
            {"faults": "[{at: 3s, slow: h1, to: 4%, period: 1s}]"},
            "FILE:4: $.faults[0].period: does not go with slow; it goes with flap",
        ),
        (
            {"faults": "[{at: 3s, pause: h1-leaf1}]"},
            "FILE:4: $.faults[0].pause: unknown host 'h1-leaf1'; known: h1, h2, h3, h4",
        ),
        (
            {"faults": "[{at: 3s, down: h1-leaf2}]"},
            "FILE:4: $.faults[0].down: unknown host or link 'h1-leaf2'; did you mean 'h1-leaf1'? known: h1, h1-leaf1, ",
        ),
        (
            {"faults": "[{at: 3s, pause: h1},\n {at: 2s, resume: h1}]"},
            "FILE:5: $.faults[1].at: comes behind one at 3 s; write faults in the order of their times",
        ),
    ],
)
def test_bad_topologies(path: Path, changes: dict[str, str], sentence: str) -> None:
    assert refusal(path, written(**changes)).startswith(sentence)


def test_what_is_missing_is_said(path: Path) -> None:
    assert refusal(path, "") == "FILE:1: is empty; a topology needs at least hosts and links"
    assert refusal(path, "routing: bridge").startswith("FILE:1: $.hosts: is missing; name them, as in hosts: h[1-4]")
    assert refusal(path, "hosts: h1").startswith("FILE:1: $.links: is missing; write a list, as in [{from: ")
    assert refusal(path, "hosts: h1", "x").endswith("--set routing=shortest or --set links[0].mtu=1500")


word = st.sampled_from(
    ["h1", "h[1-4]", "leaf1", "h[4-1]", "[h1, h2]", "1Gbit/s", "0", "-1", "", "~", "true", "{}", "[]", "3s", "50%",
     "'a b'", "h1-leaf1", "shortest", "h[1-99999]", "{h[1-4]: {ranks: 2}}", "{h1: x}", "1e400", "nan", "\u0663"]
)  # fmt: skip
entry = st.dictionaries(
    st.sampled_from(["from", "to", "rate", "mtu", "name", "at", "for", "period", *FAULTS]), word, max_size=5
).map(lambda own: "{" + ", ".join(f"{key}: {value}" for key, value in own.items()) + "}")
value = st.one_of(word, entry, st.lists(st.one_of(entry, word), max_size=3).map(lambda own: f"[{', '.join(own)}]"))


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(["hosts", "switches", "links", "routing", "faults"]), value), st.booleans())
def test_nonsense_gets_one_line(tmp_path_factory: pytest.TempPathFactory, own: dict[str, str], good: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "nonsense.yaml"
    path.write_text(written(**own) if good else "".join(f"{key}: {text}\n" for key, text in own.items()))
    sentence = str(path)
    try:
        plan(load(str(path)).fabric)
    except SpecError as error:
        sentence = str(error)
    assert sentence.isprintable()
    assert sentence.startswith(str(path))


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="h1-4[]{},: \nlinkshostsfromtorate/", max_size=80))
def test_no_text_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    path.write_text(text)
    with pytest.raises(SpecError):
        load(str(path))


# ---- rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1Gbit/s", 125e6), ("200 Mbit/s", 25e6), ("8bit/s", 1.0), ("8Kbit/s", 1e3), ("1Tbit/s", 125e9), ("25MB/s", 25e6)],
)
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["1Gb/s", "1000", 1000, 1.5, True, "Gbit/s", "1Gbit", "-1Gbit/s", "1Gibit/s", ""])
def test_what_is_not_a_rate(text: str | float) -> None:
    with pytest.raises(ValueError, match="is not a rate with its unit; write 1Gbit/s or 125MB/s"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(125e6, "1 Gbit/s"), (25e6, "200 Mbit/s"), (124.99e6, "1 Gbit/s"), (15.4e6, "123 Mbit/s"), (125e9, "1 Tbit/s"),
     (125e12, "1000 Tbit/s"), (0.0, "0 bit/s"), (1.0, "8 bit/s")],
)  # fmt: skip
def test_printed_rates(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@settings(deadline=None)
@given(st.floats(1.0, 1e13))
def test_printed_rates_are_near_and_readable(rate: float) -> None:
    assert "e" not in format_rate(rate)
    assert parse_rate(format_rate(rate)) == pytest.approx(rate, rel=5e-3)
