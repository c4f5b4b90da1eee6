"""Which few components explain slow tests: penalised maximum likelihood, greedily with second thoughts. Pure.

A test touches some components. A faulty component of level L (log time) makes each of its tests slow by L; of several
the worst counts, as the narrowest link does. A component that is faulty in a way that varies (a starved processor) is
not acquitted by that: with chance _VARIES a test of a faulty component is slow by any amount.
"""

import math
from typing import NamedTuple

import numpy as np

from commbench.accept.noise import Noise
from commbench.accept.pairtests import BoolArray, FloatArray, IntArray, quantile

_VARIES = 0.3
_WORST = 4.0  # the highest level considered (log time): 55 times slower
_ROUNDS = 60
_SURPRISE = 2.0  # nats at most for how well the level of the first slow test fits


class Problem(NamedTuple):
    """n tests and what they touch.

    y        log of each test's time over what it should have been
    sigma    its scatter
    ends     (n, k): the components a test touches; `size` stands for none
    base     level that is explained already, by what is not among these components
    size     number of components
    price    nats, one a component: what it takes to blame it
    spare    level up to which nothing is blamed; matters: the smallest level that must be found
    """

    y: FloatArray
    sigma: FloatArray
    ends: IntArray
    base: FloatArray
    size: int
    price: FloatArray
    spare: float
    matters: float


class Weighed(NamedTuple):
    """One row a component, given the levels of all others.

    accuse   nats for a level above `spare` against every level up to it; averaged over levels, so no gift to chance,
             and no more than what lasting congestion leaves of it
    likely   the same for the best level
    clear    nats for the best level that matters against the best of all: very negative acquits
    level    the best level above `spare`
    tests    how many tests touch it; clean: how many of them were as fast as they should be
    """

    accuse: FloatArray
    likely: FloatArray
    clear: FloatArray
    level: FloatArray
    tests: IntArray
    clean: IntArray


def others(problem: Problem, level: FloatArray) -> FloatArray:
    """(n, k): the worst level among what a test touches besides the component in that column."""
    each = level[problem.ends]
    found = np.empty_like(each)
    for column in range(each.shape[1]):
        rest = np.delete(each, column, axis=1)
        found[:, column] = np.maximum(problem.base, rest.max(axis=1, initial=0.0))
    return found


def explained(problem: Problem, level: FloatArray) -> FloatArray:
    """The level of each test that the components' levels explain."""
    return np.asarray(np.maximum(problem.base, level[problem.ends].max(axis=1, initial=0.0)))


