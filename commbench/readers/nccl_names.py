"""What all formats of nccl-tests and rccl-tests share: names, the check of a row, and what becomes of it.

Formulas: `src/*.cu` (*GetBw) of nccl-tests. `size` is what commbench calls nbytes, `time` one call in microseconds,
averaged over a block of calls and, by default, over the processes; algbw is size / time; busbw is algbw times the
bus factor of the collective.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from commbench.collectives import COLLECTIVES
from commbench.readers.base import NOWHERE
from commbench.records import Case, Machine, Measurement
from commbench.records.case import Mode
from commbench.records.measurement import Kind

UNKNOWN = "unknown"  # the collective, where the file does not name it

# printed name -> (commbench's name, bytes of an element)
TYPES: dict[str, tuple[str, int]] = {
    "int8": ("int8", 1), "char": ("int8", 1), "uint8": ("uint8", 1), "int32": ("int32", 4), "int": ("int32", 4),
    "uint32": ("uint32", 4), "int64": ("int64", 8), "uint64": ("uint64", 8), "half": ("float16", 2),
    "float": ("float32", 4), "double": ("float64", 8), "bfloat16": ("bfloat16", 2), "f8e4m3": ("f8e4m3", 1),
    "f8e5m2": ("f8e5m2", 1), "fp8_e4m3": ("f8e4m3", 1), "fp8_e5m2": ("f8e5m2", 1),
}  # fmt: skip
REDOPS = frozenset(("sum", "prod", "max", "min", "avg", "mulsum", "none"))
_OPS = {
    "allreduce": "all_reduce", "allgather": "all_gather", "reducescatter": "reduce_scatter",
    "alltoall": "all_to_all", "alltoallv": "all_to_all_v", "broadcast": "broadcast", "reduce": "reduce",
    "gather": "gather", "scatter": "scatter", "sendrecv": "send_recv", "hypercube": "hypercube",
}  # fmt: skip
_OTHER_SIZE = ("all_to_all_v", "hypercube")  # their algbw is of other bytes than those in the size column

_TELLING = 4  # rows with the most digits
_MOST_DEDUCED = 1024

AMD = "AMD "  # what the names of AMD's GPUs begin with: the library there is RCCL


_UNNAMED = re.compile(r"[^\w.+-]", re.ASCII)


def op_of(program: str) -> str:
    """commbench's name for `all_reduce_perf`, `AllReduce`, `/path/alltoall_perf_mpi`; another name as it is."""
    name = _UNNAMED.sub("", re.split(r"_perf", program.strip().rpartition("/")[2])[0])
    return _OPS.get(name.lower().replace("_", ""), name[:40] or UNKNOWN)


def version_of(code: int) -> str:
    """22902 -> 2.29.2, 2804 -> 2.8.4 (NCCL_VERSION_CODE in nccl.h)."""
    wide = 10_000 if code >= 10_000 else 1_000
    return f"{code // wide}.{code % wide // 100}.{code % 100}"


# Half a character, which JSON can spell and no file can hold.
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def whole_text(json: str) -> str:
    """JSON without escapes of surrogates: each becomes U+FFFD."""
    return _HALF_CHARACTER.sub(r"\\ufffd", json)


class Printed(NamedTuple):
    """A number as it was printed: the value, and half a unit of its last digit."""

    value: float
    half: float


_NUMBER = re.compile(r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?(?:[eE][-+]?\d{1,3})?|nan|inf)", re.ASCII)


@lru_cache(4096)
def printed(text: str) -> Printed | None:
    """None where the text is no number."""
    if not _NUMBER.fullmatch(text):
        return None
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return Printed(float(text), 0.5 * float(f"1e{int(exponent or 0) - decimals}"))


