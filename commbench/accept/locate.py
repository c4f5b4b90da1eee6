"""Which component is slow, from tests of pairs: pure and deterministic, in the same words for bandwidth and latency."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from commbench.accept.classify import Standing, faster, stand
from commbench.accept.fit import Fit, fit, spare
from commbench.accept.pairtests import BoolArray, columns
from commbench.accept.schedule import Spread, met
from commbench.accept.terms import DEFAULT, Fleet, Found, Key, Located, Options, Seen

__all__ = ["Fleet", "Found", "Key", "Located", "Options", "Seen", "State", "locate", "state"]


class State(NamedTuple):
    """All that the tests tell so far. here: one a host, whether it takes part."""

    here: BoolArray
    fit: Fit
    standing: Standing


def state(fleet: Fleet, seen: Sequence[Seen], options: Options, hosts: Sequence[int] | None = None) -> State:
    here = np.zeros(fleet.hosts, dtype=np.bool_)
    here[list(range(fleet.hosts)) if hosts is None else list(hosts)] = True
    tests = columns(fleet, seen, here)
    fitted = fit(fleet, tests, options, here)
    return State(here, fitted, stand(fitted, fleet, options, here))


def locate(
    fleet: Fleet, seen: Sequence[Seen], options: Options = DEFAULT, hosts: Sequence[int] | None = None
) -> Located:
    """What is slow in a fleet by what was seen of it. hosts: those that take part; None: all.

    ValueError: times that do not belong to their meeting, or to this fleet.
    """
    return told(fleet, seen, options, state(fleet, seen, options, hosts))


def told(fleet: Fleet, seen: Sequence[Seen], options: Options, now: State) -> Located:
    """The state in the words of a finding."""
    here, fitted, standing = now
    named = {host for found in standing.found for host in found.hosts}
    named |= {host for found in standing.found for tie in found.ties for host in tie.hosts}
    cleared = tuple(int(host) for host in np.flatnonzero(standing.cleared))
    undecided = tuple(
        int(host) for host in np.flatnonzero(here & ~standing.cleared) if host not in named or not standing.found
    )
    noise = fitted.noise
    return Located(
        standing.found,
        cleared,
        undecided,
        max(noise.sigma, noise.sigma_across) if fitted.tests.across.any() else noise.sigma,
        noise.eps,
        _detectable(now, options),
        _rounds(fleet, seen, options, here),
        _notes(fleet, seen, options, now),
    )


def _detectable(now: State, options: Options) -> float | None:
    """The smallest slowdown that raises a suspicion with chance 1 - beta after the tests of the host that has the
    fewest, and that half of the confirmation would prove with the same chance."""
    standing, noise = now.standing, now.fit.noise
    if not standing.cleared.any():
        return None
    tests = int(standing.hosts.tests[: len(now.here)][standing.cleared].min())
    sigma = max(noise.sigma, noise.sigma_across if now.fit.tests.across.any() else 0.0)
    miss = -NormalDist().inv_cdf(options.beta)
    price = math.log(3 * int(now.here.sum()) / options.alpha) + 3  # nats to accuse, and what an unknown level costs
    suspect = miss * sigma / math.sqrt(tests)
    prove = (miss + math.sqrt(2 * price)) * sigma / math.sqrt(tests + options.most_confirm / 2)
    return 1 - math.exp(-(spare(options) + max(suspect, prove)))


def _rounds(fleet: Fleet, seen: Sequence[Seen], options: Options, here: BoolArray) -> dict[str, int]:
    """Meetings of everybody, and the others."""
    left = Counter((one.meeting.pairs, one.meeting.rail) for one in seen if one.meeting.pairs)
    total = left.total()
    occurring = {host for pairs, _ in left for pair in pairs for host in pair}
    hosts = [int(host) for host in np.flatnonzero(here) if int(host) in occurring]
    spread = Spread(fleet, hosts, options)
    first, more = 0, bool(hosts)
    while more:
        more = False
        for symbol in spread.rounds(first, first + 1 if first else spread.base):
            if left[met(symbol)]:
                left[met(symbol)] -= 1
                more = True
        first += 1 if first else spread.base
    return {"spread": total - left.total(), "confirm": left.total()}


def _notes(fleet: Fleet, seen: Sequence[Seen], options: Options, now: State) -> tuple[str, ...]:
    notes = []
    count = int(now.here.sum())
    tests = now.fit.tests
    if count == 2:
        notes.append("two hosts: of a slow pair nobody can tell which end is slow; a third host would decide it")
    if count == 3:
        notes.append("three hosts: one slow host can be told, two cannot; a fourth host would help")
    if len(tests.y) and not tests.wire.all():
        notes.append(
            "what the wire allows is not known: hosts are compared with each other; what is slow everywhere is not seen"
        )
    pairs, all_ = len(now.fit.paths), count * (count - 1) // 2
    if count > 2 and pairs < all_:
        notes.append(
            f"{pairs:,} of {all_:,} paths between hosts were measured: one slow path among the others is not seen"
        )
    fast = int(faster(now.fit, fleet, options).sum()) if len(tests.y) else 0
    if fast:
        notes.append(
            f"{fast} of {count} hosts are faster than what is usual here: more than half may be slow, "
            "and then comparison with the fleet blames nobody"
        )
    return tuple(notes)
