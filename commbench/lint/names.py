"""Rules about one name: does anybody read it, and does this version?"""

from collections.abc import Iterator

from commbench.knobs import COMPLETE, find, nearest, prefix_of, similar, version
from commbench.lint.context import Context, Said
from commbench.lint.setting import Setting

# Without a version, a setting is only said to be new where it is newer than what long-lived images carry:
# torch 2.4 to 2.6 bring 2.20 and 2.21.
_COMMON = (2, 22)


def rules(context: Context, setting: Setting) -> Iterator[Said]:
    """Unknown, misspelt, deprecated, removed, too new."""
    knob = find(setting.name)
    if knob is None:
        yield from _unknown(context, setting)
        return
    instead = f"use {knob.instead}" if knob.instead else "leave it out"
    nccl = knob.library == "nccl"
    if knob.gone and (knob.gone == "yes" or not nccl or context.older(knob.gone) is not True):
        since = "" if knob.gone == "yes" else f" since {_library(knob.library)} {knob.gone}"
        sure = nccl or knob.gone == "yes"  # of the other libraries nobody says which version it is
        sentence = f"{setting.name} is no longer read{since}"
        yield context.say("CB-ENV-REMOVED", setting, sentence, instead, None if sure else "note")
    elif knob.deprecated and (not nccl or context.older(knob.deprecated) is not True):
        since = "" if knob.deprecated == "yes" else f" since {_library(knob.library)} {knob.deprecated}"
        yield context.say("CB-ENV-DEPRECATED", setting, f"{setting.name} is deprecated{since}", instead)
    if nccl and knob.since and not knob.gone:
        older = context.older(knob.since)
        if older:
            have = ".".join(map(str, context.nccl or ()))
            sentence = f"{setting.name} came with NCCL {knob.since}; NCCL {have} does not read it"
            yield context.say("CB-ENV-TOO-NEW", setting, sentence, "leave it out, or use a newer NCCL")
        elif older is None and (version(knob.since) or ()) >= _COMMON:
            sentence = f"if your NCCL is older than {knob.since}, {setting.name} is not read"
            yield context.say("CB-ENV-TOO-NEW", setting, sentence, "check the version, or give --nccl VERSION", "note")


def _library(name: str) -> str:
    return {"nccl": "NCCL", "torch": "torch", "openmpi": "Open MPI"}.get(name, name)


def _private(context: Context, setting: Setting) -> bool:
    """Is it a variable of the script's own, set and used there, and not exported?"""
    document = context.document
    return setting.scope == 0 and setting.name in document.used - document.exported


def _unknown(context: Context, setting: Setting) -> Iterator[Said]:
    name = setting.name
    prefix = prefix_of(name)
    if prefix is None:  # NCLL_DEBUG
        fixed = "NCCL_" + name.partition("_")[2]
        if find(fixed) is not None:
            yield context.say("CB-ENV-MISSPELT", setting, f"{name} is no setting; {fixed} is", f"write {fixed}")
    elif prefix == "RCCL_" or _private(context, setting):
        return
    elif guess := nearest(name):
        yield context.say("CB-ENV-MISSPELT", setting, f"nothing reads {name}; {guess} exists", f"write {guess}")
    else:
        like = similar(name)
        hint = f"did you mean {' or '.join(like)}? " if like else ""
        sure = name.startswith(COMPLETE) and name not in context.document.used
        sentence = f"no known library reads {name}, and none would say so"
        step = f"{hint}Remove it, or keep it if a plugin of yours reads it"
        yield context.say("CB-ENV-UNKNOWN", setting, sentence, step, None if sure else "note")
