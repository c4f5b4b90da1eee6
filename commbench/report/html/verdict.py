"""The verdict of an acceptance test, as the cells and sentences of its part of the page."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from commbench.records.verdict import Component, Coverage, Judged, Power, Reason, Verdict, Word
from commbench.report.html.culprits import accuses
from commbench.report.html.examined import Examined, counted, listed
from commbench.report.html.phrases import Level, Said, ended
from commbench.report.view import figure, one_line

MOST_REASONS = 12  # told in full
_MOST_LINES = 200  # of a table or a list
_MOST_TIES = 12
_MOST_EVIDENCE = 50
_MOST_STEPS = 6

_MEANS: dict[Word, str] = {
    "PASS": "Everything that was expected was measured, and no criterion failed.",
    "FAIL": "A fault was found, or a criterion was not met.",
    "INCONCLUSIVE": "Evidence is missing, so nobody can tell. This is not a pass.",
}
_SIGN: dict[Word, str] = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?"}
_LEVEL: dict[Word, Level] = {"PASS": "", "FAIL": "error", "INCONCLUSIVE": "warning"}
_KINDS = {"nic": "NIC", "run": "the run itself", "fabric": "the network between the hosts"}
_NONE = (
    "This acceptance test has not been judged, and without a verdict it is no pass. "
    "The command commbench verdict with the run folder makes one."
)


class ReasonShown(NamedTuple):
    """One reason. `facts` are names and values, `evidence` rows of the journal."""

    number: int
    code: str
    word: str
    where: str
    sentence: str
    facts: Sequence[tuple[str, str]]
    evidence: Sequence[str]
    evidence_left_out: int


class VerdictShown(NamedTuple):
    """What the template prints of one run.

    more    reasons that are told in a line each: (word, cells)
    steps   (code, what to do), once for each code
    """

    id: str
    run: str
    word: str
    sign: str
    meaning: str
    at_fault: Sequence[str] = ()
    reasons: Sequence[ReasonShown] = ()
    more: Sequence[tuple[str, Sequence[str]]] = ()
    reasons_left_out: int = 0
    steps: Sequence[tuple[str, Sequence[str]]] = ()
    criteria: Sequence[tuple[str, Sequence[str]]] = ()
    criteria_left_out: int = 0
    coverage: Sequence[tuple[str, str]] = ()
    missing: Sequence[str] = ()
    missing_left_out: int = 0
    power: Sequence[Said] = ()
    rounds: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()

    @property
    def codes(self) -> dict[str, int]:
        """Which step is that of a code."""
        return {code: k for k, (code, _) in enumerate(self.steps)}


def shown(k: int, one: Examined) -> VerdictShown:
    """The verdict of a run that is an acceptance test; one that was not judged is told as such."""
    verdict = one.verdict
    if verdict is None:
        return VerdictShown(f"verdict{k}", one.name, "NO VERDICT", "?", _NONE)
    reasons, more = verdict.reasons[:MOST_REASONS], verdict.reasons[MOST_REASONS:]
    return VerdictShown(
        id=f"verdict{k}",
        run=one.name,
        word=verdict.word,
        sign=_SIGN[verdict.word],
        meaning=_MEANS[verdict.word],
        at_fault=at_fault(verdict),
        reasons=[_reason(number, reason) for number, reason in enumerate(reasons, 1)],
        more=[(r.decides, _line(k, r)) for k, r in enumerate(more[:_MOST_LINES], MOST_REASONS + 1)],
        reasons_left_out=len(more[_MOST_LINES:]),
        steps=_steps(verdict.reasons),
        criteria=[(judged.word, _judged(judged)) for judged in verdict.criteria[:_MOST_LINES]],
        criteria_left_out=len(verdict.criteria[_MOST_LINES:]),
        coverage=[*_coverage(verdict.coverage)],
        missing=[ended(text) for text in verdict.coverage.missing[:_MOST_LINES]],
        missing_left_out=len(verdict.coverage.missing[_MOST_LINES:]),
        power=power(verdict.power),
        rounds=[*_rounds(verdict.power)],
        notes=[ended(text) for text in verdict.notes[:_MOST_LINES]],
        facts=[*_facts(verdict)],
    )


def brief(runs: Sequence[Examined]) -> tuple[list[Said], list[Said]]:
    """(what stands out, what to do next) of the verdicts, for the summary."""
    out: list[Said] = []
    steps: dict[str, None] = {}
    for one in runs:
        name = f"{one.name}: " if len(runs) > 1 else ""
        if one.verdict is None and one.accepts:
            out.append(Said(f"{name}This acceptance test has no verdict, and so is no pass.", "verdict", "warning"))
        if one.verdict is None:
            continue
        word, level = one.verdict.word, _LEVEL[one.verdict.word]
        out.append(Said(f"{name}Verdict {word}. {_MEANS[word]}", "verdict", level))
        out += [Said(f"{name}{text}", "verdict", level) for text in at_fault(one.verdict)[:_MOST_STEPS]]
        steps |= dict.fromkeys(f"{name}{code}: {text}" for code, texts in _steps(one.verdict.reasons) for text in texts)
    return out, [Said(text, "verdict") for text in list(steps)[:_MOST_STEPS]]


# ---- reasons -----------------------------------------------------------------------------------------------


def component(one: Component) -> str:
    """`host h5`, `NIC h5 rail 1`."""
    return " ".join(filter(None, (_KINDS.get(one.kind, one.kind), one_line(one.id))))


def at_fault(verdict: Verdict) -> list[str]:
    """A sentence for each component, or set of them, that a reason names; what was not measured is no culprit."""
    told: dict[str, dict[str, None]] = {}
    for reason in verdict.reasons:
        if reason.component.kind == "run" or not accuses(reason):
            continue
        if reason.ties:
            names = listed(map(component, (reason.component, *reason.ties)), _MOST_TIES)
            who = f"one of these, and the evidence cannot tell which: {names}"
        else:
            who = component(reason.component)
        how = "At fault" if reason.decides == "FAIL" else "Suspected"
        told.setdefault(f"{how}: {who}", {})[reason.fault] = None
    return [f"{who} ({', '.join(faults)})." for who, faults in told.items()]


def _reason(number: int, reason: Reason) -> ReasonShown:
    evidence = [one_line(text) for text in reason.evidence[:_MOST_EVIDENCE]]
    return ReasonShown(
        number,
        one_line(reason.code),
        reason.decides,
        f"{component(reason.component)} · {reason.fault} · stage {reason.stage}",
        ended(reason.sentence),
        [(name, text) for name, text in _told(reason) if text],
        evidence,
        len(reason.evidence) - len(evidence),
    )


def _line(number: int, reason: Reason) -> Sequence[str]:
    return str(number), reason.decides, one_line(reason.code), component(reason.component), ended(reason.sentence)


def _told(reason: Reason) -> Iterator[tuple[str, str]]:
    if reason.ties:
        yield "as likely", f"{listed(map(component, reason.ties), _MOST_TIES)}: they explain the evidence as well"
    if reason.measured is not None:
        yield "measured", value(reason.measured, reason.unit) + _share(reason)
    if reason.expected is not None:
        yield "expected", value(reason.expected, reason.unit)
    yield "criterion", one_line(reason.criterion)
    yield "limit from", one_line(reason.source)
    if reason.odds is not None:
        yield "odds", f"the evidence is {odds(reason.odds)} times as likely with this fault as without it"


def _share(reason: Reason) -> str:
    if not reason.expected or reason.measured is None or reason.expected < 0 or reason.unit not in ("GB/s", "us", "ms"):
        return ""
    return f" ({figure(100 * reason.measured / reason.expected, 3)} % of what was expected)"


def value(number: float | None, unit: str) -> str:
    """`1.25 GB/s`; a share in percent."""
    if number is None or not math.isfinite(number):
        return "-"
    if unit == "share":
        return f"{100 * number:.3g} %"
    told = figure(number, 3) if number > 0 else f"{number:.3g}"
    return f"{told} {one_line(unit)}".strip()


def odds(logarithm: float) -> str:
    """Of a base-10 logarithm."""
    return f"{10**logarithm:.2g}" if -3 < logarithm < 3 else f"10^{logarithm:.0f}"


def _steps(reasons: Iterable[Reason]) -> list[tuple[str, Sequence[str]]]:
    """What to do, code by code in the order of the reasons."""
    found: dict[str, dict[str, None]] = {}
    for reason in reasons:
        texts = found.setdefault(one_line(reason.code), {})
        if reason.next:
            texts[ended(reason.next)] = None
    return [(code, list(texts)[:_MOST_STEPS]) for code, texts in found.items()]


# ---- criteria, coverage, power -----------------------------------------------------------------------------


def _judged(one: Judged) -> Sequence[str]:
    told = (value(one.measured, one.unit), value(one.limit, one.unit), ended(one.sentence) if one.sentence else "-")
    return one_line(one.criterion), f"{_SIGN[one.word]} {one.word}", *told, one_line(one.source) or "-"


def _coverage(one: Coverage) -> Iterator[tuple[str, str]]:
    hosts, measured = len(one.hosts), len(one.measured_hosts)
    wanted = "no number was stated" if one.expected_hosts is None else f"{one.expected_hosts:,} were expected"
    yield "hosts", f"{measured:,} measured of {hosts:,} that were there; {wanted}"
    if unmeasured := [host for host in one.hosts if host not in set(one.measured_hosts)]:
        yield "not measured", _names(unmeasured)
    if one.excluded:
        yield "left out on purpose", _names(one.excluded)
    yield "ranks", f"{one.ranks:,}"
    if one.rails:
        yield "rails", f"{one.rails:,}"
    by_way: dict[str, list[str]] = {}
    for host, way in one.transport.items():
        by_way.setdefault(way, []).append(host)
    for way, names in list(by_way.items())[:_MOST_LINES]:
        yield "transport", f"{one_line(way)}: {_names(names, 8)}"
    for stage, told in one.stages.items():
        yield f"stage {one_line(stage)}", ended(told).rstrip(".")


def _names(names: Sequence[str], most: int = 64) -> str:
    return f"{listed(map(one_line, names), most)}" + (f" ({len(names):,} in all)" if len(names) > most else "")


def power(one: Power) -> list[Said]:
    """How small a fault the run could have found, in sentences."""
    matters = value(one.slowdown, "share")
    accuse = f"the chance to accuse an innocent component is {value(one.alpha, 'share')} over the whole run"
    if one.detectable is None:
        text = f"This run could not have found a slow component, however slow; one that is {matters} slower matters."
        return [Said(text, level="warning")]
    least = value(one.detectable, "share")
    text = f"The smallest slowdown that this run could have found is {least}. It would miss one in {_one_in(one.beta)}"
    said = [Said(f"{text} such faults; {accuse}.")]
    if one.detectable > one.slowdown:
        text = f"A slowdown of {matters} matters, and this run could not be relied on to find it."
        said.append(Said(text, level="warning"))
    return said


def _one_in(chance: float) -> str:
    return f"{1 / chance:,.0f}" if chance > 0 else "no number of"


def _rounds(one: Power) -> Iterator[tuple[str, str]]:
    yield "noise", "-" if one.noise is None else f"{value(one.noise, 'share')} (scatter of a test's time)"
    yield (
        "congestion",
        "-"
        if one.congestion is None
        else (f"{value(one.congestion, 'share')} (share of tests that were slow once and not again)"),
    )
    rounds = ", ".join(f"{count:,} {one_line(stage)}" for stage, count in one.rounds.items())
    yield "rounds of pairs", rounds or "-"


def _facts(one: Verdict) -> Iterator[tuple[str, str]]:
    yield "exit code", str(one.exit_code)
    if one.suspects:
        yield "suspects", _names(one.suspects)
    if one.cleared:
        yield "cleared", f"{counted(len(one.cleared), 'host')}: {_names(one.cleared, 16)}"
    yield "seed", str(one.seed)
    if one.journal_sha256:
        yield "journal", f"SHA-256 {one_line(one.journal_sha256)}"
    yield "judged by", f"commbench {one_line(one.commbench)}".strip()
