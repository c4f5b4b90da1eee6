"""The grammar of one line of an nccl-tests or rccl-tests table, whatever its columns.

    size count type [redop] [root]  time algbw busbw [copybw] [#wrong | error | res] [i_min i_max i_p99 i_cv%]  ...

The program prints the beginning and each placement by a call of its own, so that NCCL's log can come between: a line
is therefore read into a Head and figures, either of which may be missing.
"""

import math
import re
from itertools import pairwise
from typing import NamedTuple

from commbench.readers.nccl_names import REDOPS, TYPES, Block, Printed, printed

_MOST_WORDS = 60
LONGEST = 4096  # characters of a line that can be a row
_COLUMNS = {
    "size": "size", "bytes": "size", "count": "count", "N": "count", "type": "type", "redop": "redop", "op": "redop",
    "root": "root", "time": "time", "cputime": "time", "algbw": "algbw", "busbw": "busbw", "copybw": "copybw",
    "#wrong": "wrong", "error": "error", "res": "error", "i_min": "min", "i_max": "max", "i_p99": "p99",
    "i_cv%": "cv", "timestamp": "timestamp",
}  # fmt: skip
_FIGURES = ("time", "algbw", "busbw", "wrong")
_PER_CALL = (*_FIGURES, "min", "max", "p99", "cv")
_OVERLAP = ("time", "algbw", "busbw", "copybw", "wrong")
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLOCK = re.compile(r"\d\d:\d\d:\d\d", re.ASCII)
_DIGITS = re.compile(r"(?:.*[:|>\])])?(\d{1,18})", re.ASCII)  # a launcher's tag may stick to the size
_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_ROOT = re.compile(r"-?\d{1,7}", re.ASCII)


class Layout(NamedTuple):
    """Columns as the header names them. `scale`: microseconds in a unit of time."""

    head: tuple[str, ...]
    figures: tuple[str, ...]  # of one placement
    placements: tuple[bool, ...]  # in place or not, in order
    scale: float = 1.0
    commas: bool = False


class Head(NamedTuple):
    """The beginning of a row. `root` is -1 where there is none."""

    size: int
    elements: int
    dtype: str
    redop: str
    root: int


class Pieces(NamedTuple):
    """What a line holds of a row: its beginning, and the words of figures after it."""

    head: Head | None
    words: tuple[str, ...]


