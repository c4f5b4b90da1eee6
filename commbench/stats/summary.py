"""What samples say about the median: an interval that assumes no distribution, and the digits it carries.

The interval lies between two order statistics whose ranks come from the binomial distribution (David and
Nagaraja, Order Statistics, section 7.1), so outliers and several modes do no harm. Samples of a network are
rarely independent: a busy moment slows several in a row. The interval therefore counts n / tau samples
instead of n, where tau, the integrated autocorrelation time (Sokal 1989, Monte Carlo methods in statistical
mechanics), is estimated from the ranks of the samples by the initial monotone sequence (Geyer 1992, Practical
Markov chain Monte Carlo). Ranks keep one outlier from hiding the correlation of all the others, and overstate
a little what correlation does to a median. tau is never below 1: the interval is only ever widened.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_CHUNK = 2**16  # samples worked on together: the intermediate arrays stay in the cache
_MOST_DIGITS = 5
_FEWEST_DIGITS = 2  # where there is no interval: enough to recognise, too few to compare


def median_interval(samples: "Floats", confidence: float = 0.95) -> "tuple[Floats, Floats, Floats]":
    """(median, low, high) of each row; a row holds samples in the order in which they were taken.

    low and high are NaN where no interval can be had: fewer than 6 samples at 95 %, or samples so correlated
    that they are worth fewer than 6. Correlation that lasts longer than the row cannot be seen in the row.
    """
    rows, n = samples.shape
    out = np.full((3, rows), np.nan)
    if n:
        step = max(1, _CHUNK // n)
        for start in range(0, rows, step):
            out[:, start : start + step] = _interval(samples[start : start + step], confidence)
    return out[0], out[1], out[2]


def _interval(samples: "Floats", confidence: float) -> "Floats":
    n = samples.shape[1]
    order = np.argsort(samples, axis=1)
    ordered = np.take_along_axis(samples, order, axis=1)
    independent = (n / autocorrelation_time(_ranks(order, ordered))).astype(np.int64)
    worths, worth = np.unique(independent, return_inverse=True)
    ranks = np.array([low_rank(m, confidence) for m in worths.tolist()])[worth]
    # The same share of the samples is cut off at both ends, rounded outwards.
    low = ranks * (n + 1) // (independent + 1)
    known = low > 0
    low = np.maximum(low, 1)[:, None]
    return np.stack(
        (
            middle(ordered),
            np.where(known, np.take_along_axis(ordered, low - 1, axis=1)[:, 0], np.nan),
            np.where(known, np.take_along_axis(ordered, n - low, axis=1)[:, 0], np.nan),
        )
    )


def middle(ordered: "Floats") -> "Floats":
    """The median of each row of samples in order; numpy's own loads numpy.ma and takes twice as long."""
    n = ordered.shape[1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2


@lru_cache(maxsize=2**16)
def low_rank(n: int, confidence: float) -> int:
    """The largest r for which order statistics r and n + 1 - r enclose the median; 0 where none do."""
    k = np.arange(n // 2)
    log_chosen = np.concatenate(([0.0], np.cumsum(np.log((n - k) / (k + 1)))))  # of n over 0, 1, .. n // 2
    at_most = np.cumsum(np.exp(log_chosen - n * math.log(2)))
    return int(np.searchsorted(at_most, (1 - confidence) / 2, side="right"))


def _ranks(order: "NDArray[np.intp]", ordered: "Floats") -> "Floats":
    """Ranks of each row's samples; equal samples (a coarse clock) share the mean of theirs."""
    n = ordered.shape[1]
    ranks = np.broadcast_to(np.arange(n, dtype=np.float64), ordered.shape)
    equal = ordered[:, 1:] == ordered[:, :-1]
    if equal.any():
        edge = np.ones((len(ordered), 1), dtype=bool)
        first = np.maximum.accumulate(np.where(np.hstack((edge, ~equal)), ranks, 0), axis=1)
        last = np.where(np.hstack((~equal, edge)), ranks, n)
        ranks = (first + np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]) / 2
    out = np.empty(ordered.shape)
    np.put_along_axis(out, order, ranks, axis=1)
    return out


def autocorrelation_time(series: "Floats") -> "Floats":
    """Each row's integrated autocorrelation time, 1 (independent) to n."""
    n = series.shape[1]
    centred = series - series.mean(axis=1, keepdims=True)
    length = _fast_length(2 * n)  # padded, so that the end does not meet the beginning
    spectrum = np.fft.rfft(centred, length, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    covariance = np.fft.irfft(power, length, axis=1)[:, : n // 2 * 2]
    variance = np.square(centred).sum(axis=1, keepdims=True)
    varies = variance > 0
    correlation = np.where(varies, covariance / np.where(varies, variance, 1), 0)
    # Sums of neighbouring lags fall steadily while there is signal; the first that does not is noise.
    pairs = correlation[:, ::2] + correlation[:, 1::2]
    signal = np.logical_and.accumulate(pairs > 0, axis=1)
    total = np.where(signal, np.minimum.accumulate(pairs, axis=1), 0).sum(axis=1)
    clipped: Floats = np.clip(2 * total - 1, 1, max(n, 1))
    return clipped


@lru_cache
def _fast_length(least: int) -> int:
    """The next number without prime factors above 5: others make a Fourier transform slow."""
    length = max(least, 1)
    while pow(30, 64, length):
        length += 1
    return length


def pool_launches(
    medians: "Floats", lows: "Floats", highs: "Floats", confidence: float = 0.95
) -> "tuple[Floats, Floats, Floats, Floats]":
    """(median, low, high, sd between launches) of each row; a row holds the launches of one question.

    A launch is a factor of its own: memory, ports and rings come out differently each time, so more samples
    of one launch do not make up for having few launches. The centre is the median of the launch medians. The
    interval encloses Student's interval of their mean, which takes them as independent draws of one normal
    distribution; two launches leave one degree of freedom, hence a factor of 12.7 at 95 %. To each side it
    reaches at least as far as a typical launch's own interval. No time is below 0. One launch keeps its own
    interval, and its sd is NaN.
    """
    launches = medians.shape[1]
    if launches == 1:
        return medians[:, 0], lows[:, 0], highs[:, 0], np.full(len(medians), np.nan)
    centre = np.median(medians, axis=1)
    mean = medians.mean(axis=1)
    sd = medians.std(axis=1, ddof=1)
    between = _student(launches - 1, confidence) * sd / math.sqrt(launches)
    low = np.minimum(np.minimum(centre, mean) - between, centre - _typical(medians - lows))
    high = np.maximum(np.maximum(centre, mean) + between, centre + _typical(highs - medians))
    return centre, np.maximum(low, 0), high, sd


def _typical(widths: "Floats") -> "Floats":
    """Each row's median; a launch too short for an interval counts as its widest neighbour, or as 0."""
    widest = np.nan_to_num(np.fmax.reduce(widths, axis=1))[:, None]
    return np.asarray(np.median(np.where(np.isnan(widths), widest, widths), axis=1))


@lru_cache
def _student(freedom: int, confidence: float) -> float:
    """The two-sided quantile of Student's t (Abramowitz and Stegun 26.7.3 and 26.7.4), by bisection of its angle.

    scipy's would cost 0.3 s of import, for one number.
    """
    low, high = 0.0, math.pi / 2
    while low < (angle := (low + high) / 2) < high:
        low, high = (angle, high) if _within(angle, freedom) < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle))."""
    odd = freedom % 2
    term = math.sin(angle) * (math.cos(angle) if odd else 1.0)
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * math.cos(angle) ** 2
    return (angle + total) * 2 / math.pi if odd else total


def digits(values: "Floats", lows: "Floats", highs: "Floats") -> "NDArray[np.int64]":
    """Significant digits of each value down to the first uncertain one: 12.3456 known to 0.2 has 3. NaN: not known."""
    half = np.maximum(highs - values, values - lows)
    told = (values > 0) & (half > 0)
    found = _exponents(values, told) - _exponents(half, told) + 1
    certain = np.where((values > 0) & (half <= 0), _MOST_DIGITS, _FEWEST_DIGITS)
    return np.where(told, np.clip(found, 1, _MOST_DIGITS), certain)


def _exponents(values: "Floats", where: "NDArray[np.bool_]") -> "NDArray[np.int64]":
    return np.floor(np.log10(np.where(where, values, 1))).astype(np.int64)
