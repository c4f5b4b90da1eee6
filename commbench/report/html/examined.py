"""A run as the report looks at it: its rows with the limits of its links, and who was late."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from commbench import matchings
from commbench.errors import SpecError
from commbench.layouts import Groups, expand
from commbench.model import wire
from commbench.records import Machine, Measurement, Run
from commbench.records.recommendation import Recommendation
from commbench.records.verdict import Verdict
from commbench.report.html.lateness import Lateness, lateness
from commbench.report.view import one_line
from commbench.stats.rows import Row, rows

_LONGEST_LIST = 4


class Examined(NamedTuple):
    """name      differs from those of the other runs of the report
    note      a sentence about rows that are faster than their links (see model.wire.beyond)
    parts     what another tool's file told beside measurements
    verdict, recommendation   what an acceptance test or a search concluded
    """

    name: str
    run: Run
    rows: Sequence[Row]
    lateness: Lateness
    note: str | None = None
    parts: Sequence[Any] = ()
    verdict: Verdict | None = None
    recommendation: Recommendation | None = None

    @property
    def searched(self) -> bool:
        """A search, whether it has come to its end or not."""
        return self.recommendation is not None or "tune" in self.run.spec

    @property
    def accepts(self) -> bool:
        """An acceptance test, whether it has been judged or not."""
        return self.verdict is not None or "accept" in self.run.spec


def examine(
    name: str,
    run: Run,
    measurements: Sequence[Measurement],
    parts: Sequence[Any] = (),
    concluded: Verdict | Recommendation | None = None,
) -> Examined:
    """Everything that a report tells of one run."""
    found = rows(measurements, run.confidence)
    note = wire.beyond(found, run.machine)
    late = lateness(run.machine, measurements)
    verdict = concluded if isinstance(concluded, Verdict) else None
    advice = concluded if isinstance(concluded, Recommendation) else None
    return Examined(name, run, wire.with_limits(found, run.machine), late, note, parts, verdict, advice)


def members(machine: Machine, row: Row) -> tuple[int, ...]:
    """The ranks of the row's group; () where nobody can tell."""
    symbol, _, index = row.group.partition("[")
    groups = groups_of(symbol, machine.host_of)
    k = int(index.rstrip("]") or 0)
    return groups[k] if k < len(groups) else ()


@lru_cache(maxsize=2**12)
def meeting(symbol: str) -> matchings.Meeting | None:
    """The pairs of hosts that a layout is; None for every other layout."""
    try:
        found = matchings.parse(symbol)
    except SpecError:
        return None
    return found if found is not None and found.pairs else None


@lru_cache(maxsize=2**12)  # a run of n ranks in pairs has n rounds, and a row for each pair of each
def groups_of(symbol: str, host_of: tuple[int, ...]) -> Groups:
    """The groups of a layout; () where nobody can tell."""
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
