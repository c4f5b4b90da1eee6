"""Rules: the smallest set within the regret, never beyond what was measured; and what a job could gain by them."""

import itertools
import math
import os
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.records import Case, Measurement
from commbench.records.recommendation import Rule
from commbench.tune.candidates import DEFAULT, Candidate
from commbench.tune.rules import compress, find, pick

A = Candidate("a", (("algorithm", "a"),))
B = Candidate("b", (("algorithm", "b"),), numerics="bitwise-changing")
RACE = {"all_reduce": (DEFAULT, A, B)}


def rules_of(chosen: Sequence[int]) -> int:
    return sum(c != 0 and (k == 0 or chosen[k - 1] != c) for k, c in enumerate(chosen))


tables = st.integers(1, 5).flatmap(
    lambda sizes: st.lists(
        st.lists(st.sampled_from([1.0, 1.01, 1.019, 1.03, 1.5, math.inf]), min_size=sizes, max_size=sizes),
        min_size=0,
        max_size=2,
    ).flatmap(
        lambda others: st.lists(st.sampled_from([1.0, 1.01, 1.03, 1.5]), min_size=sizes, max_size=sizes).map(
            lambda first: np.array([first, *others])
        )
    )
)


@given(tables)
@settings(max_examples=int(os.environ.get("COMMBENCH_EXAMPLES", "60")), deadline=None)
def test_compression_is_minimal_and_within_the_regret(seconds: np.ndarray) -> None:
    chosen = compress(seconds, 0.02)
    best = seconds.min(axis=0)
    sizes = range(seconds.shape[1])

    def cost(assigned: Sequence[int]) -> tuple[int, int, float]:
        moved = sum(assigned[k] != 0 and seconds[0, k] <= best[k] * 1.02 for k in sizes)
        return rules_of(assigned), moved, sum(seconds[assigned[k], k] / best[k] - 1 for k in sizes)

    within = [
        each
        for each in itertools.product(range(len(seconds)), repeat=len(sizes))
        if all(seconds[each[k], k] <= best[k] * 1.02 for k in sizes)
    ]
    assert tuple(chosen) in within
    least = min(map(cost, within))
    assert cost(chosen)[:2] == least[:2]
    assert cost(chosen)[2] == pytest.approx(least[2])


def test_what_is_in_force_stays_until_it_costs_more_than_the_regret() -> None:
    close = np.array([[9, 9, 9, 9.0], [1, 1, 1.01, 2], [2, 1.01, 1, 1]])
    assert compress(close, 0.02, [1, 1, 1, 2]) == [1, 1, 1, 2]
    assert compress(close, 0.02, [1, 2, 2, 2]) == [1, 2, 2, 2]
    far = np.array([[9, 9, 9, 9.0], [1, 1, 1.03, 2], [2, 1.03, 1, 1]])
    assert compress(far, 0.02, [1, 1, 1, 2]) == [1, 1, 2, 2]


def test_nothing_to_compress() -> None:
    assert compress(np.zeros((3, 0))) == []


def trials(
    times: dict[int, dict[str, float]], rounds: int = 8, noise: float = 0.01, seed: int = 0
) -> list[Measurement]:
    """`times`: nbytes -> candidate ("" is the default) -> seconds in truth."""
    random = np.random.default_rng(seed)
    return [
        Measurement(
            case=Case(op="all_reduce", backend="mpi", nbytes=nbytes, settings=(("algorithm", name),) if name else ()),
            ranks=4,
            nbytes=nbytes,
            seconds=(seconds * math.exp(random.normal(0, noise)),),
            wrong=0,
            launch=k,
        )
        for k in range(rounds)
        for nbytes, each in times.items()
        for name, seconds in each.items()
    ]


