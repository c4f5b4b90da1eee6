"""How tests scatter: jitter with tails, and now and then congestion that makes a test slow and does not repeat.

The density of a residual r (logarithm of a test's time over what it should have been):

    (1 - eps - STRAY) t(r; 0, sigma, nu)  +  eps C(r)  +  STRAY U(r)

t is Student's t, so that tails may be heavy; C is on r > 0 only: congestion never makes a test fast. All of it is
estimated from the tests themselves, the jitter from the fast side, which neither faults nor congestion reach.
"""

import math
from typing import NamedTuple

import numpy as np

from commbench.accept.pairtests import BoolArray, FloatArray, IntArray

FLOOR = 0.003  # no clock and no fabric is better
STRAY = 1e-4  # tests that are anything at all: what one clean test can weigh at most
_WIDE = 6.0  # of log time, over which stray tests are spread
_HEAVY = 0.1  # share of congestion that is unboundedly bad
_FAR = 4.0
TAILS = (3.0, 5.0, 10.0, 30.0)  # degrees of freedom tried
_TRUST = 4.0  # prior tests for sigma, at _USUAL
_USUAL = 0.02
_EPS = (1.0, 50.0)  # prior: slow once and not again, of so many
_LASTS = (1.0, 8.0)  # prior: tests after a congested one that were so too, of so many
_MOST = 20000  # residuals that the jitter is estimated from


class Noise(NamedTuple):
    """sigma, sigma_across: scatter of tests inside racks and across them; tails: degrees of freedom of Student's t;
    eps: share of congested tests; size: their mean excess, in log time; lasts: the chance that a host's next test is
    congested too."""

    sigma: float = _USUAL
    sigma_across: float = _USUAL
    tails: float = 5.0
    eps: float = 0.02
    size: float = 0.25
    lasts: float = _LASTS[0] / _LASTS[1]

    def of(self, across: BoolArray) -> FloatArray:
        return np.where(across, self.sigma_across, self.sigma)

    def congested(self, r: FloatArray) -> FloatArray:
        """Density of the excess of a congested test; 0 below 0."""
        up = np.maximum(r, 0.0)
        found = (1 - _HEAVY) / self.size * np.exp(-up / self.size) + _HEAVY / _FAR * (up < _FAR)
        return np.where(r > 0, found, 0.0)

    def jitter(self, r: FloatArray, sigma: FloatArray) -> FloatArray:
        z = r / sigma
        nu = self.tails
        height = math.exp(math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2)) / math.sqrt(nu * math.pi)
        return height / sigma * np.exp(-(nu + 1) / 2 * np.log1p(z * z / nu))

    def fine(self, r: FloatArray, sigma: FloatArray) -> FloatArray:
        """Logarithm of the density of residual r."""
        usual = (1 - self.eps - STRAY) * self.jitter(r, sigma)
        return np.log(usual + self.eps * self.congested(r) + STRAY / _WIDE)


def lasting(slow: BoolArray, a: IntArray, b: IntArray) -> float:
    """The chance that congestion lasts until a host's next test, from what was slow for a while and is not any more.

    slow: tests that nothing explains, in their order; a, b: their hosts. A slow test belongs to the host that was slow
    for longer. What is slow to the end does not count: it may be a fault.
    """
    tests = np.arange(len(slow))
    ends, which = np.concatenate([a, b]), np.concatenate([tests, tests])
    order = np.lexsort((which, ends))
    host, test, hit = ends[order], which[order], slow[which[order]]
    if not hit.any():
        return _LASTS[0] / _LASTS[1]
    begins = hit & np.r_[True, (host[1:] != host[:-1]) | ~hit[:-1]]
    over = np.r_[(host[1:] == host[:-1]) & hit[:-1] & ~hit[1:], False]  # a test of the same host that is fine follows
    run = np.cumsum(begins) - 1
    count = int(run[-1]) + 1
    length = np.bincount(run[hit], minlength=count)
    ended = np.bincount(run[over], minlength=count) > 0
    best = np.zeros(len(slow), dtype=np.int64)
    np.maximum.at(best, test[hit], length[run[hit]] * count + run[hit])  # ties to one of the two
    mine = np.bincount(best[slow] % count, minlength=count)[ended]
    return float((_LASTS[0] + np.maximum(mine - 1, 0).sum()) / (_LASTS[1] + mine.sum()))


def estimate(
    r: FloatArray, across: BoolArray, free: BoolArray, doubted: BoolArray, limit: float, spent: float
) -> Noise:
    """The noise of residuals r.

    free      tests that no fault explains; doubted: tests of suspects, which say nothing about congestion
    limit     an excess beyond which a test is slow
    spent     parameters that were fitted before
    """
    if not free.any():
        return Noise()
    sigma, tails = _jitter(r[free], spent * free.sum() / len(r))
    each = [_own(r[free & (across == kind)], r[free], sigma) for kind in (False, True)]
    sure = free & ~doubted
    high = sure & (r > np.maximum(4 * np.where(across, each[1], each[0]), limit))
    slow = int(high.sum())
    eps = (_EPS[0] + slow) / (_EPS[1] + int(sure.sum()))
    size = (2 * 0.25 + float(np.minimum(r[high], 1.0).sum())) / (2 + slow)
    return Noise(each[0], each[1], tails, min(eps, 0.3), size)


def _own(r: FloatArray, all_: FloatArray, sigma: float) -> float:
    """The sigma of one kind of tests: as that of all where they are few."""
    low, usual = -r[r < 0], -all_[all_ < 0]
    if not len(low):
        return sigma
    ratio = float(np.median(low)) / max(float(np.median(usual)), FLOOR / 10)
    return max(FLOOR, sigma * math.sqrt((len(low) * ratio**2 + 10) / (len(low) + 10)))


def _jitter(r: FloatArray, spent: float) -> tuple[float, float]:
    """(sigma, tails) of the fast half of residuals, by maximum likelihood; few residuals are taken for heavy-tailed."""
    low = np.sort(-r[r <= 0])
    if len(low) > _MOST:
        low = low[:: len(low) // _MOST + 1]
    count = len(low)
    if not count:
        return _USUAL, 5.0
    shrunk = min(3.0, 2 * count / max(2 * count - spent, 1.0))  # what was fitted makes residuals small
    best = (-math.inf, _USUAL, 5.0)
    for nu in TAILS:
        sigma = max(float(np.median(low)) / 0.6745, FLOOR / 10)
        for _ in range(6):
            weight = (nu + 1) / (nu + (low / sigma) ** 2)
            total = shrunk * float((weight * low**2).sum()) + _TRUST * _USUAL**2
            sigma = max(math.sqrt(total / (count + _TRUST)), FLOOR / 10)
        like = float(np.log(Noise(tails=nu).jitter(low, np.array(sigma))).sum()) - 3.0 * (nu > 5.0)
        best = max(best, (like, sigma, nu))
    return max(best[1], FLOOR), best[2]
