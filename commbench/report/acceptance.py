"""A verdict for people: the word and its reasons first, then the criteria, what was covered, and what could be found.

Whatever came from a host is made harmless here.
"""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from commbench.accept.evidence import Test, gather, groups_of
from commbench.accept.standing import hosts, standings
from commbench.collectives import bandwidths
from commbench.errors import SpecError, nearest
from commbench.layouts import local_ranks
from commbench.records import Case, Measurement, Run
from commbench.records.verdict import Coverage, Judged, Power, Reason, Verdict
from commbench.report.findings import safe
from commbench.units import format_bytes

_FULL = 5  # reasons that are told with all that is known of them
_BRIEF = 20  # further ones, a line each
_NAMES = 8  # hosts that are named in a line
_EVIDENCE = 3
_STANDING = {
    "accused": "accused",
    "fine": "cleared: it was tested and is fine",
    "open": "neither accused nor cleared",
    "excluded": "excluded: it took no part",
}
_NAGIOS = {"PASS": (0, "OK"), "FAIL": (2, "CRITICAL"), "INCONCLUSIVE": (3, "UNKNOWN")}


def text(verdict: Verdict) -> Iterator[str]:
    """All of it, as lines."""
    reasons = ordered(verdict)
    if not reasons:
        yield f"{verdict.word}  {safe(_nothing(verdict))}"
    for reason in reasons[:_FULL]:
        yield from _reason(reason)
    rest = reasons[_FULL:]
    yield from (f"{reason.decides}  {safe(headline(reason))}" for reason in rest[:_BRIEF])
    if more := rest[_BRIEF:]:
        yield f"... and {len(more)} more reasons; verdict.json has them all"
    yield ""
    yield from _criteria(verdict.criteria)
    yield from _lines("covered", _coverage(verdict.coverage))
    yield from _lines("power", _power(verdict.power))
    yield from _lines("hosts", _hosts(verdict))
    yield from _lines("note", verdict.notes)
    yield f"exit {verdict.exit_code}"


def ordered(verdict: Verdict) -> list[Reason]:
    """Those that make the word first; else in the verdict's own order."""
    return sorted(verdict.reasons, key=lambda reason: reason.decides != verdict.word)


def headline(reason: Reason) -> str:
    """`host h3 is slow: 52 % of the rate it should have  [CB-SLOW-HOST]`, naming all that it may be."""
    named = not reason.component.id or reason.component.id in reason.sentence
    head = reason.sentence if named else f"{reason.component}: {reason.sentence}"
    unnamed = [str(tie) for tie in reason.ties if tie.id not in reason.sentence]
    return f"{head}{f' (or {_some(unnamed, most=3)})' if unnamed else ''}  [{reason.code}]"


def _nothing(verdict: Verdict) -> str:
    if verdict.word != "PASS":
        return "no reason was told; commbench verdict makes it again"
    many = _of(len(verdict.coverage.measured_hosts), verdict.coverage.expected_hosts)
    return f"{many} hosts, {verdict.coverage.ranks} ranks: all measured, nothing found"


def _of(count: int, expected: int | None) -> str:
    return str(count) if expected in (None, count) else f"{count} of {expected}"


def _reason(reason: Reason) -> Iterator[str]:
    yield f"{reason.decides}  {safe(headline(reason))}"
    indent = " " * (len(reason.decides) + 2)
    told = {
        "one of": either(reason),
        "measured": measured(reason),
        "criterion": "; ".join(filter(None, (reason.criterion, reason.source and f"from {reason.source}"))),
        "evidence": _evidence(reason),
        "next": reason.next,
    }
    yield from (f"{indent}{name:<10}{safe(line)}" for name, line in told.items() if line)


def either(reason: Reason) -> str:
    """All components that explain the evidence as well as the named one; "" where that one is certain."""
    if not reason.ties:
        return ""
    return f"{_some([*map(str, (reason.component, *reason.ties))], 'or')}: this run cannot tell which"


def measured(reason: Reason) -> str:
    """`0.61 GB/s, expected 1.17 GB/s (slow, in confirm)`."""
    found = [] if reason.measured is None else [figure(reason.measured, reason.unit)]
    found += [] if reason.expected is None else [f"expected {figure(reason.expected, reason.unit)}"]
    return f"{', '.join(found) or 'nothing'} ({reason.fault}, in {reason.stage})"


