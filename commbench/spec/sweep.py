"""The validated spec of a sweep: what may be written, what is meant where nothing is written.

Reading is a table: each key has a reader that turns its Field into a value or into one sentence. Axes (op,
sizes, dtype, ...) may be a value or a list; each entry of `cases` replaces some of them, and the union of the
entries is the grid.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

import msgspec

from commbench.backends.base import BACKENDS
from commbench.collectives import COLLECTIVES, DTYPES, REDOPS
from commbench.records.case import Mode
from commbench.spec import values as v
from commbench.spec.document import Field, find, read


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """When a case has enough samples: the interval is narrow, or time or samples are used up."""

    ci: float = 0.02
    confidence: float = 0.95
    max_time: float = 5.0
    min_samples: int = 20
    max_samples: int = 1000


class Warmup(msgspec.Struct, frozen=True, kw_only=True):
    """How long the calls before the first sample may take."""

    max_time: float = 1.0


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """The network that backend `simulated` pretends to have: seconds, bytes per second, relative noise."""

    latency: float = 5e-6
    bandwidth: float = 10e9
    noise: float = 0.02
    ranks_per_host: int = 8


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """One block of the grid: the product of its axes.

    `groups` holds layouts before the world is known: world, node, rail, pairs, every:4, mesh(dp=4,tp=2), or
    the mesh with ` alone` behind it. `in_place` is empty where op and backend decide. `settings` has the
    values of each. `places` says where groups and root were written, for what only the world can show.
    """

    backend: tuple[str, ...]
    op: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    dtype: tuple[str, ...] = ("float32",)
    redop: tuple[str, ...] = ("sum",)
    groups: tuple[str, ...] = ("world",)
    mode: tuple[Mode, ...] = ("throughput",)
    in_place: tuple[bool, ...] = ()
    root: tuple[int, ...] = (0,)
    settings: tuple[tuple[str, tuple[str, ...]], ...] = ()
    places: dict[str, str] = {}


class SweepSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep, ready to be expanded on a world."""

    name: str
    source: str
    cases: tuple[Axes, ...]
    stop: Stop = Stop()
    warmup: Warmup = Warmup()
    simulated: Simulated = Simulated()
    launches: int = 1
    seed: int = 0
    order: Literal["shuffled", "as_given"] = "shuffled"
    check: bool = True
    deadline: float = 60.0

    @property
    def backends(self) -> tuple[str, ...]:
        """Every backend that takes part, in the order of the spec."""
        return tuple(dict.fromkeys(name for axes in self.cases for name in axes.backend))

    def canonical(self) -> dict[str, Any]:
        """What decides the measurements, as plain JSON: the same however the spec was written down."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        del plain["source"]
        for axes in plain["cases"]:
            del axes["places"]
        if "simulated" not in self.backends:
            del plain["simulated"]
        if len(self.cases) == 1:
            plain |= plain.pop("cases")[0]
        return plain


def differing(a: Mapping[str, Any], b: Mapping[str, Any], above: str = "") -> list[str]:
    """Key paths at which two canonical forms differ."""
    out = []
    for key in sorted({*a, *b}):
        path, left, right = above + key, a.get(key), b.get(key)
        if left == right and (key in a) == (key in b):
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            out += differing(left, right, f"{path}.")
        elif key == "cases" and left and right and len(left) == len(right):
            for k, (one, other) in enumerate(zip(left, right, strict=True)):
                out += differing(one, other, f"{path}[{k}].")
        else:
            out.append(path)
    return out


AXES: dict[str, v.Reader] = {
    "backend": v.each(v.choice(BACKENDS, "backend")),
    "op": v.each(v.choice(COLLECTIVES, "collective")),
    "sizes": v.sizes,
    "dtype": v.each(v.choice(DTYPES, "dtype")),
    "redop": v.each(v.choice(REDOPS, "redop")),
    "groups": v.each(v.group),
    "mode": v.each(v.choice(("latency", "throughput"), "mode")),
    "in_place": v.each(v.flag),
    "root": v.each(v.whole(0, 2**20)),
    "settings": v.settings,
}
_STOP: dict[str, v.Reader] = {
    "ci": v.share,
    "confidence": v.share,
    "max_time": v.time,
    "min_samples": v.whole(1, 10**6),
    "max_samples": v.whole(1, 10**6),
}
_SIMULATED: dict[str, v.Reader] = {
    "latency": v.latency,
    "bandwidth": v.bandwidth,
    "noise": v.noise,
    "ranks_per_host": v.whole(1, 2**20),
}
REST: dict[str, v.Reader] = {
    "name": v.name,
    "stop": v.section(Stop, _STOP),
    "warmup": v.section(Warmup, {"max_time": v.time}),
    "simulated": v.section(Simulated, _SIMULATED),
    "launches": v.whole(1, 1000),
    "seed": v.whole(0, 2**63 - 1),
    "order": v.choice(("shuffled", "as_given"), "order"),
    "check": v.flag,
    "deadline": v.time,
}
_NEEDED = {
    "backend": f"say what to measure with; known: {', '.join(sorted(BACKENDS))}",
    "op": f"say which collective; known: {', '.join(sorted(COLLECTIVES))}",
    "sizes": "say how many bytes, as in 1KiB..4MiB x4",
}


def _axes(block: Field, fields: Mapping[str, Field], values: Mapping[str, Any]) -> Axes:
    """One block of the grid from what is written in it or above it."""
    for key, why in _NEEDED.items():
        if key not in values and not (key == "sizes" and set(values["op"]) == {"barrier"}):
            raise block.child(key).error(f"is missing; {why}")
    for name, _ in values.get("settings", ()):
        able = v.SETTINGS[name].backends
        if not set(able) & set(values["backend"]):
            chosen = ", ".join(values["backend"])
            raise fields["settings"].child(name).error(f"is a setting of {', '.join(able)}, not of {chosen}")
    places = {}
    if "groups" in fields:
        places = {v.group(entry): entry.place for entry in fields["groups"].entries()}
    if "root" in fields:
        places["root"] = fields["root"].place
    return Axes(**values, places=places)


def _size(axes: Axes) -> int:
    """Cases in a block at most, before the world is known (pairs and meshes count once)."""
    settings = [values for _, values in axes.settings]
    always = (axes.backend, axes.op, axes.dtype, axes.redop, axes.groups, axes.mode, axes.root, *settings)
    return math.prod(map(len, always)) * max(1, len(axes.sizes)) * max(1, len(axes.in_place))


def _blocks(top: Field, fields: Mapping[str, Field]) -> tuple[Axes, ...]:
    common = {key: field for key, field in fields.items() if key in AXES}
    values = {key: AXES[key](field) for key, field in common.items()}
    if "cases" not in fields:
        return (_axes(top, common, values),)
    written = fields["cases"]
    if not isinstance(written.value, list) or not written.value:
        raise written.error("write a list of mappings, as in [{op: all_reduce}, {op: barrier}]")
    blocks = []
    for entry in written.entries():
        own = entry.mapping(tuple(AXES))
        blocks.append(_axes(entry, common | own, values | {key: AXES[key](own[key]) for key in own}))
    return tuple(blocks)


def load(source: str, overrides: Sequence[str] = ()) -> SweepSpec:
    """The spec at a path, or the shipped one of that name; `key=value` overrides go in before checking."""
    path = find(source)
    top = read(path, overrides)
    fields = top.mapping((*AXES, *REST, "cases"))
    rest = {key: REST[key](fields[key]) for key in REST if key in fields}
    stop = rest.get("stop", Stop())
    least, most = stop.min_samples, stop.max_samples
    if least > most:
        if "min_samples" in fields["stop"].value:
            raise fields["stop"].child("min_samples").error(f"min_samples ({least}) is more than max_samples ({most})")
        rest["stop"] = msgspec.structs.replace(stop, min_samples=most)  # only the default was more
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", PurePath(path).stem).lstrip("._-")[:64]
    spec = SweepSpec(**{"name": stem or "sweep", **rest}, source=path, cases=_blocks(top, fields))
    if "simulated" in fields and "simulated" not in spec.backends:
        chosen = ", ".join(spec.backends)
        raise fields["simulated"].error(f"goes with backend simulated only, not with {chosen}")
    if (total := sum(map(_size, spec.cases))) > v.MAX_CASES:
        raise top.error(f"{total:,} cases are more than the {v.MAX_CASES:,} a sweep may have")
    return spec
