"""The words that sentences of the report are made of. Text from outside comes out as one line."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from commbench.records import Machine
from commbench.report.html.examined import Examined, hosts, members
from commbench.report.view import ABOUT, figure, known_digits, one_line
from commbench.stats.rows import Row

_LONGEST = 300  # characters of a sentence that came from elsewhere
_LAYOUT = 80  # of a layout


Level = Literal["", "warning", "error"]


class Said(NamedTuple):
    """A sentence, and the section of the page that shows what it rests on."""

    text: str
    section: str = ""
    level: Level = ""


def about(row: Row) -> str:
    """`gloo, world, NCCL_ALGO=Ring`: what tells a row from others beside collective and size."""
    words = [row.backend, short(row.group), ABOUT["settings"][1](row), "latency mode" if row.mode == "latency" else ""]
    return ", ".join(one_line(word) for word in words if word)


def short(layout: str) -> str:
    """One line of a few words: pairs of many hosts are a long symbol. Which group it is stays."""
    text = one_line(layout)
    if len(text) <= _LAYOUT:
        return text
    name, bracket, group = text.rpartition("[")
    end = f"[{group}" if bracket and len(group) < 12 else ""
    return f"{(name if end else text)[:_LAYOUT]}…{end}"


def group(machine: Machine, row: Row) -> str:
    """`Ranks 0 and 5 (h1, h6)`."""
    ranks = members(machine, row)
    at = hosts(machine, ranks)
    if not ranks:
        return f"Group {short(row.group)}"
    names = f"Ranks {ranks[0]} and {ranks[1]}" if len(ranks) == 2 else f"Group {short(row.group)}"
    return names + (f" ({at})" if at else "")


def rate(row: Row) -> str:
    """`0.123 GB/s`, to the digits that its interval supports."""
    return f"{figure(row.busbw_gbps, int(known_digits([row])[0]))} GB/s"


def duration(row: Row) -> str:
    """`4.64 ms`, to the digits that its interval supports."""
    time, known = row.median_us or 0.0, int(known_digits([row])[0])
    unit, scale = next(((u, s) for u, s in (("s", 1e6), ("ms", 1e3)) if time >= s), ("us", 1.0))
    return f"{figure(time / scale, known)} {unit}"


def percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.0f} %"


def named(runs: Sequence[Examined], one: Examined, text: str) -> str:
    """With the name of the run, where there are several."""
    return f"{one.name}: {text}" if len(runs) > 1 else text


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def ended(text: str) -> str:
    """One line that ends in a full stop and is not endless."""
    told = one_line(text).strip()
    told = told if len(told) <= _LONGEST else told[:_LONGEST].rstrip() + " ..."
    return told if told.endswith((".", "!", "?")) else f"{told}."


def sentence(text: str) -> str:
    """As ended, with a capital."""
    return capital(ended(text))
