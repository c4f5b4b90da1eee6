"""Files of other tools -> runs. What a file is, its content says: each reader names byte strings that its format has.

A file may hold several formats (an nccl-tests table between the lines of NCCL's log): each reader that finds one
of its signatures reads it.
"""

from functools import cache
from importlib import import_module

import msgspec

from commbench.errors import ReadError
from commbench.readers.base import Found, Reader
from commbench.readers.source import LONGEST, Problem, Source

MODULES = (
    "nccl_tests",
    "nccl_tests_json",
    "rccl",
    "nccom",
    "osu",
    "imb",
    "param",
    "inspector",
    "nccl_log",
    "topology",
    "smi_topo",
    "trace",
)


UNKNOWN = "no known format; commbench import --help lists them"


class Reading(msgspec.Struct, frozen=True):
    """What one file gave."""

    source: Source
    found: tuple[Found, ...]
    problems: tuple[Problem, ...]


@cache
def readers() -> tuple[Reader, ...]:
    return tuple(import_module(f"commbench.readers.{name}").READER for name in MODULES)


def read(source: Source) -> Reading:
    """All that the file tells. Raises ReadError where that is nothing, with the reason."""
    if not source.nbytes:
        raise ReadError(f"{source.name}: the file is empty")
    held = source.holds({text for reader in readers() for text in reader.signatures})
    chosen = [reader for reader in readers() if held.intersection(reader.signatures)]
    if not chosen:
        raise ReadError(f"{source.name}: {UNKNOWN}")
    found: list[Found] = []
    problems: list[Problem] = []
    for reader in chosen:
        before, source.left_out, source.damage = len(found), 0, ""
        try:
            for item in reader.read(source):
                if isinstance(item, Found):
                    found.append(item)
                else:
                    problems.append(item)
        except ReadError as error:
            reason = str(error).removeprefix(f"{source.name}: ")
            problems.append(source.problem(0, f"{reason} (read as {reader.says})"))
        if source.damage:
            problems.append(source.problem(0, f"{source.damage}; what is before that is read (as {reader.says})"))
        if source.left_out and len(found) > before:
            problems.append(source.problem(source.left_out, f"longer than {LONGEST >> 20} MiB: left out"))
    if not found:
        why = problems[0] if problems else f"{source.name}: looks like {chosen[0].says}, but holds no data"
        raise ReadError(str(why))
    _ = source.sha256  # while the file is there: it is asked for later
    return Reading(source, tuple(found), tuple(problems))
