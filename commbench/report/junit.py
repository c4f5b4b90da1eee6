"""A verdict as JUnit XML (the windyroad schema): a testsuite a stage, a testcase a component, and the criteria.

failure: a fault that was proved. error: a hang, a crash, and all that was not measured or not decided; nothing is
ever `skipped`, which continuous integration takes for fine. The file is red wherever the verdict is not PASS.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple
from xml.etree import ElementTree as ET

from commbench.accept.standing import Standing, hosts, standings
from commbench.records import Run
from commbench.records.verdict import Component, Judged, Reason, Verdict
from commbench.report.acceptance import either, figure, headline, measured, odds
from commbench.report.findings import safe

NAME = "junit.xml"
Mark = Literal["failure", "error"]
_CRASHED = ("hang", "crash", "not measured")
_STAGES = ("preflight", "intra", "spread", "confirm", "full", "stability", "run")


class Red(NamedTuple):
    """Why a testcase is red: `type` is a code or a word, `lines` all that is known."""

    mark: Mark
    type: str
    message: str
    lines: tuple[str, ...] = ()


_UNDECIDED = Red("error", "undecided", "neither accused nor shown to be in order")


def document(verdict: Verdict, run: Run) -> bytes:
    """The file: the same verdict gives the same bytes."""
    suites = {name: _cases(verdict, run, name) for name in _STAGES}
    suites["criteria"] = {f"criterion {one.criterion}": _judged(one) for one in verdict.criteria}
    if verdict.word != "PASS" and not any(red for cases in suites.values() for each in cases.values() for red in each):
        suites["run"]["verdict"] = [Red("error", verdict.word, "the verdict tells no reason for its word")]
    counts = {name: _counts(cases.values()) for name, cases in suites.items()}
    root = ET.Element("testsuites", {"name": "commbench accept", **_sum(counts.values())})
    for name, cases in suites.items():
        if cases or name in verdict.coverage.stages:
            _suite(root, verdict, name, cases)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(root: ET.Element, verdict: Verdict, name: str, cases: Mapping[str, list[Red]]) -> None:
    told = {"name": f"{verdict.name}.{name}", "timestamp": verdict.created, **_counts(cases.values())}
    suite = ET.SubElement(root, "testsuite", {key: safe(text) for key, text in told.items()})
    properties = ET.SubElement(suite, "properties")
    for key, text in _properties(verdict, name).items():
        ET.SubElement(properties, "property", name=safe(key), value=safe(text))
    for component, reds in cases.items():
        case = ET.SubElement(suite, "testcase", name=safe(component), classname=safe(f"commbench.{name}"))
        if reds:
            _red(case, reds)


def _red(case: ET.Element, reds: list[Red]) -> None:
    """One element for all that is wrong with a component: the schema has room for one. A proved fault comes first."""
    first = min(reds, key=lambda red: red.mark != "failure")
    element = ET.SubElement(case, first.mark, type=safe(first.type), message=safe(first.message))
    element.text = "\n".join(safe(line) for red in reds for line in (red.message, *red.lines))


def _counts(cases: Iterable[list[Red]]) -> dict[str, str]:
    marks = ["failure" if any(red.mark == "failure" for red in reds) else "error" if reds else "" for reds in cases]
    return {
        "tests": str(len(marks)),
        "failures": str(marks.count("failure")),
        "errors": str(marks.count("error")),
        "skipped": "0",
    }


def _sum(each: Iterable[Mapping[str, str]]) -> dict[str, str]:
    each = list(each)
    return {key: str(sum(int(counts[key]) for counts in each)) for key in ("tests", "failures", "errors", "skipped")}


# ---- what is in a stage ---------------------------------------------------------------------------------------


def _cases(verdict: Verdict, run: Run, stage: str) -> dict[str, list[Red]]:
    """Component -> what is wrong with it, for the components of a stage and all that its reasons name."""
    found = _components(verdict, run, stage)
    for reason in verdict.reasons:
        named = [_name(component) for component in (reason.component, *reason.ties)]
        if reason.stage != stage:
            # What another stage blames is not shown as fine in this one.
            for name in (*named, *(f"host {host}" for host in hosts(reason, run))):
                if stage != "preflight" and not found.get(name, True):
                    del found[name]
            continue
        found.setdefault(named[0], []).append(_reason(reason))
        for tie in named[1:]:
            about = f"may be at fault as well as {named[0]}: {either(reason)}"
            found.setdefault(tie, []).append(Red("error", reason.code, about))
    return found


def _name(component: Component) -> str:
    return str(component) if component.id else f"the {component.kind}"


def _components(verdict: Verdict, run: Run, stage: str) -> dict[str, list[Red]]:
    """What a stage examines: hosts, rails of hosts, uplinks of racks; or all hosts together."""
    end = verdict.coverage.stages.get(stage, "done" if stage == "preflight" else None)
    if end is None:
        return {}
    undone = (
        [] if end.startswith("done") or verdict.word == "PASS" else [Red("error", "not measured", f"{stage}: {end}")]
    )
    if stage not in ("preflight", "intra", "spread"):
        return {"the fabric": undone}
    where, known = standings(verdict, run), set(verdict.coverage.measured_hosts)
    found = {f"host {host}": [*undone, *_standing(each, host in known, stage)] for host, each in where.items()}
    if stage == "spread":
        fine = [host for host, each in where.items() if each == "fine"]
        rails = range(verdict.coverage.rails if verdict.coverage.rails > 1 else 0)
        found |= {f"nic {host} rail {rail}": list(undone) for host in fine for rail in rails}
        for rack, members in _racks(run).items():
            shown = not set(fine).isdisjoint(members)
            found[f"uplink {rack}"] = list(undone) if shown else [*undone, _UNDECIDED]
    return found


def _racks(run: Run) -> dict[str, list[str]]:
    """Rack -> its hosts, where there are several racks: between them are the uplinks."""
    from commbench.accept.observe import racks_of

    spec = run.spec.get("accept")
    racks = racks_of(run.machine, spec.get("racks", {}) if isinstance(spec, dict) else {})
    found = {rack: [run.machine.hosts[index].name for index in members] for rack, members in racks.items() if members}
    return found if len(found) > 1 else {}


def _standing(standing: Standing, known: bool, stage: str) -> list[Red]:
    if standing == "excluded":
        return [Red("error", "not measured", "excluded: it was not measured")]
    if not known:
        return [Red("error", "not measured", "it was not measured, or not in all that it should be")]
    return [_UNDECIDED] if stage == "spread" and standing == "open" else []


def _reason(reason: Reason) -> Red:
    proved = reason.decides == "FAIL" and reason.fault not in _CRASHED
    rule = "; ".join(filter(None, (reason.criterion, reason.source and f"from {reason.source}")))
    told = {
        "measured": measured(reason),
        "one of": either(reason),
        "criterion": rule,
        "odds": odds(reason),
        "evidence": "; ".join(reason.evidence),
        "next": reason.next,
    }
    lines = tuple(f"{name}: {line}" for name, line in told.items() if line)
    return Red("failure" if proved else "error", reason.code, headline(reason), lines)


def _judged(one: Judged) -> list[Red]:
    if one.word == "PASS":
        return []
    limit = "" if one.limit is None else f"limit: {figure(one.limit, one.unit)}"
    is_ = "" if one.measured is None else f"measured: {figure(one.measured, one.unit)}"
    lines = tuple(filter(None, (is_, limit, one.source and f"source: {one.source}")))
    return [Red("failure" if one.word == "FAIL" else "error", one.word, one.sentence, lines)]


def _properties(verdict: Verdict, stage: str) -> dict[str, str]:
    """What the result rests on, in each suite: continuous integration shows them one by one."""
    power, coverage = verdict.power, verdict.coverage
    least = "none" if power.detectable is None else figure(power.detectable, "share")
    found = {
        "verdict": verdict.word,
        "run": verdict.name,
        "created": verdict.created,
        "journal_sha256": verdict.journal_sha256,
        "commbench": verdict.commbench,
        "seed": str(verdict.seed),
        "hosts": f"{len(coverage.measured_hosts)} of {coverage.expected_hosts or len(coverage.hosts)}",
        "power.smallest_slowdown_found": least,
        "power.alpha": f"{power.alpha:g}",
        "power.beta": f"{power.beta:g}",
        "stage": coverage.stages.get(stage, ""),
    }
    found |= {f"criterion.{one.criterion}": f"{one.word}: {one.sentence}" for one in verdict.criteria}
    return {key: text for key, text in found.items() if text}