def test_rules_hold_where_they_are_proved_and_nowhere_else() -> None:
    found = find(
        trials(
            {
                1024: {"": 1.0, "a": 1.3, "b": 1.2},
                2048: {"": 1.0, "a": 0.7, "b": 1.2},
                4096: {"": 1.0, "a": 0.6, "b": 0.8},
                8192: {"": 1.0, "a": 0.9, "b": 0.5},
                16384: {"": 1.0, "a": 1.0, "b": 1.0},
            }
        ),
        RACE,
    )
    assert [(rule.min_bytes, rule.settings, rule.numerics) for rule in found] == [
        (2048, A.settings, "neutral"),
        (found[0].max_bytes + 1, B.settings, "bitwise-changing"),
    ]
    assert 4096 <= found[0].max_bytes < 8192
    assert found[1].max_bytes == 8192
    assert found[1].gain_low < 0.5 == pytest.approx(found[1].gain, abs=0.02)
    assert found[1].gain < found[1].gain_high
    assert len(found[0].evidence) == 4


@given(st.dictionaries(st.sampled_from([2**k for k in range(10, 16)]), st.floats(0.3, 3), min_size=1), st.integers(0))
@settings(max_examples=40, deadline=None)
def test_outside_of_what_was_measured_is_the_default(ratios: dict[int, float], asked: int) -> None:
    found = find(trials({n: {"": 1.0, "a": ratio} for n, ratio in sorted(ratios.items())}), RACE)
    low, high = min(ratios), max(ratios)
    assert all(low <= rule.min_bytes <= rule.max_bytes <= high for rule in found)
    if not low <= asked <= high:
        assert pick(found, "all_reduce", 4, asked) == ()
    assert pick(found, "all_reduce", 8, low) == ()
    assert pick(found, "all_gather", 4, low) == ()
    for nbytes, ratio in ratios.items():
        chosen = pick(found, "all_reduce", 4, nbytes)
        assert chosen == (A.settings if ratio < 0.9 else chosen)
        assert chosen == (() if ratio > 1.06 else chosen)


def test_a_rule_runs_on_through_a_tie_that_is_proved() -> None:
    gain, tie = {"": 1.0, "a": 0.5}, {"": 1.0, "a": 1.0}
    found = find(trials({1024: gain, 2048: tie, 4096: gain}, rounds=16, noise=0.004), RACE)
    assert [(rule.min_bytes, rule.max_bytes) for rule in found] == [(1024, 4096)]
    unsure = trials({2048: tie}, rounds=2, noise=0.2, seed=5)
    found = find([*trials({1024: gain, 4096: gain}), *unsure], RACE)
    assert [(rule.min_bytes, rule.max_bytes) for rule in found] == [(1024, 1024), (4096, 4096)]


def test_held_rules_keep_their_borders_on_the_next_run() -> None:
    close = {"": 1.0, "a": 0.5, "b": 0.5}
    rows = trials({1024: {"": 1.0, "a": 0.4, "b": 0.6}, 2048: close, 4096: {"": 1.0, "a": 0.6, "b": 0.4}}, 16, 0.002)
    for settings_ in (A.settings, B.settings):
        held = Rule(
            op="all_reduce", ranks=4, min_bytes=2048, max_bytes=2048, settings=settings_,
            baseline_us=1, time_us=1, gain_low=0, gain=0, gain_high=0,
        )  # fmt: skip
        assert pick(find(rows, RACE, held=[held]), "all_reduce", 4, 2048) == settings_


@pytest.mark.parametrize(
    "spoilt",
    [{"wrong": 3, "status": "failed", "why": "wrong data"}, {"wrong": None}, {"status": "skipped", "why": "not read"}],
)
def test_one_spoilt_trial_takes_a_candidate_out(spoilt: dict[str, object]) -> None:
    import msgspec

    rows = trials({1024: {"": 1.0, "a": 0.5}})
    assert find(rows, RACE)
    rows[3] = msgspec.structs.replace(rows[3], **spoilt)
    assert rows[3].case.settings == A.settings
    assert find(rows, RACE) == ()
