"""The interval of the median keeps its promise, and says nothing where it cannot."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from commbench.stats.summary import autocorrelation_time, digits, low_rank, median_interval, pool_launches

SEED = 20240229
ROWS = 3000
Floats = NDArray[np.float64]
Drawn = tuple[Floats, float]  # samples, and the median of where they come from


def lognormal(rng: np.random.Generator, n: int) -> Drawn:
    return rng.lognormal(0, 0.5, (ROWS, n)), 1.0


def heavy_tails(rng: np.random.Generator, n: int) -> Drawn:
    """Half a Cauchy distribution: no mean, median 1."""
    return np.abs(rng.standard_cauchy((ROWS, n))), 1.0


def correlated(rng: np.random.Generator, n: int) -> Drawn:
    """AR(1) with rho 0.5 on a log scale: three samples are worth one."""
    x = rng.normal(size=(ROWS, n + 40))
    for k in range(1, n + 40):
        x[:, k] = 0.5 * x[:, k - 1] + math.sqrt(0.75) * x[:, k]
    return np.exp(x[:, 40:]), 1.0


@pytest.mark.parametrize("n", [30, 100, 400])
@pytest.mark.parametrize("draw", [lognormal, heavy_tails, correlated])
def test_the_interval_covers_the_median_as_often_as_it_says(
    draw: Callable[[np.random.Generator, int], Drawn], n: int
) -> None:
    samples, truth = draw(np.random.default_rng([SEED, n]), n)
    _, low, high = median_interval(samples)
    known = ~np.isnan(low)
    assert known.mean() > 0.9
    assert ((low <= truth) & (truth <= high))[known].mean() >= 0.93


def test_outliers_do_not_hide_correlation() -> None:
    rng = np.random.default_rng(SEED)
    samples, _ = correlated(rng, 100)
    _, low, high = median_interval(samples)
    samples[np.arange(ROWS), rng.integers(0, 100, ROWS)] *= 1e6
    _, low_spiked, high_spiked = median_interval(samples)
    assert np.nanmedian(high_spiked - low_spiked) > 0.9 * np.nanmedian(high - low)


def test_correlated_samples_give_a_wider_interval_than_independent_ones() -> None:
    rng = np.random.default_rng(SEED)
    samples, _ = correlated(rng, 100)
    shuffled = rng.permuted(samples, axis=1)
    wide, narrow = (np.median(np.subtract(*median_interval(s)[:0:-1])) for s in (samples, shuffled))
    assert wide > 1.4 * narrow


@pytest.mark.parametrize(("confidence", "least"), [(0.95, 6), (0.99, 8), (0.5, 2)])
def test_too_few_samples_have_no_interval(confidence: float, least: int) -> None:
    assert low_rank(least, confidence) == 1
    for n in range(least):
        assert low_rank(n, confidence) == 0


def test_known_ranks() -> None:
    # Tables of the sign test; 2 * P(Bin(n, 1/2) < r) <= 5 %.
    assert [low_rank(n, 0.95) for n in (6, 8, 9, 10, 20, 30, 100)] == [1, 1, 2, 2, 6, 10, 40]
    assert low_rank(100_000, 0.95) == pytest.approx(50_000 - 1.96 * math.sqrt(100_000) / 2, abs=2)


def test_a_drift_has_no_interval() -> None:
    _, low, high = median_interval(np.arange(30.0)[None])
    assert np.isnan([low, high]).all()


def test_equal_samples_are_independent_and_certain() -> None:
    for samples in (np.ones((1, 20)), np.tile([1.0, 2.0, 1.0], (1, 40))):
        assert autocorrelation_time(samples) == 1
        assert [x.item() for x in median_interval(samples)] == [1, 1, 1]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 1)])
def test_nothing_to_summarise(shape: tuple[int, int]) -> None:
    median, low, high = median_interval(np.zeros(shape))
    assert len(median) == len(low) == len(high) == shape[0]
    assert np.isnan(low).all()


SAMPLES = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 60)), elements=st.floats(1e-7, 10, allow_nan=False)
)


@settings(deadline=None)
@given(SAMPLES)
def test_the_interval_lies_in_the_samples_and_around_the_median(samples: Floats) -> None:
    median, low, high = median_interval(samples)
    assert np.allclose(median, np.median(samples, axis=1), rtol=1e-12)
    known = ~np.isnan(low)
    assert (np.isnan(high) == ~known).all()
    assert (low[known] <= median[known]).all()
    assert (median[known] <= high[known]).all()
    assert np.isin(low[known], samples).all()
    assert np.isin(high[known], samples).all()


@settings(deadline=None)
@given(SAMPLES, st.floats(0.1, 1000))
def test_units_make_no_difference(samples: Floats, scale: float) -> None:
    scale = 2.0 ** round(math.log2(scale))  # exact, so that ties stay ties
    for one, other in zip(median_interval(samples), median_interval(samples * scale), strict=True):
        assert np.array_equal(one * scale, other, equal_nan=True)


@settings(deadline=None)
@given(SAMPLES)
def test_rows_do_not_know_of_each_other(samples: Floats) -> None:
    together = np.stack(median_interval(samples))
    alone = np.stack([np.stack(median_interval(row[None]))[:, 0] for row in samples], axis=1)
    assert np.array_equal(together, alone, equal_nan=True)


# ---- launches ---------------------------------------------------------------------------------------------


def pooled(launches: list[float], half: float = 0.1) -> list[float]:
    medians = np.array([launches])
    return [x[0] for x in pool_launches(medians, medians - half, medians + half)]


def test_one_launch_keeps_its_interval() -> None:
    median, low, high, between = pooled([5.0])
    assert (median, low, high) == (5.0, 4.9, 5.1)
    assert math.isnan(between)


def test_launches_that_agree_are_not_narrower_than_a_launch() -> None:
    assert pooled([5.0, 5.0, 5.0]) == pytest.approx([5.0, 4.9, 5.1, 0.0])


@pytest.mark.parametrize(
    ("launches", "confidence", "factor"),
    [(2, 0.95, 12.706205), (3, 0.95, 4.302653), (4, 0.99, 5.840909), (5, 0.9, 2.131847), (31, 0.95, 2.042272)],
)
def test_students_factor_is_that_of_the_tables(launches: int, confidence: float, factor: float) -> None:
    medians = np.linspace(0.9, 1.1, launches)[None] * 1e9
    center, _, high, sd = pool_launches(medians, medians, medians, confidence)
    assert (high - center) / sd * launches**0.5 == pytest.approx(factor, rel=1e-6)


def test_launches_that_differ_have_students_interval() -> None:
    median, low, high, between = pooled([4.0, 5.0, 6.0])
    assert (median, between) == (5.0, 1.0)
    assert high - median == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert low == pytest.approx(5.0 - (high - 5.0))


def test_two_launches_have_one_degree_of_freedom() -> None:
    _, low, high, _ = pooled([50.0, 51.0])
    assert (high - low) / 2 == pytest.approx(12.706 * 0.5, rel=1e-4)


def test_no_time_is_below_zero() -> None:
    assert pooled([1.0, 3.0])[1] == 0


def test_launches_without_an_interval_count_as_the_widest_or_not_at_all() -> None:
    medians = np.array([[5.0, 5.0], [5.0, 5.0]])
    low = np.array([[4.0, np.nan], [np.nan, np.nan]])
    high = np.array([[6.0, np.nan], [np.nan, np.nan]])
    median, lows, highs, _ = pool_launches(medians, low, high)
    assert median.tolist() == [5, 5]
    assert (lows.tolist(), highs.tolist()) == ([4, 5], [6, 5])


def test_variation_between_launches_is_covered() -> None:
    rng = np.random.default_rng(SEED)
    launches = 1 + rng.normal(0, 0.05, (2000, 4, 1))
    samples = launches + rng.normal(0, 0.05, (2000, 4, 40))
    median, low, high = (x.reshape(2000, 4) for x in median_interval(samples.reshape(-1, 40)))
    _, low, high, between = pool_launches(median, low, high)
    assert ((low <= 1) & (high >= 1)).mean() >= 0.93
    assert np.median(between) == pytest.approx(0.05, rel=0.2)


@settings(deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=6), st.floats(0, 10))
def test_the_pooled_interval_encloses_centre_and_mean(medians: list[float], half: float) -> None:
    median, low, high, between = pooled(medians, half)
    slack = 1e-9 * max(medians)
    assert low - slack <= min(median, sum(medians) / len(medians))
    assert max(median, sum(medians) / len(medians)) <= high + slack
    assert between >= 0


# ---- digits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "half", "expected"),
    [(12.3456, 0.2, 3), (12.3456, 2, 2), (12.3456, 9.9, 2), (12.3456, 10, 1), (5, 20, 1), (1e6, 1, 5), (1.0, 0, 5)],
)
def test_digits(value: float, half: float, expected: int) -> None:
    assert digits(*np.array([[value], [value - half], [value + half]])).tolist() == [expected]


def test_without_an_interval_two_digits() -> None:
    assert digits(np.array([5, np.nan]), *np.full((2, 2), np.nan)).tolist() == [2, 2]


@settings(deadline=None)
@given(st.floats(1e-9, 1e9), st.floats(1e-9, 10), st.floats(1e-9, 10))
def test_no_digit_is_smaller_than_the_uncertainty(value: float, below: float, above: float) -> None:
    low, high = value * (1 - below), value * (1 + above)
    known = int(digits(*np.array([value, low, high])))
    last = 10.0 ** (math.floor(math.log10(value)) - known + 1)
    half = max(high - value, value - low)
    assert known == 1 or 10 * last > half * (1 - 1e-9)
    assert known == 1 or known == 5 or last <= half * (1 + 1e-9)
