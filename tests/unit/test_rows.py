"""Measurements become rows: pooled, ordered, null where nothing is known."""

import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.collectives import COLLECTIVES, bandwidths, moved
from commbench.records import Case, Measurement
from commbench.stats.rows import Row, Unattributed, rows, series
from commbench.stats.spread import alike, spread
from commbench.stats.summary import median_interval

FIELDS = (
    "op backend nbytes dtype redop mode group ranks in_place settings launches samples median_us ci_low_us "
    "ci_high_us min_us p95_us p99_us mean_us skew_us algbw_gbps busbw_gbps wrong status why stopped clock"
)


def case(**fields: Any) -> Case:
    return Case(**{"op": "all_reduce", "backend": "gloo", "nbytes": 1024, **fields})


def answer(question: Case | None = None, seconds: tuple[float, ...] = (1e-5,) * 30, **fields: Any) -> Measurement:
    question = question or case()
    ranks = fields.pop("ranks", 2)
    known = {
        "ranks": ranks,
        "nbytes": moved(question.op, question.nbytes, question.dtype, ranks),
        "skew": tuple(s / 10 for s in seconds),
        "slowest": (1,) * len(seconds),
        "wrong": 0,
        "stopped": "ci",
    }
    return Measurement(case=question, seconds=seconds, **(known | fields))


def only(*measurements: Measurement) -> Row:
    (row,) = rows(measurements)
    return row


def test_the_fields_are_the_contract_in_its_order() -> None:
    assert Row.__struct_fields__[: len(FIELDS.split())] == tuple(FIELDS.split())
    assert list(msgspec.to_builtins(only(answer()))) == list(Row.__struct_fields__)


def test_a_row() -> None:
    seconds = tuple(np.random.default_rng(1).lognormal(-10, 0.2, 120).tolist())
    row = only(answer(seconds=seconds, slowest=(1, 0, 1) * 40))
    median, low, high = (x[0] * 1e6 for x in median_interval(np.array([seconds])))
    assert [row.median_us, row.ci_low_us, row.ci_high_us] == pytest.approx([median, low, high], abs=1e-6)
    ordered = sorted(s * 1e6 for s in seconds)
    assert [row.min_us, row.p95_us, row.p99_us] == pytest.approx([ordered[0], ordered[113], ordered[118]], abs=1e-6)
    assert row.mean_us == pytest.approx(sum(ordered) / 120)
    assert row.skew_us == pytest.approx(median / 10)
    assert (row.algbw_gbps, row.busbw_gbps) == pytest.approx(bandwidths("all_reduce", 1024, 2, median / 1e6))
    assert (row.launches, row.samples, row.between_us) == (1, 120, None)
    assert row.slowest == 1
    assert row.slowest_share == pytest.approx(2 / 3)
    assert (row.status, row.why, row.stopped, row.clock, row.wrong) == ("ok", None, "ci", "host", 0)
    assert row.half_width == pytest.approx((high - low) / 2 / median)


def test_what_is_not_known_is_null() -> None:
    row = only(Measurement(case=case(), status="skipped", why="gloo has no such thing"))
    numbers = [value for name, value in msgspec.structs.asdict(row).items() if name.endswith(("_us", "_gbps"))]
    assert set(numbers) == {None}
    assert (row.ranks, row.wrong, row.clock, row.stopped) == (None, None, None, None)
    assert (row.slowest, row.slowest_share, row.half_width) == (None, None, None)
    assert (row.nbytes, row.samples, row.launches) == (1024, 0, 0)


@pytest.mark.parametrize(("count", "known"), [(5, ""), (6, "ci"), (20, "ci p95"), (99, "ci p95"), (100, "ci p95 p99")])
def test_quantiles_need_samples(count: int, known: str) -> None:
    row = only(answer(seconds=(1e-5,) * count))
    found = {"ci": row.ci_low_us, "p95": row.p95_us, "p99": row.p99_us}
    assert [name for name, value in found.items() if value is not None] == known.split()
    assert row.median_us == pytest.approx(10)


def test_one_rank_has_no_bus_and_no_slowest() -> None:
    row = only(answer(ranks=1))
    assert row.algbw_gbps is not None
    assert (row.busbw_gbps, row.skew_us, row.slowest, row.slowest_share) == (None, None, None, None)


def test_a_barrier_has_no_size() -> None:
    row = only(answer(case(op="barrier")))
    assert (row.nbytes, row.algbw_gbps, row.busbw_gbps, row.redop) == (0, None, None, None)


@pytest.mark.parametrize("op", COLLECTIVES)
def test_only_reductions_have_a_redop(op: str) -> None:
    assert only(answer(case(op=op))).redop == ("sum" if COLLECTIVES[op].reduces else None)


def test_rounding_is_seen() -> None:
    row = only(answer(case(nbytes=10)))
    assert (row.asked, row.nbytes) == (10, 8)


