"""The criteria of a spec, each judged by its function in one table. What cannot be evaluated is never passed. Pure."""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from commbench.accept import baseline as baselines
from commbench.accept.advice import reason, significant
from commbench.accept.coverage import windows
from commbench.accept.evidence import Evidence, Test, cited
from commbench.accept.slow import Slow
from commbench.errors import SpecError
from commbench.model.wire import limits
from commbench.records import Run
from commbench.records.verdict import Component, Judged, Power, Reason, Word
from commbench.spec.accept import AcceptSpec, Criterion, CriterionKind
from commbench.units import format_bytes

WIRE_LEAST = 0.8  # share of what the links allow that a sound library reaches at its largest size
_ORDER: tuple[CriterionKind, ...] = ("wire", "threshold", "baseline", "fleet", "stability")
_WEAK = 0.5  # a limit that is still met at this share of the rate that was reached could not fail on this machine
_WEAK_TAIL = 5.0  # nor could one of so many times the tail that was seen; tails vary more than rates
_P99_SAMPLES = 100  # of fewer the 99th percentile is the maximum in disguise
_WINDOW = 0.9  # share of the median rate below which a window counts
_HALF = "a machine with half of this rate"
_FABRIC = Component(kind="fabric")


class Context(NamedTuple):
    """What a criterion is judged by.

    undone      stages that were left out, which has a reason of its own
    baselines   path -> the baseline, or a sentence why there is none
    """

    run: Run
    evidence: Evidence
    spec: AcceptSpec
    slow: Slow
    power: Power
    reasons: Sequence[Reason]
    undone: Collection[str]
    baselines: Mapping[str, baselines.Baseline | str]


class Ruling(NamedTuple):
    judged: Judged
    reason: Reason | None = None


def effective(spec: AcceptSpec, run: Run) -> tuple[Criterion, ...]:
    """The criteria in the order in which they decide; those that are built in where the spec has none."""
    if spec.criteria:
        return tuple(sorted(spec.criteria, key=lambda one: _ORDER.index(one.kind)))
    built: list[Criterion] = []
    if run.machine.fabric is not None and "full" in spec.stages:
        ops = [op for axes in spec.sweep.cases for op in axes.op]
        # How near a library comes to the wire differs by collective; all_reduce is done best everywhere.
        op = "all_reduce" if "all_reduce" in ops else ops[0]
        built.append(Criterion(kind="wire", name="wire", source="built in", op=op, least=WIRE_LEAST))
    if "spread" in spec.stages:
        built.append(Criterion(kind="fleet", name="fleet", source="built in", slowdown=spec.slowdown))
    return tuple(built)


def rulings(context: Context) -> list[Ruling]:
    """Correctness, then every criterion: the first that fails decides, and all are shown."""
    return [_correct(context), *(_TABLE[one.kind](context, one) for one in effective(context.spec, context.run))]


# ---- what rulings are made of ------------------------------------------------------------------------------


def _judged(one: Criterion, word: Word, sentence: str, **more: float | str | None) -> Judged:
    kept = {name: significant(value) if isinstance(value, float) else value for name, value in more.items()}
    return Judged(criterion=one.name, word=word, sentence=sentence, source=one.source, **kept)  # type: ignore[arg-type]


_Code = Literal["CB-CRITERION", "CB-BASELINE", "CB-COVERAGE"]


def _cannot(one: Criterion, why: str, code: _Code = "CB-CRITERION", **figures: float | str | None) -> Ruling:
    """It cannot be evaluated, so nothing is known of it."""
    made = reason(code, Component(kind="run"), "not measured", "run", f"{one.name}: {why}", criterion=one.name,
                  source=one.source)  # fmt: skip
    return Ruling(_judged(one, "INCONCLUSIVE", why, **figures), made)


def _met(one: Criterion, said: str, weak: str, code: _Code = "CB-CRITERION", **figures: float | str | None) -> Ruling:
    """It is met. weak: who would meet it too, although nobody should; "" where it could have failed."""
    if weak:
        why = f"{said}: {weak} would pass, so it proves nothing; write a limit that can fail"
        return _cannot(one, why, code, **figures)
    return Ruling(_judged(one, "PASS", said, **figures))


def _unmeasured(context: Context, one: Criterion, stages: Collection[str], why: str) -> Ruling:
    """It cannot be evaluated because nothing was measured; why that is so may have been told already."""
    ruling = _cannot(one, why)
    return Ruling(ruling.judged) if set(stages) & set(context.undone) else ruling


