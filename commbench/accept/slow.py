"""What is slow, and how slow: pairs by the locating half, hosts inside by comparison with the fleet. Pure."""

import statistics
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from commbench.accept.advice import reason
from commbench.accept.evidence import CITED, Evidence, Test, cited
from commbench.accept.locate import Fleet, Found, Key, Located, Options, locate
from commbench.accept.observe import Met, fleet_of, meetings, racks_of
from commbench.records.case import Mode
from commbench.records.verdict import Component, Reason
from commbench.spec.accept import AcceptSpec
from commbench.stats.ratios import student

LATENCY_SLOWDOWN = 0.5  # latency scatters: a fault is one that doubles it
_COMPARED = 3  # of fewer hosts none can be compared with the others
_FEW = 4  # of fewer hosts nobody can tell what is usual inside one
_CODES = {
    "host": "CB-SLOW-HOST",
    "rank": "CB-SLOW-RAIL",
    "nic": "CB-SLOW-RAIL",
    "uplink": "CB-SLOW-UPLINK",
    "path": "CB-SLOW-PATH",
    "fabric": "CB-SLOW-FABRIC",
}


class Slow(NamedTuple):
    """What pairs tell. `bandwidth`, `latency`: None where no pair was measured so."""

    bandwidth: Located | None
    latency: Located | None
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()


class _Part(NamedTuple):
    """The pairs of one mode: their tests, what the locating half says, and the test at each of its places.

    passed   what was slow for certain before the full scale, and is not by all tests
    """

    mode: Mode
    tests: tuple[Test, ...]
    located: Located
    at: dict[tuple[int, int], Test]
    passed: tuple[Found, ...] = ()

    def explained(self, found: Found) -> list[Test]:
        """The slow tests that a finding explains."""
        return [self.at[key] for key in found.seen if key in self.at]


def pairs(evidence: Evidence, spec: AcceptSpec, gone: Iterable[int] = ()) -> Slow:
    """Slow components by the tests of pairs. gone: hosts that were lost or left out, of whom nothing is expected."""
    missing = frozenset(gone)
    racks = racks_of(evidence.machine, spec.racks)
    fleet = fleet_of(evidence.machine, racks)
    options = Options(
        slowdown=spec.slowdown, alpha=spec.alpha, beta=spec.beta, spread=spec.spread, seed=spec.sweep.seed
    )
    bandwidth = _part(evidence, "throughput", fleet, options, missing)
    latency = _part(evidence, "latency", fleet, options._replace(slowdown=LATENCY_SLOWDOWN), missing)
    reasons: list[Reason] = []
    notes: list[str] = []
    accused: list[set[int]] = []
    for part in filter(None, (bandwidth, latency)):
        for found in part.located.found:
            if part.mode == "latency" and any(set(found.hosts) <= hosts for hosts in accused):
                continue  # what slows bytes delays them too: one fault, one finding
            reasons.append(_slow(evidence, tuple(racks), found, part.mode, part.explained(found)))
            accused.append(set(found.hosts))
        for found in part.passed:
            reasons.append(_passed(evidence, tuple(racks), found, part.mode, part.explained(found)))
            accused.append(set(found.hosts))
        named = {host for hosts in accused for host in hosts}
        undecided = [host for host in part.located.undecided if host not in named | missing]
        reasons += [_open(evidence, host, part) for host in undecided[:CITED]]
        if len(undecided) > CITED:
            notes.append(f"{len(undecided) - CITED} more hosts are undecided ({_WORD[part.mode]})")
    if first := bandwidth or latency:  # the other one met in the same pairs, and would say the same
        notes = [f"{_WORD[first.mode]}: {note}" for note in first.located.notes] + notes
    return Slow(
        bandwidth and bandwidth.located, latency and latency.located, tuple(reasons), tuple(dict.fromkeys(notes))
    )


