"""What is not a matter of speed: ranks that were lost, and data that were wrong. Pure."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from commbench.accept.advice import reason
from commbench.accept.evidence import Evidence, Hosts, Test, blame, cited
from commbench.records.acceptance import Acceptance
from commbench.records.verdict import Component, Fault, Reason

_LOST: dict[str, Fault] = {"hung": "hang"}  # status of a row -> the class of its fault; what died has no row
_CODE: dict[Fault, str] = {"hang": "CB-HANG", "crash": "CB-CRASH"}
_DID: dict[Fault, str] = {"hang": "stood still", "crash": "died"}
_NAMED = 8  # more components that explain the evidence as well are not listed: it says nothing any more


class _Event(NamedTuple):
    """Something that stood still or died: the class, the hosts in it, and whether these are the ones."""

    fault: Fault
    hosts: Hosts
    certain: bool
    sentence: str
    tests: tuple[Test, ...] = ()


def lost(evidence: Evidence, happened: Acceptance) -> list[Reason]:
    """Hosts that hung or died: certain where they were seen to; else those that took part are suspects."""
    events = [*_from_losses(evidence, happened), *_from_rows(evidence, happened)]
    found: list[Reason] = []
    certain: dict[tuple[Fault, int], list[_Event]] = {}
    for event in events:
        for host in event.hosts if event.certain else ():
            certain.setdefault((event.fault, host), []).append(event)
    sure = {host for _, host in certain}
    open_ = [event for event in events if event.hosts and not event.certain and not sure & set(event.hosts)]
    for hosts, which in blame([event.hosts for event in open_], _good(evidence)).items():
        for fault in ("hang", "crash"):
            these = [open_[k] for k in which if open_[k].fault == fault]
            if these and len(hosts) == 1:
                certain.setdefault((fault, hosts[0]), []).extend(these)
            elif these:
                found.append(_undecided(evidence, fault, hosts, these))
    found += [_certain(evidence, fault, host, these) for (fault, host), these in certain.items()]
    nobody = [event for event in events if not event.hosts]
    found += [
        reason(
            "CB-UNDECIDED", Component(kind="run"), event.fault, "run", event.sentence, criterion="every rank answers"
        )
        for event in nobody
    ]
    return found


def _from_losses(evidence: Evidence, happened: Acceptance) -> Iterable[_Event]:
    """A loss stops everybody in its round, so the rows of that round say nothing more than it does."""
    index = {host.name: k for k, host in enumerate(evidence.machine.hosts)}
    for loss in happened.losses:
        if loss.fault != "launch":
            hosts = tuple(sorted(index[name] for name in loss.hosts if name in index))
            stood = [test for test in evidence.tests if test.row.status in _LOST and test.row.launch == loss.round]
            tests = tuple(test for test in stood if set(test.hosts) & set(hosts))
            yield _Event(loss.fault, hosts, loss.certain and bool(hosts), loss.sentence or loss.what, tests)


def _from_rows(evidence: Evidence, happened: Acceptance) -> Iterable[_Event]:
    """Tests that hung or died while the rest of the run went on, in rounds of which no loss tells."""
    known = {loss.round for loss in happened.losses}
    for test in evidence.tests:
        if (fault := _LOST.get(test.row.status)) and test.row.launch not in known:
            yield _Event(fault, test.hosts, len(test.hosts) == 1, test.row.why, (test,))


def _good(evidence: Evidence) -> set[Hosts]:
    return {test.hosts for test in evidence.tests if test.ok}


def _certain(evidence: Evidence, fault: Fault, host: int, events: Sequence[_Event]) -> Reason:
    tests = [test for event in events for test in event.tests]
    did = "did not answer" if fault == "hang" else "died"
    if not any(event.certain for event in events):
        did = f"is what all tests that {_DID[fault]} have in common"
    why = next((event.sentence for event in events if event.sentence), "")
    return reason(
        _CODE[fault],
        evidence.host(host),
        fault,
        tests[0].stage if tests else "run",
        f"{evidence.name(host)} {did}" + (f": {why}" if why else ""),
        criterion="every rank answers before its deadline",
        source="built in",
        evidence=cited(tests),
    )


def _undecided(evidence: Evidence, fault: Fault, hosts: Hosts, events: Sequence[_Event]) -> Reason:
    tests = [test for event in events for test in event.tests]
    component, ties, names = among(evidence, hosts)
    return reason(
        "CB-UNDECIDED",
        component,
        fault,
        tests[0].stage if tests else "run",
        f"a test of {names} {_DID[fault]}, and nothing tells which of them is at fault",
        ties=ties,
        criterion="every rank answers before its deadline",
        source="built in",
        evidence=cited(tests),
    )


def among(evidence: Evidence, hosts: Hosts) -> tuple[Component, tuple[Component, ...], str]:
    """(component, its ties, names for a sentence) where one of these hosts, or what is between them, is at fault."""
    each = tuple(map(evidence.host, hosts))
    if len(hosts) == 1:
        return each[0], (), each[0].id
    if len(hosts) == 2:
        return Component(kind="path", id=" - ".join(host.id for host in each)), each, " and ".join(h.id for h in each)
    few = len(hosts) <= _NAMED
    names = ", ".join(host.id for host in each) if few else f"{len(hosts)} hosts"
    return Component(kind="fabric"), each if few else (), names


def wrong(evidence: Evidence) -> list[Reason]:
    """Wrong data, laid to the host that all wrong tests have in common and whose partners are right with others."""
    bad, good = [test for test in evidence.tests if (test.row.wrong or 0) > 0], _good(evidence)
    right = {host for hosts in good for host in hosts}
    found = []
    for hosts, which in sorted(blame([test.hosts for test in bad], good).items()):
        tests = [bad[k] for k in which]
        component, ties, names = among(evidence, hosts)
        elements = sum(test.row.wrong or 0 for test in tests)
        if len(hosts) == 1:
            said = f"{names} changed data: {_count(elements, 'element')} wrong in {_count(len(tests), 'test')}"
            partners = {host for test in tests for host in test.hosts} - set(hosts)
            said += ", while its partners are right with others" if partners and partners <= right else ""
        else:
            said = f"data were wrong between {names}, and nothing tells where: {_count(elements, 'element')}"
        found.append(
            reason(
                "CB-WRONG",
                component,
                "wrong",
                tests[0].stage,
                said,
                ties=ties,
                measured=float(elements),
                expected=0.0,
                unit="elements",
                criterion="every element of every result is right",
                source="built in",
                evidence=cited(tests),
            )
        )
    return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
