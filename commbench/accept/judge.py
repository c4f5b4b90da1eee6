"""Rows in, a verdict out: PASS only where everything expected was measured and nothing speaks against it.

Pure and deterministic: the same run, rows, criteria and baselines give the same bytes, with no clock and no hardware.
"""

from collections.abc import Mapping, Sequence

from commbench.accept import faults, slow
from commbench.accept.advice import reason, significant
from commbench.accept.baseline import Baseline
from commbench.accept.coverage import cover, undone
from commbench.accept.criteria import Context, effective, rulings
from commbench.accept.evidence import Evidence, gather
from commbench.accept.slow import LATENCY_SLOWDOWN, Slow
from commbench.accept.standing import host_of
from commbench.records import Measurement, Run
from commbench.records.acceptance import Acceptance
from commbench.records.verdict import EXIT, Component, Coverage, Judged, Power, Reason, Verdict, Word
from commbench.spec.accept import AcceptSpec


def judge(
    run: Run,
    rows: Sequence[Measurement],
    happened: Acceptance,
    spec: AcceptSpec,
    baselines: Mapping[str, Baseline | str] | None = None,
    journal_sha256: str = "",
) -> Verdict:
    """The verdict of an acceptance run by the criteria of a spec.

    rows        of the journal, in any order in which the rows of one round follow one another
    baselines   path -> baseline, or why there is none, for each criterion that names one
    """
    evidence = gather(run.machine, rows)
    lost = faults.lost(evidence, happened)
    wrong = faults.wrong(evidence)
    certain = {one.component.id for one in (*lost, *wrong) if one.component.kind == "host" and one.decides == "FAIL"}
    coverage, missing = cover(run, evidence, happened, spec, certain)
    index = {host.name: k for k, host in enumerate(run.machine.hosts)}
    gone = [index[name] for name in {*certain, *happened.excluded} if name in index]
    pairs = slow.pairs(evidence, spec, gone)
    power = _power(spec, pairs)
    blind = _blind(run, happened, spec, pairs, power)
    found = [*lost, *wrong, *pairs.reasons, *slow.inside(evidence, spec), *missing, *blind]
    context = Context(run, evidence, spec, pairs, power, found, undone(happened, spec), baselines or {})
    ruled = rulings(context)
    found += [one.reason for one in ruled if one.reason is not None]
    found.sort(key=lambda one: one.decides != "FAIL")  # stable: what proves a fault comes first
    criteria = tuple(one.judged for one in ruled)
    word = _word(found, criteria, coverage)
    suspects = _suspects(found, run)
    return Verdict(
        name=run.name,
        created=run.created,
        word=word,
        exit_code=EXIT[word],
        reasons=tuple(found),
        criteria=criteria,
        coverage=coverage,
        power=power,
        suspects=suspects,
        cleared=_cleared(evidence, pairs, coverage, suspects),
        notes=_notes(run, happened, spec, pairs, criteria),
        seed=spec.sweep.seed,
        journal_sha256=journal_sha256,
        commbench=run.commbench,
    )


def _word(reasons: Sequence[Reason], criteria: Sequence[Judged], coverage: Coverage) -> Word:
    words = {one.decides for one in reasons} | {one.word for one in criteria}
    if "FAIL" in words:
        return "FAIL"
    return "PASS" if words == {"PASS"} and not coverage.missing else "INCONCLUSIVE"


def _power(spec: AcceptSpec, pairs: Slow) -> Power:
    """What the tests of bandwidth could have found; nothing where there were none."""
    told = pairs.bandwidth
    figures = {
        name: None if told is None else _known(getattr(told, name)) for name in ("detectable", "noise", "congestion")
    }
    return Power(
        alpha=spec.alpha,
        beta=spec.beta,
        slowdown=spec.slowdown,
        rounds=dict(told.rounds) if told else {},
        **figures,
    )  # fmt: skip


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else significant(value)