def header(line: str, only: bool | None) -> Layout | None:
    """The layout that a header line names.

    `only`: whether a single placement is the one in place, as the line before tells; None: no line told it.
    """
    if "algbw" not in line or "busbw" not in line or len(line) > LONGEST:
        return None
    words = line.replace(",", " ").split()
    begin = next((k for k, word in enumerate(words) if word in ("size", "bytes")), -1)
    names = [_COLUMNS.get(word, "") for word in words[begin:]] if begin >= 0 else []
    if "" in names or "time" not in names or names[:3] != ["size", "count", "type"]:
        return None
    first = names.index("time")
    names = [name for name in names if name != "timestamp"]
    number = names.count("time")
    figures = tuple(names[first : first + (len(names) - first) // number])
    if list(figures) * number != names[first:] or number > 2 or figures[:3] != _FIGURES[:3]:
        return None
    placements = (False, True) if number == 2 else () if only is None else (only,)
    old = "bytes" in words and "res" in words  # the first releases printed milliseconds
    return Layout(tuple(names[:first]), figures, placements, 1e3 if old else 1.0, "size,count" in line)


def pieces(line: str, layout: Layout | None) -> Pieces | None:
    """What of a row is in the line; None: nothing."""
    if not line or len(line) > LONGEST:
        return None
    words = (line.replace(",", " ") if layout and layout.commas else line).split(None, _MOST_WORDS)
    if len(words) > _MOST_WORDS:
        return None
    if len(words) > 2 and _DAY.fullmatch(words[-2]) and _CLOCK.fullmatch(words[-1]):
        del words[-2:]
    at = next((k for k, word in enumerate(words) if k > 1 and word in TYPES), 0)
    if not at:
        return Pieces(None, tuple(words)) if len(words) in (3, 4, 5, 6, 8, 10, 16) and _all_figures(words) else None
    size, count = _DIGITS.fullmatch(words[at - 2]), _COUNT.fullmatch(words[at - 1])
    if not size or not count:
        return None
    rest = words[at + 1 :]
    redop = rest.pop(0) if rest and rest[0] in REDOPS else ""
    root = -1
    if rest and _ROOT.fullmatch(rest[0]) and _has_root(layout, len(rest)):
        root = int(rest.pop(0))
    return (
        Pieces(Head(int(size[1]), int(count[0]), words[at], redop, root), tuple(rest)) if _all_figures(rest) else None
    )


def _has_root(layout: Layout | None, rest: int) -> bool:
    if layout is not None:
        return "root" in layout.head
    return rest in (1, 5, 9, 17, 11)


def _all_figures(words: list[str]) -> bool:
    return all(word == "N/A" or printed(word.rstrip("*")) for word in words)


def looks_like_a_row(line: str, inside: bool) -> bool:
    """Whether somebody would take the line for a row; `inside`: it stands between a header and a footer."""
    if len(line) > LONGEST:
        return False
    words = line.split(None, _MOST_WORDS)
    if not 3 <= len(words) <= 24:
        return False
    numbers = sum(printed(word) is not None or word == "N/A" for word in words)
    typed = any(word in TYPES for word in words)
    begins = inside and typed and any(a in TYPES and _COUNT.fullmatch(b) for b, a in pairwise(words))
    return begins or (numbers >= 6 and len(words) - numbers <= 4 and (inside or typed))


def blocks(words: tuple[str, ...], layout: Layout | None) -> tuple[Block, ...] | str:
    """The figures of a row, or why they are none."""
    if layout is None:
        figures = {8: _FIGURES, 16: _PER_CALL, 10: _OVERLAP}.get(len(words))
        if figures is None:
            return "one placement, and no header that tells which" if len(words) == 4 else "the row is not complete"
        layout = Layout((), figures, (False, True))
    if not layout.placements:
        return "one placement, and no line that tells which"
    width = len(layout.figures)
    if len(words) % width or not 1 <= len(words) // width <= len(layout.placements):
        return f"{len(words)} figures where the header has {width * len(layout.placements)}"
    found = []
    for k, in_place in zip(range(0, len(words), width), layout.placements, strict=False):
        block = _block(dict(zip(layout.figures, words[k : k + width], strict=True)), in_place, layout.scale)
        if isinstance(block, str):
            return block
        found.append(block)
    return tuple(found)


def _block(words: dict[str, str], in_place: bool, scale: float) -> Block | str:
    wrong, why = _wrong(words.get("wrong", words.get("error", "N/A")), words)
    numbers = {name: printed(word) for name, word in words.items() if name not in ("wrong", "error")}
    known = {name: number for name, number in numbers.items() if number is not None}
    if len(known) < len(numbers):
        return "N/A where a time or a bandwidth should be"
    if why == "?":
        return "the number of wrong elements is none"
    time = known["time"]
    # i_cv% is left out: it is relative to a mean of the per-call times that the text does not print
    told = tuple((name, known[name].value / 1e6) for name in ("min", "max", "p99") if name in known)
    if not all(0 < value < math.inf for _, value in told):
        return "a time per call is none"
    time = Printed(time.value * scale, time.half * scale)
    return Block(in_place, time, known["algbw"], known["busbw"], wrong, why, told)


def _wrong(word: str, words: dict[str, str]) -> tuple[int | None, str]:
    """(wrong elements or None, why the row failed; "?" where the word makes no sense).

    The older `error` is the largest deviation: only an exact 0 says something about the number of wrong elements,
    and only rccl-tests tells, by an asterisk, when it was too large.
    """
    if word == "N/A":
        return None, ""
    number = printed(word.rstrip("*"))
    if number is None or not 0 <= number.value < 2**63:
        return None, "?"
    if "error" in words or "e-" in word or word.startswith("0e"):
        return (0 if number.value == 0 else None), f"error {word}" if word.endswith("*") else ""
    return (int(number.value), "") if number.value.is_integer() else (None, "?")