def _part(evidence: Evidence, mode: Mode, fleet: Fleet, options: Options, gone: Container[int]) -> _Part | None:
    """None where no pair was measured so."""
    tests = tuple(test for test in evidence.of("spread", "confirm") if test.row.case.mode == mode)
    met = meetings([test.row for test in tests], evidence.machine)
    if not any(np.isfinite(one.seen.seconds).any() for one in met):
        return None
    test_of = {id(test.row): test for test in tests}
    at = {(k, place): test_of[id(row)] for k, one in enumerate(met) for place, row in enumerate(one.rows) if row}
    here = [host for host in range(fleet.hosts) if host not in gone]
    located = locate(fleet, [one.seen for one in met], options, here)
    if len(here) < _COMPARED:
        # Of two hosts each is the other's only measure, also of what share of the wire is usual here.
        located = located._replace(cleared=(), detectable=None)
    return _Part(mode, tests, located, at, _gone(evidence, fleet, met, options, here, located))


def _gone(
    evidence: Evidence, fleet: Fleet, met: Sequence[Met], options: Options, here: Sequence[int], located: Located
) -> tuple[Found, ...]:
    """What the tests before the full scale accused, where those after it took that back."""
    full = min((test.row.launch for test in evidence.of("full")), default=0)
    before = [one.seen for one in met if max(row.launch for row in one.rows if row) < full]
    if not before or len(before) == len(met):
        return ()
    still = {key for found in located.found for key in (found.key, *found.ties)}
    return tuple(found for found in locate(fleet, before, options, here).found if not still & {found.key, *found.ties})


_WORD: dict[Mode, str] = {"throughput": "bandwidth", "latency": "latency"}


def component(evidence: Evidence, racks: Sequence[str], found: Found | Key) -> Component:
    """The component that a finding of the locating half (or one of its ties) stands for."""
    names = evidence.names(found.hosts)
    match found.kind:
        case "host":
            return Component(kind="host", id=names[0])
        case "nic":
            fabric = evidence.machine.fabric
            links = fabric.links_of.get(names[0], ()) if fabric else ()
            if found.rail is not None and links and len(links) <= found.rail:  # one NIC for all ranks of the host
                ranks = [rank for rank, host in enumerate(evidence.machine.host_of) if host == found.hosts[0]]
                return Component(kind="rank", id=str(ranks[found.rail]))
            return Component(kind="nic", id=f"{names[0]} rail {found.rail}")
        case "uplink":
            rack = racks[found.rack] if found.rack is not None and found.rack < len(racks) else "without a name"
            return Component(kind="uplink", id=rack if found.rail is None else f"{rack} rail {found.rail}")
        case "path":
            return Component(kind="path", id=" - ".join(names))
    return Component(kind="fabric")


def _slow(evidence: Evidence, racks: Sequence[str], found: Found, mode: Mode, tests: Sequence[Test]) -> Reason:
    what = component(evidence, racks, found)
    ties = tuple(component(evidence, racks, tie) for tie in found.ties)
    figures = [value for test in tests if (value := test.busbw if mode == "throughput" else test.seconds) is not None]
    measured = statistics.median(figures) if figures else None
    rest = 1 - found.slowdown
    if mode == "throughput":
        unit, expected = "GB/s", None if measured is None else measured / rest
        said = f"{what} is slow: {found.slowdown:.0%} of its bandwidth is lost"
    else:
        unit, measured = "us", None if measured is None else measured * 1e6
        expected = None if measured is None else measured * rest
        said = f"{what} answers late: its latency is {1 / rest:.2g} times the usual; its bandwidth is not slow"
    if ties:
        said += f"; {' or '.join(map(str, ties))} would explain it as well"
    return reason(
        _CODES[what.kind],
        what,
        "slow",
        "confirm" if any(test.stage == "confirm" for test in tests) else "spread",
        said,
        ties=ties,
        measured=measured,
        expected=expected,
        unit=unit if measured is not None else "",
        criterion="no component is slower than the fleet",
        source="fleet of this run",
        odds=found.odds,
        evidence=cited(tests),
    )