def _failed(
    one: Criterion, code: str, tests: Sequence[Test], sentence: str, measured: float, limit: float, unit: str
) -> Ruling:
    stage = tests[0].stage if tests else "full"
    made = reason(
        code,
        _FABRIC,
        "unstable" if code == "CB-UNSTABLE" else "slow",
        "stability" if code == "CB-UNSTABLE" else stage,
        f"{one.name}: {sentence}",
        measured=measured,
        expected=limit,
        unit=unit,
        criterion=one.name,
        source=one.source,
        evidence=cited(tests),
    )
    return Ruling(_judged(one, "FAIL", sentence, measured=measured, limit=limit, unit=unit), made)


def _pooled(tests: Sequence[Test]) -> float:
    """The median over rounds of each round's median seconds."""
    return statistics.median(seconds for test in tests if (seconds := test.seconds) is not None)


# ---- the criteria ------------------------------------------------------------------------------------------


def _correct(context: Context) -> Ruling:
    """Every element of every result is right. Wrong data have their own reasons, unchecked ones are no evidence."""
    one = Criterion(kind="fleet", name="correctness", source="built in")
    tests = [test for test in context.evidence.tests if test.row.case.op != "barrier"]
    wrong = [test for test in tests if test.row.wrong]
    checked = sum(test.row.wrong is not None for test in tests)
    if wrong:
        elements = float(sum(test.row.wrong or 0 for test in wrong))
        said = f"{elements:,.0f} elements are wrong in {len(wrong)} of {checked} tests"
        return Ruling(_judged(one, "FAIL", said, measured=elements, limit=0.0, unit="elements"))
    if not checked:
        ruling = _cannot(one, "no data were checked: nothing was measured; ask for stages that measure", "CB-COVERAGE")
        told = any(found.fault == "not measured" for found in context.reasons)  # why that is so
        return Ruling(ruling.judged) if told else ruling
    said = f"all data are right in {checked} tests"
    return Ruling(_judged(one, "PASS", said, measured=0.0, limit=0.0, unit="elements"))


def _wire(context: Context, one: Criterion) -> Ruling:
    """The worst collective at its largest size, as a share of what the links allow all its groups at once."""
    machine = context.run.machine
    least = one.least or WIRE_LEAST
    if machine.fabric is None:
        return _cannot(one, "the network is not known; name its topology file with the key fabric")
    names = tuple(host.name for host in machine.hosts)
    shares: list[tuple[float, str, list[Test]]] = []
    for tests in _largest(context, one.op):
        row = tests[0].row
        try:
            limit = limits(machine.fabric, names, machine.host_of, row.case, row.nbytes)[row.group]
        except SpecError as error:
            return _cannot(one, f"the network does not fit the hosts: {error}")
        if limit is not None:
            what = f"{row.case.op} of {format_bytes(row.nbytes)} on {len(tests[0].hosts)} hosts"
            shares.append((limit.seconds / _pooled(tests), f"{what} ({limit.link} sets the limit)", tests))
    if not shares:
        return _unmeasured(context, one, ("full",), "no collective that crosses a link was measured at full scale")
    share, what, tests = min(shares, key=lambda found: (found[0], found[1]))
    said = f"{what} reaches {share:.0%} of what the links allow, at least {least:.0%} is asked for"
    if share >= least:
        weak = _HALF if least < _WEAK * share else ""
        return _met(one, said, weak, measured=share, limit=least, unit="share")
    ruling = _failed(one, "CB-SLOW-FABRIC", tests, said, share, least, "share")
    if _accused(context) & {host for test in tests for host in test.hosts}:
        return Ruling(ruling.judged)  # slow parts were in it, and have their own reasons
    return ruling


def _largest(context: Context, op: str) -> list[list[Test]]:
    """The rounds of each collective at its largest size, without the accused where that was measured."""
    bad = _accused(context)
    of_op: dict[str, list[list[Test]]] = {}
    for case, tests in windows(context.evidence.of("full")).items():
        if case.mode == "throughput" and (not op or op == case.op):
            of_op.setdefault(case.op, []).append(tests)
    out = []
    for _, each in sorted(of_op.items()):
        clean = [tests for tests in each if not bad & set(tests[0].hosts)] or each
        out.append(max(clean, key=lambda tests: (tests[0].row.nbytes, len(tests[0].hosts))))
    return out


