"""Slow hosts, NICs, uplinks and paths, found from tests of pairs on a small simulated fabric."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench import matchings
from commbench.accept.hunt import Hunt
from commbench.accept.locate import Fleet, Key, Located, Options, Seen, locate
from commbench.accept.plan import AGAIN
from commbench.matchings import Meeting

WIRE = 0.95  # share of the wire that healthy pairs reach


class Fabric:
    """Rates of components: ("host", 3), ("nic", 3, 0), ("uplink", 1), ("path", 2, 5); what is not told has rate 1."""

    def __init__(self, racks: Sequence[int], rates: Mapping[Any, float] = {}, seed: int = 0, **told: Any) -> None:
        rack_of = tuple(rack for rack, size in enumerate(racks) for _ in range(size))
        self.fleet = Fleet(len(rack_of), rack_of, told.get("rails", 1))
        self.rates, self.wire, self.sigma = rates, told.get("wire", False), told.get("sigma", 0.015)
        self.congestion = told.get("congestion", 0.01)
        self.rng = np.random.default_rng(seed)

    def rate(self, a: int, b: int, rail: int) -> float:
        racks = [self.fleet.rack_of[end] for end in (a, b)]
        used: list[Any] = [("host", a), ("host", b), ("nic", a, rail), ("nic", b, rail), ("path", a, b)]
        used += [("uplink", rack) for rack in racks] if racks[0] != racks[1] else []
        return min(self.rates.get(part, 1.0) for part in used)

    def meet(self, meeting: Meeting) -> Seen:
        rails = range(self.fleet.rails) if meeting.rail is None else (meeting.rail,)
        rates = []
        for a, b in meeting.pairs:
            congested = self.rng.uniform(0.6, 0.95) if self.rng.random() < 2 * self.congestion else 1.0
            rates += [self.rate(a, b, rail) * congested * np.exp(self.rng.normal(0, self.sigma)) for rail in rails]
        return Seen(meeting, 1e-3 / np.array(rates), np.full(len(rates), WIRE * 1e-3) if self.wire else None)

    def hunt(self, options: Options = Options(), **told: Any) -> tuple[Located, list[str], list[Seen]]:  # noqa: B008
        hunt = Hunt(self.fleet, options, **told)
        asked: list[str] = []
        seen = list(told.get("seen", ()))
        while (symbol := hunt.ask()) is not None:
            assert symbol == hunt.ask()  # asking is no deed
            asked.append(symbol)
            seen.append(self.meet(parsed(symbol)))
            hunt.tell(seen[-1])
        return hunt.located(), asked, seen


def parsed(symbol: str) -> Meeting:
    meeting = matchings.parse(symbol)
    assert meeting is not None
    return meeting


def keys(located: Located) -> list[Key]:
    return [found.key for found in located.found]


# -- what is at fault


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("racks", "rates", "told", "expected"),
    [
        ((4,), {("host", 2): 0.7}, {}, Key("host", (2,))),
        ((8,), {("host", 5): 0.5}, {}, Key("host", (5,))),
        ((3, 3), {("host", 0): 0.7}, {}, Key("host", (0,))),
        ((4, 4), {("host", 6): 0.5}, {"wire": True}, Key("host", (6,))),
        ((6,), {("path", 1, 4): 0.6}, {}, Key("path", (1, 4))),
        ((4, 4), {("uplink", 1): 0.5}, {"wire": True}, Key("uplink", (), None, 0)),
        ((3, 3, 2), {("uplink", 1): 0.6}, {}, Key("uplink", (), None, 1)),
        ((2, 2, 2, 2), {("uplink", 3): 0.7}, {}, Key("uplink", (), None, 3)),
        ((6,), {("nic", 3, 1): 0.6}, {"rails": 2}, Key("nic", (3,), 1)),
        ((6,), {("host", 3): 0.6}, {"rails": 2}, Key("host", (3,))),
    ],
)
def test_a_single_fault_is_named(racks: Any, rates: Any, told: Any, expected: Key, seed: int) -> None:
    located, _, seen = Fabric(racks, rates, seed, sigma=0.03, **told).hunt(Options(seed=seed))
    assert keys(located) == [expected]
    (found,) = located.found
    lost = 1 - next(iter(rates.values()))
    assert abs(found.slowdown - lost) < 0.1
    assert found.odds > 2
    assert len(found.seen) > 1  # the evidence is tests of that component, and slow ones
    for where, group in found.seen:
        pair = seen[where].meeting.pairs[
            group // len(told.get("rails", 1) * "r") if seen[where].meeting.rail is None else group
        ]
        assert set(expected.hosts) & set(pair) or expected.rack is not None
        assert seen[where].seconds[group] > 1.05e-3
    assert not set(expected.hosts) & set(located.cleared) or expected.kind == "path"


@pytest.mark.parametrize("racks", [(4,), (8,), (3, 3), (4, 4), (2, 2, 2), (7,), (16, 16, 16, 16)])
@pytest.mark.parametrize("wire", [False, True])
def test_a_healthy_fleet_is_cleared(racks: tuple[int, ...], wire: bool) -> None:
    for seed in range(3):
        located, _, _ = Fabric(racks, {}, seed, wire=wire).hunt(Options(seed=seed))
        assert located.found == ()
        assert located.undecided == ()
        assert located.cleared == tuple(range(sum(racks)))
        assert located.detectable is not None
        assert 0.05 < located.detectable < 0.1


def test_many_slow_hosts_at_once() -> None:
    slow = set(range(0, 256, 13))
    located, asked, _ = Fabric((256,), {("host", host): 0.9 for host in slow}, 1).hunt()
    assert {key.hosts[0] for key in keys(located)} == slow
    assert len(asked) < 12


def test_a_nic_and_an_uplink_at_once() -> None:
    fabric = Fabric((8, 8, 8, 8), {("nic", 9, 1): 0.7, ("uplink", 3): 0.7}, 3, rails=2)
    assert set(keys(fabric.hunt()[0])) == {Key("nic", (9,), 1), Key("uplink", (), None, 3)}


# -- what cannot be told is said


def test_with_one_rail_a_nic_explains_what_its_host_does() -> None:
    located, _, _ = Fabric((8,), {("host", 5): 0.5}).hunt()
    assert located.found[0].ties == (Key("nic", (5,), 0),)


def test_of_two_racks_either_uplink_may_be_slow() -> None:
    located, _, _ = Fabric((4, 4), {("uplink", 1): 0.4}, wire=True).hunt()
    assert located.found[0].ties == (Key("uplink", (), None, 1),)
    assert abs(located.found[0].slowdown - 0.6) < 0.05
    assert located.cleared == tuple(range(8))  # the hosts are fine


def test_a_host_that_is_its_rack_explains_what_the_uplink_does() -> None:
    located, _, _ = Fabric((1, 1, 1, 1), {("host", 2): 0.6}).hunt()
    assert keys(located) == [Key("host", (2,))]
    assert Key("uplink", (), None, 2) in located.found[0].ties


def test_two_hosts_cannot_be_told_apart() -> None:
    located, asked, _ = Fabric((2,), {("host", 1): 0.3}, wire=True).hunt()
    assert keys(located) == [Key("path", (0, 1))]
    assert located.found[0].ties == (Key("host", (0,)), Key("host", (1,)))
    assert len(asked) == 3
    assert any("third host" in note for note in located.notes)


def test_one_slow_host_of_three() -> None:
    located, _, _ = Fabric((3,), {("host", 1): 0.5}).hunt()
    assert keys(located) == [Key("host", (1,))]
    assert any("three hosts" in note for note in located.notes)


def test_everything_slow_against_the_wire_is_the_fabric() -> None:
    rates = {("host", host): 0.3 for host in range(8)}
    located, _, _ = Fabric((8,), rates, wire=True).hunt()
    assert keys(located) == [Key("fabric")]
    assert located.cleared == ()
    located, _, _ = Fabric((8,), rates).hunt()
    assert located.found == ()  # without the wire nobody can know
    assert any("wire" in note for note in located.notes)


def test_more_than_half_slow() -> None:
    rates = {("host", host): 0.5 for host in range(5)}
    located, _, _ = Fabric((8,), rates, wire=True).hunt()
    assert sorted(key.hosts for key in keys(located)) == [(host,) for host in range(5)]
    located, _, _ = Fabric((8,), rates).hunt()
    assert not set(located.cleared) & set(range(5))
    assert any("more than half" in note for note in located.notes)


# -- no evidence is no health


def test_a_host_without_a_measured_test_is_not_cleared() -> None:
    fabric = Fabric((8,), {})
    hunt = Hunt(fabric.fleet)
    for _ in range(40):
        if (symbol := hunt.ask()) is None:
            break
        one = fabric.meet(parsed(symbol))
        gone = [k for k, pair in enumerate(one.meeting.pairs) if 3 in pair]
        one.seconds[gone] = np.nan
        hunt.tell(one)
    else:
        pytest.fail("the hunt for what cannot be measured does not end")
    assert hunt.located().undecided == (3,)
    assert hunt.located().found == ()


def test_nothing_measured_clears_nobody() -> None:
    fleet = Fleet(4, (0, 0, 0, 0))
    located = locate(fleet, [])
    assert (located.cleared, located.undecided, located.detectable) == ((), (0, 1, 2, 3), None)
    dark = [Seen(parsed(f"racks(0-3)/in/{k}"), np.full(2, np.nan)) for k in range(3)]
    assert locate(fleet, dark).cleared == ()


def test_tests_with_a_slow_partner_clear_nobody() -> None:
    """Host 1 has met only host 0, which is slow: whether it is slow too is not known."""
    fleet = Fleet(6, (0,) * 6)
    seen = []
    for k in range(5):
        meeting = parsed(f"racks(0-5)/in/{k}")
        slow = np.array([2e-3 if 0 in pair else np.nan if 1 in pair else 1e-3 for pair in meeting.pairs])
        seen.append(Seen(meeting, slow * (1 + 0.01 * np.sin(np.arange(3) + k))))
    located = locate(fleet, seen)
    assert keys(located) == [Key("host", (0,))]
    assert 1 not in located.cleared
    assert {2, 3, 4, 5} <= set(located.cleared)


def test_a_test_that_was_slow_once_is_congestion_and_is_measured_again() -> None:
    class Once(Fabric):
        def meet(self, meeting: Meeting) -> Seen:
            one = super().meet(meeting)
            if meeting == parsed(asked[0]):
                one.seconds[1] *= 1.5
            return one

    fabric = Once((16,), {}, congestion=0.0)
    hunt = Hunt(fabric.fleet)
    asked = [hunt.ask() or ""]
    located, rounds, _ = fabric.hunt()
    pair = parsed(asked[0]).pairs[1]
    assert any(pair in parsed(symbol).pairs for symbol in rounds[3:])
    assert located.found == ()
    assert located.undecided == ()


def test_noise_that_hides_the_slowdown_ends_undecided_not_cleared() -> None:
    located, asked, _ = Fabric((8,), {}, 2, sigma=0.4).hunt(Options(most_confirm=6))
    assert located.undecided
    assert located.detectable is None or located.detectable > 0.1
    assert len(asked) <= 3 * 7 + 6


def test_what_could_have_been_found_grows_with_noise() -> None:
    quiet, loud = (Fabric((16,), {}, 1, sigma=sigma).hunt()[0].detectable for sigma in (0.005, 0.03))
    assert quiet is not None
    assert loud is not None
    assert quiet < loud


def test_a_meeting_that_is_slow_as_a_whole_blames_nobody() -> None:
    class Gusty(Fabric):
        def meet(self, meeting: Meeting) -> Seen:
            return super().meet(meeting)._replace(seconds=super().meet(meeting).seconds * self.rng.uniform(1, 1.4))

    for seed in range(4):
        located, _, _ = Gusty((16,), {("host", 3): 0.7}, seed).hunt()
        assert keys(located) == [Key("host", (3,))]


# -- the hunt


def test_a_hunt_goes_on_where_it_was_interrupted() -> None:
    def make() -> Fabric:
        return Fabric((4, 4), {("host", 2): 0.6, ("path", 5, 7): 0.5}, 5, sigma=0.03)

    whole, _, seen = make().hunt()
    for k in range(len(seen) + 1):
        hunt = Hunt(make().fleet, seen=seen[:k])
        for later in seen[k:]:
            symbol = hunt.ask()
            assert symbol is not None
            assert parsed(symbol) == later.meeting
            hunt.tell(later)
        assert hunt.ask() is None
        assert hunt.located() == whole


def test_what_was_slow_for_a_while_is_not_accused_when_it_is_looked_at_again() -> None:
    fabric = Fabric((32,), {("host", 7): 0.7, ("host", 20): 0.7}, 3)
    hunt = Hunt(fabric.fleet)
    while symbol := hunt.ask():
        hunt.tell(fabric.meet(parsed(symbol)))
    assert set(keys(hunt.located())) == {Key("host", (7,)), Key("host", (20,))}
    fabric.rates = {("host", 20): 0.7}
    since = hunt.met
    met = []
    while symbol := hunt.again(since):
        met.append({host for pair in parsed(symbol).pairs for host in pair})
        hunt.tell(fabric.meet(parsed(symbol)))
    assert len(met) <= AGAIN
    assert {7, 20} <= met[0]
    assert all(20 not in hosts for hosts in met[1:])  # once slow then is enough
    assert keys(hunt.located()) == [Key("host", (20,))]


def test_of_nobody_accused_nobody_is_looked_at_again() -> None:
    fabric = Fabric((8,), {})
    hunt = Hunt(fabric.fleet)
    while symbol := hunt.ask():
        hunt.tell(fabric.meet(parsed(symbol)))
    assert hunt.again(hunt.met) is None


def test_the_seed_draws_the_rounds() -> None:
    first, again, other = (Fabric((16,), {}).hunt(Options(seed=seed))[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_hosts_that_take_no_part_are_not_asked() -> None:
    fabric = Fabric((4, 4), {("host", 6): 0.6})
    located, asked, _ = fabric.hunt(hosts=(0, 1, 2, 5, 6, 7))
    met = {host for symbol in asked for pair in parsed(symbol).pairs for host in pair}
    assert met == {0, 1, 2, 5, 6, 7}
    assert keys(located) == [Key("host", (6,))]
    assert not {3, 4} & {*located.cleared, *located.undecided}


@pytest.mark.parametrize("racks", [(5,), (9,), (5, 3), (6, 2), (3, 3, 1), (1, 1, 1)])
def test_everybody_meets_somebody_whatever_the_racks(racks: tuple[int, ...]) -> None:
    fabric = Fabric(racks, {})
    _, asked, _ = fabric.hunt()
    tests = np.zeros(sum(racks), dtype=int)
    for symbol in asked:
        for pair in parsed(symbol).pairs:
            tests[list(pair)] += 1
    assert tests.min() >= 1
    if len(racks) > 1:
        rack = fabric.fleet.rack_of
        beyond = {h for s in asked for p in parsed(s).pairs if rack[p[0]] != rack[p[1]] for h in p}
        assert beyond == set(range(sum(racks)))


def test_suspects_meet_cleared_hosts_that_change_beside_pairs_that_are_fine() -> None:
    _, asked, _ = Fabric((32,), {("host", 7): 0.9}, 3, sigma=0.03).hunt()
    confirm = [parsed(symbol).pairs for symbol in asked if symbol.startswith("meet")]
    partners = [sum(pair) - 7 for pairs in confirm for pair in pairs if 7 in pair]
    assert partners
    assert len(set(partners)) == len(partners)
    assert all(len(pairs) > 1 for pairs in confirm)


def test_each_rail_is_measured_alone_and_all_together() -> None:
    asked = Fabric((4,), {}, rails=2).hunt()[1]
    assert {parsed(symbol).rail for symbol in asked} == {None, 0, 1}


def test_one_host_asks_nothing() -> None:
    assert Hunt(Fleet(1, (0,))).ask() is None
    assert Hunt(Fleet(4, (0,) * 4), hosts=(2,)).ask() is None


# -- figures


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 3))
def test_only_ratios_count(factor: float, seed: int) -> None:
    fabric = Fabric((8,), {("host", 5): 0.7}, seed)
    located, _, seen = fabric.hunt()
    scaled = locate(fabric.fleet, [one._replace(seconds=one.seconds * factor) for one in seen])
    assert keys(scaled) == keys(located)
    assert scaled.cleared == located.cleared
    assert scaled.noise == pytest.approx(located.noise, rel=1e-3)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda one: one._replace(seconds=one.seconds[:-1]),
        lambda one: one._replace(meeting=Meeting(((0, 9), (1, 2)))),
        lambda one: one._replace(meeting=one.meeting._replace(rail=3)),
    ],
)
def test_times_of_another_fleet_are_refused(break_it: Callable[[Seen], Seen]) -> None:
    fabric = Fabric((4,), {})
    with pytest.raises(ValueError, match="meeting 0"):
        locate(fabric.fleet, [break_it(fabric.meet(parsed("racks(0-3)/in/0")))])


def test_odd_figures_do_no_harm() -> None:
    """Zero, negative and infinite times are not measured."""
    fleet = Fleet(4, (0,) * 4)
    seen = [Seen(parsed(f"racks(0-3)/in/{k}"), np.array([bad, 1e-3])) for k, bad in enumerate((0.0, -1.0, np.inf))]
    assert locate(fleet, seen).found == ()


def test_four_thousand_hosts_are_planned_and_judged_in_two_seconds() -> None:
    rng = np.random.default_rng(4)
    rate = np.ones(4096)
    rate[rng.choice(4096, 20, replace=False)] = 0.9
    hunt = Hunt(Fleet(4096, (0,) * 4096))
    start = time.process_time()
    spent = 0.0
    while (symbol := hunt.ask()) is not None:
        pause = time.process_time()
        pairs = np.array(parsed(symbol).pairs)
        left = np.where(rng.random(pairs.shape) < 0.01, rng.uniform(0.6, 0.95, pairs.shape), rate[pairs]).min(axis=1)
        one = Seen(parsed(symbol), 1e-3 / left * np.exp(rng.normal(0, 0.015, len(pairs))))
        spent += time.process_time() - pause
        hunt.tell(one)
    located = hunt.located()
    assert time.process_time() - start - spent < 2
    assert {key.hosts[0] for key in keys(located)} == set(np.flatnonzero(rate < 1).tolist())
