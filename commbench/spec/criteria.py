"""What it takes to pass: one condition a mapping, of a kind, with its own keys. Nothing is an expression."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from commbench import allowlist
from commbench.collectives import COLLECTIVES
from commbench.spec import values as v
from commbench.spec.document import Field, show
from commbench.units import format_bytes

CriterionKind = Literal["wire", "threshold", "baseline", "fleet", "stability"]
_HALF = 0.5
LEAST_BUSBW = 64 * 1024  # bytes; below it a bandwidth tells how long a call takes and nothing about links


class Criterion(msgspec.Struct, frozen=True, kw_only=True):
    """One condition. Which fields count depends on the kind (see docs/accept.md).

    wire        `least`: share of what the links allow each collective (or `op` alone) at its largest size at full
                scale; needs a known fabric
    threshold   busbw of at least `busbw` bytes/s, or time of at most `time` seconds, of `op` at `nbytes` on `ranks`
    baseline    no slower than the run in `path` by more than `slowdown`
    fleet       no host or rail slower than the fleet by `slowdown` (family-wise)
    stability   p99 / median of at most `p99`; at most `windows` of all windows below 90 % of the median rate
    """

    kind: CriterionKind
    name: str
    source: str = ""
    least: float | None = None
    op: str = ""
    nbytes: int | None = None
    ranks: int | None = None
    busbw: float | None = None
    time: float | None = None
    path: str = ""
    slowdown: float | None = None
    p99: float | None = None
    windows: float | None = None
    place: str = ""  # FILE:LINE, for complaints


def text(longest: int, what: str) -> v.Reader:
    """Printable text of one line."""

    def reader(field: Field) -> str:
        value = field.value
        if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
            raise field.error(f"{show(value)} is not {what}; write up to {longest} characters in one line")
        return value

    return reader


def _source(field: Field) -> str:
    """Where a limit comes from. It is kept and printed, so a password in an address is not."""
    return allowlist.text(text(200, "a source")(field))


def file(field: Field) -> str:
    """A file of this machine."""
    found: str = text(4096, "a path")(field)
    if "://" in found:
        raise field.error("this is an address; fetch the file first, and write its path")
    return found


def _size(field: Field) -> int:
    found = v.sizes(field)
    if len(found) != 1:
        raise field.error("a threshold holds for one size; write one entry for each, as in size: 16MiB")
    return int(found[0])


def _times(field: Field) -> float:
    """How many times the median: a plain number from 1 to 1000."""
    value = field.value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and 1 < value <= 1000):
        raise field.error(f"{show(value)} is not how many times the median the 99th percentile may be; write p99: 2.0")
    return float(value)


slowdown = v.share
_op = v.choice([name for name in COLLECTIVES if name != "barrier"], "collective")
_COMMON: dict[str, v.Reader] = {
    "kind": v.choice(("wire", "threshold", "baseline", "fleet", "stability"), "criterion"),
    "name": v.name,
    "source": _source,
}
# kind -> key -> reader. `size` fills the field nbytes.
_KEYS: dict[str, dict[str, v.Reader]] = {
    "wire": {"least": v.share, "op": _op},
    "threshold": {"op": _op, "size": _size, "ranks": v.whole(2, 2**20), "busbw": v.bandwidth, "time": v.time},
    "baseline": {"path": file, "slowdown": slowdown},
    "fleet": {"slowdown": slowdown},
    "stability": {"p99": _times, "windows": v.noise},
}
_NEEDED: dict[str, tuple[str, ...]] = {
    "wire": ("least",),
    "threshold": ("op", "size"),
    "baseline": ("path",),
    "fleet": (),
    "stability": (),
}
_EXAMPLES = {
    "least": "least: 80%",
    "op": "op: all_reduce",
    "size": "size: 16MiB",
    "path": "path: accepted/baseline.json",
}


def criteria(field: Field) -> tuple[Criterion, ...]:
    """A list of mappings, each with its kind. SpecError: a key that the kind has not, or two of one name."""
    if not isinstance(field.value, list) or not field.value:
        raise field.error("write a list of mappings, as in [{kind: wire, least: 80%}], or leave the key out")
    found: dict[str, Criterion] = {}
    for entry in field.entries():
        one = _criterion(entry)
        if one.name in found:
            raise entry.error(f"{one.name!r} is also the name of {found[one.name].place}; give each its own name")
        found[one.name] = one
    return tuple(found.values())


def _criterion(entry: Field) -> Criterion:
    every = dict.fromkeys(key for keys in _KEYS.values() for key in keys)
    fields = entry.mapping((*_COMMON, *every))
    if "kind" not in fields:
        raise entry.child("kind").error(f"is missing; write one of {', '.join(_KEYS)}")
    kind = _COMMON["kind"](fields["kind"])
    known = _COMMON | _KEYS[kind]
    for key, given in fields.items():
        if key not in known:
            raise given.error(f"does not go with {kind}; known: {', '.join(sorted(known))}")
    for key in _NEEDED[kind]:
        if key not in fields:
            raise entry.child(key).error(f"is missing; say it as in {_EXAMPLES[key]}")
    said = {key: known[key](given) for key, given in fields.items()}
    if "size" in said:
        said["nbytes"] = said.pop("size")
    _sensible(entry, kind, fields, said)
    return Criterion(**{"name": _name(said), **said}, place=allowlist.text(entry.place.rpartition(": ")[0]))


def _sensible(entry: Field, kind: str, fields: Mapping[str, Field], said: Mapping[str, Any]) -> None:
    if said.get("windows", 0) >= _HALF:
        raise fields["windows"].error(
            f"{show(fields['windows'].value)} cannot be exceeded: at most half of all windows lie below the rate of "
            "their median; write less, as in windows: 20%"
        )
    if kind == "threshold":
        if ("busbw" in said) == ("time" in said):
            raise entry.error("write either busbw (at least) or time (at most) here, as in busbw: 10GB/s")
        if "busbw" in said and said["nbytes"] < LEAST_BUSBW:
            raise fields["busbw"].error(
                f"a bandwidth of {format_bytes(said['nbytes'])} tells how long a call takes; below "
                f"{format_bytes(LEAST_BUSBW)} write a time, as in time: 50us"
            )
    if kind == "stability" and not {"p99", "windows"} & said.keys():
        raise entry.error("says nothing; write p99: 2.0 (times the median) or windows: 5% (that may be slow)")


def _name(said: Mapping[str, Any]) -> str:
    """Of a criterion without a name: what it asks about."""
    if said["kind"] != "threshold":
        return "-".join(filter(None, (said["kind"], said.get("op"))))
    parts = [said["op"], format_bytes(said["nbytes"]), f"{said['ranks']}-ranks" if "ranks" in said else ""]
    return "-".join([*filter(None, parts), "busbw" if "busbw" in said else "time"])
