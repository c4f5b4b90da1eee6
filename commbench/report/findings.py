"""Findings as lines of text and as JSON; whatever text came from outside is made harmless here."""

import json
from collections.abc import Iterable, Iterator

from commbench.records.finding import SEVERITIES, Finding


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """`where: severity CODE: sentence.` with what to do on a line below."""
    for finding in findings:
        where = f"{safe(finding.where)}: " if finding.where else ""
        yield f"{where}{finding.severity} {finding.code}: {safe(finding.sentence)}"
        shown = f"    {safe(finding.evidence[0])}" if finding.evidence else ""
        step = f"    -> {safe(finding.next)}" if finding.next else ""
        if shown or step:
            yield f"{shown}{step}"


def summary(findings: Iterable[Finding]) -> str:
    """`2 errors, 1 warning`; `nothing found` where there is nothing."""
    counts = dict.fromkeys(SEVERITIES, 0)
    for finding in findings:
        counts[finding.severity] += 1
    said = [f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
    return ", ".join(said) or "nothing found"


def as_json(findings: Iterable[Finding], **more: object) -> str:
    """`{"schema": 1, ..., "findings": [...]}`, ASCII alone."""
    return json.dumps({"schema": 1, **more, "findings": [finding.as_dict() for finding in findings]}, indent=1)


def safe(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
