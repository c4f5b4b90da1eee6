"""Settings that are misspelt, dead, dangerous or contradictory, found in environments, scripts and configuration.

Readers turn a file into a `Document` (what it sets); rules turn a document into findings. Nothing is run, nothing is
looked up: the knowledge is in `commbench.knobs` and in the rules, each of which has a code (`codes.CODES`).
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from commbench.knobs import Version, version
from commbench.lint import files, names, pairs, sources, values, whole
from commbench.lint.codes import CODES
from commbench.lint.context import Context, Said
from commbench.lint.setting import Document
from commbench.records.finding import Finding, Severity

__all__ = ["CODES", "Report", "environment", "judge", "paths"]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Findings in the order of files and lines, and where they come from. `unreadable`: a named file was not read."""

    findings: tuple[Finding, ...]
    files: int
    settings: int
    unreadable: bool = False

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)


def environment(env: Mapping[str, str], nccl: Version | None = None) -> Report:
    """The variables of a process, and the files that NCCL would read in it."""
    document = sources.environment(env)
    said = list(judge(document, nccl))
    count, read, unreadable = len(document.settings), 1, False
    for path in sources.conf_files(env):
        try:
            conf, _ = sources.load(path, conf=True)
        except sources.Unfit as error:
            said.append(_unfit(path, error))
            unreadable = True
            continue
        read, count = read + 1, count + len(conf.settings)
        said += [*judge(conf, nccl), *_shadowed(conf, env, nccl)]
    return _report(said, read, count, unreadable)


def paths(given: Iterable[Path], nccl: Version | None = None) -> Report:
    """Files, and folders with all below them that name a setting."""
    said: list[Said] = []
    read = count = 0
    unreadable = False
    for top in given:
        inside = top.is_dir()
        wanted: Iterable[Path] = (p for p in sources.found(top) if sources.concerns(p)) if inside else (top,)
        for path in wanted:
            try:
                document, text = sources.load(path)
            except sources.Unfit as error:
                unreadable |= not inside
                said.append(_unfit(path, error))
                continue
            own = nccl or (version(document.nccl) if document.nccl else None)
            found = [*judge(document, own), *files.given(Context(document=document, nccl=own), text)]
            if not document.settings and not found and not inside:
                context = Context(document=document)
                found = [
                    context.say(
                        "CB-FILE-NOTHING", 0, "nothing in this file is a known setting", "is it the right file?"
                    )
                ]
            said += found
            read, count = read + 1, count + len(document.settings)
    return _report(said, read, count, unreadable)


def judge(document: Document, nccl: Version | None = None) -> Iterator[Said]:
    """Every rule on one document."""
    context = Context(document=document, nccl=nccl)
    for setting in document.settings:
        yield from names.rules(context, setting)
        yield from values.rules(context, setting)
    yield from pairs.rules(context)
    yield from whole.rules(context)
    yield from files.named(context)


def _shadowed(conf: Document, env: Mapping[str, str], nccl: Version | None) -> Iterator[Said]:
    context = Context(document=conf, nccl=nccl)
    for setting in conf.settings:
        if setting.name in env and env[setting.name] != setting.value:
            sentence = f"{setting.name} is set in the environment too, with another value, and that one counts"
            yield context.say("CB-CONF-SHADOWED", setting, sentence, "unset the variable, or change the file")


def _unfit(path: Path, error: Exception) -> Said:
    context = Context(document=Document(path=str(path), how="shell"))
    return context.say("CB-FILE-UNREADABLE", 0, f"{path} {error}", "name a text file")


def _report(said: list[Said], read: int, count: int, unreadable: bool) -> Report:
    """Sorted by file, line, severity and code; what is said twice about one place is said once."""
    rank = {"error": 0, "warning": 1, "note": 2}
    unique = {(s.path, s.line, s.finding.code, s.finding.sentence): s for s in said}
    order = sorted(
        unique.values(), key=lambda s: (s.path, s.line, rank[s.finding.severity], s.finding.code, s.finding.sentence)
    )
    return Report(findings=tuple(s.finding for s in order), files=read, settings=count, unreadable=unreadable)
