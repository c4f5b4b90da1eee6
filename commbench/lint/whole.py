"""Rules about a whole file: what is set twice, what reaches the ranks, what is left over from debugging."""

from collections.abc import Iterator
from itertools import pairwise

from commbench.knobs import find
from commbench.lint.context import Context, Said, quotable
from commbench.lint.setting import Setting


def rules(context: Context) -> Iterator[Said]:
    document = context.document
    if document.crlf and document.settings:
        yield context.say(
            "CB-ENV-CRLF", document.crlf, "the lines end in CR LF: every value ends in a carriage return",
            "save the file with Unix line ends (dos2unix)", "warning" if document.how in ("yaml", "json") else None,
        )  # fmt: skip
    yield from _twice(context)
    yield from _kept(context)
    if document.how == "shell":
        yield from _exported(context)
        yield from _forwarded(context)
        yield from _srun(context)


def _twice(context: Context) -> Iterator[Said]:
    """The same name with two values for the same program; branches and what lies between two starts are left alone."""
    if context.document.how in ("log", "environment"):
        return
    before: dict[tuple[int, str], Setting] = {}
    for setting in context.document.settings:
        if not setting.sure:
            continue
        first = before.get((setting.scope, setting.name))
        before[setting.scope, setting.name] = setting
        if first is None or None in (first.value, setting.value) or first.value == setting.value:
            continue
        if first.epoch == setting.epoch or setting.scope:
            wins = "NCCL takes the first" if setting.how == "nccl.conf" else "the last one wins"
            yield context.say(
                "CB-ENV-TWICE", setting, f"{setting.name} has another value in line {first.line}; {wins}", "keep one",
            )  # fmt: skip


def _kept(context: Context) -> Iterator[Said]:
    """One note for all settings that their maker wants out of scripts, one for all that change bits."""
    debugging: dict[str, Setting] = {}
    numerics: dict[str, Setting] = {}
    for setting in context.document.settings:
        knob = find(setting.name)
        if knob is None or setting.value == "":
            continue
        if knob.kept == "debug" and knob.library == "nccl":
            debugging.setdefault(setting.name, setting)
        if knob.numerics and quotable(setting) != knob.default:
            numerics.setdefault(setting.name, setting)
    for code, found, what, step in (
        ("CB-ENV-DEBUGGING", debugging, "NVIDIA says not for production", "keep each only with a measured reason"),
        ("CB-ENV-NUMERICS", numerics, "can change the bits of results", "compare only runs with the same settings"),
    ):
        if found:
            first = next(iter(found.values()))
            named = ", ".join(list(found)[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")
            yield context.say(code, first.line, f"{what}: {named}", step)


def _exported(context: Context) -> Iterator[Said]:
    document = context.document
    if document.all_exported or not document.starts or document.sourced:
        return
    said: set[str] = set()
    for setting in document.settings:
        name, knob = setting.name, find(setting.name)
        known = knob is not None and knob.kept != "" and knob.name == name
        if setting.scope or name in document.exported | document.used | said or not known:
            continue
        if any(other.name == name and other.scope for other in document.settings):
            continue
        said.add(name)
        sentence = f"{name} is set but not exported: the programs that this script starts do not see it"
        yield context.say("CB-ENV-NOT-EXPORTED", setting, sentence, f"write export {name}=...")


def _forwarded(context: Context) -> Iterator[Said]:
    """nccl#260: mpirun over ssh gives the ranks on other hosts OMPI_* and PMIX_*, and what -x names."""
    document = context.document
    wide: dict[str, Setting] = {}
    for setting in document.settings:
        if (
            setting.scope == 0
            and setting.name in document.exported
            and not setting.name.startswith(("OMPI_", "PMIX_", "PRTE_"))
        ):
            wide.setdefault(setting.name, setting)
    for launch in document.launches:
        if not (launch.openmpi and launch.hosts):
            continue
        lost = [
            name for name, s in wide.items() if name not in launch.forwarded and s.line <= launch.line and find(name)
        ]
        if lost:
            named = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
            sentence = f"{launch.program} starts ranks on other hosts over ssh, which do not get {named}"
            yield context.say("CB-ENV-NOT-FORWARDED", launch.line, sentence, f"add -x {lost[0]} and so on")


def _srun(context: Context) -> Iterator[Said]:
    document = context.document
    kept = sorted({s.name for s in document.settings if s.scope == 0 and s.name in document.exported and find(s.name)})
    for launch in document.launches:
        if launch.export is None or "$" in launch.export:
            continue
        parts = launch.export.split(",")
        cut = [after for before, after in pairwise(parts) if _cut(before, after)]
        if cut:
            sentence = f"--export ends a value at its comma: {cut[0]!r} is taken for the name of a variable"
            step = "export the variable in the script, and write --export=ALL"
            yield context.say("CB-SRUN-COMMA", launch.line, sentence, step)
        given = {part.partition("=")[0] for part in parts}
        lost = [name for name in kept if name not in given]
        if lost and launch.program == "srun" and "ALL" not in given:
            sentence = f"--export without ALL: the ranks do not get {', '.join(lost[:8])}"
            yield context.say("CB-SRUN-EXPORT", launch.line, sentence, "write --export=ALL,...")


def _cut(before: str, after: str) -> bool:
    """A=1,2: is `2` the rest of a value rather than the name of the next variable?"""
    if "=" in after or not after or "=" not in before:
        return False
    if not after.isidentifier() or any(c.isdigit() for c in after.lower() if after.islower()):
        return True  # mlx5_1, 8388608
    knob = find(before.partition("=")[0])
    return knob is not None and after.lower() in {choice.lower() for choice in knob.choices}