def figure(value: float, unit: str) -> str:
    """A number with its unit; shares as percentages."""
    if unit == "share":
        return f"{100 * value:.3g} %"
    digits = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{digits} {unit}".strip()


def _evidence(reason: Reason) -> str:
    shown = "; ".join(reason.evidence[:_EVIDENCE])
    more = len(reason.evidence) - _EVIDENCE
    return "; ".join(filter(None, (odds(reason), shown, f"and {more} more" if more > 0 else "")))


def odds(reason: Reason) -> str:
    """`10^21 times likelier with this fault than without`."""
    if reason.odds is None:
        return ""
    times = f"{10**reason.odds:.2g}" if abs(reason.odds) < 3 else f"10^{reason.odds:.0f}"
    return f"{times} times likelier with this fault than without"


def _some(names: Sequence[str], last: str = "", most: int = _NAMES) -> str:
    """`a, b or c`; of many the first and a count."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    if last and len(names) > 1:
        return f"{', '.join(names[:-1])} {last} {names[-1]}"
    return ", ".join(names)


# ---- what it rests on -----------------------------------------------------------------------------------------


def _lines(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield from (f"{'' if k else title:<10}{safe(line)}" for k, line in enumerate(lines))


def _criteria(found: Sequence[Judged]) -> Iterator[str]:
    if not found:
        yield "criteria  none was asked for beside those that always hold"
        return
    yield "criteria"
    cells = [(one.word, one.criterion, _limit(one), one.sentence, one.source) for one in found]
    yield from (f"  {line}" for line in aligned([tuple(map(safe, row)) for row in cells]))


def _limit(one: Judged) -> str:
    is_ = "not known" if one.measured is None else figure(one.measured, one.unit)
    return is_ if one.limit is None else f"{is_} (limit {figure(one.limit, one.unit)})"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Cells to the left, in columns; the last column is as long as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _coverage(found: Coverage) -> list[str]:
    stated = "" if found.expected_hosts is not None else " (how many there should be was not stated)"
    rails = f", {found.rails} rails" if found.rails > 1 else ""
    every = found.expected_hosts if found.expected_hosts is not None else len(found.hosts)
    lines = [f"{len(found.measured_hosts)} of {every} hosts{stated}, {found.ranks} ranks{rails}"]
    known = set(found.measured_hosts)
    if unmeasured := [host for host in found.hosts if host not in known]:
        lines.append(f"not measured: {_some(unmeasured)}")
    if found.excluded:
        lines.append(f"excluded: {_some(found.excluded)}")
    done = [name for name, end in found.stages.items() if end.startswith("done")]
    lines += [f"done: {', '.join(done)}"] if done else []
    lines += [f"not done: {name}: {end}" for name, end in found.stages.items() if name not in done]
    lines += [f"missing: {one}" for one in found.missing]
    through = Counter(found.transport.values()).most_common()
    return lines + [f"traffic of {count} hosts: {way}" for way, count in through[:_NAMES]]


def _power(found: Power) -> list[str]:
    asked = (
        f"asked: {figure(found.slowdown, 'share')}; chance of a false accusation {figure(found.alpha, 'share')}, "
        f"of a miss {figure(found.beta, 'share')}"
    )
    if found.detectable is None:
        lines = [f"this run could not have found a slow component, however slow ({asked})"]
    else:
        lines = [f"the smallest slowdown this run could have found: {figure(found.detectable, 'share')} ({asked})"]
    seen = {"noise": found.noise, "slow once and not again": found.congestion}
    told = [f"{name} {figure(value, 'share')}" for name, value in seen.items() if value is not None]
    told += [f"rounds: {', '.join(f'{name} {count}' for name, count in found.rounds.items())}"] if found.rounds else []
    return [*lines, "; ".join(told)] if told else lines


def _hosts(verdict: Verdict) -> list[str]:
    lines = [f"suspect: {_some(verdict.suspects)}"] if verdict.suspects else []
    return [*lines, f"cleared: {len(verdict.cleared)}"]


# ---- monitors -------------------------------------------------------------------------------------------------


def nagios(verdict: Verdict) -> tuple[str, int]:
    """One line in the plugins' form, and their exit code: 0 OK, 1 WARNING (unstable alone), 2 CRITICAL, 3 UNKNOWN."""
    code, word = _NAGIOS[verdict.word]
    reasons = ordered(verdict)
    if code == 2 and {reason.fault for reason in reasons if reason.decides == "FAIL"} == {"unstable"}:
        code, word = 1, "WARNING"
    said = headline(reasons[0]) if reasons else _nothing(verdict)
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    counts = {"suspects": len(verdict.suspects), "measured": len(verdict.coverage.measured_hosts)}
    figures = " ".join(f"{name}={count}" for name, count in counts.items())
    return f"COMMBENCH {word} - {safe(said).replace('|', '/')}{more} | {figures}", code


