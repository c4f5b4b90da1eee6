"""The topology of a lab: hosts, switches, links and the faults to come, checked before anything is created.

`h[1-4]` stands for h1, h2, h3 and h4 wherever names are written, and `h[01-12]` keeps its zeros. A link that is
written between several names is one from every one to every other.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations, product
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from commbench.errors import SpecError, nearest
from commbench.lab.addresses import circle, components
from commbench.records.fabric import Fabric, FabricHost, Link, Routing
from commbench.spec import values as v
from commbench.spec.document import TOPOLOGY, Field, find, one_line, read, show
from commbench.units import format_time, parse_rate, parse_share, parse_time

MAX_NODES = 4096
MAX_LINKS = 65536  # also of names that one entry may stand for, and of faults
FaultKind = Literal["slow", "down", "up", "flap", "pause", "resume", "starve", "loss"]


class ScriptedFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What happens to a host or a link some time after the lab is up.

    at        seconds from the start
    share     what is left of the rate (slow) or of the cores (starve), or is lost of the packets (loss)
    period    seconds from one loss of the link to the next (flap)
    duration  seconds after which it is undone; None: never
    """

    at: float
    kind: FaultKind
    target: str
    share: float | None = None
    period: float | None = None
    duration: float | None = None


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A network, and the faults that are to befall it, in the order of their times."""

    fabric: Fabric
    faults: tuple[ScriptedFault, ...] = ()


class Form(NamedTuple):
    """How a kind of fault is written: what it may befall, the keys that it needs and those that it may have."""

    targets: tuple[Literal["host", "link"], ...]
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ("for",)


FAULTS: dict[FaultKind, Form] = {
    # What befalls a link befalls each link of a host.
    "slow": Form(("host", "link"), needs=("to",)),
    "down": Form(("host", "link")),
    "up": Form(("host", "link"), may=()),
    "flap": Form(("host", "link"), needs=("period",)),
    "loss": Form(("host", "link"), needs=("to",)),
    "pause": Form(("host",)),
    "resume": Form(("host",), may=()),
    "starve": Form(("host",), needs=("to",)),
}

# ---- readers --------------------------------------------------------------------------------------------

_RANGE = re.compile(r"\[([0-9]{1,9})-([0-9]{1,9})\]")


def _expand(field: Field) -> list[str]:
    """The names that one text stands for; the last of several ranges runs fastest."""
    if not isinstance(field.value, str) or len(field.value) > 200:
        raise field.error(f"{show(field.value)} is not a name; write one as in h1, or several as in h[1-4]")
    parts = _RANGE.split(field.value)
    texts, limits = parts[::3], list(zip(parts[1::3], parts[2::3], strict=True))
    ranges = [range(int(low), int(high) + 1) for low, high in limits]
    if not all(ranges):
        raise field.error(f"{show(field.value)} runs downwards; write the smaller number first")
    if (total := math.prod(map(len, ranges))) > MAX_LINKS:
        raise field.error(f"{show(field.value)} stands for {total:,} names, more than {MAX_LINKS:,}")
    numbers = [[f"{k:0{len(low)}d}" for k in span] for span, (low, _) in zip(ranges, limits, strict=True)]
    return ["".join(map("".join, zip(texts, (*chosen, ""), strict=True))) for chosen in product(*numbers)]


def names(field: Field) -> list[tuple[str, Field]]:
    """Every name of a text or a list, and where it was written."""
    found: list[tuple[str, Field]] = []
    for entry in field.entries():
        found += [(name, entry) for name in _expand(entry)]
        if len(found) > MAX_LINKS:
            raise field.error(f"stands for more than {MAX_LINKS:,} names")
    if not found:
        raise field.error("the list is empty; write names, as in h[1-4]")
    return found


def _within(parse: Callable[[str], float], low: float, high: float, accepted: str) -> v.Reader:
    """A quantity between two limits, both included."""

    def reader(field: Field) -> float:
        text = field.value if isinstance(field.value, str) else show(field.value)
        try:
            if low <= (found := parse(text)) <= high:
                return found
        except ValueError:
            pass
        raise field.error(f"{show(field.value)} is not {accepted}")

    return reader


def _part(text: str) -> float:
    """A share that may be all of it."""
    return 1.0 if text in ("100%", "1", "1.0") else parse_share(text)


_HOST: dict[str, v.Reader] = {
    "ranks": v.whole(1, 1024),
    "cpu": _within(_part, 0.01, 1.0, "a share of the cores; write 1% to 100%"),
}
_rate = _within(parse_rate, 1e6 / 8, 1e12 / 8, "a rate from 1 Mbit/s to 1 Tbit/s; write 200Mbit/s or 25MB/s")
_mtu = v.whole(576, 65000)
_routing = v.choice(get_args(Routing), "routing")
_FAULT: dict[str, tuple[str, v.Reader]] = {  # key -> the field of ScriptedFault that it fills
    "at": ("at", _within(parse_time, 0.0, v.LONGEST, "a time after the start; write 3s or 200ms")),
    "to": ("share", _within(_part, 1e-6, 1.0, "a share; write 40% or 0.4")),
    "period": ("period", v.time),
    "for": ("duration", v.time),
}
_WHY = {
    "hosts": "name them, as in hosts: h[1-4]",
    "links": "write a list, as in [{from: h[1-4], to: leaf1, rate: 1Gbit/s}]",
    "ends": "say between what, as in {from: h[1-4], to: leaf1, rate: 1Gbit/s}",
    "rate": "say how fast, as in rate: 1Gbit/s",
    "at": "say when, as in at: 3s",
    "to": "say to what share, as in to: 40%",
    "period": "say how often, as in period: 200ms",
}


def _needed(fields: Mapping[str, Field], above: Field, key: str, why: str = "") -> Field:
    if key in fields:
        return fields[key]
    raise above.child(key).error(f"is missing; {why or _WHY[key]}")


def _list(field: Field, example: str) -> list[Field]:
    if not isinstance(field.value, list):
        raise field.error(f"{show(field.value)} is not a list of mappings; write one, as in [{example}]")
    return field.entries()


# ---- hosts, switches and links --------------------------------------------------------------------------

_Taken = dict[str, str]  # every name in small letters -> what has it


def _take(taken: _Taken, name: str, what: str, field: Field) -> None:
    """A name is given once, whatever it names: a fault has nothing else to tell things apart."""
    if name.lower() in taken:
        raise field.error(f"{name!r} is already the name of {taken[name.lower()]}; give everything its own")
    taken[name.lower()] = f"a {what} ({field.place})"


def _nodes(names: Iterable[tuple[str, Field]], what: str, taken: _Taken) -> dict[str, Field]:
    """New hosts or switches, and where each was written."""
    found: dict[str, Field] = {}
    for name, field in names:
        # A letter first: what begins with a digit may be read as an address.
        if len(name) > 32 or not re.fullmatch(r"[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?", name):
            rule = "up to 32 letters, digits and '-', a letter first, as in h1"
            raise field.error(f"{show(name)} is not the name of a {what}; write {rule}")
        _take(taken, name, what, field)
        found[name] = field
        if len(found) > MAX_NODES:
            raise field.error(f"more than {MAX_NODES:,} are too many for one machine; this is {what} {name}")
    return found


def _hosts(field: Field, taken: _Taken) -> tuple[tuple[FabricHost, ...], dict[str, Field]]:
    """Hosts with what is said of them, and where each was written."""
    if not isinstance(field.value, dict):
        places = _nodes(names(field), "host", taken)
        return tuple(FabricHost(name=name) for name in places), places
    written, said = [], {}
    for key in field.value:
        entry = field.child(key)
        own = {} if entry.value is None else v.section(dict, _HOST)(entry)
        for name in _expand(Field(key, entry.path, entry.places)):
            written.append((name, entry))
            said[name] = own
    if not written:
        raise field.error(f"there is none; {_WHY['hosts']}")
    places = _nodes(written, "host", taken)
    return tuple(FabricHost(name=name, **said[name]) for name in places), places


def _ends(field: Field, known: Iterable[str]) -> list[str]:
    for name, entry in (found := names(field)):
        if name not in known:
            raise entry.error(f"unknown host or switch {show(name)}; {nearest(name, known)}")
    return [name for name, _ in found]


def _links(field: Field, nodes: Iterable[str], taken: _Taken) -> list[tuple[Link, Field]]:
    """Every link, and where it was written."""
    found: list[tuple[Link, Field]] = []
    count = Counter[str]()
    for entry in _list(field, "{from: h[1-4], to: leaf1, rate: 1Gbit/s}"):
        fields = entry.mapping(("from", "to", "rate", "mtu", "name"))
        above, below = (_ends(_needed(fields, entry, key, _WHY["ends"]), nodes) for key in ("from", "to"))
        rate = _rate(_needed(fields, entry, "rate"))
        mtu = _mtu(fields["mtu"]) if "mtu" in fields else 9000
        if (total := len(above) * len(below)) + len(found) > MAX_LINKS:
            raise entry.error(f"more than {MAX_LINKS:,} links are too many for one machine")
        given = names(fields["name"]) if "name" in fields else []
        if given and len(given) != total:
            raise fields["name"].error(f"there are {total} links here and {len(given)} names; write one for each")
        for k, ends in enumerate(product(above, below)):
            if ends[0] == ends[1]:
                raise entry.error(f"links {ends[0]} to itself; write two different ends")
            name, place = given[k] if given else ("-".join(ends), entry)
            if given:
                v.name(Field(name, place.path, place.places))
            else:
                count[name] += 1
                name += f"#{count[name]}" if count[name] > 1 else ""
            _take(taken, name, "link", place)
            found.append((Link(name=name, ends=ends, rate=rate, mtu=mtu), place))
    return found


# ---- what the whole must be -----------------------------------------------------------------------------


def _check(fabric: Fabric, nodes: Mapping[str, Field], written: Mapping[str, Field], top: Field) -> None:
    """SpecError where the parts are in order and the whole is not. `written`: link -> its place."""
    linked = {end for link in fabric.links for end in link.ends}
    for name, field in nodes.items():
        if name not in linked:
            raise field.error(f"{name} has no link; link it, or leave it out")
    if fabric.routing == "bridge" and (found := circle(fabric)):
        way, link = found
        raise written[link.name].error(f"bridges would send packets round {way} for ever; write routing: shortest")
    try:
        networks = components(fabric)
    except ValueError as error:
        raise top.child("links").error(str(error)) from None
    _reach(fabric, networks, nodes, written)


def _reach(
    fabric: Fabric, networks: Sequence[Sequence[Link]], nodes: Mapping[str, Field], written: Mapping[str, Field]
) -> None:
    """SpecError where two hosts share no network, or a host has two links into one where a bridge wants one."""
    member: dict[str, set[int]] = {host.name: set() for host in fabric.hosts}  # host -> its networks
    for c, links in enumerate(networks):
        for link in links:
            for host in (end for end in link.ends if end in member):
                if c in member[host] and fabric.routing == "bridge":
                    reason = f"a second link of {host} into one bridged network would carry nothing"
                    raise written[link.name].error(f"{reason}; give it its own switch, or write routing: shortest")
                member[host].add(c)
    first: dict[frozenset[int], str] = {}  # few sets of networks stand for many hosts
    for host, own in member.items():
        first.setdefault(frozenset(own), host)
    if frozenset.intersection(*first):
        return
    for (one, host), (others, other) in combinations(first.items(), 2):
        if one.isdisjoint(others):
            raise nodes[other].error(f"{host} and {other} cannot reach each other, and hosts do not forward; link them")


# ---- faults ---------------------------------------------------------------------------------------------


def _said(entry: Field) -> tuple[FaultKind, Field, dict[str, Any]]:
    """What an entry says: the kind, whom it befalls, and the rest as ScriptedFault has it."""
    fields = entry.mapping((*FAULTS, *_FAULT))
    kinds = [kind for kind in FAULTS if kind in fields]
    if len(kinds) != 1:
        raise entry.error(f"write one of {', '.join(FAULTS)} here, as in {{at: 3s, slow: h3, to: 40%}}")
    kind, form = kinds[0], FAULTS[kinds[0]]
    for key in ("at", *form.needs):
        _needed(fields, entry, key)
    for key in fields:
        if key not in (kind, "at", *form.needs, *form.may):
            others = ", ".join(other for other, its in FAULTS.items() if key in its.needs + its.may)
            raise fields[key].error(f"does not go with {kind}" + (f"; it goes with {others}" if others else ""))
    return kind, fields[kind], {name: reader(fields[key]) for key, (name, reader) in _FAULT.items() if key in fields}


def _fault(entry: Field, known: Mapping[str, Collection[str]]) -> list[ScriptedFault]:
    """The faults of one entry. `known`: `host` and `link` -> the names of those there are."""
    kind, target, said = _said(entry)
    what = FAULTS[kind].targets
    targets = names(target)
    for name, place in targets:
        if not any(name in known[one] for one in what):
            hint = nearest(name, (name for one in what for name in known[one]))
            raise place.error(f"unknown {' or '.join(what)} {show(name)}; {hint}")
    return [ScriptedFault(kind=kind, target=name, **said) for name, _ in targets]


def parse_fault(kind: str, target: str, amount: str | None = None, duration: str | None = None) -> ScriptedFault:
    """A fault for now from words: `slow h3 40%`, `flap h2-leaf1 200ms`. Whether there is such a target it cannot know.

    SpecError says which word is wrong or missing.
    """
    if kind not in FAULTS:
        raise SpecError(one_line(f"unknown fault {show(kind)}; {nearest(kind, FAULTS)}"))
    key = next(iter(FAULTS[kind].needs), "to")
    words = {kind: target, "at": "0s", key: amount, "for": duration}
    entry = Field({key: word for key, word in words.items() if word is not None}, "$", {"$": f"fault {one_line(kind)}"})
    return ScriptedFault(kind=kind, target=target, **_said(entry)[2])


def _faults(field: Field, known: Mapping[str, Collection[str]]) -> tuple[ScriptedFault, ...]:
    found: list[ScriptedFault] = []
    for entry in _list(field, "{at: 3s, slow: h3, to: 40%}"):
        new = _fault(entry, known)
        if found and new[0].at < found[-1].at:
            late = f"comes behind one at {format_time(found[-1].at)}"
            raise entry.child("at").error(f"{late}; write faults in the order of their times")
        if len(found) + len(new) > MAX_LINKS:
            raise entry.error(f"more than {MAX_LINKS:,} faults are too many")
        found += new
    return tuple(found)


def load(source: str, overrides: Sequence[str] = ()) -> Topology:
    """The topology at a path, or the shipped one of that name; `key=value` overrides go in before checking.

    SpecError says in one line what is wrong, where, and what is accepted.
    """
    path = find(source, TOPOLOGY)
    top = read(path, overrides, TOPOLOGY)
    fields = top.mapping(("hosts", "switches", "links", "routing", "faults"))
    taken: _Taken = {}
    hosts, places = _hosts(_needed(fields, top, "hosts"), taken)
    switches = _nodes(names(fields["switches"]), "switch", taken) if "switches" in fields else {}
    nodes = places | switches
    links = _links(_needed(fields, top, "links"), nodes, taken)
    fabric = Fabric(
        name=re.sub(r"[^A-Za-z0-9._-]", "-", PurePath(path).stem).lstrip("._-")[:64] or "lab",
        hosts=hosts,
        switches=tuple(switches),
        links=tuple(link for link, _ in links),
        routing=_routing(fields["routing"]) if "routing" in fields else "bridge",
    )
    _check(fabric, nodes, {link.name: place for link, place in links}, top)
    known = {"host": set(places), "link": {link.name for link, _ in links}}
    return Topology(fabric=fabric, faults=_faults(fields["faults"], known) if "faults" in fields else ())