# ---- pooling ----------------------------------------------------------------------------------------------


def test_launches_are_pooled() -> None:
    row = only(*(answer(seconds=(t,) * n, launch=k) for k, (t, n) in enumerate([(1e-5, 30), (3e-5, 20), (2e-5, 60)])))
    assert (row.launches, row.samples) == (3, 110)
    assert row.median_us == pytest.approx(20)
    assert row.between_us == pytest.approx(10)
    assert row.ci_high_us == pytest.approx(20 + 4.3027 * 10 / 3**0.5, rel=1e-4)
    assert row.ci_low_us == 0
    assert [row.min_us, row.p99_us] == pytest.approx([10, 30])


def test_the_worst_status_counts_and_every_reason_is_told() -> None:
    states = {"ok": "", "skipped": "no", "failed": "wrong data", "hung": "deadline"}
    for k, worst in enumerate(states):
        some = list(states.items())[: k + 1]
        random.Random(k).shuffle(some)
        row = only(*(answer(launch=n, status=status, why=why) for n, (status, why) in enumerate(some)))
        assert row.status == worst
        assert set((row.why or "").split("; ")) == {why for _, why in some if why} or k == 0


def test_a_launch_without_samples_leaves_the_others() -> None:
    row = only(answer(), answer(launch=1, seconds=(), status="hung", why="deadline", wrong=None))
    assert (row.status, row.launches, row.samples, row.between_us) == ("hung", 1, 30, None)
    assert row.median_us == pytest.approx(10)
    assert row.wrong == 0


def test_wrong_elements_add_up() -> None:
    assert only(answer(wrong=2), answer(launch=1, wrong=3)).wrong == 5
    assert only(answer(wrong=None)).wrong is None


def test_the_last_answer_counts_and_control_does_not() -> None:
    hung = answer(seconds=(), status="hung", why="deadline")
    control = answer(seconds=(9e-5,) * 30, control=True)
    row = only(hung, control, answer())
    assert (row.status, row.why, row.samples) == ("ok", None, 30)
    assert row.median_us == pytest.approx(10)
    assert rows([control]) == []


# ---- groups, order, spread --------------------------------------------------------------------------------


def test_groups_are_numbered_where_there_are_several() -> None:
    found = rows([*(answer(case(groups="node"), group=k) for k in (1, 0)), answer(), answer(case(groups="pairs/0"))])
    assert [(row.group, row.groups, row.layout) for row in found] == [
        ("node[0]", "node", "node"),
        ("node[1]", "node", "node"),
        ("pairs/0", "pairs/0", "pairs"),
        ("world", "world", "world"),
    ]


def test_order() -> None:
    cases = [
        case(backend="gloo", nbytes=8),
        case(backend="gloo", nbytes=16),
        case(backend="gloo", nbytes=8, groups="pairs/9"),
        case(backend="gloo", nbytes=8, groups="pairs/10"),
        case(backend="gloo", nbytes=8, in_place=True),
        case(backend="gloo", nbytes=4, settings=(("A", "1"),), in_place=True),
        case(backend="gloo", nbytes=8, mode="latency"),
        case(backend="gloo", op="broadcast"),
        case(backend="mpi", op="all_gather", nbytes=4),
    ]
    expected = [2, 3, 0, 1, 4, 5, 7, 8]
    shuffled = random.Random(3).sample(cases, len(cases))
    found = rows(answer(one) for one in shuffled)
    told = [cases.index(next(c for c in cases if series_of(c) == series_and_size(row))) for row in found]
    assert [k for k in told if k != 6] == expected
    assert told.index(6) == 0  # latency before throughput


def series_of(one: Case) -> tuple[Any, ...]:
    return (one.backend, one.op, one.mode, one.groups, one.in_place, one.settings, one.nbytes)


def series_and_size(row: Row) -> tuple[Any, ...]:
    settings = tuple(row.settings.items())
    return (row.backend, row.op, row.mode, row.group, row.in_place, settings, row.asked)


def test_spread() -> None:
    times = {0: 10, 1: 30, 2: 20}
    found = rows(answer(case(groups="node"), (t * 1e-6,) * 30, group=k) for k, t in times.items())
    (one,) = spread(found)
    assert (one.fastest.group, one.slowest.group, one.groups) == ("node[0]", "node[1]", 3)
    assert [one.median_us, one.ratio] == pytest.approx([20, 3])
    assert one.median_busbw_gbps == pytest.approx(found[2].busbw_gbps)


def test_spread_of_pairs_is_over_all_rounds() -> None:
    found = rows(
        answer(case(groups=f"pairs/{k}", nbytes=n), group=g) for k in range(3) for g in (0, 1) for n in (8, 16)
    )
    assert [(one.groups, one.fastest.asked) for one in spread(found)] == [(6, 8), (6, 16)]


