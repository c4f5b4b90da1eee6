"""Rules about one value: would the library read what was meant? How NCCL reads is from its src/misc/param.cc."""

import re
from collections.abc import Callable, Iterator

from commbench.knobs import Knob, find
from commbench.lint import lists
from commbench.lint.context import Context, Said
from commbench.lint.setting import Setting

_NUMBER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|\d+)")
_TRUE = frozenset(("y", "yes", "t", "true", "on", "1", "enable", "enabled"))
_FALSE = frozenset(("n", "no", "f", "false", "off", "0", "disable", "disabled"))
_UNSET_OK = frozenset(("NCCL_DEBUG_TIMESTAMP_FORMAT", "NCCL_DEBUG_TIMESTAMP_LEVELS", "NCCL_SOCKET_MAGIC"))
_LEVELS = {"0": "LOC", "1": "PIX", "2": "PXB", "3": "PHB", "4": "SYS"}


def rules(context: Context, setting: Setting) -> Iterator[Said]:
    """What the form of the value says, then what its kind says, then danger."""
    if setting.value is None:
        return
    knob = find(setting.name)
    clean = list(_form(context, setting))
    yield from clean
    if not setting.text and setting.how == "yaml":
        sentence = f"{setting.name} has a number or a truth value, not a string"
        yield context.say("CB-K8S-STRING", setting, sentence, f'quote it: value: "{setting.value.strip()}"')
    if knob is None or knob.name.endswith("*") or any(said.finding.code != "CB-ENV-EMPTY" for said in clean):
        return
    if setting.value == "":
        if knob.kind != "text" and setting.name not in _UNSET_OK:
            sentence = f"{setting.name} is set to nothing, which is as good as not set"
            yield context.say("CB-ENV-EMPTY", setting, sentence, "give it a value or leave it out")
        return
    wrong = list(KINDS[knob.kind](context, setting, knob)) if knob.kind in KINDS else []
    yield from wrong
    if not any(said.finding.severity == "error" for said in wrong):
        yield from _danger(context, setting, knob)


def _form(context: Context, setting: Setting) -> Iterator[Said]:
    """Blanks, quotes and tildes that become part of the value."""
    value, name = setting.value or "", setting.name
    value = value.removesuffix("\r")  # said once for the file
    if setting.how == "nccl.conf":
        yield from _conf(context, setting, value)
        return
    if setting.how == "env file" and not setting.quoted and value.strip() != value:
        return  # a reader that keeps the blank is not known
    if value != value.strip():
        sentence = f"{name} begins or ends with a blank, which becomes part of the value"
        yield context.say("CB-ENV-WHITESPACE", setting, sentence, "take the blank away")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        sentence = f"the quotes around the value of {name} stay in it"
        yield context.say("CB-ENV-QUOTES", setting, sentence, "write the value without quotes inside")
    kind = getattr(find(name), "kind", "")
    if kind == "path" and value.startswith("~") and (setting.quoted or setting.how not in ("shell", "env file")):
        sentence = f"{name} begins with ~, which no shell expands here"
        yield context.say("CB-ENV-TILDE", setting, sentence, "write the whole path")


def _conf(context: Context, setting: Setting, value: str) -> Iterator[Said]:
    raw_name = setting.raw.partition("=")[0]
    if raw_name != setting.name:
        sentence = f"NCCL takes {raw_name!r} for the name, so {setting.name} is not set"
        yield context.say(
            "CB-ENV-CONF-SYNTAX", setting, sentence, f"write {setting.name}=VALUE, nothing before or after"
        )
    elif len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        sentence = f"nccl.conf keeps the quotes: they become part of {setting.name}"
        yield context.say("CB-ENV-QUOTES", setting, sentence, "take the quotes away")
    elif re.search(r"\s#", value):
        sentence = f"nccl.conf has no comments after a value: the comment becomes part of {setting.name}"
        yield context.say("CB-ENV-CONF-SYNTAX", setting, sentence, "put the comment on a line of its own")
    elif value != value.strip():
        sentence = f"nccl.conf keeps blanks: they become part of {setting.name}"
        yield context.say("CB-ENV-WHITESPACE", setting, sentence, "take the blanks away")
    elif value.startswith("~") and getattr(find(setting.name), "kind", "") == "path":
        sentence = f"nccl.conf does not expand ~ in {setting.name}"
        yield context.say("CB-ENV-TILDE", setting, sentence, "write the whole path")