def _accused(context: Context) -> set[int]:
    """Hosts in which something has a finding of its own."""
    index = {host.name: k for k, host in enumerate(context.run.machine.hosts)}
    found = set()
    for one in context.reasons:
        if one.decides == "FAIL":
            for part in (one.component, *one.ties):
                names = part.id.split(" - ") if part.kind == "path" else [part.id.rpartition(" rail ")[0] or part.id]
                if part.kind == "rank" and part.id.isdigit():
                    found.add(context.run.machine.host_of[int(part.id)])
                found |= {index[name] for name in names if part.kind in ("host", "nic", "path") and name in index}
                if part.kind in ("uplink", "fabric") and one.code != "CB-TRANSPORT":
                    found |= set(index.values())
    return found


def _threshold(context: Context, one: Criterion) -> Ruling:
    """A figure at one size and scale. Of pairs the host with the worst median counts: one slow test is no slow host."""
    mode = "latency" if one.time is not None else "throughput"
    fitting = [
        test
        for test in context.evidence.tests
        if test.row.case.op == one.op
        and test.row.case.nbytes == one.nbytes
        and test.seconds is not None
        and one.ranks in (None, test.row.ranks)
    ]
    tests = [test for test in fitting if test.row.case.mode == mode] or (fitting if mode == "latency" else [])
    if one.ranks is None and tests:
        most = max(test.row.ranks for test in tests)
        tests = [test for test in tests if test.row.ranks == most]
    at = f"{one.op} of {format_bytes(one.nbytes or 0)}" + (f" on {one.ranks} ranks" if one.ranks else "")
    if not tests:
        stages = ("spread", "confirm") if one.op == "send_recv" else ("intra", "full")
        return _unmeasured(context, one, stages, f"{at} was not measured")
    if one.busbw is not None:
        rates = [(host, [rate for test in own if (rate := test.busbw)]) for host, own in _by_host(tests)]
        host, measured = min(((host, statistics.median(own)) for host, own in rates if own), key=lambda found: found[1],
                             default=(-1, math.nan))  # fmt: skip
        limit, unit, good = one.busbw / 1e9, "GB/s", measured >= one.busbw / 1e9
        weak, bound = limit < _WEAK * measured, "at least"
        if math.isnan(measured):
            return _cannot(one, f"{at} has no bandwidth")
    else:
        times = [(host, _pooled(own) * 1e6) for host, own in _by_host(tests)]
        host, measured = max(times, key=lambda found: found[1])
        limit, unit = (one.time or 0.0) * 1e6, "us"
        weak, bound, good = limit > measured / _WEAK, "at most", measured <= limit
    where = f" at {context.evidence.name(host)}" if host >= 0 else ""
    said = f"{at}: {measured:.4g} {unit}{where}, {bound} {limit:.4g} {unit} is asked for"
    if not good:
        return _failed(one, "CB-THRESHOLD", tests, said, measured, limit, unit)
    return _met(one, said, _HALF if weak else "", measured=measured, limit=limit, unit=unit)


def _by_host(tests: Sequence[Test]) -> list[tuple[int, list[Test]]]:
    """Tests by host where they are of pairs or inside; all together (host -1) where they are of everybody."""
    found: dict[int, list[Test]] = {}
    for test in tests:
        for host in test.hosts if test.stage != "full" else (-1,):
            found.setdefault(host, []).append(test)
    return sorted(found.items())


def _baseline(context: Context, one: Criterion) -> Ruling:
    """No question of the baseline takes longer now by more than the slowdown."""
    base = context.baselines.get(one.path, f"{one.path or 'no path'}: not read")
    if isinstance(base, str):
        return _cannot(one, base, "CB-BASELINE")
    if other := baselines.elsewhere(base, context.run.machine):
        return _cannot(one, f"it is of another machine: {'; '.join(map(str, other))}", "CB-BASELINE")
    slowdown = one.slowdown or context.spec.slowdown
    limit = 1 / (1 - slowdown)
    found = baselines.compare(base.series, baselines.series(context.evidence), limit - 1)
    if found.slower:
        worst = max(found.slower, key=lambda change: change.effect.ratio or 0)
        ratio = worst.effect.ratio or math.nan
        said = f"{describe(worst.series)} takes {ratio:.3g} times as long as in {base.name} of {base.created}"
        said += f"; so do {len(found.slower) - 1} more" if len(found.slower) > 1 else ""
        ruling = _failed(one, "CB-SLOW-FABRIC", (), said, ratio, limit, "times as long")
        return Ruling(ruling.judged) if _accused(context) else ruling
    if found.missing:
        return _cannot(one, f"{describe(found.missing[0])} is in the baseline and was not measured", "CB-BASELINE")
    if found.unsure or not found.changes:
        what = describe(found.unsure[0].series) if found.unsure else "nothing in common with the baseline"
        return _cannot(one, f"it cannot be told whether it is slower: {what}", "CB-BASELINE")
    if base.forced or base.word != "PASS":
        why = f"{base.name} of {base.created} ended {base.word} and was kept in spite of that"
        return _cannot(one, f"{why}: to be as fast proves nothing; make a baseline of a run that passed", "CB-BASELINE")
    times = max(change.effect.ratio or 0.0 for change in found.changes)
    said = f"{len(found.changes)} questions are as fast as in {base.name} of {base.created}; at most "
    said += f"{times:.3g} times as long"
    weak = _HALF if limit > times / _WEAK else ""
    return _met(one, said, weak, "CB-BASELINE", measured=times, limit=limit, unit="times as long")


