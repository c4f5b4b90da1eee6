"""The spec of a search for bucket sizes in a job of the user's own: how it is started, which caps are tried."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath

import msgspec

from commbench.spec import values as v
from commbench.spec.document import TUNING, Field, find, read, show
from commbench.spec.train import caps as cap_list
from commbench.spec.train import number

USUAL_CAPS = ((1.0,), (2.0,), (5.0,), (10.0,), (50.0,), (100.0,))  # MiB; 25 is nearly the default


class OwnJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job and what to try in it.

    command  argv of one start of all ranks; the job calls commbench.ddp_kwargs() and StepRecorder
    caps     candidates in MiB, each one cap for all buckets or a list
    skip     first steps of a start that do not count
    """

    name: str
    source: str
    command: tuple[str, ...]
    caps: tuple[tuple[float, ...], ...] = USUAL_CAPS
    budget: float = 1800.0
    rounds: int = 16
    skip: int = 5
    seed: int = 0


def _command(field: Field) -> tuple[str, ...]:
    words = field.value
    if isinstance(words, str):
        try:
            words = shlex.split(words)
        except ValueError as error:
            raise field.error(f"{show(field.value)} is no command: {error}") from None
    if not isinstance(words, list) or not words or isinstance(words[0], list | dict):
        raise field.error("write how the job is started, as in [mpirun, -n, 4, python, train.py]")
    return tuple(word if isinstance(word, str) else show(word) for word in words)


def _caps(field: Field) -> tuple[tuple[float, ...], ...]:
    if not isinstance(field.value, list) or not field.value:
        raise field.error("write caps in MiB, as in [1, 5, 10, [1, 4, 25]]")
    each = [cap_list(one) if isinstance(one.value, list) else (number(0, 2**20)(one),) for one in field.entries()]
    return tuple(dict.fromkeys(each))


_KEYS: dict[str, v.Reader] = {
    "name": v.name,
    "command": _command,
    "caps": _caps,
    "budget": v.time,
    "rounds": v.whole(4, 16),
    "skip": v.whole(0, 10**6),
    "seed": v.whole(0, 2**63 - 1),
}


def load(source: str, overrides: Sequence[str] = ()) -> OwnJob:
    """The spec at a path; `key=value` overrides go in before checking."""
    path = find(source, TUNING)
    top = read(path, overrides, TUNING)
    fields = top.mapping(tuple(_KEYS))
    values = {key: _KEYS[key](field) for key, field in fields.items()}
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", PurePath(path).stem).lstrip("._-")[:64]
    return OwnJob(**{"name": stem or "job", **values}, source=path)
