"""Verdicts as somebody might have reached them, and runs for them: what the tests of a verdict's outputs start from."""

from collections.abc import Sequence

import msgspec

from commbench import matchings
from commbench.layouts import expand
from commbench.records import Case, Host, Machine, Measurement, Run
from commbench.records.verdict import Component, Coverage, Fault, Judged, Kind, Power, Reason, Verdict, Word

NAMES = tuple(f"h{k}" for k in range(8))
EVIL = (
    'h"3',
    "h'3",
    "h3\nFAIL",
    "<b>h3</b>",
    "]]>",
    "\x1b[31mh3",
    "h3\\",
    "=h3",
    "-rf",
    "h3;reboot",
    "h3,h4",
    "h[0-9]",
    "h\u202e3",
    "\ud800",
    "",
    "ALL",
    "h3 slots=9",
)


def run(names: Sequence[str] = NAMES, ranks: int = 1, **spec: object) -> Run:
    return Run(
        format=3,
        name="lab",
        created="2026-01-02T03:04:05+00:00",
        commbench="1.0",
        seed=0,
        spec={"accept": spec},
        machine=Machine(
            hosts=tuple(Host(name=name) for name in names),
            host_of=tuple(k for k in range(len(names)) for _ in range(ranks)),
            launcher="mpirun",
        ),
    )


def rows(made: Run, slow: int = 3) -> list[Measurement]:
    """Two rounds of pairs, one pair again, and a collective of all; tests with host `slow` take twice the time."""
    half = len(made.machine.hosts) // 2
    racks = [range(half), range(half, 2 * half)]
    symbols = [
        matchings.symbol(racks, "in", 0),
        matchings.symbol(racks, "across", 0),
        matchings.meet([(slow, slow + 2)]),
        "world",
    ]
    of, found = made.machine.host_of, []
    for launch, symbol in enumerate(symbols):
        case = Case(op="all_reduce" if symbol == "world" else "send_recv", backend="mpi", nbytes=2**20, groups=symbol)
        for group, members in enumerate(expand(symbol, of)):
            late = symbol != "world" and slow in {of[rank] for rank in members}
            seconds = (2e-3,) * 3 if late else (1e-3,) * 3
            answer = {"ranks": len(members), "nbytes": 2**20, "seconds": seconds, "calls": 1, "wrong": 0}
            found.append(Measurement(case=case, group=group, launch=launch, **answer))
    return found


def component(kind: Kind, name: str = "") -> Component:
    return Component(kind=kind, id=name)


_CODES = {"slow": "CB-SLOW-HOST", "hang": "CB-HANG", "crash": "CB-CRASH", "unstable": "CB-UNSTABLE"}


def reason(what: Component, fault: Fault = "slow", **more: object) -> Reason:
    """By its own word a FAIL, unless something was not measured."""
    usual = {
        "code": _CODES.get(fault, "CB-COVERAGE"),
        "stage": "confirm",
        "sentence": f"{what} is {fault}",
        "decides": "FAIL" if fault in _CODES else "INCONCLUSIVE",
    }
    return Reason(component=what, fault=fault, **(usual | more))


SLOW = reason(
    component("host", "h3"),
    sentence="host h3 is slow: 52 % of the rate it should have",
    measured=0.61,
    expected=1.17,
    unit="GB/s",
    criterion="no component is slower than the fleet",
    source="fleet of this run",
    odds=21.4,
    next="Take it out.",
)


def verdict(word: Word = "FAIL", *reasons: Reason, names: Sequence[str] = NAMES, **more: object) -> Verdict:
    """A verdict on these hosts; those that a reason names are suspects, the others cleared."""
    named = {c.id.partition(" rail ")[0] for one in reasons for c in (one.component, *one.ties)}
    suspects = tuple(name for name in names if name in named)
    usual = {
        "name": "lab",
        "created": "2026-01-02T03:04:05+00:00",
        "criteria": (Judged(criterion="correctness", word="PASS", sentence="no wrong element", source="always"),),
        "coverage": Coverage(
            expected_hosts=len(names),
            hosts=tuple(names),
            ranks=len(names),
            rails=1,
            measured_hosts=tuple(names),
            transport=dict.fromkeys(names, "eth0 98 %"),
            stages=dict.fromkeys(("intra", "spread", "confirm", "full", "stability"), "done"),
        ),
        "power": Power(alpha=0.01, beta=0.01, slowdown=0.1, detectable=0.08, noise=0.015, rounds={"spread": 3}),
        "suspects": suspects,
        "cleared": tuple(name for name in names if name not in suspects),
        "commbench": "1.0",
    }
    code = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[word]
    return Verdict(word=word, exit_code=code, reasons=reasons, **(usual | more))


def covering(one: Verdict, **more: object) -> Verdict:
    """With another coverage."""
    return msgspec.structs.replace(one, coverage=msgspec.structs.replace(one.coverage, **more))
