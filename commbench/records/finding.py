"""Something a reader should know: a wrong setting, an implausible result, a suspect machine."""

from typing import Any, Literal

import msgspec

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")  # the worst first


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One finding: a stable code, a sentence, and what to do next.

    `where` is `file:line`, a variable, a row or a component. `evidence` holds what the finding rests on: the setting as
    it was written, keys of rows. Nothing in it is secret; text that came from outside may hold anything and is escaped
    by whoever prints it.
    """

    code: str
    severity: Severity
    sentence: str
    where: str = ""
    next: str = ""
    evidence: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The wire form with every field, in this order."""
        return {
            "code": self.code,
            "severity": self.severity,
            "where": self.where,
            "sentence": self.sentence,
            "next": self.next,
            "evidence": list(self.evidence),
        }
