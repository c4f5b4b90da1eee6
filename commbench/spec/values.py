"""Readers: each turns one Field into a value, or into one sentence that says what is accepted."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from commbench.errors import nearest
from commbench.layouts import NAMES
from commbench.spec.document import Field, show
from commbench.units import parse_bandwidth, parse_bytes, parse_share, parse_time

MAX_CASES = 100_000
LONGEST = 30 * 86400.0  # seconds; more than a month is a slip of the pen
Reader = Callable[[Field], Any]


def choice(known: Collection[str], what: str) -> Reader:
    """One of the known names."""

    def reader(field: Field) -> str:
        if isinstance(field.value, str) and field.value in known:
            return field.value
        if isinstance(field.value, str):
            raise field.error(f"unknown {what} {show(field.value)}; {nearest(field.value, known)}")
        raise field.error(f"{show(field.value)} is not a {what}; known: {', '.join(sorted(known))}")

    return reader


def whole(low: int, high: int) -> Reader:
    """A whole number within limits; neither true nor 1.0 is one."""

    def reader(field: Field) -> int:
        value = field.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise field.error(f"{show(value)} is not a whole number from {low} to {high}")
        return value

    return reader


def flag(field: Field) -> bool:
    if not isinstance(field.value, bool):
        raise field.error(f"{show(field.value)} is not true or false")
    return field.value


def _unit(parse: Callable[[str], Any], low: float = 0.0, high: float = math.inf) -> Reader:
    """A quantity that commbench.units parses, from above `low` up to `high`."""
    accepted = "write more than 0" + (f" and at most {high / 86400:g} days" if math.isfinite(high) else "")

    def reader(field: Field) -> Any:
        value = field.value
        try:
            number = parse(value if isinstance(value, str) else show(value))
        except ValueError as error:
            raise field.error(str(error)) from None
        if not low < number <= high:
            raise field.error(f"{show(value)} is out of range; {accepted}")
        return number

    return reader


share = _unit(parse_share)
time = _unit(parse_time, high=LONGEST)
latency = _unit(parse_time, low=-1.0, high=LONGEST)
bandwidth = _unit(parse_bandwidth)


def noise(field: Field) -> Any:
    """A share that may also be nothing."""
    return 0.0 if field.value in (0, "0%", "0") and not isinstance(field.value, bool) else share(field)


def name(field: Field) -> str:
    if isinstance(field.value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", field.value):
        return field.value
    raise field.error(f"{show(field.value)} is not a name; write up to 64 letters, digits, '.', '_' or '-'")


def section(make: Callable[..., Any], readers: Mapping[str, Reader]) -> Reader:
    """A mapping with a reader for each key; what is left out has its default."""

    def reader(field: Field) -> Any:
        return make(**{key: readers[key](value) for key, value in field.mapping(tuple(readers)).items()})

    return reader


# ---- axes -----------------------------------------------------------------------------------------------


def each(reader: Reader) -> Reader:
    """A value or a list of them, each kept once."""

    def axis(field: Field) -> tuple[Any, ...]:
        entries = field.entries()
        if not entries:
            raise field.error("the list is empty; give at least one value, or leave the key out")
        return tuple(dict.fromkeys(reader(entry) for entry in entries))

    return axis


def _range(text: str) -> Sequence[int]:
    match = re.fullmatch(r"\s*(.+?)\s*\.\.\s*(.+?)\s*(?:([x+])\s*(\S.*))?", text)
    if not match:
        raise ValueError(f"{text!r} is not a range; write 8B..8GiB x2 or 1KiB..8KiB +1KiB")
    low, high = parse_bytes(match[1]), parse_bytes(match[2])
    if low > high:
        raise ValueError(f"{text!r} runs downwards; write the smaller size first")
    if match[3] is None:
        raise ValueError(f"{text!r} does not say how to step; write {match[1]}..{match[2]} x2 or +1KiB")
    if match[3] == "+":
        return range(low, high + 1, parse_bytes(match[4]))
    factor = int(match[4]) if re.fullmatch(r"[0-9]{1,9}", match[4].strip()) else 0
    if factor < 2:
        raise ValueError(f"{text!r}: the factor behind x must be a whole number of 2 or more")
    steps = [low]
    while steps[-1] * factor <= high:
        steps.append(steps[-1] * factor)
    return steps


def sizes(field: Field) -> tuple[int, ...]:
    entries = field.entries()
    if not entries:
        raise field.error("the list is empty; write sizes as 8B..8GiB x2 or [1KiB, 64KiB]")
    chosen: dict[int, None] = {}
    for entry in entries:
        text = entry.value if isinstance(entry.value, str) else show(entry.value)
        if len(text) > 100:
            raise entry.error("is too long for a size; write 64KiB or 8B..8GiB x2")
        try:
            found = _range(text) if ".." in text else [parse_bytes(text)]
        except ValueError as error:
            raise entry.error(str(error)) from None
        # A range is counted before it is written out.
        if (total := len(found) + len(chosen)) > MAX_CASES:
            raise entry.error(f"{total:,} sizes are more than the {MAX_CASES:,} cases a sweep may have")
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)


_GROUPS = "world, node, rail, pairs, {every: 4}, {mesh: {dp: 4, tp: 2}}"


def group(field: Field) -> str:
    """One entry of `groups` as the symbol that Axes holds."""
    if not isinstance(field.value, dict):
        if field.value in ("every", "mesh"):
            raise field.error(f"{field.value!r} needs its numbers; write one of {_GROUPS}")
        if isinstance(field.value, str) and field.value not in NAMES:
            raise field.error(f"unknown group {show(field.value)}; {nearest(field.value, NAMES)}")
        if not isinstance(field.value, str):
            raise field.error(f"{show(field.value)} is not a group; write one of {_GROUPS}")
        return field.value
    inside = field.mapping(("every", "mesh", "alone"))
    if ("every" in inside) == ("mesh" in inside):
        raise field.error(f"write either every or mesh here; groups are: {_GROUPS}")
    if "every" in inside:
        if "alone" in inside:
            raise inside["alone"].error("alone goes with mesh, not with every")
        return f"every:{whole(1, 2**20)(inside['every'])}"
    alone = flag(inside["alone"]) if "alone" in inside else False
    axes = inside["mesh"]
    if not isinstance(axes.value, dict) or not axes.value:
        raise axes.error(f"{show(axes.value)} is not a mesh; write its axes, as in {{dp: 4, tp: 2}}")
    for name in axes.value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,31}", name):
            raise axes.child(name).error(f"{name!r} is not the name of an axis; write a word, as in dp")
    text = ",".join(f"{name}={whole(1, 2**20)(axes.child(name))}" for name in axes.value)
    return f"mesh({text})" + (" alone" if alone else "")


class Setting(NamedTuple):
    """A setting of a backend that a case may carry."""

    backends: tuple[str, ...]
    reader: Reader


def _variable(field: Field) -> str:
    """A number, true or false, or a name: what the variables of MPI libraries take."""
    text = field.value if isinstance(field.value, str) else show(field.value)
    if not re.fullmatch(r"-?[\w.+-]{1,64}", text, re.ASCII):
        raise field.error(f"{show(field.value)} is no value of a setting; write a number, a name, true or false")
    return text


def _words(field: Field) -> str:
    """A value of an environment variable: words and what stands between them in lists."""
    text = field.value if isinstance(field.value, str) else show(field.value)
    if not re.fullmatch(r"[\w.+:;,^=/*@-]{1,200}", text, re.ASCII):
        raise field.error(f"{show(field.value)} is no value of a variable; write a number, a word or a list as in a,b")
    return text


# Variables by their own names, as the libraries have hundreds: which backend has them, and what they take.
_FAMILIES: dict[str, Setting] = {
    "coll_": Setting(("mpi",), _variable),
    "MPIR_CVAR_": Setting(("mpi",), _variable),
    "OMPI_MCA_": Setting(("mpi",), _words),
    "NCCL_": Setting(("nccl",), _words),
    "GLOO_": Setting(("gloo",), _words),
}
_NAMED = re.compile(rf"({'|'.join(_FAMILIES)})\w{{1,80}}", re.ASCII)


class _Settings(dict[str, Setting]):
    """Our own settings are listed. Variables of libraries go by their own names: the library that a case runs on says
    whether it has one."""

    def __missing__(self, name: str) -> Setting:
        if (match := _NAMED.fullmatch(name)) is None:
            raise KeyError(name)
        return _FAMILIES[match[1]]

    def known(self, names: Collection[str]) -> tuple[str, ...]:
        """Those listed, and of `names` those that a library may have."""
        return (*self, *(name for name in names if _NAMED.fullmatch(name)))


# threads: of each process group. groups: process groups that share one message. rails: the interface of each local
# rank, as in eth0,eth1. The last three are per communicator.
SETTINGS = _Settings(
    {
        "cuda_graph": Setting(("nccl",), flag),
        "threads": Setting(("gloo",), whole(1, 64)),
        "groups": Setting(("gloo",), whole(1, 16)),
        "rails": Setting(("gloo",), _words),
        "min_ctas": Setting(("nccl",), whole(1, 64)),
        "max_ctas": Setting(("nccl",), whole(1, 64)),
        "cga_cluster_size": Setting(("nccl",), whole(0, 8)),
    }
)


def settings(field: Field) -> tuple[tuple[str, tuple[str, ...]], ...]:
    chosen = field.mapping(SETTINGS.known(field.value) if isinstance(field.value, dict) else tuple(SETTINGS))
    found = {name: each(SETTINGS[name].reader)(chosen[name]) for name in sorted(chosen)}
    return tuple((name, tuple(v if isinstance(v, str) else show(v) for v in values)) for name, values in found.items())
