"""The slowest rank and its time travel in one integer: the answer is that of a plain argmax and minimum."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.layouts import Groups
from commbench.world import slowest
from commbench.world.single import SingleWorld

Array = np.ndarray[Any, np.dtype[Any]]
TICK = 1e-10


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, Groups]:
    """A simulated world and disjoint groups of some of its ranks, in any order."""
    size = draw(st.integers(1, 24))
    ranks = draw(st.permutations(range(size)))[: draw(st.integers(1, size))]
    cuts = sorted(draw(st.sets(st.integers(1, len(ranks)), max_size=4)) | {0, len(ranks)})
    groups = [tuple(sorted(ranks[a:b])) for a, b in pairwise(cuts)]
    return size, tuple(groups)


# Ticks of 0.1 ns up to an hour, and values so close together that ranks often tie.
ticks = st.one_of(st.integers(0, 4), st.integers(0, 36 * 10**12))


@settings(max_examples=200, deadline=None)
@given(worlds(), st.integers(1, 5), st.data())
def test_as_argmax_and_minimum_say(world: tuple[int, Groups], samples: int, data: st.DataObject) -> None:
    size, groups = world
    rows = sum(map(len, groups))
    drawn = data.draw(st.lists(ticks, min_size=rows * samples, max_size=rows * samples))
    counted = np.array(drawn, np.int64).reshape(rows, samples)
    if size == 1:
        groups = ((0,),)
    found = slowest(SingleWorld(size), groups, np.asarray(counted * TICK, np.float64))

    assert len(found) == len(groups)
    first = 0
    for group, times in zip(groups, found, strict=True):
        own = counted[first : first + len(group)]
        first += len(group)
        assert np.array_equal(np.rint(times.seconds / TICK), own.max(axis=0))
        assert np.array_equal(np.rint(times.skew / TICK), own.max(axis=0) - own.min(axis=0))
        for sample, rank in enumerate(times.slowest.tolist()):
            assert own[group.index(rank), sample] == own[:, sample].max()
            # Of equals the last: a rule, so that the same run names the same rank.
            assert rank == max(r for r, t in zip(group, own[:, sample], strict=True) if t == own[:, sample].max())


@settings(deadline=None)
@given(st.floats(0, 3600), st.floats(0, 3600))
def test_times_are_kept_to_a_tenth_of_a_nanosecond(one: float, other: float) -> None:
    (times,) = slowest(SingleWorld(2), ((0, 1),), np.array([[one], [other]]))
    most, least = max(one, other), min(one, other)
    rounding = 1e-15 * most  # of float64 itself
    assert abs(times.seconds[0] - most) <= TICK / 2 + rounding
    assert abs(times.skew[0] - (most - least)) <= TICK + rounding


def test_a_difference_of_one_tick_decides_even_after_an_hour() -> None:
    hour = 3600.0
    times = np.array([[hour, 1e-6], [hour + TICK, 1e-6], [hour, 1e-6 + TICK]])
    (found,) = slowest(SingleWorld(3), ((0, 1, 2),), times)
    assert found.slowest.tolist() == [1, 2]
    assert np.allclose(found.skew, TICK, rtol=1e-3)
    assert found.seconds[0] == pytest.approx(hour + TICK, abs=TICK / 2)


def test_the_largest_rank_and_an_hour_fit_together() -> None:
    size = 65536
    times = np.full((size, 2), 1e-6)
    times[[65535, 12345], [0, 1]] = 3600.0
    (found,) = slowest(SingleWorld(size), (tuple(range(size)),), times)
    assert found.slowest.tolist() == [65535, 12345]
    assert found.seconds.tolist() == pytest.approx([3600.0, 3600.0], abs=TICK)
    assert found.skew.tolist() == pytest.approx([3600.0 - 1e-6] * 2, abs=TICK)


def test_a_group_of_one_is_never_behind_itself() -> None:
    found = slowest(SingleWorld(3), ((2,), (0,), (1,)), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert [times.slowest.tolist() for times in found] == [[2, 2], [0, 0], [1, 1]]
    assert [times.seconds.tolist() for times in found] == [[1, 2], [3, 4], [5, 6]]
    assert not any(times.skew.any() for times in found)