def _passed(evidence: Evidence, racks: Sequence[str], found: Found, mode: Mode, tests: Sequence[Test]) -> Reason:
    what = component(evidence, racks, found)
    told = reason(
        "CB-UNDECIDED",
        what,
        "unstable",
        "confirm",
        f"{what} was slow for a while ({found.slowdown:.0%} of its {_WORD[mode]} lost in {len(tests)} "
        f"test{'s' * (len(tests) != 1)}) and was not when it was tested again at the end: congestion that stayed, or a "
        "fault that comes and goes",
        ties=tuple(component(evidence, racks, tie) for tie in found.ties),
        criterion="no component is slower than the fleet",
        source="fleet of this run",
        odds=found.odds,
        evidence=cited(tests),
    )
    # Going on with this run would not take back what it saw.
    return msgspec.structs.replace(told, next="Test again in a new folder, at another time; a link may be flapping.")


def _open(evidence: Evidence, host: int, part: _Part) -> Reason:
    return reason(
        "CB-UNDECIDED",
        evidence.host(host),
        "slow",
        "confirm",
        f"the tests do not tell whether the {_WORD[part.mode]} of {evidence.name(host)} is slow",
        criterion="no component is slower than the fleet",
        source="fleet of this run",
        evidence=cited(test for test in part.tests if host in test.hosts),
    )


def inside(evidence: Evidence, spec: AcceptSpec) -> list[Reason]:
    """Hosts that are slow inside, by their distance from the others in units of how the others differ (Student's t,
    over all hosts). Once is a suspicion; proved is what every round shows, of at least two."""
    tests = [test for test in evidence.of("intra") if test.seconds is not None and len(test.hosts) == 1]
    by_round: dict[tuple[int, str], list[Test]] = {}
    for test in tests:
        by_round.setdefault((test.row.launch, test.row.case.key), []).append(test)
    slow: dict[int, list[float]] = {}
    met: dict[int, int] = {}
    for each in by_round.values():
        for test, loss in zip(each, _losses(each, spec), strict=True):
            met[test.hosts[0]] = met.get(test.hosts[0], 0) + 1
            if loss > spec.slowdown:
                slow.setdefault(test.hosts[0], []).append(loss)
    found = []
    for host, losses in sorted(slow.items()):
        if len(losses) < met[host] and met[host] > 1:
            continue  # not in every round: something else was in the way
        proved, loss = len(losses) > 1, min(losses)
        own = [test for test in tests if test.hosts == (host,)]
        measured = statistics.median([test.busbw for test in own if test.busbw is not None] or [0.0])
        said = f"inside {evidence.name(host)} {loss:.0%} of the bandwidth of other hosts is lost"
        found.append(
            reason(
                "CB-SLOW-HOST" if proved else "CB-UNDECIDED",
                evidence.host(host),
                "slow",
                "intra",
                said + ("" if proved else ", in the only round that was measured"),
                measured=measured,
                expected=measured / (1 - loss),
                unit="GB/s",
                criterion="no host is slower inside than the fleet",
                source="fleet of this run",
                evidence=cited(own),
            )
        )
    return found


def _losses(tests: Sequence[Test], spec: AcceptSpec) -> list[float]:
    """The share of the usual rate that each host surely lost in one round; 0 where it is within what hosts differ by.

    A disturbance of a moment raises the median of a host's samples and not their minimum, so the smaller of the two
    ratios counts. The usual and the scatter are those of the other hosts, never of the host itself.
    """
    count = len(tests)
    if count < _FEW:
        return [0.0] * count
    bound = float(student(np.array(count - 2.0), 2 * spec.alpha / count))
    out = np.full(count, np.inf)
    for figure in (statistics.median, min):
        logs = np.log([figure(test.row.seconds) for test in tests])
        logs -= np.median(logs)
        mean = (logs.sum() - logs) / (count - 1)
        squares = np.square(logs).sum() - np.square(logs) - (count - 1) * np.square(mean)
        spread = np.sqrt(np.maximum(squares, 0) / (count - 2))
        slower = logs - mean
        sure = slower > bound * np.maximum(spread, 1e-3) * np.sqrt(1 + 1 / (count - 1))
        out = np.minimum(out, np.where(sure, slower, 0.0))
    return [float(1 - np.exp(-value)) for value in out]
