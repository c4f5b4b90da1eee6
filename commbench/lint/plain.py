"""Reading nccl.conf as NCCL reads it, NCCL's own logs, and lines of text that are no known format."""

import re
from collections.abc import Iterable

from commbench.lint.setting import Document, Setting, is_name

_SAID = re.compile(r"NCCL INFO (NCCL_\w+) set (?:by environment )?to (\S.*)")
_VERSION = re.compile(r"NCCL version (\d+\.\d+\.\d+)")
_LOOSE = re.compile(r"""["']?\b([A-Z][A-Z]+_[A-Za-z0-9_]+)["']?\]?\s*[:=,]\s*(?:"([^"]*)"|'([^']*)'|([\w^=.|/%-]+))""")


def conf(document: Document, lines: Iterable[str]) -> None:
    """Every line up to the first `=` is a name, all after it the value: no quotes, no trimming (src/misc/param.cc)."""
    for number, line in enumerate(lines, 1):
        if line.endswith("\r\n") and not document.crlf:
            document.crlf = number
        text = line.rstrip("\r\n")
        name, equals, value = text.partition("=")
        if not equals or text.lstrip().startswith("#"):
            continue
        bare = re.sub(r"^\s*(?:export|set|env)\s+", "", name).strip()
        if is_name(bare):
            document.settings.append(Setting(name=bare, value=value, line=number, how="nccl.conf", raw=text))


def log(document: Document, lines: Iterable[str]) -> None:
    """`NCCL INFO NCCL_X set by environment to V`, each pair once; the version where the log says it."""
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, 1):
        if "NCCL" not in line:
            continue
        if not document.nccl and (version := _VERSION.search(line)):
            document.nccl = version[1]
        if (match := _SAID.search(line)) and (match[1], match[2]) not in seen and len(seen) < 10_000:
            seen.add((match[1], match[2]))
            value = match[2].rstrip().removesuffix(".")
            document.settings.append(Setting(name=match[1], value=value, line=number, how="log", scope=number))


def loose(document: Document, lines: Iterable[str]) -> None:
    """`"NAME": "VALUE"`, `NAME: VALUE` and `NAME=VALUE` anywhere: templates and YAML or JSON that does not parse."""
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(("#", "//")):
            continue
        for match in _LOOSE.finditer(line[:10_000]):
            if is_name(match[1]):
                value = next((part for part in match.groups()[1:] if part is not None), "")
                known = None if "{{" in line or "$" in value else value
                document.settings.append(
                    Setting(name=match[1], value=known, line=number, how=document.how, scope=number, sure=False)
                )