# ---- one host -------------------------------------------------------------------------------------------------


def host(verdict: Verdict, run: Run, rows: Sequence[Measurement], name: str) -> Iterator[str]:
    """Every test that a host took part in, in the order of the rounds, beside the usual figure: the median of that
    round, or of all rounds of a question that one group answers at a time.

    SpecError: the run knows no such host.
    """
    names = [one.name for one in run.machine.hosts]
    if name not in names:
        raise SpecError(f"this run has no host {safe(name)!r}; {nearest(name, map(safe, names))}")
    yield f"{safe(name)}  {_STANDING[standings(verdict, run)[name]]}"
    touching = [reason for reason in verdict.reasons if name in hosts(reason, run, paths=True)]
    yield from (f"{reason.decides}  {safe(headline(reason))}" for reason in touching)
    yield ""
    tests = gather(run.machine, rows).tests
    mine = [test for test in tests if names.index(name) in test.hosts]
    if not mine:
        yield "it took part in no test"
        return
    usual = _usual(tests)
    proofs = {line: reason.code for reason in verdict.reasons for line in reason.evidence}
    table = [("round", "stage", "test", "with", "rail", "figure", "usual", "")]
    for test in mine:
        middle = usual.get((test.row.case, test.row.launch)) or usual.get((test.row.case, None))
        said = _said(test, middle, verdict.power.slowdown)
        others = [names[index] for index in test.hosts if names[index] != name]
        case = test.row.case
        table.append(
            (
                *(str(test.row.launch), test.stage, f"{case.op} {format_bytes(case.nbytes)} {case.mode}"),
                *(_some(others, most=2) or "itself", _rail(test, run), _rate(test, test.seconds), _rate(test, middle)),
                f"{said}  <- {proofs[test.cite]}" if test.cite in proofs else said,
            )
        )
    yield from aligned([tuple(map(safe, row)) for row in table])


def _rail(test: Test, run: Run) -> str:
    """The rail of a pair of ranks of two hosts; of larger groups `all`."""
    of = run.machine.host_of
    ranks = groups_of(test.row.case.groups, of)[test.row.group]
    return str(local_ranks(of)[ranks[0]]) if len(ranks) == len(test.hosts) == 2 else "all"


def _usual(tests: Sequence[Test]) -> Mapping[tuple[Case, int | None], float]:
    """(case, round) -> the median over the groups of that round; (case, None): over all rounds. Seconds.

    Only where there are several to take a median of.
    """
    found: dict[tuple[Case, int | None], list[float]] = {}
    for test in tests:
        if (seconds := test.seconds) is not None:
            found.setdefault((test.row.case, test.row.launch), []).append(seconds)
            found.setdefault((test.row.case, None), []).append(seconds)
    return {key: statistics.median(each) for key, each in found.items() if len(each) > 1}


def _rate(test: Test, seconds: float | None) -> str:
    """busbw in GB/s of throughput, microseconds of latency."""
    row = test.row
    if not seconds:
        return "-"
    busbw = bandwidths(row.case.op, row.nbytes, row.ranks, seconds)[1] if row.case.mode == "throughput" else None
    return figure(seconds * 1e6, "us") if busbw is None else figure(busbw, "GB/s")


def _said(test: Test, usual: float | None, slowdown: float) -> str:
    """What a test says of those who took part."""
    row, seconds = test.row, test.seconds
    if row.wrong:
        return f"wrong data: {row.wrong} elements"
    if seconds is None:
        return f"{row.status}: {row.why}" if row.why else row.status
    if not test.ok:
        return "the data were not checked" if row.wrong is None else f"{row.ranks} of {test.expected} ranks"
    if usual is None:
        return "nothing to compare it with"
    slower = 1 - usual / seconds
    return f"slower by {figure(slower, 'share')}" if slower >= slowdown else "as the others"