class Block(NamedTuple):
    """What a row tells of one placement: microseconds, GB/s, wrong elements (None: not checked)."""

    in_place: bool
    time: Printed
    algbw: Printed
    busbw: Printed
    wrong: int | None = None
    why: str = ""  # a failure that is not a number of wrong elements
    told: tuple[tuple[str, float], ...] = ()
    samples: tuple[float, ...] = ()  # seconds

    def useless(self) -> str:
        """Why nothing was measured, "" where something was."""
        if not 1e-6 <= self.time.value <= 1e12:
            return f"a time of {self.time.value:g} us is none"
        if not all(math.isfinite(x.value) and x.value >= 0 for x in (self.algbw, self.busbw)):
            return "a bandwidth is not a number"
        return ""

    def damage(self, size: int, op: str) -> str:
        """Why the figures cannot belong together, "" where they can."""
        time, algbw = self.time, self.algbw
        if op not in _OTHER_SIZE and not near(*self._rates(size), algbw):
            return f"algbw {algbw.value:g} GB/s does not fit {size} B in {time.value:g} us"
        return ""

    def fits(self, size: int, op: str, ranks: int) -> bool:
        """Whether busbw is that of `ranks` ranks (True where no factor is known)."""
        factor = COLLECTIVES[op].factor if op in COLLECTIVES else None
        if factor is None or ranks < 1:
            return True
        low, high = self._rates(size)
        return near(low * factor(ranks), high * factor(ranks), self.busbw)

    def _rates(self, size: int) -> tuple[float, float]:
        """Lowest and highest rate in GB/s that the printed time allows."""
        value, half = self.time
        return size / (value + half) / 1e3, size / (value - half) / 1e3 if value > half else math.inf


def near(low: float, high: float, told: Printed) -> bool:
    """Whether a number printed as `told` can lie between low and high; rounding gets 4 % of its last digit more."""
    half = 1.04 * told.half + 1e-9 * told.value
    return low <= told.value + half and told.value - half <= high


class Row(NamedTuple):
    """One size of a table. `elements` is -1 where the format has none, `root` -1 where none applies."""

    line: int
    size: int
    elements: int
    dtype: str
    redop: str
    root: int
    blocks: tuple[Block, ...]

    def damage(self, op: str) -> str:
        """Why nothing of the row (of a size above 0) can be believed, "" where it can."""
        if self.dtype not in TYPES:
            return f"the type {self.dtype!r} is not known"
        whole = self.elements * TYPES[self.dtype][1]
        if self.elements >= 0 and op != "all_to_all_v" and (whole == 0 or self.size % whole):
            return f"{self.size} B are not {self.elements} elements of {self.dtype} from any number of ranks"
        return next(filter(None, (block.damage(self.size, op) for block in self.blocks)), "")


class Setting(NamedTuple):
    """What holds for all rows of a run."""

    op: str
    backend: str
    ranks: int = 0
    machine: Machine = NOWHERE
    mode: Mode = "throughput"
    calls: int = 0
    warmup: int = 0