def _blind(run: Run, happened: Acceptance, spec: AcceptSpec, pairs: Slow, power: Power) -> list[Reason]:
    """A reason where the run could not have seen what it was asked to see."""
    if "spread" not in spec.stages or pairs.bandwidth is None or "spread" in undone(happened, spec):
        return []  # not asked for; or not (all) measured, which is missing already
    if power.detectable is not None and power.detectable <= spec.slowdown * (1 + 1e-9):
        return []
    could = "none" if power.detectable is None else f"only one of {power.detectable:.0%} or more"
    said = f"a slowdown of {spec.slowdown:.0%} is looked for, and this run could have found {could}"
    hosts = len(run.machine.hosts)
    if hosts == 2:
        said += "; of two hosts nobody can tell which one is slow: a third host would decide it"
    elif hosts == 3:
        said += "; of three hosts a slow one is hardly told from two slow ones: a fourth host would decide it"
    return [
        reason(
            "CB-UNDECIDED",
            Component(kind="run"),
            "not measured",
            "confirm",
            said,
            measured=power.detectable,
            expected=spec.slowdown,
            unit="share",
            criterion="the smallest slowdown that could be found",
            source="slowdown in the spec",
        )
    ]


def _suspects(reasons: Sequence[Reason], run: Run) -> tuple[str, ...]:
    """Hosts that a finding may be in, first those that are certain. What lies between hosts accuses none."""
    known = {host.name for host in run.machine.hosts}
    certain: dict[str, None] = {}
    others: dict[str, None] = {}
    for one in reasons:
        if one.fault in ("not measured", "misconfigured") and one.decides != "FAIL":
            continue
        sure = one.decides == "FAIL" and not one.ties
        for part in (one.component, *one.ties):
            name = host_of(part, run)
            if name in known:
                (certain if sure else others)[name] = None
    return tuple(dict.fromkeys((*certain, *others)))


def _cleared(evidence: Evidence, pairs: Slow, coverage: Coverage, suspects: Sequence[str]) -> tuple[str, ...]:
    """Hosts that the tests of pairs found fine, of whom nothing is missing."""
    told = pairs.bandwidth
    fine = set(coverage.measured_hosts) - set(suspects)
    return tuple(name for name in evidence.names(sorted(told.cleared)) if name in fine) if told else ()


def _notes(
    run: Run, happened: Acceptance, spec: AcceptSpec, pairs: Slow, criteria: Sequence[Judged]
) -> tuple[str, ...]:
    notes = list(pairs.notes)
    if happened.ended != "open":  # else it is a reason
        for loss in (loss for loss in happened.losses if loss.fault == "launch"):
            later = happened.launches > loss.after
            notes.append(f"a launch failed{', and a later one measured what was left' * later}: {loss.sentence}")
    if pairs.latency is not None and (seen := _known(pairs.latency.detectable)) is not None:
        notes.append(f"latency: a fault is one that doubles it; a loss of {seen:.0%} would have been found")
    elif pairs.latency is not None:
        notes.append(f"latency: it scatters so much that a fault of {LATENCY_SLOWDOWN:.0%} would not have been found")
    if "spread" not in spec.stages:
        notes.append("no pairs of hosts were asked for: nothing is said about the network between hosts")
    if not any(one.kind in ("wire", "threshold", "baseline") for one in effective(spec, run)):
        notes.append("hosts are compared with each other alone: what is slow everywhere alike is not seen")
    nameless = [one.name for one in effective(spec, run) if not one.source]
    notes += [f"criterion {name} does not say where its limit comes from; write source" for name in nameless]
    notes += [f"machine: {warning}" for warning in run.machine.warnings]
    first = next((one for one in criteria if one.word == "FAIL"), None)
    if first is not None:
        notes.append(f"decided by {first.criterion}: {first.sentence}")
    return tuple(dict.fromkeys(notes))