def describe(one: baselines.Series) -> str:
    return f"{one.op} of {format_bytes(one.nbytes)} ({one.mode}, {one.where}, {one.ranks} ranks)"


def _fleet(context: Context, one: Criterion) -> Ruling:
    """No component is slower than the fleet, and the run could have seen one that is."""
    slowdown = one.slowdown or context.spec.slowdown
    slow = [found for found in context.reasons if found.fault == "slow" and found.code.startswith("CB-SLOW-")]
    if slow:
        names = ", ".join(str(found.component) for found in slow[:8])
        return Ruling(_judged(one, "FAIL", f"slower than the fleet: {names}", limit=slowdown, unit="share"))
    seen = context.power.detectable
    if seen is None or seen > slowdown * (1 + 1e-9):
        could = "none" if seen is None else f"only one of {seen:.0%} or more"
        said = f"a slowdown of {slowdown:.0%} is looked for, and this run could have found {could}"
        return Ruling(_judged(one, "INCONCLUSIVE", said, measured=seen, limit=slowdown, unit="share"))
    if any(found.code == "CB-UNDECIDED" for found in context.reasons):
        return Ruling(_judged(one, "INCONCLUSIVE", "some hosts are undecided", limit=slowdown, unit="share"))
    said = f"no component is slower than the fleet by {slowdown:.0%}; one of {seen:.1%} would have been found"
    weak = "a host with half of the rate of the others" if slowdown > _WEAK else ""
    return _met(one, said, weak, measured=seen, limit=slowdown, unit="share")


def _stability(context: Context, one: Criterion) -> Ruling:
    """The same collective again and again: tails of its samples, and windows in which it was slow."""
    each = windows(context.evidence.of("full"))
    tests = max(each.values(), key=len, default=[])
    if len(tests) < 2:
        return _unmeasured(context, one, ("stability",), "no collective was measured in several windows")
    rates = [1 / seconds for test in tests if (seconds := test.seconds)]
    slow = sum(rate < _WINDOW * statistics.median(rates) for rate in rates) / len(rates)
    samples = np.sort([value for test in tests for value in test.row.seconds])
    checks: list[tuple[float, float, str, str]] = []
    weak = ""
    if one.windows is not None:
        what = f"{slow:.0%} of {len(rates)} windows are below 90 % of the median rate"
        checks.append((slow, one.windows, "share", f"{what}, at most {one.windows:.0%} may be"))
    if one.p99 is not None:
        if len(samples) < _P99_SAMPLES:
            said = f"{len(samples)} samples do not tell a 99th percentile, {_P99_SAMPLES} do"
            return _unmeasured(context, one, ("stability",), said)
        tail = float(samples[math.ceil(0.99 * len(samples)) - 1] / np.median(samples))
        what = f"the 99th percentile of {len(samples)} samples is {tail:.3g} times the median"
        checks.append((tail, one.p99, "times the median", f"{what}, at most {one.p99:.3g} times is allowed"))
        weak = f"a machine with {_WEAK_TAIL:.0f} times this tail" if one.p99 > _WEAK_TAIL * tail else ""
    if not checks:
        return _cannot(one, "it names neither p99 nor windows")
    for measured, limit, unit, said in checks:
        if measured > limit:
            return _failed(one, "CB-UNSTABLE", tests, said, measured, limit, unit)
    measured, limit, unit, _ = checks[-1]
    said = "; ".join(said for *_, said in checks)
    return _met(one, said, weak, measured=measured, limit=limit, unit=unit)


_TABLE: dict[CriterionKind, Callable[[Context, Criterion], Ruling]] = {
    "wire": _wire,
    "threshold": _threshold,
    "baseline": _baseline,
    "fleet": _fleet,
    "stability": _stability,
}
