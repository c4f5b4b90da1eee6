"""The rows of an acceptance run as evidence: whose they are, what they say, and how a reason cites them. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from commbench.accept.observe import typical
from commbench.accept.stages import stage
from commbench.collectives import bandwidths
from commbench.errors import SpecError
from commbench.layouts import Groups, expand
from commbench.records import Case, Machine, Measurement
from commbench.records.verdict import Component, Stage

CITED = 12  # rows that one reason cites at most
Hosts = tuple[int, ...]


class Test(NamedTuple):
    """One group of ranks in one round.

    hosts     indices, ascending
    expected  ranks that the group must have
    seconds   of bandwidth the median of its samples, of latency their mean; None: not measured
    """

    row: Measurement
    hosts: Hosts
    stage: Stage
    expected: int
    seconds: float | None

    @property
    def cite(self) -> str:
        """How a reason names it: `KEY[group] round N`."""
        return f"{self.row.case.key}[{self.row.group}] round {self.row.launch}"

    @property
    def ok(self) -> bool:
        """It was measured, by all its ranks, and its data were right."""
        row = self.row
        return row.status == "ok" and self.seconds is not None and row.wrong == 0 and row.ranks == self.expected

    @property
    def busbw(self) -> float | None:
        """GB/s (1e9), of the median."""
        row, seconds = self.row, self.seconds
        return bandwidths(row.case.op, row.nbytes, row.ranks, seconds)[1] if seconds else None


class Evidence(NamedTuple):
    """All tests of a run in the order of their rounds; of several answers to one question the last counts.

    groups      layout -> its groups of ranks on this machine; none where it does not fit
    strangers   rows that belong to no group of this machine: evidence of nothing
    """

    machine: Machine
    tests: tuple[Test, ...]
    groups: dict[str, Groups]
    strangers: tuple[Measurement, ...] = ()

    def of(self, *stages: Stage) -> tuple[Test, ...]:
        return tuple(test for test in self.tests if test.stage in stages)

    def name(self, host: int) -> str:
        return self.machine.hosts[host].name

    def names(self, hosts: Iterable[int]) -> tuple[str, ...]:
        return tuple(map(self.name, hosts))

    def host(self, host: int) -> Component:
        return Component(kind="host", id=self.name(host))


def gather(machine: Machine, rows: Sequence[Measurement]) -> Evidence:
    """What the rows of a run are worth as tests."""
    last: dict[tuple[int, Case, int], Measurement] = {}
    for row in rows:
        if not row.control:
            last[row.launch, row.case, row.group] = row
    ordered = sorted(last.values(), key=lambda row: row.launch)
    groups = {
        symbol: groups_of(symbol, machine.host_of) for symbol in dict.fromkeys(row.case.groups for row in ordered)
    }
    hosts = {
        symbol: [tuple(sorted({machine.host_of[rank] for rank in group})) for group in each]
        for symbol, each in groups.items()
    }
    tests, strangers = [], []
    for row in ordered:
        each = groups[row.case.groups]
        if not 0 <= row.group < len(each):
            strangers.append(row)
            continue
        ranks = len(each[row.group])
        tests.append(Test(row, hosts[row.case.groups][row.group], stage(row.case), ranks, _seconds(row)))
    return Evidence(machine, tuple(tests), groups, tuple(strangers))


def groups_of(symbol: str, host_of: Sequence[int]) -> Groups:
    """The groups of a layout on this world; none where it does not fit."""
    try:
        return expand(symbol, host_of)
    except SpecError:
        return ()


def _seconds(row: Measurement) -> float | None:
    if row.status != "ok" or not row.seconds or not all(0 < value < math.inf for value in row.seconds):
        return None
    return typical(row)


def cited(tests: Iterable[Test]) -> tuple[str, ...]:
    """Citations, a bounded number of them, each once."""
    found = dict.fromkeys(test.cite for test in tests)
    return tuple(found)[:CITED]


def blame(bad: Sequence[Hosts], good: Iterable[Hosts]) -> dict[Hosts, list[int]]:
    """Who explains the tests that went wrong: hosts -> indices of `bad`. One host: it is the one. Several: it is one
    of these, and the tests do not tell which.

    A host with a good test is right with others, so of a bad test it is not the one, where somebody else can be. If
    that leaves nobody (it goes wrong now and then) or several, the host that most of the different bad tests have in
    common is the one. But that a host was not seen to be right proves nothing against it: where its bad tests have
    others in common too, it is one of these.
    """
    right = {host for hosts in good for host in hosts}
    times = Counter(host for hosts in set(bad) for host in hosts)
    found: dict[Hosts, list[int]] = {}
    for index, hosts in enumerate(bad):
        left = [host for host in hosts if host not in right] or list(hosts)
        most = max(times[host] for host in left)
        found.setdefault(tuple(host for host in left if times[host] == most), []).append(index)
    certain = {hosts[0] for hosts in found if len(hosts) == 1}
    for hosts in [hosts for hosts in found if len(hosts) > 1]:
        if one := [host for host in hosts if host in certain]:
            found[(one[0],)] += found.pop(hosts)
    proved: dict[Hosts, list[int]] = {}
    for hosts, which in found.items():
        common = tuple(sorted(set.intersection(*(set(bad[index]) for index in which))))
        proved.setdefault(hosts if len(hosts) > 1 else common, []).extend(which)
    return proved
