"""Ratios of times from launches, with intervals that hold for a whole table at once. Arrays in, arrays out.

The unit is the launch, not the sample: samples of one launch share its memory, ports and rings, so the spread
within a launch says nothing about what the next start would give. Each launch is one figure (its median, on a log
scale), and d = mean(NEW) - mean(BASE) has the variance V = s_b^2 / L_b + s_n^2 / L_n with Welch's degrees of
freedom. Few launches leave few degrees of freedom. Rows of a table are much alike in how they vary, so each row's V
is drawn towards what is typical of the table: the moderated t (Smyth 2004, Linear models and empirical Bayes
methods, Statistical Applications in Genetics and Molecular Biology 3(1)), which finds from the rows' variances how
much they differ, and so how much one may tell about another.

All rows come from the same launches: a start that came out slow is slow at many sizes. Rows that move together say
the same thing many times. The degrees of freedom of what they know together are those of Box (1954, Annals of
Mathematical Statistics 25, 290): d R / (1 + (R - 1) rho^2) for R rows whose mean squared correlation is rho^2, and
what rows tell each other is worth no more. The intervals are Bonferroni's over all rows, which holds under any
dependence.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# No two launches are told apart by less: digits of another tool's text, the steps of a clock.
_LEAST_SPREAD = 1e-4


def table_ratios(base: "Floats", new: "Floats", confidence: float = 0.95) -> "tuple[Floats, Floats, Floats]":
    """As `log_ratios`, and [log ratio, half its interval] of the mean over all rows that every launch has.

    In the mean, what differs from row to row cancels and what all rows share is left: it finds a small change of
    everything. It is one test more. NaN where there are fewer than two such rows.
    """
    tests = tests_of(len(base))
    log_ratio, half = log_ratios(base, new, confidence, tests)
    whole = ~(np.isnan(base).any(axis=1) | np.isnan(new).any(axis=1))
    together = np.full(2, np.nan)
    if whole.sum() > 1:
        means = [side[whole].mean(axis=0)[None] for side in (base, new)]
        together = np.concatenate(log_ratios(means[0], means[1], confidence, tests))
    return log_ratio, half, together


def tests_of(rows: int) -> int:
    """Intervals of a table: one a row, and that of all rows together."""
    return rows + (rows > 1)


def log_ratios(
    base: "Floats", new: "Floats", confidence: float = 0.95, tests: int | None = None
) -> "tuple[Floats, Floats]":
    """(log of NEW / BASE, half its interval) of each row; rows x launches of log times, NaN where there is none.

    The columns of a side are the same launches in all rows; every row has a figure on both sides. All intervals
    together cover their true values with at least `confidence`, where together means `tests` (the rows). A row with
    one launch on both sides has the half width NaN: nothing is known about what another launch would give. Where
    one side has one or two launches and the other more, both are taken to vary alike.
    """
    launches = [(~np.isnan(side)).sum(axis=1) for side in (base, new)]
    means = [np.nansum(side, axis=1) / count for side, count in zip((base, new), launches, strict=True)]
    log_ratio = means[1] - means[0]
    half = np.full(len(base), np.nan)
    known = np.maximum(*launches) > 1
    if known.any():
        apart = [np.nan_to_num(side - mean[:, None])[known] for side, mean in zip((base, new), means, strict=True)]
        variance, freedom, residuals = _welch(apart, [count[known] for count in launches])
        variance, freedom = moderated(variance, freedom, residuals)
        half[known] = student(freedom, (1 - confidence) / (tests or len(base))) * np.sqrt(variance)
    return log_ratio, half


def _welch(apart: "Sequence[Floats]", launches: "Sequence[NDArray[np.int64]]") -> "tuple[Floats, Floats, Floats]":
    """(variance of the difference, its degrees of freedom, residuals of length 1) of each row.

    The degrees of freedom are those of the table's typical variances: a row's own would be mostly noise.
    """
    free = [np.maximum(count - 1, 0) for count in launches]
    squares = [np.square(side).sum(axis=1) for side in apart]
    both = free[0] + free[1]
    pooled = (squares[0] + squares[1]) / both
    few = (np.minimum(*free) < 2) & (free[0] != free[1])
    own = [s / np.maximum(f, 1) for s, f in zip(squares, free, strict=True)]
    wider = [_typical(mine) / _typical(other) for mine, other in (own, own[::-1])]
    own = [
        np.where(few, pooled * np.where(f == 1, max(1.0, ratio), 1), s2)
        for s2, f, ratio in zip(own, free, wider, strict=True)
    ]
    parts = [s2 / count for s2, count in zip(own, launches, strict=True)]
    typical = [_typical(s2) / count for s2, count in zip(own, launches, strict=True)]
    total = typical[0] + typical[1]
    used = [np.square(v / total) / np.maximum(f, 1) for v, f in zip(typical, free, strict=True)]
    freedom = np.where(few, both, 1 / (used[0] + used[1]))
    weights = [np.where(few, 1, count * np.maximum(f, 1)) for count, f in zip(launches, free, strict=True)]
    scaled = [side / np.sqrt(weight)[:, None] for side, weight in zip(apart, weights, strict=True)]
    joined = np.hstack(scaled)
    length = np.linalg.norm(joined, axis=1, keepdims=True)
    residuals = np.divide(joined, length, out=np.zeros_like(joined), where=length > 0)
    return parts[0] + parts[1], freedom, residuals


def _typical(variances: "Floats") -> float:
    """The geometric mean; 1 where no launch differs from another, since then any does."""
    positive = variances[variances > 0]
    return float(np.exp(np.log(positive).mean())) if len(positive) else 1.0


def moderated(variance: "Floats", freedom: "Floats", residuals: "Floats") -> "tuple[Floats, Floats]":
    """(variance, degrees of freedom) of each row, with what the other rows know."""
    least = _LEAST_SPREAD**2
    some = variance > least
    rows = int(some.sum())
    if rows < 2:
        return np.maximum(variance, least), freedom
    alike = _together(residuals[some])
    prior, centre = _prior(variance[some], freedom[some], alike)
    own = 0.0 if math.isinf(prior) else freedom / (prior + freedom)
    together = freedom * rows / (1 + (rows - 1) * alike)
    drawn = own * variance + (1 - own) * centre
    return np.maximum(drawn, least), 1 / (own / freedom + np.square(1 - own) / together)


def _together(residuals: "Floats") -> float:
    """The mean squared correlation between two rows, 0 to 1.

    Few launches look alike by chance. That is left in: it errs towards fewer degrees of freedom.
    """
    rows = len(residuals)
    return (float(np.square(residuals.T @ residuals).sum()) - rows) / (rows * (rows - 1))


def _prior(variance: "Floats", freedom: "Floats", alike: float) -> tuple[float, float]:
    """(degrees of freedom, variance) of the distribution that the rows' true variances come from; Smyth 2004, 6.2.

    Rows that move together have sample variances that move together, so chance spreads them less.
    """
    from scipy.special import digamma, polygamma

    logs = np.log(variance) - digamma(freedom / 2) + np.log(freedom / 2)
    seen = np.var(logs, ddof=1) * (1 + math.sqrt(2 / (len(logs) - 1)))  # one standard error more: so is it safe
    excess = float(seen - np.mean(polygamma(1, freedom / 2)) * (1 - alike))
    if excess <= 0:
        return math.inf, float(np.exp(logs.mean()))
    prior = 2 * _trigamma_inverse(excess)
    return prior, float(np.exp(logs.mean() + digamma(prior / 2) - math.log(prior / 2)))


def _trigamma_inverse(value: float) -> float:
    """Newton's method on 1 / trigamma, which is convex and nearly linear (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step < 1e-8 * x:
            break
    return x


def student(freedom: "Floats", tail: float) -> "Floats":
    """How many standard errors leave `tail` outside, on both sides together."""
    from scipy.special import stdtrit  # scipy.stats would cost 0.9 s

    return np.asarray(stdtrit(freedom, 1 - tail / 2))
