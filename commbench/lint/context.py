"""What a rule is given, and how it speaks."""

import msgspec

from commbench.allowlist import environment
from commbench.knobs import Version, find, version
from commbench.lint.codes import CODES
from commbench.lint.setting import Document, Setting
from commbench.records.finding import Finding, Severity

_LONG = 60


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """A document and the version of NCCL it is for; None is unknown."""

    document: Document
    nccl: Version | None = None

    def where(self, line: int) -> str:
        return f"{self.document.path}:{line}" if line else self.document.path

    def say(
        self, code: str, at: Setting | int, sentence: str, next_step: str, severity: Severity | None = None
    ) -> "Said":
        """A finding at a setting or a line."""
        line = at.line if isinstance(at, Setting) else at
        evidence = (shown(at),) if isinstance(at, Setting) else ()
        where = self.where(line)
        if isinstance(at, Setting) and not line:
            where = f"{self.document.path}: {at.name}"
        finding = Finding(
            code=code, severity=severity or CODES[code][0], sentence=sentence, where=where, next=next_step,
            evidence=evidence,
        )  # fmt: skip
        return Said(path=self.document.path, line=line, finding=finding)

    def older(self, than: str) -> bool | None:
        """Is this NCCL older than a version? None where nobody said which it is."""
        wanted = version(than)
        return None if self.nccl is None or wanted is None else self.nccl < wanted


class Said(msgspec.Struct, frozen=True):
    """A finding with what it is sorted by."""

    path: str
    line: int
    finding: Finding


def shown(setting: Setting) -> str:
    """`NAME=value`, or the name alone where the value is unknown, nobody's here, or may be a secret."""
    value = quotable(setting)
    return setting.name if value is None else f"{setting.name}={value}"


def quotable(setting: Setting) -> str | None:
    """The value as it may be printed: None where it may be a secret or belongs to an unknown name; cut, escaped."""
    if setting.value is None or find(setting.name) is None:
        return None
    allowed, _ = environment({f"NCCL_{setting.name}": setting.value})  # judged by its words, whatever its prefix
    if not allowed:
        return None
    text = setting.value if len(setting.value) <= _LONG else setting.value[:_LONG] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
