"""The catalogue of settings: what each variable of NCCL, torch, Gloo, MPI, UCX and libfabric is called and takes.

The rows are data, one CSV file a library beside this module; `docs/lint.md` says how to add one. An empty cell means
that the fact is not known, never that it does not exist. A name that ends in `*` stands for a family of names.
"""

import csv
import difflib
import re
from functools import cache
from importlib import resources

import msgspec

TABLES = ("nccl", "torch", "openmpi", "mpich", "ucx", "libfabric")
# Prefixes in which a name is a setting of one of these libraries; the rows hold the rest of the truth.
PREFIXES = (
    "NCCL_", "RCCL_", "TORCH_NCCL_", "TORCH_FR_", "TORCH_GLOO_", "TORCH_DISTRIBUTED_", "TORCH_DIST_", "GLOO_",
    "OMPI_MCA_", "PRTE_MCA_", "PMIX_MCA_", "MPIR_CVAR_", "UCX_", "FI_", "OFI_NCCL_",
)  # fmt: skip
# Families whose catalogue is known to be whole: an unknown name there is worth a warning. The others grow with every
# transport, component and provider that a build happens to have.
COMPLETE = ("NCCL_", "TORCH_NCCL_", "TORCH_FR_", "MPIR_CVAR_", "OFI_NCCL_", "GLOO_")

Version = tuple[int, ...]


class Knob(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. Versions are those of `library`; "" is unknown.

    kind: int uint bytes bool level choice choices flags pattern enum algorithms interfaces hcas names number path text;
    `values` is read by kind (`0 1 2`, `1..64`, `A|B`, a regular expression). `level`: the smallest thing the setting
    can be chosen for (call, communicator, process); a variable always holds for the process. `kept`: its maker says it
    may stay in scripts (production), is for experiments (debug), or does not document it (internal).
    `numerics`: another value can change the bits of a result. `danger_when`: values that `danger` speaks of.
    """

    name: str
    library: str
    kind: str = "text"
    values: str = ""
    default: str = ""
    since: str = ""
    gone: str = ""
    deprecated: str = ""
    instead: str = ""
    kept: str = msgspec.field(name="class", default="")
    level: str = "process"
    numerics: str = ""
    danger_when: str = ""
    effect: str = ""
    danger: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.values.split("|")) if self.values else ()


@cache
def table() -> dict[str, Knob]:
    """Every row by its name, families included."""
    found = {}
    for name in TABLES:
        text = resources.files("commbench.knobs").joinpath(f"{name}.csv").read_text(encoding="utf-8")
        for row in csv.DictReader(text.splitlines()):
            knob = msgspec.convert(row, Knob)
            found[knob.name] = knob
    return found


@cache
def _families() -> tuple[Knob, ...]:
    return tuple(sorted((k for k in table().values() if k.name.endswith("*")), key=lambda k: -len(k.name)))


def find(name: str) -> Knob | None:
    """The row of a name, or that of the longest family it belongs to; None where nobody is known to read it."""
    if (knob := table().get(name)) is not None and not name.endswith("*"):
        return knob
    return next((k for k in _families() if name.startswith(k.name[:-1])), None)


def prefix_of(name: str) -> str | None:
    """The longest known prefix of a name; None where the name is nobody's here."""
    return max((p for p in PREFIXES if name.startswith(p)), key=len, default=None)


def nearest(name: str) -> str | None:
    """The known name that an unknown one is a slip of: one word misspelt, or the same words in another order.

    Careful rather than clever: a name that is really that of an unknown plugin must not be called a slip.
    """
    prefix = prefix_of(name)
    if prefix is None:
        return None
    if f"TORCH_{name}" in table():  # NCCL_AVOID_RECORD_STREAMS
        return f"TORCH_{name}"
    words = name.removeprefix(prefix).split("_")
    best: tuple[int, str] | None = None
    for other in table():
        if not other.startswith(prefix) or other.endswith("*"):
            continue
        theirs = other.removeprefix(prefix).split("_")
        if sorted(theirs) == sorted(words):
            return other
        if len(theirs) == len(words):
            unlike = [(x, y) for x, y in zip(words, theirs, strict=True) if x != y]
            if len(unlike) != 1 or len(unlike[0][1]) < 3:
                continue
            limit = 1 if len(unlike[0][1]) < 6 else 2
            cost = edits(*unlike[0], limit)
        else:
            limit, cost = 1, edits(name, other, 1)
        if cost <= limit and (best is None or (cost, other) < best):
            best = (cost, other)
    return best[1] if best else None


def similar(name: str) -> tuple[str, ...]:
    """Up to three known names that look like an unknown one; a hint, not a claim."""
    prefix = prefix_of(name) or ""
    known = [k for k in table() if k.startswith(prefix) and not k.endswith("*")]
    return tuple(difflib.get_close_matches(name, known, n=3, cutoff=0.8))


def edits(a: str, b: str, limit: int) -> int:
    """Keys to press to make b of a (insert, delete, replace, swap neighbours); limit + 1 where there are more."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[-1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
        before, last = last, row
    return min(last[-1], limit + 1)


def version(text: str) -> Version | None:
    """`2.18.5`, `v2.18.5-1`, `2.18.5+cuda12.1` or NCCL's own number (21805) as a tuple; None where it is none."""
    if re.fullmatch(r"\d{4,5}", text):  # 2708 is 2.7.8, 21805 is 2.18.5
        code, step = int(text), 10000 if len(text) == 5 else 1000
        return (code // step, code % step // 100, code % 100)
    match = re.match(r"v?(\d+(?:\.\d+){1,3})(?:[-+ ]|$)", text)
    return tuple(int(part) for part in match[1].split(".")) if match else None
