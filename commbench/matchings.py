"""Which hosts meet which: pairs of hosts at the same time, as symbols that stay short at any number of hosts.

    racks(0-3|4-7)/in/1        round 1 of pairs inside each rack (circle method); the hosts of a rack stand between bars
    racks(0-3|4-7)/across/2    round 2 of pairs whose hosts are in different racks
    meet(0-5,2-3)              these pairs
    only(0-3,6)                no pairs: all ranks of these hosts are one group
    each(0-3,6)                no pairs: the ranks of each of these hosts are a group
    ...@1                      rail 1 alone: local rank 1 of each host; without it every local rank meets its like
    ...#1/4                    part 1 of 4: every fourth pair, so that they do not share what is between racks

Numbers are indices of hosts in the run's machine. A host without a partner (an odd number of them) has a bye, which
goes round.
"""

import random
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from commbench.errors import SpecError

Pair = tuple[int, int]
_LIST = r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*"
_SYMBOL = re.compile(
    rf"(?:racks\((?P<racks>{_LIST}(?:\|{_LIST})*)\)/(?P<kind>in|across)/(?P<round>\d+)"
    rf"|meet\((?P<pairs>\d+-\d+(?:,\d+-\d+)*)\)|(?P<what>only|each)\((?P<hosts>{_LIST})\))(?:@(?P<rail>\d+))?(?:#(?P<part>\d+)/(?P<parts>[1-9]\d*))?"
)
_MAX_HOSTS = 65536


class Meeting(NamedTuple):
    """Pairs of hosts (the lower index first) that meet at once; `rail` None: on all rails together.

    Without pairs: hosts all together (`only`), or each for itself (`each`).
    """

    pairs: tuple[Pair, ...]
    rail: int | None = None
    only: tuple[int, ...] = ()
    each: tuple[int, ...] = ()