def _int(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    """strtoll(value, NULL, 0): leading digits count, the rest is dropped, no digits are 0, 010 is 8."""
    value = (setting.value or "").strip()
    match = _NUMBER.match(value)
    name = setting.name
    if match is None:
        meant = "1" if value.lower() in _TRUE else "0" if value.lower() in _FALSE else "a number"
        sentence = f"{name} takes a number; NCCL reads this word as 0"
        harmless = meant == "0"
        yield context.say("CB-ENV-TYPE", setting, sentence, f"write {meant}", "warning" if harmless else None)
        return
    if match[0] != value:
        sentence = f"NCCL reads {match[0]} from {name} and drops the rest"
        yield context.say("CB-ENV-SUFFIX", setting, sentence, f"write the whole number{_whole(value)}")
        return
    if len(value) > 20:
        yield context.say("CB-ENV-RANGE", setting, f"{name} is no number of 64 bits", "write a smaller number")
        return
    if re.fullmatch(r"[-+]?0\d+", value):
        number = int(value, 8) if re.fullmatch(r"[-+]?[0-7]+", value) else 0
        sentence = f"the leading zero makes {name} octal: NCCL reads {number}"
        yield context.say("CB-ENV-OCTAL", setting, sentence, f"write {int(value)}")
        return
    yield from _range(context, setting, knob, int(value, 0))


def _whole(value: str) -> str:
    match = re.fullmatch(r"(\d+)\s*([kKmMgG])i?[bB]?", value)
    return f": {int(match[1]) << {'k': 10, 'm': 20, 'g': 30}[match[2].lower()]}" if match else ""


def _range(context: Context, setting: Setting, knob: Knob, number: int) -> Iterator[Said]:
    name, values = setting.name, knob.values
    if ".." in values:
        low, _, high = values.partition("..")
        fits = (not low or number >= int(low)) and (not high or number <= int(high))
        limits = f"{low or '...'} to {high}" if high else f"{low} or more"
    else:
        fits, limits = not values or str(number) in values.split(), values.replace(" ", ", ")
    if not fits:
        yield context.say("CB-ENV-RANGE", setting, f"{name} is {number}; it takes {limits}", f"choose from {limits}")
    elif name in ("NCCL_MIN_CTAS", "NCCL_MAX_CTAS") and number > 32 and context.older("2.25") is not False:
        sentence = f"before NCCL 2.25, {name} takes 32 at most"
        yield context.say(
            "CB-ENV-VALUE-VERSION", setting, sentence, "use 32, or NCCL 2.25", None if context.nccl else "note"
        )
    elif name == "NCCL_NET_GDR_C2C" and number == 1 and context.older("2.27") is not True:
        sentence = "NCCL_NET_GDR_C2C=1 is the default since 2.27"
        yield context.say("CB-ENV-STALE", setting, sentence, "leave it out from 2.27 on")


def _torch_int(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    value = (setting.value or "").strip()
    if not re.fullmatch(r"[-+]?\d{1,9}", value):
        sentence = f"torch reads {setting.name} as a number, and raises an error where there is none"
        yield context.say("CB-ENV-TYPE", setting, sentence, "write a number")
    else:
        yield from _range(context, setting, knob, int(value))


def _number(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    if not re.fullmatch(r"[-+]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE]-?\d+)?)[kKmMgGtT]?", setting.value or ""):
        yield context.say("CB-ENV-TYPE", setting, f"{setting.name} takes a number", "write a number")


def _bool(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    value = (setting.value or "").lower()
    if value not in _TRUE | _FALSE and not re.fullmatch(r"-?\d+", value) and value not in ("try", "auto"):
        yield context.say("CB-ENV-TYPE", setting, f"{setting.name} takes a truth value", "write 1 or 0")


def _choice(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    yield from _words(context, setting, knob, [setting.value or ""])


def _choices(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    yield from _words(context, setting, knob, [w for w in (setting.value or "").lstrip("^").split(",") if w])


def _flags(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    parts = [w for w in (setting.value or "").split("|") if w]
    yield from _words(context, setting, knob, parts)
    if not all(part.isdigit() for part in parts) and context.older("2.29"):
        sentence = f"names in {setting.name} are read from NCCL 2.29 on"
        yield context.say("CB-ENV-VALUE-VERSION", setting, sentence, "use 0, 1 or 2")


def _words(context: Context, setting: Setting, knob: Knob, given: list[str]) -> Iterator[Said]:
    known = {choice.lower() for choice in knob.choices}
    for word in given:
        if word.lower() in known:
            continue
        if word.strip().lower() in known:
            sentence = f"the blank in {setting.name} becomes part of a word, which is then unknown"
            yield context.say("CB-ENV-WHITESPACE", setting, sentence, "write the list without blanks")
            continue
        sentence = f"{setting.name} has a word that is not known"
        mild = knob.kind == "choices" or knob.library in ("libfabric", "ucx")  # what to log; or the library says so
        step = f"choose from {', '.join(knob.choices)}"
        yield context.say("CB-ENV-CHOICE", setting, sentence, step, "warning" if mild else None)


def _level(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    """ncclGetLevel: names by strcmp, so in capitals; then a leading digit, the old numbering."""
    value, name = setting.value or "", setting.name
    if value in knob.choices:
        return
    if value[:1].isdigit():
        digits = re.match(r"\d+", value)
        meaning = _LEVELS.get(digits[0] if digits else "", "SYS")
        sentence = f"{name} by number: read as {meaning} today, and numbers have changed their meaning before"
        yield context.say("CB-ENV-LEGACY", setting, sentence, f"write {meaning}")
    elif value.strip().upper() in knob.choices:
        sentence = f"{name} is known in capitals alone; as it is, it is ignored"
        yield context.say("CB-ENV-CASE", setting, sentence, f"write {value.strip().upper()}")
    else:
        sentence = f"{name} has a word that is not known, and is ignored"
        yield context.say("CB-ENV-CHOICE", setting, sentence, f"choose from {', '.join(knob.choices)}")


def _enum(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    """Open MPI: a number or its name."""
    pairs = [choice.partition(":")[::2] for choice in knob.choices]
    value = setting.value or ""
    if value not in {number for number, _ in pairs} and value not in {name for _, name in pairs}:
        sentence = f"{setting.name} has a value that Open MPI 5.0.11 does not know; it goes on without it"
        names = ", ".join(f"{number} {name}" for number, name in pairs)
        yield context.say("CB-ENV-CHOICE", setting, sentence, f"choose from {names}")


def _pattern(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    if not re.fullmatch(knob.values, setting.value or ""):
        yield context.say("CB-ENV-CHOICE", setting, f"{setting.name} is not of the form it takes", knob.effect)


KINDS: dict[str, Callable[[Context, Setting, Knob], Iterator[Said]]] = {
    "int": lambda c, s, k: (_int if k.library.startswith(("nccl", "google")) else _torch_int)(c, s, k),
    "bytes": _int,
    "uint": _int,
    "number": _number,
    "bool": _bool,
    "choice": _choice,
    "choices": _choices,
    "flags": _flags,
    "level": _level,
    "enum": _enum,
    "pattern": _pattern,
    "algorithms": lists.algorithms,
    "interfaces": lists.devices,
    "hcas": lists.devices,
    "names": lists.names,
}


def _danger(context: Context, setting: Setting, knob: Knob) -> Iterator[Said]:
    value = (setting.value or "").strip().lower()
    when = knob.danger_when.lower().split("|") if knob.danger_when else []
    hit = value in when or "any" in when
    hit |= knob.kind == "bool" and bool(when) and value in (_TRUE if "true" in when else _FALSE)
    if hit:
        severity = None
        if setting.name == "NCCL_IB_DISABLE" and any(
            s.name in ("NCCL_NET_PLUGIN", "NCCL_NET", "FI_PROVIDER")
            or s.name.startswith(("NCCL_FASTRAK", "NCCL_GPUDIRECT"))
            for s in context.document.settings
        ):
            severity = "note"  # a plugin carries the traffic
        sentence = f"{setting.name}: {knob.danger}"
        yield context.say("CB-ENV-DANGER", setting, sentence, "leave it out of production", severity)  # type: ignore[arg-type]