class Launches:
    """Counts how often the same question was answered in a file by the same ranks under the same options."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[object, Case]] = Counter()

    def measurement(self, world: object, setting: Setting, row: Row, block: Block) -> Measurement:
        collective = COLLECTIVES.get(setting.op)
        reduces = row.redop not in ("none", "") and (collective is None or collective.reduces)
        case = Case(
            op=setting.op,
            backend=setting.backend,
            nbytes=row.size,
            dtype=TYPES[row.dtype][0],
            redop=row.redop if reduces else "sum",
            mode=setting.mode,
            in_place=block.in_place,
            root=max(row.root, 0),
        )
        launch = self._seen[world, case]
        self._seen[world, case] += 1
        why = block.why or (f"{block.wrong} wrong elements" if block.wrong else "")
        kind: Kind = "samples" if block.samples else "mean"
        return Measurement(
            case=case,
            status="failed" if why else "ok",
            why=why,
            ranks=setting.ranks,
            launch=launch,
            nbytes=row.size,
            seconds=block.samples or (block.time.value / 1e6,),
            kind=kind,
            told=dict(block.told),
            calls=1 if block.samples else setting.calls,
            warmup=setting.warmup,
            clock="imported",
            wrong=block.wrong,
        )


def deduced(rows: list[Row], ranks: int, name: str) -> tuple[str, str]:
    """(the collective, what told it) where no line names it; ("", ..) where several fit the columns.

    There is a root or not; a message is cut into one piece for each rank or not (size and count); and busbw / algbw is
    the collective's own bus factor. Of those that fit (all_gather and all_to_all look alike) the file's name `name` may
    choose one, and never one that does not fit.
    """
    told = [row for row in rows if row.size and row.elements > 0]
    combines = {row.redop not in ("", "none") for row in told}
    rooted = {row.root >= 0 for row in told}
    fitting = [
        op
        for op, collective in COLLECTIVES.items()
        if collective.factor is not None
        and (combines == {collective.reduces} or op == "send_recv")  # which prints a redop that it does not have
        and rooted == {collective.rooted}
        and _mostly(_cut(row, ranks, "n" in (collective.send, collective.recv)) for row in told)
        and _mostly(_rated(block, row.size, op, ranks) for row in told for block in row.blocks if not block.useless())
    ]
    if len(fitting) == 1:
        return fitting[0], "count, redop, root, and busbw / algbw"
    plain = re.sub(r"[^a-z]", "", name.lower())
    named = [op for op in fitting if op.replace("_", "") in plain]
    return (named[0], "the file's name, which the columns fit") if len(named) == 1 else ("", "not told")


def deduced_ranks(rows: list[Row], op: str) -> int:
    """The one number of ranks for which busbw / algbw is right in all rows; 0 where none or several are.

    Of all_reduce the factor is 2 (n - 1) / n, of most others (n - 1) / n: exact enough for small n in large rows.
    """
    factor = COLLECTIVES[op].factor if op in COLLECTIVES else None
    if factor is None or factor(2) == factor(3):
        return 0
    blocks = [(row.size, block) for row in rows for block in row.blocks if not block.useless() and block.busbw.value]
    telling = sorted(blocks, key=lambda pair: pair[1].busbw.half / pair[1].busbw.value)[:_TELLING]
    fitting = [n for n in range(2, _MOST_DEDUCED) if all(block.fits(size, op, n) for size, block in telling)]
    return fitting[0] if len(fitting) == 1 else 0


def _rated(block: Block, size: int, op: str, ranks: int) -> bool:
    """Whether busbw / algbw can be the factor of `op`, for these ranks or, where they are not known, for some."""
    if ranks:
        return block.fits(size, op, ranks)
    algbw, busbw = block.algbw, block.busbw
    above = busbw.value - busbw.half > algbw.value + algbw.half
    below = busbw.value + busbw.half < algbw.value - algbw.half
    factor = COLLECTIVES[op].factor
    few, many = (factor(2), factor(2**20)) if factor else (1.0, 1.0)
    return (many > 1 or not above) and (few < 1 or not below) and (few >= 1 or below or not busbw.value)


def _cut(row: Row, ranks: int, cut: bool) -> bool:
    """Whether size and count are those of a message cut into one piece for each rank, or of a whole one."""
    pieces, rest = divmod(row.size, row.elements * TYPES[row.dtype][1]) if row.dtype in TYPES else (0, 1)
    if rest:
        return False
    return pieces == (ranks if cut else 1) if ranks else (pieces > 1) == cut


def _mostly(said: Iterable[bool]) -> bool:
    """Damaged rows are few."""
    answers = list(said)
    return sum(answers) > 0.9 * len(answers) > 0


def trusted(rows: list[Row], setting: Setting, exact: bool = True) -> tuple[list[Row], list[tuple[int, str]], bool]:
    """(rows that can be believed, (line, reason) for the others, whether busbw contradicts the number of ranks).

    A bus bandwidth that does not fit the ranks is a damaged row where it is the exception, and an incomplete list
    of ranks where it is the rule. `exact`: the digits are so many that equal rows are copies.
    """
    good: list[Row] = []
    strange: list[Row] = []
    bad: list[tuple[int, str]] = []
    empty = [row.line for row in rows if row.size == 0]
    if empty:
        more = f" ({len(empty)} rows, the last is {empty[-1]})" if len(empty) > 1 else ""
        bad.append((empty[0], f"size 0: the time of an empty operation{more}"))
    seen: dict[tuple[object, ...], int] = {}
    for row in rows:
        before = seen.setdefault(row[1:], row.line) if exact else row.line
        if row.size == 0:
            continue
        if before != row.line:
            bad.append((row.line, f"the same as {before}"))
            continue
        useless = [(block, reason) for block in row.blocks if (reason := block.useless())]
        bad += [(row.line, f"{'in' if b.in_place else 'out of'} place: {reason}") for b, reason in useless]
        row = row._replace(blocks=tuple(block for block in row.blocks if not block.useless()))
        if not row.blocks:
            continue
        if reason := row.damage(setting.op):
            bad.append((row.line, reason))
        elif all(block.fits(row.size, setting.op, setting.ranks) for block in row.blocks):
            good.append(row)
        else:
            strange.append(row)
    if 2 * len(strange) > len(good):
        return sorted(good + strange, key=lambda row: row.line), sorted(bad), True
    bad += [(row.line, f"busbw does not fit algbw and {setting.ranks} ranks") for row in strange]
    return good, sorted(bad), False
