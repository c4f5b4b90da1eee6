"""What to measure next until every host is cleared or blamed: everybody first, then suspects with cleared partners.

A hunt is a function of what was seen: one that is told the same meetings asks the same next one, whether it was
interrupted or not.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np

from commbench import matchings
from commbench.accept.classify import unexplained
from commbench.accept.fit import matters
from commbench.accept.locate import State, state, told
from commbench.accept.pairtests import IntArray
from commbench.accept.schedule import Met, Spread, met
from commbench.accept.terms import DEFAULT, Fleet, Found, Key, Located, Options, Seen
from commbench.matchings import Pair

_MOST_SPREAD = 3  # times Options.spread: rounds of everybody at most
_CONTROLS = (2, 8)  # pairs that must be fine, beside those in question: as many as these, but so many at least and most
_SMALL = 16  # hosts: in so small a fleet the same few meet again and again
_FEW = 50.0  # of fewer tests nobody knows how many are congested


class Hunt:
    """Asks for meetings one at a time.

    seen    meetings that took place before, in their order
    hosts   those that take part (indices); None: all of the fleet
    """

    def __init__(
        self, fleet: Fleet, options: Options = DEFAULT, seen: Sequence[Seen] = (), hosts: Sequence[int] | None = None
    ) -> None:
        self._fleet, self._options = fleet, options
        self._hosts = tuple(range(fleet.hosts)) if hosts is None else tuple(sorted(set(hosts)))
        self._spread = Spread(fleet, self._hosts, options)
        self._base = self._spread.base
        self._planned: dict[tuple[int, int], list[tuple[str, Met]]] = {}
        self._seen = list(seen)
        self._state: State | None = None
        self._accused: tuple[int, tuple[Key, ...]] | None = None  # (since, what the meetings before it accused)

    def ask(self) -> str | None:
        """The symbol of the next meeting; None: all is decided, or cannot be."""
        if len(self._hosts) < 2:
            return None
        left = Counter((one.meeting.pairs, one.meeting.rail) for one in self._seen if one.meeting.pairs)
        many = left.total()
        base = self._base
        symbol = self._next(0, base, left)
        if symbol is None and len(self._hosts) > 2:
            symbol = self._next(base, self._rounds(), left)
            symbol = symbol or self._confirm(left, many)
        return symbol

    def again(self, since: int) -> str | None:
        """A meeting of all that the meetings before number `since` accused and that is neither slow nor cleared in
        those from there on; None: there is nothing of the kind.

        For the end, when everything else is done: congestion that stayed for a while is gone then, a fault is not.
        """
        if self._accused is None or self._accused[0] != since:
            before = state(self._fleet, self._seen[:since], self._options, self._hosts)
            self._accused = since, tuple(one.key for one in before.standing.found)
        now = self.state()
        late = {one.key for one in now.standing.found if any(meeting >= since for meeting, _ in one.seen)}
        doubted = [key for key in self._accused[1] if key not in late and not _refuted(key, now)]
        if not doubted or now.standing.blind or len(self._hosts) < 3:
            return None
        return self._suspects(Doubts(self._fleet, now, Counter(), doubted), self.met, False)

    def tell(self, seen: Seen) -> None:
        self._seen.append(seen)
        self._state = None

    @property
    def met(self) -> int:
        """How many meetings there have been."""
        return len(self._seen)

    def located(self) -> Located:
        return told(self._fleet, self._seen, self._options, self.state())

    def state(self) -> State:
        if self._state is None:
            self._state = state(self._fleet, self._seen, self._options, self._hosts)
        return self._state

    # -- everybody

    def _next(self, first: int, end: int, left: "Counter[Met]") -> str | None:
        """The first of these rounds that has not taken place; those that have are taken out of `left`."""
        for block in [(k, k + 1) for k in range(first, end)] if first else [(first, end)]:
            if block not in self._planned:
                symbols = [(symbol, met(symbol)) for symbol in self._spread.rounds(*block)]
                self._planned[block] = [(symbol, planned) for symbol, planned in symbols if planned[0]]
            for symbol, planned in self._planned[block]:
                if not left[planned]:
                    return symbol
                left[planned] -= 1
        return None

    def _rounds(self) -> int:
        """How many rounds it takes so that no healthy host lacks a clean test, and that jitter averages out.

        m* = ceil(ln(N / alpha) / ln(1 / eps)); eps is the share of tests between cleared hosts that were congested,
        less two standard deviations: a round of everybody is dear, and who lacks a clean test is asked again anyway.
        """
        options, now = self._options, self.state()
        problem, slow = now.fit.hosts.problem, unexplained(now.fit) > 0
        fine = now.standing.cleared[problem.ends[:, :2]].all(axis=1)
        many = float(slow[fine].sum())
        eps = max(many - 2 * math.sqrt(many), 1.0) / max(float(fine.sum()), _FEW)
        clean = math.log(len(self._hosts) / options.alpha) / math.log(1 / eps)
        sigma = max(now.fit.noise.sigma, now.fit.noise.sigma_across if now.fit.tests.across.any() else 0.0)
        calm = 2 * math.log(1 / options.beta) * (sigma / matters(options)) ** 2
        kinds = max(len(self._spread.kinds), 1)
        rounds = math.ceil(max(clean, calm) / kinds)
        return min(max(rounds, self._base), _MOST_SPREAD * self._base)

    # -- suspects

    def _confirm(self, done: "Counter[Met]", meetings: int) -> str | None:
        """The next meeting of suspects. done: those there have been; meetings: how many in all."""
        many = done.total()
        if many >= self._options.most_confirm or self.state().standing.blind:
            return None
        confirmed = Counter(host for (pairs, _), times in done.items() for p in pairs for host in p * times)
        return self._suspects(Doubts(self._fleet, self.state(), confirmed), meetings, many % 2 == 1)

    def _suspects(self, doubts: "Doubts", meetings: int, odd: bool) -> str | None:
        """Who is in question, of uplinks in turn with all others, and of one rail in turn with all rails."""
        draw = random.Random(f"{self._options.seed}/{meetings}")
        if doubts.uplinks and (not odd or (not doubts.hosts and not doubts.paths)):
            return self._spread.symbol("across", self._base * _MOST_SPREAD + meetings)
        pairs = doubts.pairs(draw)
        if not pairs:
            return None
        rail = doubts.rail(draw) if self._fleet.rails > 1 and odd else None
        # in descending order, as no round of everybody is: what was seen tells for itself what it was for
        return matchings.meet(sorted(pairs, reverse=True), rail)


class Doubts:
    """What is still in question, and who should meet whom to settle it.

    hosts     suspects, those with the fewest tests first; nics: (host, rail); paths: pairs; uplinks: racks
    accused   ask for these, and not for what is in question
    """

    def __init__(self, fleet: Fleet, now: State, confirmed: "Counter[int]", accused: Sequence[Key] = ()) -> None:
        self._fleet, self._now = fleet, now
        self._rack = fleet.rack_of
        self._again = confirmed
        standing = now.standing
        asked = list(accused)
        if not accused:
            asked = [one.key for one in standing.found if self._unsure(one)] + list(standing.open)
            asked += [tie for one in standing.found if _breakable(one) for tie in one.ties]
        named = {host for one in standing.found if one.kind in ("host", "nic") for host in one.hosts}
        unclear = {int(host) for host in np.flatnonzero(now.here & ~standing.cleared)} - named
        hosts = {key.hosts[0] for key in asked if key.kind in ("host", "nic")} | (set() if accused else unclear)
        tests = standing.hosts.tests
        self.hosts = sorted(hosts, key=lambda host: (int(tests[host]), host))
        self.nics = [(key.hosts[0], key.rail) for key in asked if key.kind == "nic" and key.rail is not None]
        self.rails = [key.rail for key in asked if key.rail is not None]
        self.paths = list(dict.fromkeys((key.hosts[0], key.hosts[1]) for key in asked if key.kind == "path"))
        # a slow end hides what is between; of a suspected one the path waits, where others could explain the end
        waiting = (
            named | {key.hosts[0] for key in standing.open if key.kind == "host"} if now.here.sum() > _SMALL else named
        )
        self.paths = [pair for pair in self.paths if not waiting & set(pair)]
        self.uplinks = [
            key.rack for key in asked if key.kind == "uplink" and (accused or not _structural(key, standing.found))
        ]
        self._named = named | hosts
        self._racks = np.asarray(fleet.rack_of, dtype=np.int64)
        self._blurred = np.zeros(self._racks.max(initial=0) + 1, dtype=np.bool_)  # racks with an uplink in question
        self._blurred[[key.rack for key in [*asked, *(one.key for one in standing.found)] if key.rack is not None]] = (
            True
        )
        self._worth = np.where(standing.cleared, 0, 1)  # as a partner: cleared, not cleared, slow
        self._worth[list(hosts)] = 1
        self._worth[list(named)] = 2

    def _unsure(self, one: Found) -> bool:
        """A finding that no round of confirmation has seen, or that something else explains as well."""
        if _breakable(one):
            return True
        return one.kind in ("host", "nic") and not self._again[one.hosts[0]]

    def _partners(self, host: int) -> IntArray:
        """How often the host has been measured with each other."""
        tests = self._now.fit.tests
        mine = (tests.a == host) | (tests.b == host)
        return np.bincount((tests.a + tests.b)[mine] - host, minlength=self._fleet.hosts)

    def rail(self, draw: random.Random) -> int | None:
        """A rail in question, each in turn by chance; None: all together."""
        return draw.choice(self.rails) if self.rails else None

    def pairs(self, draw: random.Random) -> list[Pair]:
        """Suspects with cleared partners whom they have met least, suspected paths again, and as many controls."""
        free = [int(host) for host in np.flatnonzero(self._now.here)]
        draw.shuffle(free)
        left = dict.fromkeys(free)
        found: list[Pair] = []

        def take(a: int, b: int) -> None:
            left.pop(a), left.pop(b)
            found.append((min(a, b), max(a, b)))

        for host in self.hosts:
            if host in left and (partner := self._partner(host, left)) is not None:
                take(host, partner)
        for a, b in self.paths:
            if a in left and b in left:
                take(a, b)
        if not found:
            return []
        beyond = sum(self._rack[a] != self._rack[b] for a, b in found)
        for across, wanted in ((False, len(found) - beyond), (True, beyond)):
            for a, b in self._controls(left, across, min(max(wanted, _CONTROLS[0]), _CONTROLS[1]) if wanted else 0):
                take(a, b)
        return found

    def _partner(self, host: int, left: dict[int, None]) -> int | None:
        """Cleared hosts first, those of the same rack before others, those met least before the rest."""
        who = np.array([other for other in left if other != host], dtype=np.int64)
        if not len(who):
            return None
        apart = self._racks[who] != self._racks[host]
        blurred = apart & (self._blurred[self._racks[who]] | self._blurred[self._racks[host]])
        merit = 2000 * self._worth[who] + 3000 * blurred + 2 * np.minimum(self._partners(host)[who], 400) + apart
        return int(who[np.argmin(merit)])

    def _controls(self, left: dict[int, None], across: bool, wanted: int) -> list[Pair]:
        """Pairs of cleared hosts nobody asks about, inside racks or across them."""
        good = [host for host in left if self._now.standing.cleared[host] and host not in self._named]
        found: list[Pair] = []
        waiting: dict[int, list[int]] = {}
        for host in good:
            if len(found) == wanted:
                break
            rack = self._rack[host]
            place = next((r for r in waiting if waiting[r] and (r != rack) == across), None)
            if place is None:
                waiting.setdefault(rack, []).append(host)
            else:
                found.append((waiting[place].pop(), host))
        return found


def _breakable(one: Found) -> bool:
    """Another explanation is as good, and more tests may tell them apart."""
    return any(tie.kind in ("host", "path") for tie in one.ties) and len(one.hosts) > 0


def _refuted(key: Key, now: State) -> bool:
    """Nothing speaks for it any more: its hosts are cleared, and it is neither found nor in question."""
    named = {one.key for one in now.standing.found} | set(now.standing.open)
    return key not in named and bool(now.standing.cleared[list(key.hosts)].all())


def _structural(key: Key, found: Sequence[Found]) -> bool:
    return any(one.kind in ("uplink", "fabric") and (key in one.ties or key == one.key) for one in found)