def circle(size: int, round_: int) -> tuple[Pair, ...]:
    """Round `round_` of the circle method on 0 to size-1: the last one (or a bye, if odd) stays, the others rotate."""
    n = size + size % 2
    if n < 2:
        return ()
    ring = [(round_ + k) % (n - 1) for k in range(n - 1)]
    table = [(ring[0], n - 1), *((ring[k], ring[n - 1 - k]) for k in range(1, n // 2))]
    return tuple(sorted((min(p), max(p)) for p in table if max(p) < size))


def inside(racks: Sequence[Sequence[int]], round_: int) -> tuple[Pair, ...]:
    """Pairs inside each rack; in rounds 0 to s-2 (s-1 if odd) of a rack of s hosts every pair meets once."""
    return _sorted((rack[a], rack[b]) for rack in racks for a, b in circle(len(rack), round_))


def across(racks: Sequence[Sequence[int]], round_: int) -> tuple[Pair, ...]:
    """Pairs between racks: hosts half the fleet apart in an order of racks that changes with the round.

    Of two equal racks round k pairs each host with the one k places further on in the other rack.
    """
    order = list(range(len(racks)))
    if len(order) > 2:
        random.Random(round_).shuffle(order)
    rack_of = {host: index for index, rack in enumerate(racks) for host in rack}
    line: list[int] = []
    for place, index in enumerate(order):
        rack, turn = racks[index], round_ * place
        line += [rack[(k + turn) % len(rack)] for k in range(len(rack))]
    half = len(line) // 2
    start = round_ % len(line) if len(line) % 2 else 0  # the bye goes round
    line = line[start:] + line[:start]
    return _sorted((a, b) for a, b in zip(line[:half], line[half : 2 * half], strict=True) if rack_of[a] != rack_of[b])


def _sorted(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    return tuple(sorted((min(pair), max(pair)) for pair in pairs))


def symbol(racks: Sequence[Sequence[int]], kind: str, round_: int, rail: int | None = None) -> str:
    """The symbol of a round inside racks (`in`) or `across` them."""
    return f"racks({'|'.join(spans(rack) for rack in racks)})/{kind}/{round_}{_rail(rail)}"


def meet(pairs: Sequence[Pair], rail: int | None = None) -> str:
    """The symbol of these pairs."""
    return f"meet({','.join(f'{a}-{b}' for a, b in pairs)}){_rail(rail)}"


def only(hosts: Sequence[int]) -> str:
    """The symbol of one group of all ranks of these hosts."""
    return f"only({spans(sorted(hosts))})"


def part(symbol: str, index: int, parts: int) -> str:
    """The symbol of every `parts`-th pair of a meeting, from pair `index` on; the meeting itself where it is whole."""
    return symbol if parts == 1 else f"{symbol}#{index}/{parts}"


def each(hosts: Sequence[int]) -> str:
    """The symbol of the ranks of each of these hosts."""
    return f"each({spans(sorted(hosts))})"


def _rail(rail: int | None) -> str:
    return "" if rail is None else f"@{rail}"


def spans(numbers: Sequence[int]) -> str:
    """`0-3,7` of (0, 1, 2, 3, 7); the order is kept."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _numbers(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        if int(high or low) - int(low) > _MAX_HOSTS:
            raise SpecError(f"{part!r}: more than {_MAX_HOSTS:,} hosts")
        found += range(int(low), int(high or low) + 1)
    return tuple(found)


def parse(symbol: str) -> Meeting | None:
    """The meeting that a symbol stands for; None where it is no such symbol.

    SpecError: a host twice at the same time, or a host that meets itself.
    """
    match = _SYMBOL.fullmatch(symbol)
    if match is None:
        return None
    rail = int(match["rail"]) if match["rail"] else None
    if match["hosts"]:
        hosts = _numbers(match["hosts"])
        _once(symbol, hosts)
        return Meeting((), rail, **{match["what"]: hosts})
    if match["pairs"]:
        pairs = [tuple(map(int, pair.split("-"))) for pair in match["pairs"].split(",")]
        _once(symbol, [host for pair in pairs for host in pair])
        return Meeting(_of_part(match, [(min(pair), max(pair)) for pair in pairs]), rail)
    racks = [_numbers(rack) for rack in match["racks"].split("|")]
    _once(symbol, [host for rack in racks for host in rack])
    made = inside if match["kind"] == "in" else across
    return Meeting(_of_part(match, made(racks, int(match["round"]))), rail)


def _of_part(match: "re.Match[str]", pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    return tuple(pairs[int(match["part"] or 0) :: int(match["parts"] or 1)])


def _once(symbol: str, hosts: Sequence[int]) -> None:
    if len(set(hosts)) != len(hosts):
        twice = next(host for host in hosts if list(hosts).count(host) > 1)
        raise SpecError(f"{symbol[:80]!r}: host {twice} cannot be in two places at once")


def groups(meeting: Meeting, host_of: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Groups of ranks, pair after pair, and of a pair one for each rail. host_of[rank] is the rank's host index.

    SpecError: a host without ranks, or one without that rail.
    """
    ranks: dict[int, list[int]] = {}
    for rank, host in enumerate(host_of):
        ranks.setdefault(host, []).append(rank)
    members = [host for pair in meeting.pairs for host in pair] + [*meeting.only, *meeting.each]
    for host in members:
        if host not in ranks:
            raise SpecError(f"host {host} has no rank here")
        if meeting.rail is not None and meeting.rail >= len(ranks[host]):
            raise SpecError(f"host {host} has {len(ranks[host])} ranks, and so no rail {meeting.rail}")
    if meeting.each:
        return tuple(tuple(ranks[host]) for host in meeting.each)
    if meeting.only:
        found = [rank for host in meeting.only for rank in ranks[host]]
        one = found if meeting.rail is None else [ranks[host][meeting.rail] for host in meeting.only]
        return (tuple(sorted(one)),)
    return tuple(
        (min(ranks[a][rail], ranks[b][rail]), max(ranks[a][rail], ranks[b][rail]))
        for a, b in meeting.pairs
        for rail in rails(meeting, min(len(ranks[a]), len(ranks[b])))
    )


def rails(meeting: Meeting, local_ranks: int) -> tuple[int, ...]:
    """The rails on which the ranks of a pair meet, in the order of its groups."""
    return tuple(range(local_ranks)) if meeting.rail is None else (meeting.rail,)
