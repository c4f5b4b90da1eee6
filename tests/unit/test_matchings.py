"""Which hosts meet which: matchings are perfect where they can be, symbols say all of it, nonsense is refused."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import matchings
from commbench.errors import SpecError
from commbench.layouts import expand

RACKS = st.lists(st.integers(1, 7), min_size=1, max_size=6).map(
    lambda sizes: [tuple(range(sum(sizes[:k]), sum(sizes[: k + 1]))) for k in range(len(sizes))]
)


@given(RACKS, st.integers(0, 40), st.sampled_from(["in", "across"]), st.sampled_from([None, 0, 1]))
@settings(max_examples=200)
def test_a_symbol_is_its_meeting(racks: list[tuple[int, ...]], round_: int, kind: str, rail: int | None) -> None:
    made = (matchings.inside if kind == "in" else matchings.across)(racks, round_)
    meeting = matchings.parse(matchings.symbol(racks, kind, round_, rail))
    assert meeting == matchings.Meeting(made, rail)
    hosts = [host for pair in made for host in pair]
    assert len(hosts) == len(set(hosts)), "a host meets one other at a time"
    rack_of = {host: k for k, rack in enumerate(racks) for host in rack}
    assert all((rack_of[a] == rack_of[b]) == (kind == "in") for a, b in made)
    assert all(a < b for a, b in made)


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 16])
def test_inside_a_rack_everybody_meets_everybody_once(size: int) -> None:
    rounds = size - 1 + size % 2
    met = [pair for k in range(rounds) for pair in matchings.inside([range(size)], k)]
    assert sorted(met) == list(combinations(range(size), 2))


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_of_two_racks_everybody_meets_everybody_of_the_other_once(size: int) -> None:
    racks = [range(size), range(size, 2 * size)]
    met = [pair for k in range(size) for pair in matchings.across(racks, k)]
    assert sorted(met) == [(a, b) for a in racks[0] for b in racks[1]]


@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 2, 2, 2), (3, 3, 2), (8, 4, 4)])
def test_across_racks_nobody_waits_where_no_rack_has_more_than_half(sizes: tuple[int, ...]) -> None:
    racks = [range(sum(sizes[:k]), sum(sizes[: k + 1])) for k in range(len(sizes))]
    for k in range(12):
        assert len(matchings.across(racks, k)) == sum(sizes) // 2


def test_a_bye_goes_round() -> None:
    for racks in ([range(5)], [range(3), range(3, 5)], [(0,), (1,), (2,)]):
        meet = matchings.inside if len(racks) == 1 else matchings.across
        idle = [set(range(sum(map(len, racks)))) - {h for pair in meet(racks, k) for h in pair} for k in range(15)]
        assert set.intersection(*idle) == set(), "nobody is left out for ever"


def test_groups_are_pairs_rail_by_rail() -> None:
    host_of = [0, 0, 1, 1, 2, 2, 3, 3]
    assert expand("meet(0-2,1-3)", host_of) == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert expand("meet(0-2,1-3)@1", host_of) == ((1, 5), (3, 7))
    assert expand("only(0,2-3)", host_of) == ((0, 1, 4, 5, 6, 7),)
    assert expand("each(1-2)", host_of) == ((2, 3), (4, 5))
    assert expand("racks(0-1|2-3)/in/0", host_of) == ((0, 2), (1, 3), (4, 6), (5, 7))


def test_a_smaller_world_has_the_same_groups_in_the_same_order() -> None:
    """Host 1 is gone, and the others keep their numbers: what was measured before and after can be told together."""
    assert expand("meet(0-2)", [0, 0, 2, 2]) == ((0, 2), (1, 3))


@pytest.mark.parametrize(
    ("symbol", "word"),
    [
        ("meet(0-0)", "two places"),
        ("meet(0-1,1-2)", "two places"),
        ("only(1,1)", "two places"),
        ("racks(0-3|2-5)/in/0", "two places"),
        ("meet(0-9)", "host 9 has no rank"),
        ("meet(0-1)@3", "no rail 3"),
        ("only(0-99999999)", "more than"),
        ("racks(0-3)/up/0", "not a layout"),
        ("meet()", "not a layout"),
    ],
)
def test_nonsense_is_refused(symbol: str, word: str) -> None:
    with pytest.raises(SpecError, match=word):
        expand(symbol, [0, 1, 2, 3])


@given(st.lists(st.integers(0, 50), unique=True, min_size=1))
def test_spans_are_short_and_lose_nothing(numbers: list[int]) -> None:
    meeting = matchings.parse(matchings.only(numbers))
    assert meeting is not None
    assert meeting.only == tuple(sorted(numbers))
    assert matchings.spans(range(1000)) == "0-999"
