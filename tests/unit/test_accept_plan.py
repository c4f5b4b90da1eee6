"""What an acceptance test asks, answered by hosts that are not there: its stages, its end, and what a break changes."""

import random
from collections.abc import Callable, Collection

import msgspec
import pytest
from accepted import RATE, Made, Seconds, machine, sentences, spec_of, usual

from commbench import matchings, store
from commbench.accept.plan import AGAIN, AcceptPlan
from commbench.accept.stages import stage
from commbench.collectives import moved
from commbench.layouts import expand
from commbench.records import Case, Machine, Measurement, Run
from commbench.records.acceptance import Acceptance
from commbench.spec.accept import AcceptSpec

HOSTS = 8
SPEC = spec_of(HOSTS)


def answers(case: Case, about: Machine, round_: int, seconds: Seconds, seed: int) -> list[Measurement]:
    rows = []
    for index, group in enumerate(expand(case.groups, about.host_of)):
        dice = random.Random(f"{seed}/{round_}/{index}")
        hosts = tuple(sorted({about.host_of[rank] for rank in group}))
        nbytes = moved(case.op, case.nbytes, case.dtype, len(group))
        once = 20e-6 + (0.0 if case.mode == "latency" else nbytes / RATE)
        once *= seconds(case, hosts, round_) * dice.lognormvariate(0, 0.01)
        each = tuple(once * dice.lognormvariate(0, 0.01) for _ in range(30))
        about_it = {"group": index, "ranks": len(group), "nbytes": nbytes, "wrong": 0, "calls": 1}
        rows.append(msgspec.structs.replace(Measurement(case=case), seconds=each, **about_it))
    return rows


def go(
    seconds: Seconds = usual,
    spec: AcceptSpec = SPEC,
    seed: int = 0,
    broken: Collection[int] = (),
    over: Callable[[int], str] = lambda round_: "",
) -> Made:
    """A test of eight hosts to its end. broken: rounds after which it is started again from its journal."""
    about, left = machine(HOSTS), set(broken)
    rows: list[Measurement] = []

    def late() -> str:
        return over(len({row.launch for row in rows}))

    while True:
        plan = AcceptPlan(spec, about, range(HOSTS), rows, late)
        while cases := plan.ask():
            told = plan.numbered(answers(cases[0], about, plan.round, seconds, seed))
            rows += told
            plan.tell(told)
            if plan.round in left:
                left.discard(plan.round)
                break
        else:
            break
    ended = "budget" if plan.stopped else "done"
    run = Run(format=store.FORMAT, name="made", created="2026-11-23T09:00:00+00:00", commbench="0.6", seed=0,
              spec=spec.sweep.canonical() | spec.also, machine=about)  # fmt: skip
    return Made(run, rows, Acceptance(ended=ended, stages=plan.left(), launches=1, spent=60.0), spec)  # type: ignore[arg-type]


def slow(host: int, until: int = 999) -> Seconds:
    """Four sevenths of the rate, up to a round."""
    return lambda case, hosts, round_: 1.4 if host in hosts and case.mode == "throughput" and round_ < until else 1.0


def asked(one: Made) -> list[tuple[str, str]]:
    """(stage, mode) of each round."""
    by_round = {row.launch: row.case for row in one.rows}
    return [(stage(case), case.mode) for _, case in sorted(by_round.items())]


def test_a_healthy_fleet_passes_and_nobody_is_looked_at_again() -> None:
    one = go()
    assert one.verdict.word == "PASS", sentences(one.verdict)
    names = [name for name, _ in asked(one)]
    assert "confirm" not in names[names.index("full") :]


def test_a_slow_host_is_looked_at_again_after_the_full_scale_and_stays_accused() -> None:
    one = go(slow(2))
    names = [name for name, mode in asked(one) if mode == "throughput"]
    last = len(names) - 1 - names[::-1].index("full")
    assert names[last + 1 :] == ["confirm"]
    (reason,) = [reason for reason in one.verdict.reasons if reason.decides == "FAIL"]
    assert (reason.code, reason.component.id) == ("CB-SLOW-HOST", "h3")
    without = {row.case.groups for row in one.rows if stage(row.case) == "full"}
    assert without == {"world", matchings.only([host for host in range(HOSTS) if host != 2])}


def test_what_was_slow_for_a_while_is_told_and_accuses_nobody() -> None:
    one = go(slow(2, until=18))
    (reason,) = one.verdict.reasons
    assert (one.verdict.word, reason.code, reason.fault) == ("INCONCLUSIVE", "CB-UNDECIDED", "unstable")
    assert reason.component.id == "h3"
    assert "new folder" in reason.next
    names = [name for name, mode in asked(one) if mode == "throughput"]
    assert 1 <= len(names) - 1 - (len(names) - 1 - names[::-1].index("full")) <= AGAIN


def test_without_a_full_scale_no_time_passes_and_nobody_is_looked_at_again() -> None:
    spec = msgspec.structs.replace(SPEC, stages=("preflight", "spread", "confirm"))
    one = go(slow(2), spec)
    assert [reason.component.id for reason in one.verdict.reasons if reason.decides == "FAIL"] == ["h3"]
    assert len(go(slow(2), spec, broken={3, 9, 14}).rows) == len(one.rows)


@pytest.mark.parametrize("until", [18, 999])
def test_a_break_after_any_round_changes_nothing(until: int) -> None:
    def told(one: Made) -> tuple[str, list[tuple[str, str]], int]:
        verdict = one.verdict
        found = [(reason.code, reason.component.id) for reason in verdict.reasons]
        return verdict.word, found, len({row.launch for row in one.rows})

    whole = go(slow(2, until))
    rounds = max(row.launch for row in whole.rows)
    for broken in ({round_} for round_ in range(rounds % 3, rounds, 3)):
        assert told(go(slow(2, until), broken=broken)) == told(whole), broken
    assert told(go(slow(2, until), broken=range(0, rounds, 2))) == told(whole)


def test_time_that_is_up_leaves_the_accused_unconfirmed() -> None:
    whole = go(slow(2))
    rounds = len({row.launch for row in whole.rows})
    one = go(slow(2), over=lambda round_: "the budget is used up" if round_ >= rounds - 1 else "")
    assert one.happened.stages["confirm"] == "the budget is used up"
    assert one.verdict.word == "FAIL"
    assert "CB-BUDGET" in {reason.code for reason in one.verdict.reasons}