def test_no_spread_without_several_groups() -> None:
    assert spread(rows([answer(), answer(case(groups="node")), answer(case(groups="mesh(a=2,b=2)/a#1"))])) == []
    silent = answer(case(groups="node"), (), group=1, status="skipped", why="no")
    assert spread(rows([answer(case(groups="node")), silent])) == []


def test_a_series_is_what_differs_in_size_and_group_only() -> None:
    found = rows(answer(case(groups=f"pairs/{k}", nbytes=n), group=g) for k in (0, 1) for g in (0, 1) for n in (8, 16))
    assert len({series(row) for row in found}) == 1


cases_ = st.builds(
    case,
    op=st.sampled_from(["all_reduce", "all_gather", "barrier"]),
    nbytes=st.integers(1, 3),
    groups=st.sampled_from(["world", "node"]),
    settings=st.sampled_from([(), (("A", "1"),)]),
)
answers = st.builds(
    answer,
    cases_,
    st.lists(st.floats(1e-7, 1e-2), max_size=25).map(tuple),
    group=st.integers(0, 2),
    launch=st.integers(0, 2),
    ranks=st.integers(1, 4),
    control=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(answers, max_size=8))
def test_in_brief_all_is_the_same_but_what_the_table_does_not_tell(given_: list[Measurement]) -> None:
    read = [msgspec.json.decode(msgspec.json.encode(m), type=Unattributed) for m in given_]
    left_out = ("slowest", "slowest_share", "between_us", "min_us", "p95_us", "p99_us", "mean_us")
    told = [msgspec.structs.replace(row, **dict.fromkeys(left_out)) for row in rows(given_)]
    assert rows(read, brief=True) == told


@settings(deadline=None)
@given(st.lists(answers, max_size=25))
def test_alike_are_neighbours_of_one_question(given_: list[Measurement]) -> None:
    found = rows(given_)
    blocks = alike(found)
    assert [row for block in blocks for row in block] == found
    for block in blocks:
        assert len({(series(row), row.asked, row.nbytes, row.clock, row.launches) for row in block}) == 1
    assert len(blocks) <= len({(m.case, m.group) for m in given_})


@settings(deadline=None)
@given(st.lists(answers, max_size=25))
def test_every_question_has_one_row_and_the_rows_are_those_of_each_alone(given_: list[Measurement]) -> None:
    found = rows(given_)
    questions = {(m.case, m.group) for m in given_ if not m.control}
    assert len(found) == len(questions)
    kept = {(m.case, m.group, m.launch): m for m in given_ if not m.control}
    assert sum(row.samples for row in found) == sum(len(m.seconds) for m in kept.values())
    for row in found:
        assert (row.median_us is None) == (row.samples == 0)
        if row.ci_low_us is not None and row.median_us is not None and row.ci_high_us is not None:
            assert row.ci_low_us <= row.median_us <= row.ci_high_us
    for question in questions:
        (alone,) = rows(m for m in given_ if (m.case, m.group) == question)
        assert any(row == msgspec.structs.replace(alone, group=row.group) for row in found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[Row]) == found


def test_another_tools_statistic_is_not_taken_for_samples() -> None:
    question = Case(op="all_reduce", backend="nccl", nbytes=1024)
    told = {"min": 4e-6, "p99": 9e-6}
    one = Measurement(case=question, ranks=2, nbytes=1024, seconds=(5e-6,), kind="mean", told=told, calls=20)
    (row,) = rows([one])
    assert (row.kind, row.median_us, row.mean_us) == ("mean", 5.0, 5.0)
    assert (row.min_us, row.p95_us, row.p99_us) == (4.0, None, 9.0)
    assert (row.ci_low_us, row.half_width) == (None, None)
    (pooled,) = rows([one, msgspec.structs.replace(one, launch=1, seconds=(7e-6,))])
    assert (pooled.launches, pooled.mean_us, pooled.min_us, pooled.p99_us) == (2, 6.0, None, None)
    assert pooled.ci_low_us is not None


def test_an_operation_of_another_tool_has_a_time_and_no_bandwidth() -> None:
    question = Case(op="osu.put_latency", backend="mpi", nbytes=1024, mode="latency")
    (row,) = rows([Measurement(case=question, ranks=2, nbytes=1024, seconds=(5e-6,), kind="mean")])
    assert (row.nbytes, row.median_us, row.algbw_gbps, row.busbw_gbps) == (1024, 5.0, None, None)


def test_without_the_number_of_ranks_a_rank_scaled_size_has_no_bandwidth() -> None:
    for op, algbw in (("all_reduce", pytest.approx(0.1024)), ("all_gather", None)):
        question = Case(op=op, backend="mpi", nbytes=1024)
        (row,) = rows([Measurement(case=question, nbytes=1024, seconds=(1e-5,), kind="mean")])
        assert (row.ranks, row.algbw_gbps, row.busbw_gbps) == (None, algbw, None)
