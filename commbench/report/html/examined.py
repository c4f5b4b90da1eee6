"""A run as the report looks at it: its rows with the limits of its links, and who was late."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from commbench.errors import SpecError
from commbench.layouts import Groups, expand
from commbench.model import wire
from commbench.records import Machine, Measurement, Run
from commbench.report.html.lateness import Lateness, lateness
from commbench.report.view import one_line
from commbench.stats.rows import Row, rows

_LONGEST_LIST = 4


class Examined(NamedTuple):
    """name      differs from those of the other runs of the report
    note      a sentence about rows that are faster than their links (see model.wire.beyond)
    parts     what another tool's file told beside measurements
    """

    name: str
    run: Run
    rows: Sequence[Row]
    lateness: Lateness
    note: str | None = None
    parts: Sequence[Any] = ()


def examine(name: str, run: Run, measurements: Sequence[Measurement], parts: Sequence[Any] = ()) -> Examined:
    """Everything that a report tells of one run."""
    found = rows(measurements, run.confidence)
    note = wire.beyond(found, run.machine)
    return Examined(name, run, wire.with_limits(found, run.machine), lateness(run.machine, measurements), note, parts)


def members(machine: Machine, row: Row) -> tuple[int, ...]:
    """The ranks of the row's group; () where nobody can tell."""
    symbol, _, index = row.group.partition("[")
    groups = _groups(symbol, machine.host_of)
    k = int(index.rstrip("]") or 0)
    return groups[k] if k < len(groups) else ()


@lru_cache(maxsize=2**12)  # a run of n ranks in pairs has n rounds, and a row for each pair of each
def _groups(symbol: str, host_of: tuple[int, ...]) -> Groups:
    try:
        return expand(symbol, host_of)
    except SpecError:  # a layout of another tool
        return ()


def host(machine: Machine, rank: int) -> str:
    """The name of the rank's host, "" where it is not known."""
    if not 0 <= rank < len(machine.host_of):
        return ""
    return one_line(machine.hosts[machine.host_of[rank]].name)


def hosts(machine: Machine, ranks: Iterable[int]) -> str:
    """`h1, h6`: the hosts of some ranks, a few of them named; "" where they are not known."""
    return listed(dict.fromkeys(filter(None, (host(machine, rank) for rank in ranks))))


def listed(names: Iterable[str], most: int = _LONGEST_LIST) -> str:
    """`a, b and 3 more`."""
    every = list(names)
    shown = every if len(every) <= most else every[: most - 1]
    return ", ".join(shown) + (f" and {len(every) - len(shown)} more" if len(shown) < len(every) else "")


def counted(count: int, word: str) -> str:
    """`1 row`, `3 rows`."""
    return f"{count:,} {word}{'s' * (count != 1)}"


def tool(run: Run) -> str:
    """The program that measured."""
    return one_line(run.origin.tool if run.origin else f"commbench {run.commbench}")
