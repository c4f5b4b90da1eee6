"""The spec of an acceptance test: what is expected, what is measured, and what it takes to pass."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from commbench.collectives import COLLECTIVES, DTYPES
from commbench.spec import values as v
from commbench.spec.criteria import Criterion, CriterionKind, criteria, file, slowdown
from commbench.spec.document import ACCEPTANCE, Field, find, read, show
from commbench.spec.sweep import Axes, Stop, SweepSpec, Warmup
from commbench.spec.topology import names as names_of
from commbench.spec.tune import TRIAL, Trial
from commbench.units import parse_bytes

__all__ = ["STAGES", "AcceptSpec", "Criterion", "CriterionKind", "Expect", "load"]

STAGES = ("preflight", "intra", "spread", "confirm", "full", "stability")
_LOOSEST = 0.2  # alpha or beta above it is no test


class Expect(msgspec.Struct, frozen=True, kw_only=True):
    """What must be there; None: not stated. A host list wins over a number.

    transport   an interface (`eth0`), or a kind of network: ib, efa, tcp, shm
    same        facts that must be equal on all hosts, besides the usual ones
    """

    hosts: int | None = None
    names: tuple[str, ...] = ()
    ranks_per_host: int | None = None
    gpus_per_host: int | None = None
    rails: int | None = None
    transport: str = ""
    same: tuple[str, ...] = ()


class AcceptSpec(msgspec.Struct, frozen=True, kw_only=True):
    """An acceptance test. `sweep` carries backend, trial limits, seed and deadline; its grid is the full-scale stage.

    pair_bytes     size of the bandwidth test of two hosts; latency_bytes: of the latency test
    slowdown       the smallest loss of rate that must be found; alpha, beta as in records.verdict.Power
    racks          rack name -> host names; {} where the fabric tells it, or nobody
    fabric         path of a topology file; "" where the lab tells it, or nobody
    rails          rail -> network interface, so that each rail can be measured alone; () where ranks are the rails
    windows        windows of the stability stage; window: seconds of one
    unequal        hosts may have different numbers of ranks
    """

    name: str
    source: str
    sweep: SweepSpec
    expect: Expect = Expect()
    criteria: tuple[Criterion, ...] = ()
    stages: tuple[str, ...] = STAGES
    pair_bytes: int = 2**20
    latency_bytes: int = 8
    slowdown: float = 0.1
    alpha: float = 0.01
    beta: float = 0.01
    spread: int = 3
    budget: float = 600.0
    racks: dict[str, tuple[str, ...]] = {}
    fabric: str = ""
    rails: tuple[str, ...] = ()
    windows: int = 10
    exclude: tuple[str, ...] = ()
    unequal: bool = False

    @property
    def also(self) -> dict[str, Any]:
        """What beside the grid decides the test, as plain JSON. Neither budget nor criteria: a test may be gone on
        with, and judged again."""
        kept = ("pair_bytes", "latency_bytes", "slowdown", "alpha", "beta", "spread", "racks", "rails", "windows")
        return {"accept": {name: msgspec.to_builtins(getattr(self, name)) for name in kept}}


# ---- readers --------------------------------------------------------------------------------------------


def _hosts(field: Field) -> tuple[str, ...]:
    """Names of hosts, `h[1-4]` for several. A name goes into host files and printed commands, so it is only a name."""
    found: dict[str, Field] = {}
    for name, entry in names_of(field):
        if len(name) > 253 or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name, re.ASCII):
            raise entry.error(f"{show(name)} is not the name of a host; write letters, digits, '.', '_' and '-'")
        if name in found:
            raise entry.error(f"{name} is written twice ({found[name].place}); write every host once")
        found[name] = entry
    return tuple(found)


def _interface(field: Field) -> str:
    value = field.value
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,31}", value, re.ASCII):
        raise field.error(f"{show(value)} is not a network interface; write its name, as in eth0")
    return value


def _rails(field: Field) -> tuple[str, ...]:
    found = [_interface(entry) for entry in field.entries()]
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise field.error(f"{twice} is there twice; every rail has an interface of its own")
    return tuple(found)


def _bytes(field: Field) -> int:
    try:
        return parse_bytes(field.value if isinstance(field.value, str) else show(field.value))
    except ValueError as error:
        raise field.error(str(error)) from None


def _risk(field: Field) -> float:
    """alpha or beta."""
    if (found := v.share(field)) > _LOOSEST:
        raise field.error(f"{show(field.value)} is out of range; more than {_LOOSEST:.0%} of wrong answers is no test")
    return float(found)


def _expect(field: Field) -> Expect:
    fields = field.mapping(("hosts", *_EXPECT))
    said: dict[str, Any] = {key: _EXPECT[key](fields[key]) for key in _EXPECT if key in fields}
    if "hosts" in fields:
        number = isinstance(fields["hosts"].value, int) and not isinstance(fields["hosts"].value, bool)
        said["hosts" if number else "names"] = (v.whole(1, 65536) if number else _hosts)(fields["hosts"])
    return Expect(**said)


def _stages(field: Field) -> tuple[str, ...]:
    chosen = v.each(v.choice(STAGES, "stage"))(field)
    if "confirm" in chosen and "spread" not in chosen:
        raise field.error("confirm needs spread: only what was suspected can be confirmed")
    return tuple(stage for stage in STAGES if stage in chosen)


def _racks(field: Field) -> dict[str, tuple[str, ...]]:
    if not isinstance(field.value, dict) or not field.value:
        raise field.error("write the hosts of each rack, as in {leaf1: h[1-4], leaf2: h[5-8]}")
    found: dict[str, tuple[str, ...]] = {}
    for key in field.value:
        entry = field.child(key)
        found[v.name(Field(key, entry.path, entry.places))] = _hosts(entry)
    member: dict[str, str] = {}
    for rack, hosts in found.items():
        for host in hosts:
            if host in member:
                raise field.child(rack).error(f"{host} is also in rack {member[host]}; a host is in one rack")
            member[host] = rack
    return found


def _pairs(field: Field) -> dict[str, int]:
    fields = field.mapping(("bandwidth", "latency"))
    keys = {"bandwidth": "pair_bytes", "latency": "latency_bytes"}
    said = {keys[key]: _bytes(given) for key, given in fields.items()}
    if said.get("pair_bytes", 2**20) < 64 * 1024:
        raise fields["bandwidth"].error("a message of less than 64KiB tells latency; write 1MiB or more")
    return said


def _full(field: Field) -> dict[str, Any]:
    fields = field.mapping(tuple(_FULL))
    return {key: _FULL[key](given) for key, given in fields.items()}


_EXPECT: dict[str, v.Reader] = {
    "ranks_per_host": v.whole(1, 4096),
    "gpus_per_host": v.whole(1, 4096),
    "rails": v.whole(1, 256),
    "transport": _interface,
    "same": v.each(v.name),
}
_FULL: dict[str, v.Reader] = {
    "collectives": v.each(v.choice([name for name in COLLECTIVES if name != "barrier"], "collective")),
    "sizes": v.sizes,
    "dtype": v.each(v.choice(DTYPES, "dtype")),
}
_READERS: dict[str, v.Reader] = {
    "name": v.name,
    "backend": v.choice(("gloo", "nccl", "mpi"), "backend"),
    "expect": _expect,
    "pairs": _pairs,
    "full": _full,
    "trial": v.section(Trial, TRIAL),
    "slowdown": slowdown,
    "alpha": _risk,
    "beta": _risk,
    "spread": v.whole(1, 64),
    "racks": _racks,
    "fabric": file,
    "rails": _rails,
    "windows": v.whole(2, 10000),
    "stages": _stages,
    "criteria": criteria,
    "budget": v.time,
    "exclude": _hosts,
    "unequal": v.flag,
    "seed": v.whole(0, 2**63 - 1),
    "deadline": v.time,
}
_USUAL_FULL: dict[str, Any] = {
    "collectives": ("all_reduce", "all_gather", "reduce_scatter"),
    "sizes": (2**20, 2**24),
    "dtype": ("float32",),
}


def load(source: str, overrides: Sequence[str] = ()) -> AcceptSpec:
    """The acceptance spec at a path, or the shipped one of that name; `key=value` overrides go in before checking.

    Paths in it count from its own folder. SpecError says in one line what is wrong, where, and what is accepted.
    """
    path = find(source, ACCEPTANCE)
    top = read(path, overrides, ACCEPTANCE)
    fields = top.mapping(tuple(_READERS))
    if "backend" not in fields:
        raise top.child("backend").error("is missing; say what to measure with: gloo, mpi, nccl")
    said = {key: _READERS[key](given) for key, given in fields.items()}
    _known_hosts(fields, said)
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", PurePath(path).stem).lstrip("._-")[:64]
    said.setdefault("name", stem or "accept")
    here = os.path.dirname(path)
    if "fabric" in said and ("/" in said["fabric"] or said["fabric"].endswith((".yaml", ".yml"))):
        said["fabric"] = os.path.join(here, said["fabric"])
    said["criteria"] = tuple(
        msgspec.structs.replace(one, path=os.path.join(here, one.path)) if one.path else one
        for one in said.get("criteria", ())
    )
    return AcceptSpec(source=path, sweep=_sweep(path, said), **said.pop("pairs", {}), **said)


def _sweep(path: str, said: dict[str, Any]) -> SweepSpec:
    """The full-scale stage as a grid. Takes what it needs out of `said`."""
    full, trial = _USUAL_FULL | said.pop("full", {}), said.pop("trial", Trial())
    return SweepSpec(
        name=said["name"],
        source=path,
        cases=(
            Axes(
                backend=(said.pop("backend"),),
                op=full["collectives"],
                sizes=full["sizes"],
                dtype=full["dtype"],
                groups=("world",),
                mode=("throughput",),
            ),
        ),
        stop=Stop(
            ci=1e-9,
            max_time=trial.max_time,
            min_samples=min(trial.min_samples, trial.max_samples),
            max_samples=trial.max_samples,
        ),
        warmup=Warmup(max_time=trial.warmup),
        seed=said.pop("seed", 0),
        order="as_given",
        deadline=said.pop("deadline", 20.0),
    )


def _known_hosts(fields: Mapping[str, Field], said: Mapping[str, Any]) -> None:
    """Racks and exclusions name hosts that there are, where the spec names the hosts."""
    known = set(said["expect"].names) if "expect" in said else set()
    for key in ("racks", "exclude") if known else ():
        found = said.get(key, {})
        places = {name: fields[key].child(rack) for rack in found for name in found[rack]} if key == "racks" else {}
        for name in places or found:
            if name not in known:
                place = places.get(name, fields[key])
                raise place.error(f"{name} is not among the expected hosts; add it to expect.hosts, or leave it out")
    if known and not known - set(said.get("exclude", ())):
        raise fields["exclude"].error("leaves none of the expected hosts; name fewer")
