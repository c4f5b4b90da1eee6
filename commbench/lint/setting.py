"""What a file says, before anyone judges it: settings, and what a script does with them."""

import re
from typing import Literal

import msgspec

from commbench.knobs import PREFIXES

How = Literal["environment", "shell", "env file", "nccl.conf", "yaml", "json", "log"]
NAME = re.compile("(?:" + "|".join(PREFIXES) + r")[A-Za-z0-9_]+")
# The same letters as NCCL in a prefix that is not NCCL_: NCLL_DEBUG, NCC_DEBUG. HCCL, RCCL and the like have others.
SLIP = re.compile(r"(?!NCCL_)(?=[NCL]{2,5}_)N?C?[NCL]{1,4}_[A-Z0-9_]+")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One variable given a value in one place.

    `value` is None where it is not written out (`$X`, a template). `scope` is 0 for what holds for the whole file and
    the number of the command or list for what holds for that alone. `epoch` grows with every program the script starts,
    and `sure` is False inside branches, loops and functions: what is set there may not be set, or not both times.
    """

    name: str
    value: str | None
    line: int
    how: How
    scope: int = 0
    epoch: int = 0
    sure: bool = True
    raw: str = ""  # as it was written, where that matters (nccl.conf)
    quoted: bool = False  # a shell had it in quotes
    text: bool = True  # YAML: a string rather than a number or a truth value


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A launcher called in a script."""

    line: int
    program: str
    forwarded: frozenset[str] = frozenset()  # -x NAME
    hosts: bool = False  # starts ranks on named hosts, over ssh
    openmpi: bool = False  # carries options that only Open MPI knows
    export: str | None = None  # srun --export=...
    scope: int = 0


class Document(msgspec.Struct, kw_only=True):
    """All that was read from one file."""

    path: str
    how: How
    settings: list[Setting] = []
    launches: list[Launch] = []
    exported: set[str] = set()  # names a script exports, however
    all_exported: bool = False  # set -a
    used: set[str] = set()  # names a script expands
    starts: bool = False  # the script starts something
    crlf: int = 0  # the first line that ends in CR LF
    nccl: str = ""  # the version a log or a run folder names
    sourced: bool = False  # pulls in other files, which may set or export anything


def is_name(text: str) -> bool:
    """Is it a name in one of the known prefixes, or a slip of NCCL_?"""
    return bool(NAME.fullmatch(text) or SLIP.fullmatch(text))
