"""Which meetings everybody takes part in, in which order: the spread of an acceptance test. Pure."""

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

from commbench import matchings
from commbench.accept.terms import Fleet, Options
from commbench.matchings import Pair

Met = tuple[tuple[Pair, ...], int | None]
_TESTS = 12


@lru_cache(maxsize=64)
def met(symbol: str) -> Met:
    """(pairs, rail) of the meeting that a symbol stands for; no pairs where it is none."""
    meeting = matchings.parse(symbol)
    return ((), None) if meeting is None else (meeting.pairs, meeting.rail)


class Spread:
    """Rounds of pairs for `hosts` of a fleet: inside racks and across them, each rail alone and all together.

    Round k of a kind is another matching as long as there are others. The start is drawn by the seed.
    """

    def __init__(self, fleet: Fleet, hosts: Sequence[int], options: Options) -> None:
        groups: dict[int, list[int]] = {}
        for host in sorted(hosts):
            groups.setdefault(fleet.rack_of[host], []).append(host)
        self.racks = tuple(tuple(group) for group in groups.values())
        self.kinds = [
            kind
            for kind, there in (("in", any(len(rack) > 1 for rack in self.racks)), ("across", len(self.racks) > 1))
            if there
        ]
        self.rails, self._alone = fleet.rails, max(options.spread, 1)
        largest = max(map(len, self.racks), default=0)
        self._cycle = {"in": max(largest - 1 + largest % 2, 1), "across": max(largest, 1)}
        # so many rounds; a few more where everybody then meets everybody else of the kind, and no path is left out
        cycle = max((self._cycle[kind] for kind in self.kinds), default=0)
        self.base = max(self._alone, cycle if cycle <= 2 * self._alone + 1 else 0)
        if len(self.kinds) == 1 and len(hosts) > 2:  # of fewer tests nobody knows how much they scatter
            self.base = max(self.base, min(2 * self._alone, -(-_TESTS // (len(hosts) // 2))))
        draw = random.Random(options.seed)
        self._start = {kind: draw.randrange(cycle) for kind, cycle in self._cycle.items()}
        self._step = max(1, round(self._cycle["in"] * 0.382))  # neighbouring rounds share partners of partners
        while largest > 1 and _common(self._step, self._cycle["in"]) > 1:
            self._step -= 1

    def rounds(self, first: int, end: int) -> Iterator[str]:
        """Symbols of rounds `first` to `end` - 1, kinds in turn: all rails together, and then each alone."""
        for k in range(first, end):
            yield from (self.symbol(kind, k) for kind in self.kinds)
        if self.rails > 1 and self.kinds:
            for k in range(first, min(end, self._alone)):
                yield from (self.symbol(self.kinds[0], k + 1, rail) for rail in range(self.rails))

    def symbol(self, kind: str, k: int, rail: int | None = None) -> str:
        """The symbol of round k of a kind."""
        turn = k + (rail or 0)
        if kind == "in":
            return matchings.symbol(self.racks, kind, (self._start[kind] + turn * self._step) % self._cycle["in"], rail)
        return matchings.symbol(self._turned(turn), kind, self._start[kind] + turn, rail)

    def _turned(self, k: int) -> Sequence[Sequence[int]]:
        """The racks, their hosts turned where they differ in size: else the same ones would always be left out."""
        if len(set(map(len, self.racks))) == 1:
            return self.racks
        return [rack[k % len(rack) :] + rack[: k % len(rack)] for rack in self.racks]


def _common(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a
