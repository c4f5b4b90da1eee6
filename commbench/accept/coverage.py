"""What should have been measured, and what was. Anything that was not is a reason against PASS. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from commbench.accept.advice import reason
from commbench.accept.evidence import CITED, Evidence, Test, cited
from commbench.accept.transport import share
from commbench.collectives import COLLECTIVES, moved
from commbench.errors import SpecError
from commbench.layouts import local_ranks
from commbench.records import Case, Run
from commbench.records.acceptance import Acceptance
from commbench.records.case import Mode
from commbench.records.verdict import Component, Coverage, Fault, Reason, Stage
from commbench.spec import grid
from commbench.spec.accept import AcceptSpec
from commbench.units import format_bytes

# Facts in which hosts must not differ. Clocks, kernels and names of hosts may.
SAME = ("python", "numpy", "torch", "mpi4py", "mpi", "nccl", "cpu", "cores", "usable_cores", "governor",
        "nvidia_driver", "gpus", "gpu")  # fmt: skip
_SHARE = 0.9  # of a host's traffic that must go the way that was asked for
_RUN = Component(kind="run")
_FABRIC = (Component(kind="fabric"),)
_UNTOLD = "not told"
_STAGES: dict[str, Stage] = {"intra": "intra", "spread": "spread", "confirm": "confirm", "full": "full",
                            "stability": "stability"}  # fmt: skip
_NAMED = 8  # hosts that a sentence names
_MODES: dict[Mode, str] = {"throughput": "bandwidth", "latency": "latency"}


class _Gap(NamedTuple):
    """Something that is missing: what, of whom (one component for each), in which stage.

    absent   it was not even tried, which its stage explains where that was left out, and before all stages the finding
             that is told beside it; coverage.missing lists it all the same
    """

    what: str
    of: tuple[Component, ...] = ()
    stage: Stage = "preflight"
    code: str = "CB-COVERAGE"
    fault: Fault = "not measured"
    tests: tuple[Test, ...] = ()
    absent: bool = False

    @property
    def sentence(self) -> str:
        names = [part.id for part in self.of if part.id]
        more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
        return ": ".join(filter(None, (" and ".join([", ".join(names[:_NAMED]), *more]), self.what)))


def _host(name: str) -> tuple[Component]:
    return (Component(kind="host", id=name),)


def cover(
    run: Run, evidence: Evidence, happened: Acceptance, spec: AcceptSpec, lost: Iterable[str] = ()
) -> tuple[Coverage, list[Reason]]:
    """Coverage, and a reason for everything that is missing. lost: hosts with a finding of their own, of which nothing
    more is asked."""
    lost, clean = set(lost), _clean(evidence)
    gaps = _folded(
        [
            *_end(happened, spec),
            *_world(run, happened, spec, lost),
            *_ranks(run, happened, spec),
            *_gpus(run, happened, spec),
            *_facts(run, spec),
            *_transport(run, happened, spec, lost),
            *_rounds(evidence, happened),
            *_broken(evidence),
            *_hosts(evidence, happened, spec, lost, clean),
            *_full(run, evidence, spec),
        ]
    )
    gone = set(happened.excluded)
    tested = {host for test in evidence.tests if test.ok for host in test.hosts}
    measured = [host for host in sorted(tested) if not _lacks(evidence, spec, host, clean)]
    covered = Coverage(
        expected_hosts=expected_hosts(run, spec),
        hosts=tuple(host.name for host in run.machine.hosts),
        ranks=run.machine.size,
        rails=len(clean.rails),
        measured_hosts=tuple(name for name in evidence.names(measured) if name not in gone),
        excluded=tuple(sorted(gone)),
        transport=dict(sorted(happened.transport.items())),
        stages={name: happened.stages.get(name, _UNTOLD) for name in spec.stages if name != "preflight"},
        missing=tuple(gap.sentence for gap in gaps),
    )
    out = {"preflight", *undone(happened, spec)}
    return covered, _reasons([gap for gap in gaps if not (gap.absent and gap.stage in out)])


def _folded(gaps: Iterable[_Gap]) -> list[_Gap]:
    """What several hosts lack in the same way is said once."""
    found: dict[tuple[object, ...], _Gap] = {}
    for gap in gaps:
        key = gap.what, gap.stage, gap.code, gap.fault, gap.absent
        had = found.get(key, gap._replace(of=(), tests=()))
        of = tuple(dict.fromkeys((*had.of, *gap.of)))
        found[key] = had._replace(of=of, tests=(*had.tests, *gap.tests)[:CITED])
    return list(found.values())


def _reasons(gaps: Sequence[_Gap]) -> list[Reason]:
    """A reason for each gap; of many of one kind the last stands for all that are left."""
    found = []
    count = Counter((gap.code, gap.stage) for gap in gaps)
    done = Counter[tuple[str, Stage]]()
    for gap in gaps:
        key = gap.code, gap.stage
        done[key] += 1
        if done[key] > CITED:
            continue
        left = count[key] - CITED if done[key] == CITED else 0
        found.append(
            reason(
                gap.code,
                gap.of[0] if len(gap.of) == 1 else _RUN,
                gap.fault,
                gap.stage,
                gap.sentence + (f"; and {left} more of the kind" if left > 0 else ""),
                criterion="what is expected is measured",
                source="expect in the spec",
                evidence=cited(gap.tests),
            )
        )
    return found


def expected_hosts(run: Run, spec: AcceptSpec) -> int | None:
    """How many hosts there should be: by name, by number, or as the known fabric has them."""
    if spec.expect.names:
        return len(spec.expect.names)
    if spec.expect.hosts is not None:
        return spec.expect.hosts
    return len(run.machine.fabric.hosts) if run.machine.fabric is not None else None


def _world(run: Run, happened: Acceptance, spec: AcceptSpec, lost: set[str]) -> Iterator[_Gap]:
    """The hosts that are expected, and no others. One that was left out is missed where it is expected."""
    names = spec.expect.names
    here = [host.name for host in run.machine.hosts if host.name not in happened.excluded]
    wanted = expected_hosts(run, spec)
    short = wanted is None or (len(here) < wanted and not names)
    for name, why in sorted(happened.excluded.items()):
        if short or name in names:
            yield _Gap(f"left out ({why})", _host(name), absent=name in lost)
    for name in names:
        if name not in here and name not in happened.excluded:
            yield _Gap("expected, and takes no part", _host(name))
    if wanted is None:
        yield _Gap("how many hosts there should be is not said; write expect: {hosts: N} or their names")
    elif short:
        told = len(here) + len(lost & happened.excluded.keys()) >= wanted or not run.machine.hosts
        yield _Gap(f"{len(here)} of {wanted} expected hosts take part", _FABRIC, absent=told)
    elif names and (strangers := [name for name in here if name not in names]):
        yield _Gap("not expected, but there", tuple(part for name in strangers for part in _host(name)))
    elif len(here) > wanted:
        yield _Gap(f"{len(here)} hosts take part, and {wanted} are expected", _FABRIC)
    known = {*here, *happened.excluded}
    for rack, hosts in spec.racks.items():
        if away := [name for name in hosts if name not in known]:
            yield _Gap(f"of this rack {', '.join(away[:CITED])} takes no part", (Component(kind="uplink", id=rack),))


def _ranks(run: Run, happened: Acceptance, spec: AcceptSpec) -> Iterator[_Gap]:
    """As many ranks on every host as expected, or else as on the others."""
    machine, expect = run.machine, spec.expect
    each = Counter(machine.host_of)
    usual = expect.ranks_per_host or max(each.values(), default=0)
    for index, name in enumerate(host.name for host in machine.hosts):
        if expect.ranks_per_host is None and spec.unequal:
            break
        if each[index] != usual and name not in happened.excluded:
            said = "are expected" if expect.ranks_per_host else "are on other hosts"
            ranks = f"{each[index]} rank{'s' * (each[index] != 1)}"
            yield _Gap(f"{ranks}, {usual} {said}", _host(name))


def _gpus(run: Run, happened: Acceptance, spec: AcceptSpec) -> Iterator[_Gap]:
    """As many GPUs on every host as expected; that they are the same everywhere is asked in any case."""
    wanted = spec.expect.gpus_per_host
    for host in run.machine.hosts if wanted is not None else ():
        there = host.differs.get("gpus", run.machine.facts.get("gpus", ""))
        if there != str(wanted) and host.name not in happened.excluded:
            seen = f"{there} GPU{'s' * (there != '1')}" if there else "no GPU was seen"
            yield _Gap(f"{seen}, {wanted} {'is' if wanted == 1 else 'are'} expected", _host(host.name))


def _facts(run: Run, spec: AcceptSpec) -> Iterator[_Gap]:
    """Versions and kinds of hosts that should be equal everywhere."""
    common = run.machine.facts
    for fact in dict.fromkeys((*SAME, *spec.expect.same)):
        values = {host.name: host.differs.get(fact, common.get(fact, "")) for host in run.machine.hosts}
        if fact in spec.expect.same and "" in values.values():
            blind = [name for name, value in values.items() if not value]
            yield _Gap(f"{fact} is not known", tuple(part for name in blind for part in _host(name)))
        usual = Counter(values.values()).most_common(1)[0][0] if values else ""
        for name, value in values.items():
            if value != usual:
                said = f"{fact} is {value or 'not known'}, on most hosts {usual or 'not known'}"
                yield _Gap(said, _host(name), fault="misconfigured")


def _transport(run: Run, happened: Acceptance, spec: AcceptSpec, lost: set[str]) -> Iterator[_Gap]:
    """The way that the traffic took, where one is required."""
    wanted = spec.expect.transport
    if not wanted:
        return
    for host in run.machine.hosts:
        seen = happened.transport.get(host.name)
        if not seen:
            if host.name not in lost and host.name not in happened.excluded:
                yield _Gap("what the traffic goes through was not seen", _host(host.name))
        elif share(seen, wanted) < _SHARE:
            said = f"the traffic goes through {seen}, {wanted} is required"
            yield _Gap(said, _host(host.name), code="CB-TRANSPORT", fault="misconfigured")


def undone(happened: Acceptance, spec: AcceptSpec) -> dict[str, str]:
    """Stages that were left out or broken off, and why."""
    stages = {name: happened.stages.get(name, _UNTOLD) for name in spec.stages if name != "preflight"}
    return {name: why for name, why in stages.items() if not why.startswith("done")}


def _end(happened: Acceptance, spec: AcceptSpec) -> Iterator[_Gap]:
    """How the run came to its end, once; and stages that were left out though it did."""
    out = undone(happened, spec)
    if happened.ended == "done":
        for why in dict.fromkeys(out.values()):
            names = [name for name in out if out[name] == why]
            yield _Gap(f"stage {' and '.join(names)}: {why}", stage=_STAGES.get(names[0], "run"))
        return
    failed = [loss.sentence for loss in happened.losses if loss.fault == "launch"]
    times = f"{len(failed)} launches failed, the last" if len(failed) > 1 else "a launch failed"
    code, said = {
        "budget": ("CB-BUDGET", "time was up before all was measured"),
        "signal": ("CB-COVERAGE", "the run was told to stop before all was measured"),
        "open": ("CB-LAUNCH", f"{times}: {failed[-1]}")
        if failed
        else ("CB-COVERAGE", "the run has not come to its end"),
    }[happened.ended]
    yield _Gap(said + (f"; left out: {', '.join(out)}" if out else ""), stage="run", code=code)


def _rounds(evidence: Evidence, happened: Acceptance) -> Iterator[_Gap]:
    """Rounds are numbered without gaps, and every group of a round has a row: what is not there was lost."""
    if evidence.strangers:
        yield _Gap(f"{len(evidence.strangers)} rows are of other ranks than this machine has", stage="run")
    there: dict[int, dict[str, set[int]]] = {}
    for test in evidence.tests:
        there.setdefault(test.row.launch, {}).setdefault(test.row.case.groups, set()).add(test.row.group)
    known = {loss.round for loss in happened.losses}
    if away := [number for number in range(max(there, default=0)) if number not in there and number not in known]:
        yield _Gap(f"{len(away)} of {max(there) + 1} rounds left no row, the first is round {away[0]}", stage="run")
    torn = [
        f"round {number} has {len(groups)} of {want} groups"
        for number, symbols in sorted(there.items())
        for symbol, groups in symbols.items()
        if (want := len(evidence.groups[symbol])) > len(groups)
    ]
    if torn:
        yield _Gap(torn[0] + (f"; {len(torn) - 1} more rounds lack some too" if torn[1:] else ""), stage="run")


def _broken(evidence: Evidence) -> Iterator[_Gap]:
    """Tests that gave an error or were skipped, that measured something else, and data that nobody checked."""
    for test in evidence.tests:
        if what := _fault_of(test):
            yield _Gap(what, (_of(evidence, test),), test.stage, tests=(test,))


def _fault_of(test: Test) -> str:
    """Why a row is no evidence, "" where it is (or where it has a finding of its own: lost ranks, wrong data)."""
    row = test.row
    op = row.case.op
    if (row.status == "failed" and not row.wrong) or row.status == "skipped":
        return f"{op} was not measured: {row.why}"
    if row.status != "ok":
        return ""
    if test.seconds is None:
        return f"{op} has no times"
    if row.ranks != test.expected:
        return f"{op} ran on {row.ranks} ranks, not on {test.expected}"
    if op not in COLLECTIVES or row.nbytes != moved(op, row.case.nbytes, row.case.dtype, row.ranks):
        return f"{op} moved {row.nbytes} bytes, {row.case.nbytes} were asked for"
    return f"data of {op} were not checked" if op != "barrier" and (row.wrong is None or row.wrong < 0) else ""


def _of(evidence: Evidence, test: Test) -> Component:
    if len(test.hosts) == 1:
        return evidence.host(test.hosts[0])
    if len(test.hosts) == 2:
        return Component(kind="path", id=" - ".join(evidence.names(test.hosts)))
    return Component(kind="fabric")


class _Clean(NamedTuple):
    """(what, host) of every clean test, where what is a mode of pairs, `intra`, or a rail; the rails there are; and
    how many ranks each host has."""

    has: frozenset[tuple[object, int]]
    rails: tuple[int, ...]
    ranks: Counter[int]


def _clean(evidence: Evidence) -> _Clean:
    host_of = evidence.machine.host_of
    local = local_ranks(host_of)
    has: set[tuple[object, int]] = set()
    rails: set[int] = set()
    for test in evidence.of("intra", "spread", "confirm"):
        if not test.ok:
            continue
        what: object = "intra" if test.stage == "intra" else test.row.case.mode
        has.update((what, host) for host in test.hosts)
        if what == "throughput":
            rail = local[evidence.groups[test.row.case.groups][test.row.group][0]]
            rails.add(rail)
            has.update((rail, host) for host in test.hosts)
    return _Clean(frozenset(has), tuple(sorted(rails)), Counter(host_of))


def _hosts(evidence: Evidence, happened: Acceptance, spec: AcceptSpec, lost: set[str], clean: _Clean) -> Iterator[_Gap]:
    """Every host that takes part has a clean test of each kind, on each rail."""
    for host, known in enumerate(evidence.machine.hosts):
        if known.name not in lost and known.name not in happened.excluded:
            for stage, what in _lacks(evidence, spec, host, clean):
                yield _Gap(f"no good {what}", (evidence.host(host),), stage, absent=True)
    wanted = spec.expect.rails
    if wanted is not None and "spread" in spec.stages and len(clean.rails) < wanted:
        yield _Gap(f"{len(clean.rails)} of {wanted} expected rails were measured", _FABRIC, "spread", absent=True)


def _lacks(evidence: Evidence, spec: AcceptSpec, host: int, clean: _Clean) -> list[tuple[Stage, str]]:
    """(stage, test) that a host should have and has not."""
    ranks = clean.ranks[host]
    found: list[tuple[Stage, str]] = []
    if "intra" in spec.stages and ranks > 1 and ("intra", host) not in clean.has:
        found.append(("intra", "test inside"))
    if "spread" in spec.stages:
        for mode, word in _MODES.items():
            if (mode, host) not in clean.has:
                found.append(("spread", f"{word} test with another host"))
        for rail in clean.rails:
            if rail < ranks and (rail, host) not in clean.has and ("throughput", host) in clean.has:
                found.append(("spread", f"bandwidth test on rail {rail}"))
    return found


def _full(run: Run, evidence: Evidence, spec: AcceptSpec) -> Iterator[_Gap]:
    """Every case of the full scale on all hosts that take part, and all windows of the largest."""
    tests = evidence.of("full")
    good = {_question(test.row.case) for test in tests if test.seconds is not None}
    if "full" in spec.stages:
        try:
            wanted = grid.cases(spec.sweep, run.machine.host_of, roots=False)
        except SpecError as error:
            yield _Gap(f"the full scale does not fit this machine: {error}", stage="full")
            return
        if away := [f"{case.op} of {format_bytes(case.nbytes)}" for case in wanted if _question(case) not in good]:
            more = f" and {len(away) - _NAMED} more" if len(away) > _NAMED else ""
            what = f"not measured on all hosts: {', '.join(away[:_NAMED])}{more}"
            yield _Gap(what, _FABRIC, "full", absent=True)
    if "stability" in spec.stages:
        most = max(map(len, windows(tests).values()), default=0)
        if most < spec.windows:
            said = f"{most} of {spec.windows} windows of the stability test were measured"
            yield _Gap(said, _FABRIC, "stability", absent=True)


def _question(case: Case) -> tuple[object, ...]:
    """A full-scale case whoever took part."""
    return case.op, case.nbytes, case.dtype, case.redop, case.mode, case.backend


def windows(tests: Iterable[Test]) -> dict[Case, list[Test]]:
    """The rounds of each full-scale case that were measured."""
    found: dict[Case, list[Test]] = {}
    for test in tests:
        if test.seconds is not None:
            found.setdefault(test.row.case, []).append(test)
    return found
