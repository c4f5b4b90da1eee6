"""How others find slow hosts, from what they publish: each a function of a fabric and the slowdown it looks for.

All of them are told the slowdown, and call a test slow below 1 - slowdown / 2 of what a healthy one reaches, which they
know exactly. commbench is told the slowdown that matters and learns the rest from the tests.

    bisect       halves of what is slow, all branches at once; `best of 3`: the best of three tests of each half
    pairs        everybody in pairs; then those of slow pairs, each with one whose pair was fine
    mean of 5    the same, each pair as the mean of five tests
    2x median    adjacent pairs, then the fastest with the slowest; a host is slow whose better test takes 2x the median
    sqrt(N)      groups of sqrt(N), halves of slow groups, and once more with a host that was fine
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from fabric import Fabric

from commbench.accept.locate import Options


class Answer(NamedTuple):
    slow: frozenset[int]
    rounds: int


def _tests(fabric: Fabric, groups: list[np.ndarray], times: int, how: Callable[..., np.ndarray]) -> np.ndarray:
    return how([fabric.groups(groups) for _ in range(times)], axis=0)


def _halves(fabric: Fabric, groups: list[np.ndarray], limit: float, times: int) -> tuple[list[int], int]:
    """Single hosts that are left of these groups, and the rounds."""
    rounds = 0
    while groups and max(map(len, groups)) > 1:
        parts = [part for group in groups for part in np.array_split(group, min(2, len(group)))]
        rates = _tests(fabric, parts, times, np.max)
        groups = [part for part, rate in zip(parts, rates, strict=True) if rate < limit]
        rounds += times
    return [int(group[0]) for group in groups], rounds


def bisect(fabric: Fabric, slowdown: float, times: int = 1) -> Answer:
    slow, rounds = _halves(fabric, [fabric.rng.permutation(fabric.fleet.hosts)], 1 - slowdown / 2, times)
    return Answer(frozenset(slow), max(rounds, times * math.ceil(math.log2(fabric.fleet.hosts))))


def pairs(fabric: Fabric, slowdown: float, times: int = 1) -> Answer:
    limit = 1 - slowdown / 2
    first = list(fabric.rng.permutation(fabric.fleet.hosts).reshape(-1, 2))
    rates = _tests(fabric, first, times, np.mean)
    suspects = np.array([host for pair, rate in zip(first, rates, strict=True) if rate < limit for host in pair], int)
    fine = np.array([host for pair, rate in zip(first, rates, strict=True) if rate >= limit for host in pair], int)
    return Answer(_again(fabric, suspects, fine, limit, times), 2 * times)


def _again(fabric: Fabric, suspects: np.ndarray, fine: np.ndarray, limit: float, times: int) -> frozenset[int]:
    """Suspects that are slow with a host that was fine; those for whom there is none stay suspects."""
    partners = fabric.rng.permutation(fine)[: len(suspects)]
    second = [np.array(pair) for pair in zip(suspects, partners, strict=False)]
    if not second:
        return frozenset(map(int, suspects))
    rates = _tests(fabric, second, times, np.mean)
    slow = [int(pair[0]) for pair, rate in zip(second, rates, strict=True) if rate < limit]
    return frozenset(slow) | frozenset(map(int, suspects[len(second) :]))


def median(fabric: Fabric, slowdown: float) -> Answer:
    hosts = fabric.fleet.hosts
    times = np.empty((2, hosts))
    order = np.arange(hosts)
    for round_ in range(2):
        met = order.reshape(-1, 2) if not round_ else np.stack([order[: hosts // 2], order[::-1][: hosts // 2]], axis=1)
        times[round_, met] = (1 / fabric.groups(list(met)))[:, None]
        order = np.argsort(times[0], kind="stable")
    best = times.min(axis=0)
    return Answer(frozenset(np.flatnonzero(best > 2 * np.median(best)).tolist()), 2)


def screen(fabric: Fabric, slowdown: float) -> Answer:
    hosts, limit = fabric.fleet.hosts, 1 - slowdown / 2
    groups = np.array_split(fabric.rng.permutation(hosts), math.isqrt(hosts))
    rates = fabric.groups(groups)
    bad = [group for group, rate in zip(groups, rates, strict=True) if rate < limit]
    left, rounds = _halves(fabric, bad, limit, 1)
    fine = np.setdiff1d(np.arange(hosts), np.array(left, int))
    return Answer(_again(fabric, np.array(left, int), fine, limit, 1), rounds + 2)


def commbench(fabric: Fabric, slowdown: float) -> Answer:
    located, rounds = fabric.hunt(Options(slowdown=slowdown, seed=int(fabric.rng.integers(2**31))))
    slow = {one.hosts[0] if one.kind == "host" and len(one.hosts) == 1 else -1 for one in located.found}
    return Answer(frozenset(slow), rounds)  # -1: something that is no host is accused


METHODS: dict[str, Callable[[Fabric, float], Answer]] = {
    "bisect": bisect,
    "bisect, best of 3": lambda fabric, slowdown: bisect(fabric, slowdown, 3),
    "pairs": pairs,
    "pairs, mean of 5": lambda fabric, slowdown: pairs(fabric, slowdown, 5),
    "2x median": median,
    "sqrt(N)": screen,
    "commbench": commbench,
}
