"""Rules about values that are lists: algorithms and protocols, devices and interfaces."""

import re
from collections.abc import Iterator

from commbench.knobs import Knob
from commbench.lint.context import Context, Said
from commbench.lint.setting import Setting

FUNCTIONS = ("broadcast", "reduce", "allgather", "reducescatter", "allreduce")
# Which collectives an algorithm exists for, where not for all (Ring); and the versions that know its name.
HAS = {
    "ring": frozenset(FUNCTIONS),
    "tree": frozenset(("allreduce",)),
    "collnetdirect": frozenset(("allreduce", "allgather", "reducescatter")),
    "collnetchain": frozenset(("allreduce",)),
    "nvls": frozenset(("allreduce", "allgather", "reducescatter")),
    "nvlstree": frozenset(("allreduce",)),
    "pat": frozenset(("allgather", "reducescatter")),
}
SINCE = {"collnetchain": "2.14", "collnetdirect": "2.14", "nvls": "2.17", "nvlstree": "2.18", "pat": "2.23"}
MOST = {"hcas": 32, "interfaces": 16}


def parse(value: str) -> list[tuple[str, bool, list[str]]]:
    """`ring;allreduce:^tree` as (function or "", excluded, names), all in small letters."""
    found = []
    for part in value.lower().split(";"):
        function, colon, names = part.rpartition(":")
        found.append((function if colon else "", names.startswith("^"), names.removeprefix("^").split(",")))
    return [(f, inverted, [n for n in names if n]) for f, inverted, names in found]


def algorithms(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    """NCCL_ALGO and NCCL_PROTO: parseList in src/graph/tuning.cc."""
    value, name = setting.value or "", setting.name
    known = {choice.lower() for choice in knob.choices}
    parts = parse(value)
    for place, (function, _, names) in enumerate(parts):
        if (function and function not in FUNCTIONS) or (place and not function):
            sentence = f"{name} names a collective that NCCL does not know, or none where it must"
            yield context.say("CB-ENV-CHOICE", setting, sentence, f"write COLLECTIVE:LIST with {', '.join(FUNCTIONS)}")
        for word in names:
            if word not in known:
                blank = word.strip() in known
                code = "CB-ENV-WHITESPACE" if blank else "CB-ENV-CHOICE"
                sentence = (
                    f"{name} has {'a blank in its list' if blank else 'a word that NCCL does not know'}: "
                    "from 2.24 on the communicator fails, before it was ignored"
                )
                step = "write the list without blanks" if blank else f"choose from {', '.join(knob.choices)}"
                yield context.say(code, setting, sentence, step)
    if any(function for function, _, _ in parts) or ";" in value:
        yield from _needs(context, setting, "2.24", f"{name} for single collectives")
    for word in {word for _, _, names in parts for word in names}:
        if word in SINCE:
            yield from _needs(context, setting, SINCE[word], word.upper())
        if word == "collnet" and context.older("2.14") is not True:
            sentence = "Collnet is called CollnetChain and CollnetDirect since NCCL 2.14"
            yield context.say("CB-ENV-VALUE-VERSION", setting, sentence, "write CollnetDirect or CollnetChain")
    yield from (_fallback if name == "NCCL_ALGO" else _ll128)(context, setting, parts)


def _needs(context: Context, setting: Setting, since: str, what: str) -> Iterator[Said]:
    if context.older(since):
        have = ".".join(map(str, context.nccl or ()))
        sentence = f"{what} needs NCCL {since}; this is {have}"
        yield context.say("CB-ENV-VALUE-VERSION", setting, sentence, "leave it out, or use a newer NCCL")


def _fallback(context: Context, setting: Setting, parts: list[tuple[str, bool, list[str]]]) -> Iterator[Said]:
    """A list for all collectives that leaves some with nothing."""
    function, inverted, names = parts[0]
    if function or inverted or not names or not all(name in HAS for name in names):
        return
    lacking = [f for f in FUNCTIONS if not any(f in HAS[name] for name in names)]
    lacking = [f for f in lacking if f not in {function for function, _, _ in parts[1:]}]
    if lacking:
        then = {True: "NCCL quietly uses Ring for them", False: "NCCL fails on them"}.get(
            context.older("2.24") if context.nccl else None,  # type: ignore[arg-type]
            "NCCL fails on them from 2.24 on, and quietly used Ring before",
        )
        sentence = f"{', '.join(lacking)} cannot run {' or '.join(names)}: {then}"
        step = "name the collective (allreduce:tree, from 2.24), or add ring"
        yield context.say("CB-NCCL-ALGO-FALLBACK", setting, sentence, step)


def _ll128(context: Context, setting: Setting, parts: list[tuple[str, bool, list[str]]]) -> Iterator[Said]:
    if any(not inverted and "ll128" in names for _, inverted, names in parts):
        sentence = "NCCL_PROTO enables LL128 also where NCCL would not; there it corrupts data"
        yield context.say("CB-ENV-LL128", setting, sentence, "leave NCCL_PROTO out; NCCL uses LL128 where it is safe")


def devices(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    """NCCL_IB_HCA and NCCL_SOCKET_IFNAME: one ^, then one =, then prefixes; parseStringList in src/misc/utils.cc."""
    value, name = setting.value or "", setting.name
    body = value.removeprefix("^")
    exact = body.startswith("=")
    body = body.removeprefix("=")
    entries = [entry for entry in body.split(",") if entry]
    if not entries:
        yield context.say("CB-ENV-EMPTY", setting, f"{name} names no device", "name one, or leave it out")
    if any(entry.lstrip()[:1] in ("^", "=", "!") for entry in entries):
        sentence = f"^ and = count once, at the beginning of {name}, ^ first; here they become part of a device's name"
        yield context.say(
            "CB-ENV-PREFIX-ORDER", setting, sentence, "write =a,b to use or ^=a,b to exclude exactly these"
        )
    elif any(re.search(r"[*?\[\]]|\.\.", entry) for entry in entries):
        sentence = f"{name} does not know patterns: no device has this name"
        yield context.say("CB-ENV-GLOB", setting, sentence, "write the beginning of the names, or = and all names")
    elif any(re.search(r"\s", entry) for entry in entries):
        sentence = f"the blank in {name} becomes part of a device's name, which then matches nothing"
        yield context.say("CB-ENV-WHITESPACE", setting, sentence, "write the list with commas and without blanks")
    elif len(entries) > MOST.get(knob.kind, 32):
        sentence = f"{name} has {len(entries)} entries; NCCL reads {MOST[knob.kind]}"
        yield context.say("CB-ENV-RANGE", setting, sentence, "use a prefix that fits them all")
    else:
        more = [e for e in entries if re.search(r"\D[1-9]$", e.partition(":")[0])]
        if more and not exact:
            device = more[0].partition(":")[0]
            sentence = f"{name} without = also matches {device}0 to {device}9, where they exist"
            yield context.say(
                "CB-ENV-PREFIX", setting, sentence, f"write {value[:1] if value[:1] == '^' else ''}={body[:40]}"
            )


def names(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    """GLOO_SOCKET_IFNAME: exact names between commas."""
    value = setting.value or ""
    if value[:1] in ("^", "=") or "*" in value:
        sentence = f"{setting.name} takes exact names; ^, = and * are NCCL's or nobody's"
        yield context.say("CB-ENV-MIXED-FORM", setting, sentence, "write the interface's name, as in eth0")
    elif any(entry != entry.strip() for entry in value.split(",")):
        sentence = f"the blank in {setting.name} becomes part of a name"
        yield context.say("CB-ENV-WHITESPACE", setting, sentence, "write the list without blanks")