def weigh(problem: Problem, noise: Noise, level: FloatArray) -> Weighed:
    """Every component, given the levels (size + 1 of them, the last 0) of the others."""
    size = problem.size + 1
    comp = problem.ends.ravel()
    wide = problem.ends.shape[1]
    real = comp < problem.size
    comp = comp[real]
    y, sigma = (np.repeat(column, wide)[real] for column in (problem.y, problem.sigma))
    other = others(problem, level).ravel()[real]
    alone = noise.fine(y - other, sigma)
    broad = _VARIES * noise.congested(y - np.maximum(other, problem.spare))

    def total(gain: FloatArray) -> FloatArray:
        return np.bincount(comp, gain, size).astype(np.float64)

    def fine(to: FloatArray) -> FloatArray:
        return total(noise.fine(y - np.maximum(other, to[comp]), sigma) - alone)

    def faulty(to: FloatArray) -> FloatArray:
        at = to[comp]
        like = np.log((1 - _VARIES) * np.exp(noise.fine(y - np.maximum(other, at), sigma)) + broad)
        return total(np.where(at > other, like - alone, 0.0))

    spare, matters = np.full(size, problem.spare), np.full(size, problem.matters)
    slow = y > np.maximum(other, problem.spare)
    tries = [matters]
    for share in (0.0, 0.5, 0.75):
        which, value = quantile(y[slow], comp[slow], share)
        guess = matters.copy()
        guess[which] = np.minimum(value, _WORST)
        tries.append(guess)
    likes = np.array([faulty(guess) for guess in tries])
    best = likes.argmax(axis=0)
    top, at = likes.max(axis=0), np.array(tries)[best, np.arange(size)]
    middle = spare / 2
    which, value = quantile(y, comp, 0.5)
    middle[which] = np.clip(value, 0.0, problem.spare)
    null = np.maximum.reduce([np.zeros(size), fine(spare), fine(middle), fine(spare / 2)])
    tests = np.bincount(comp, minlength=size)
    hit = np.maximum(np.bincount(comp[slow], minlength=size), 1)
    scatter = np.bincount(comp, sigma, size) / np.maximum(tests, 1)
    width = np.maximum(scatter, 1e-9) * np.sqrt(2 * math.pi / hit)
    occam = np.maximum(np.log(at * math.log(_WORST / problem.spare) / width), 0.0)
    bad = np.max(np.where(np.array(tries) >= problem.matters, likes, -np.inf), axis=0)
    clean = np.bincount(comp[(other < problem.spare) & (np.abs(y - other) < problem.matters)], minlength=size)
    # however slow its tests are, congestion that lasts would look so as well
    most = _SURPRISE - math.log(noise.eps) - (hit - 1) * math.log(noise.lasts)
    return Weighed(
        accuse=np.minimum(top - occam - null, most)[:-1],
        likely=(top - null)[:-1],
        clear=(bad - np.maximum(top, null))[:-1],
        level=at[:-1],
        tests=tests[:-1].astype(np.int64),
        clean=clean[:-1].astype(np.int64),
    )


def narrowed(problem: Problem) -> Problem:
    """Only components that some unexplained slow test touches, and the tests of these."""
    slow = problem.y > np.maximum(problem.base, problem.spare)
    hot = np.zeros(problem.size + 1, dtype=np.bool_)
    hot[problem.ends[slow].ravel()] = True
    hot[-1] = False
    ends = np.where(hot[problem.ends], problem.ends, problem.size)
    kept = (ends < problem.size).any(axis=1)
    return problem._replace(y=problem.y[kept], sigma=problem.sigma[kept], ends=ends[kept], base=problem.base[kept])


def explain(problem: Problem, noise: Noise) -> tuple[FloatArray, FloatArray]:
    """(levels of all components (size + 1, the last 0), 0 where it is not needed to explain what was seen;
    nats against each in the end, at least 0)."""
    small = narrowed(problem)
    level = np.zeros(problem.size + 1)
    banned = np.zeros(problem.size, dtype=np.bool_)
    against = np.zeros(problem.size)
    if not len(small.y):
        return level, against
    for _ in range(_ROUNDS):
        found = weigh(small, noise, level)
        against = np.maximum(found.accuse, 0.0)
        gain = np.where(found.tests > 0, found.accuse - problem.price, -np.inf)
        inside = level[:-1] > 0
        if (inside & (gain < 0)).any():  # another explains it better by now
            worst = int(np.where(inside, gain, np.inf).argmin())
            level[worst], banned[worst] = 0.0, True
            continue
        level[:-1][inside] = found.level[inside]
        new = _peaks(small, np.where(inside | banned, -np.inf, gain), level)
        if not new.any():
            break
        level[:-1][new] = found.level[new]
    return level, against


def _peaks(problem: Problem, gain: FloatArray, level: FloatArray) -> BoolArray:
    """Components worth blaming, none of which shares an unexplained slow test with a better one."""
    padded = np.r_[gain, -np.inf]
    slow = problem.y > np.maximum(explained(problem, level), problem.spare)
    ends = problem.ends[slow]
    each = padded[ends]
    winner = each.argmax(axis=1)
    beaten = np.ones(each.shape, dtype=np.bool_)
    beaten[np.arange(len(each)), winner] = False
    lost = np.zeros(problem.size + 1, dtype=np.bool_)
    lost[ends[beaten]] = True
    return np.asarray((gain > 0) & ~lost[:-1])
