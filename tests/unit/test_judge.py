"""What a judgement makes of a journal: never PASS without evidence, and the right name for what is wrong."""

import os
from collections.abc import Callable

import msgspec
import pytest
from accepted import Made, codes, hosts_of, machine, made, sentences, slow_host, star
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.accept.advice import NEXT
from commbench.accept.evidence import blame, gather
from commbench.accept.locate import Key
from commbench.accept.slow import component
from commbench.accept.transport import share
from commbench.records import Case, Fabric, Host, Measurement
from commbench.records.acceptance import Loss
from commbench.records.verdict import CODES, EXIT, Verdict, encode
from commbench.spec.accept import Criterion

HEALTHY = made()
RANKS = made(hosts=4, ranks=2)
EXAMPLES = int(os.environ.get("COMMBENCH_EXAMPLES", "25"))


def failing(row: Measurement, status: str, why: str, **more: object) -> Measurement:
    return msgspec.structs.replace(row, status=status, why=why, seconds=(), wrong=None, **more)


def not_passed(verdict: Verdict) -> None:
    assert verdict.word != "PASS"
    assert verdict.exit_code != 0
    assert verdict.reasons
    for reason in verdict.reasons:
        assert reason.code in CODES
        assert reason.sentence
        assert reason.next


# ---- a healthy run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [HEALTHY, RANKS, made(hosts=9, seed=3), made(fabric=star(8))])
def test_a_healthy_run_passes_and_says_what_it_could_have_found(one: Made) -> None:
    verdict = one.verdict
    assert verdict.word == "PASS", sentences(verdict)
    assert verdict.exit_code == 0 == EXIT["PASS"]
    assert (verdict.reasons, verdict.suspects, verdict.coverage.missing) == ((), (), ())
    assert len(verdict.cleared) == len(one.run.machine.hosts) == len(verdict.coverage.measured_hosts)
    assert verdict.power.detectable is not None
    assert verdict.power.detectable <= verdict.power.slowdown
    assert {one.word for one in verdict.criteria} == {"PASS"}


def test_the_same_journal_gives_the_same_bytes() -> None:
    one = made(seconds=slow_host(2, 0.8))
    told = encode(one.verdict)
    again = msgspec.json.decode(msgspec.json.encode(one.rows), type=list[Measurement])
    assert encode(one.but(rows=again).verdict) == told
    assert b"2026-11-23T09:00:00+00:00" in told
    assert b"commbench" in told
    # Rows of one round may come in any order.
    assert encode(one.but(rows=sorted(one.rows, key=lambda row: (row.launch, -row.group))).verdict) == told


# ---- no evidence is never fine ----------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_nothing_can_be_taken_out_of_a_run_that_passed(data: st.DataObject) -> None:
    one = data.draw(st.sampled_from([HEALTHY, RANKS]))
    what = data.draw(st.sampled_from(["row", "round", "host", "stage", "told", "tail", "group"]))
    rows = one.rows
    if what == "row":
        gone = data.draw(st.integers(0, len(rows) - 1))
        changed = one.but(rows=rows[:gone] + rows[gone + 1 :])
    elif what == "round":
        number = data.draw(st.sampled_from(sorted({row.launch for row in rows})))
        changed = one.rewritten(lambda row: row if row.launch != number else None)
    elif what == "host":
        host = data.draw(st.integers(0, len(one.run.machine.hosts) - 1))
        changed = one.rewritten(lambda row: row if host not in hosts_of(row, one.run.machine) else None)
    elif what == "stage":
        head = data.draw(st.sampled_from(sorted({row.case.groups.partition("(")[0] for row in rows})))
        changed = one.rewritten(lambda row: row if row.case.groups.partition("(")[0] != head else None)
    elif what == "told":
        stage = data.draw(st.sampled_from(sorted(one.happened.stages)))
        changed = one.told(stages={name: why for name, why in one.happened.stages.items() if name != stage})
    elif what == "tail":
        changed = one.but(rows=rows[: data.draw(st.integers(0, len(rows) - 1))])
    else:
        group = data.draw(st.integers(0, 1))
        changed = one.rewritten(lambda row: row if row.group != group else None)
    not_passed(changed.verdict)


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_no_row_can_go_wrong_unnoticed(data: st.DataObject) -> None:
    one = data.draw(st.sampled_from([HEALTHY, RANKS]))
    which = data.draw(st.integers(0, len(one.rows) - 1))
    change: Callable[[Measurement], Measurement] = data.draw(
        st.sampled_from(
            [
                lambda row: failing(row, "hung", "deadline"),
                lambda row: failing(row, "failed", "RuntimeError: connection reset"),
                lambda row: failing(row, "skipped", "no such backend"),
                lambda row: msgspec.structs.replace(row, wrong=None),
                lambda row: msgspec.structs.replace(row, wrong=3, status="failed", why="wrong data"),
                lambda row: msgspec.structs.replace(row, seconds=()),
                lambda row: msgspec.structs.replace(row, seconds=(float("nan"),) * 5),
                lambda row: msgspec.structs.replace(row, seconds=(0.0,) * 5),
                lambda row: msgspec.structs.replace(row, ranks=1),
                lambda row: msgspec.structs.replace(row, control=True),
                lambda row: msgspec.structs.replace(row, group=77),
            ]
        )
    )
    not_passed(one.but(rows=[change(row) if k == which else row for k, row in enumerate(one.rows)]).verdict)


def test_how_many_hosts_there_should_be_must_be_known() -> None:
    assert HEALTHY.expecting(hosts=None).verdict.word == "INCONCLUSIVE"
    assert "h9: expected, and takes no part" in sentences(
        HEALTHY.expecting(hosts=None, names=tuple(f"h{k}" for k in range(1, 10))).verdict
    )
    assert "h8: not expected, but there" in sentences(
        HEALTHY.expecting(names=tuple(f"h{k}" for k in range(1, 8))).verdict
    )
    assert "8 hosts take part, and 7 are expected" in sentences(HEALTHY.expecting(hosts=7).verdict)
    assert made(fabric=star(8)).expecting(hosts=None).verdict.word == "PASS"  # the fabric tells it
    assert "7 of 8" not in sentences(HEALTHY.verdict)
    assert "1 rank, 2 are expected" in sentences(HEALTHY.expecting(ranks_per_host=2).verdict)
    assert "1 of 2 expected rails" in sentences(HEALTHY.expecting(rails=2).verdict)
    assert RANKS.expecting(rails=2).verdict.word == "PASS"


def without(host: int) -> Made:
    """A run of seven hosts on a machine of eight, of which one took no part."""
    seven, about = made(hosts=7), machine(8)
    names = [f"h{k + 1}" for k in range(8) if k != host]
    hosts = (*(Host(name=name) for name in names), Host(name=f"h{host + 1}"))
    rows = [
        msgspec.structs.replace(row, case=msgspec.structs.replace(row.case, groups="only(0-6)"))
        if row.case.groups == "world"
        else row
        for row in seven.rows
    ]
    about = msgspec.structs.replace(about, hosts=hosts)
    return seven.but(run=msgspec.structs.replace(seven.run, machine=about), rows=rows).told(
        excluded={f"h{host + 1}": "asked for"}
    )


def test_a_host_that_is_not_expected_may_be_left_out() -> None:
    one = without(2)
    assert one.verdict.word == "PASS", sentences(one.verdict)
    assert "h3" not in one.verdict.coverage.measured_hosts
    assert one.expecting(hosts=8).verdict.word == "INCONCLUSIVE"


def test_a_host_that_was_left_out_is_not_measured() -> None:
    verdict = HEALTHY.told(excluded={"h3": "asked for"}).verdict
    assert verdict.word == "INCONCLUSIVE"
    assert "h3: left out (asked for)" in sentences(verdict)
    assert verdict.coverage.excluded == ("h3",)


ENDS = [("budget", "CB-BUDGET"), ("signal", "CB-COVERAGE"), ("open", "CB-COVERAGE")]


@pytest.mark.parametrize(("ended", "code"), ENDS)
def test_a_run_that_did_not_come_to_its_end_is_inconclusive(ended: str, code: str) -> None:
    verdict = HEALTHY.told(ended=ended, stages={**HEALTHY.happened.stages, "stability": "time was up"}).verdict
    assert verdict.word == "INCONCLUSIVE"
    assert code in codes(verdict)
    assert "stability" in sentences(verdict)


def test_hosts_that_are_not_alike_are_named() -> None:
    hosts = tuple(Host(name=f"h{k + 1}", differs={"torch": "2.8.0"} if k == 4 else {}) for k in range(8))
    run = msgspec.structs.replace(HEALTHY.run, machine=msgspec.structs.replace(machine(8), hosts=hosts))
    verdict = HEALTHY.but(run=run).verdict
    assert verdict.word == "INCONCLUSIVE"
    assert "h5: torch is 2.8.0, on most hosts 2.9.0" in sentences(verdict)
    assert "h1, h2, h3, h4, h5, h6, h7, h8: nic_firmware is not known" in sentences(
        HEALTHY.expecting(same=("nic_firmware",)).verdict
    )


def with_gpus(*each: str) -> Made:
    """Hosts with as many GPUs; "" where nobody knows, "H100" where they are of another model."""
    others = ({"gpu": "NVIDIA H100"} if text == "H100" else {"gpus": text} for text in each)
    hosts = tuple(Host(name=f"h{k + 1}", differs={} if each[k] == "8" else differs) for k, differs in enumerate(others))
    about = machine(len(each), nvidia_driver="570.86.15", gpus="8", gpu="NVIDIA H200")
    return HEALTHY.but(
        run=msgspec.structs.replace(HEALTHY.run, machine=msgspec.structs.replace(about, hosts=hosts))
    ).expecting(gpus_per_host=8)


def test_a_host_that_lacks_a_gpu_is_named() -> None:
    assert with_gpus(*"88888888").verdict.word == "PASS"
    seven = with_gpus(*"88878888")
    assert seven.verdict.word == "INCONCLUSIVE"
    assert "h4: 7 GPUs, 8 are expected" in sentences(seven.verdict)
    assert "h4: gpus is 7, on most hosts 8" in sentences(seven.expecting(gpus_per_host=None).verdict)
    assert "h2: no GPU was seen, 8 are expected" in sentences(with_gpus("8", "", *"888888").verdict)
    other = with_gpus("8", "H100", *"888888").verdict
    assert "h2: gpu is NVIDIA H100, on most hosts NVIDIA H200" in sentences(other)
    assert "no GPU was seen, 8 are expected" in sentences(HEALTHY.expecting(gpus_per_host=8).verdict)


# ---- faults have names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0.5, 0.8])
def test_a_slow_host_is_named_with_figures_and_rows(left: float) -> None:
    verdict = made(seconds=slow_host(2, left)).verdict
    (reason,) = [one for one in verdict.reasons if one.code == "CB-SLOW-HOST"]
    assert (verdict.word, verdict.exit_code, verdict.suspects) == ("FAIL", 1, ("h3",))
    assert (reason.component.id, reason.unit, reason.next) == ("h3", "GB/s", NEXT["CB-SLOW-HOST"])
    assert reason.measured is not None
    assert reason.expected is not None
    assert reason.measured / reason.expected == pytest.approx(left, rel=0.05)
    assert reason.evidence
    cited = {text.partition("[")[0] for text in reason.evidence}
    assert cited <= {row.case.key for row in HEALTHY.rows}
    assert "h3" not in verdict.cleared
    assert len(verdict.cleared) == 7


LATE = ("meet(2-5,3-4)", "meet(2-7,0-1)", "meet(2-6,0-4)")


def test_a_host_that_was_slow_for_a_while_is_neither_accused_nor_forgotten() -> None:
    def passing(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        return 1.4 if 2 in hosts and case.mode == "throughput" and round_ < 15 else 1.0

    verdict = made(seconds=passing, late=LATE).verdict
    (reason,) = [one for one in verdict.reasons if one.component.id == "h3"]
    assert (verdict.word, reason.code, reason.fault, reason.decides) == (
        "INCONCLUSIVE", "CB-UNDECIDED", "unstable", "INCONCLUSIVE",
    )  # fmt: skip
    assert "was slow for a while (2" in reason.sentence
    assert "tested again at the end" in reason.sentence
    assert reason.evidence
    assert "h3" not in verdict.cleared

    still = made(seconds=slow_host(2, 0.7), late=LATE).verdict
    assert [(one.code, one.component.id) for one in still.reasons][:1] == [("CB-SLOW-HOST", "h3")]
    assert "for a while" not in sentences(still)


def test_a_host_that_only_answers_late_is_slow_in_latency_alone() -> None:
    def late(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        return 4.0 if 5 in hosts and case.mode == "latency" else 1.0

    verdict = made(seconds=late).verdict
    (reason,) = verdict.reasons
    assert (verdict.word, reason.code, reason.component.id, reason.unit) == ("FAIL", "CB-SLOW-HOST", "h6", "us")
    assert "its bandwidth is not slow" in reason.sentence


def test_a_host_that_is_slow_inside_is_named() -> None:
    def inside(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        return 2.0 if hosts == (1,) and case.groups.startswith("each") else 1.0

    verdict = made(hosts=6, ranks=2, seconds=inside).verdict
    (reason,) = verdict.reasons
    assert (verdict.word, reason.code, reason.stage, reason.component.id) == ("FAIL", "CB-SLOW-HOST", "intra", "h2")

    def once(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        return inside(case, hosts, round_) if round_ == 0 else 1.0

    assert made(hosts=6, ranks=2, seconds=once).verdict.word == "PASS"  # something else was in the way


def test_a_slow_uplink_is_the_racks_and_no_hosts_fault() -> None:
    def crossing(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        crosses = len(hosts) > 1 and min(hosts) // 4 != max(hosts) // 4 and any(host // 4 == 1 for host in hosts)
        return 3.0 if crosses and case.mode == "throughput" else 1.0

    verdict = made(hosts=12, racks=3, seconds=crossing).verdict
    assert codes(verdict) == {"CB-SLOW-UPLINK"}, sentences(verdict)
    (reason,) = verdict.reasons
    assert (verdict.word, reason.component.kind, reason.component.id) == ("FAIL", "uplink", "leaf2")
    assert verdict.suspects == ()
    assert made(hosts=12, racks=3).verdict.word == "PASS"
    gone = msgspec.structs.replace(made(hosts=12, racks=3).spec, racks={"leaf1": ("h1", "h77")})
    assert "leaf1: of this rack h77 takes no part" in sentences(made(hosts=12).but(spec=gone).verdict)


@pytest.mark.parametrize(
    ("found", "fabric", "kind", "name"),
    [
        (Key("host", (2,)), None, "host", "h3"),
        (Key("nic", (2,), 1), None, "nic", "h3 rail 1"),
        (Key("nic", (2,), 1), star(4), "rank", "5"),  # one NIC for both ranks: what is slow is a rank
        (Key("nic", (2,), 0), star(4), "nic", "h3 rail 0"),
        (Key("uplink", (), None, 1), None, "uplink", "leaf2"),
        (Key("uplink", (), 1, 0), None, "uplink", "leaf1 rail 1"),
        (Key("path", (0, 3)), None, "path", "h1 - h4"),
        (Key("fabric"), None, "fabric", ""),
    ],
)
def test_components_have_names_that_people_know(found: Key, fabric: Fabric | None, kind: str, name: str) -> None:
    evidence = gather(machine(4, 2, fabric), [])
    told = component(evidence, ("leaf1", "leaf2"), found)
    assert (told.kind, told.id) == (kind, name)


def with_wrong(one: Made, is_wrong: Callable[[Measurement, frozenset[int]], bool]) -> Made:
    return one.rewritten(
        lambda row: (
            msgspec.structs.replace(row, status="failed", wrong=2, why="wrong data")
            if is_wrong(row, frozenset(hosts_of(row, one.run.machine)))
            else row
        )
    )


def test_wrong_data_are_laid_to_the_host_that_all_of_them_have_in_common() -> None:
    verdict = with_wrong(HEALTHY, lambda row, hosts: 3 in hosts and row.case.op == "send_recv").verdict
    assert verdict.word == "FAIL"
    (reason,) = [one for one in verdict.reasons if one.code == "CB-WRONG"]
    assert (reason.component.kind, reason.component.id, reason.ties, reason.unit) == ("host", "h4", (), "elements")
    assert reason.measured == 2.0 * sum(row.case.op == "send_recv" and 3 in hosts_of(row, HEALTHY.run.machine)
                                        for row in HEALTHY.rows)  # fmt: skip
    assert verdict.suspects[0] == "h4"


def test_wrong_data_of_everybody_together_are_the_fabrics() -> None:
    verdict = with_wrong(HEALTHY, lambda row, hosts: row.case.groups == "world").verdict
    (reason,) = [one for one in verdict.reasons if one.code == "CB-WRONG"]
    assert (verdict.word, reason.component.kind) == ("FAIL", "fabric")


def test_one_wrong_test_does_not_convict_a_host_that_met_nobody_else() -> None:
    """Its partner was right with others; so might the host have been, had it met any."""
    first = next(row for row in HEALTHY.rows if 0 in hosts_of(row, HEALTHY.run.machine))
    away = HEALTHY.rewritten(lambda row: row if row is first or 0 not in hosts_of(row, HEALTHY.run.machine) else None)
    (reason,) = [
        one for one in with_wrong(away, lambda row, hosts: 0 in hosts).verdict.reasons if one.code == "CB-WRONG"
    ]
    assert (reason.component.kind, len(reason.ties)) == ("path", 2)
    assert "h1" in {tie.id for tie in reason.ties}


def test_wrong_data_of_one_test_are_its_two_hosts_or_the_way_between() -> None:
    verdict = with_wrong(HEALTHY, lambda row, hosts: row.launch == 2 and 0 in hosts).verdict
    (reason,) = [one for one in verdict.reasons if one.code == "CB-WRONG"]
    assert (verdict.word, reason.component.kind, len(reason.ties)) == ("FAIL", "path", 2)
    assert len(verdict.suspects) == 2


def test_a_lost_rank_is_a_crash_or_a_hang_and_its_host_is_named() -> None:
    for fault, code in (("hang", "CB-HANG"), ("crash", "CB-CRASH")):
        loss = Loss(fault=fault, hosts=("h7",), ranks=(6,), round=4, sentence="rank 6 was silent for 20 s")  # type: ignore[arg-type]
        verdict = HEALTHY.told(losses=(loss,), excluded={"h7": "lost"}).verdict
        assert verdict.word == "FAIL"
        (reason,) = [one for one in verdict.reasons if one.code == code]
        assert (reason.component.id, reason.decides) == ("h7", "FAIL")
        assert "rank 6 was silent" in reason.sentence
        assert verdict.suspects == ("h7",)


def test_a_loss_explains_all_rows_of_its_round() -> None:
    loss = Loss(fault="hang", hosts=("h7",), ranks=(6,), round=4, sentence="silent")
    stood = HEALTHY.rewritten(lambda row: failing(row, "hung", "silent") if row.launch == 4 else row)
    verdict = stood.told(losses=(loss,), excluded={"h7": "lost"}).verdict
    assert [one.component.id for one in verdict.reasons if one.fault == "hang"] == ["h7"]
    (reason,) = [one for one in verdict.reasons if one.code == "CB-HANG"]
    assert len(reason.evidence) == 1


def test_of_a_pair_that_stood_still_neither_host_is_convicted() -> None:
    loss = Loss(fault="hang", hosts=("h1", "h2"), round=2, sentence="nothing moved", certain=False)
    verdict = HEALTHY.told(losses=(loss,)).verdict
    assert verdict.word == "INCONCLUSIVE"
    (reason,) = verdict.reasons
    assert (reason.code, reason.fault, {tie.id for tie in reason.ties}) == ("CB-UNDECIDED", "hang", {"h1", "h2"})
    assert verdict.suspects == ("h1", "h2")


def uncertain(*losses: tuple[str, str], others: str = "h3 h4 h5 h6 h7 h8") -> Verdict:
    """Pairs that stood still, in a run in which the others had good tests and h1 and h2 had none."""
    fine = {int(name[1:]) - 1 for name in others.split()}
    some = HEALTHY.rewritten(lambda row: row if fine >= set(hosts_of(row, HEALTHY.run.machine)) else None)
    told = "did not come out of the call, the other ranks did"
    return some.told(
        ended="open",
        losses=tuple(
            Loss(fault="hang", hosts=pair, round=100 + k, sentence=told, certain=False) for k, pair in enumerate(losses)
        ),
    ).verdict


def test_a_host_that_had_no_test_yet_is_not_convicted_by_elimination() -> None:
    verdict = uncertain(("h1", "h3"))
    assert "CB-HANG" not in codes(verdict)
    (reason,) = [one for one in verdict.reasons if one.fault == "hang"]
    assert (verdict.word, reason.code, reason.component.id) == ("INCONCLUSIVE", "CB-UNDECIDED", "h1 - h3")
    assert {tie.id for tie in reason.ties} == {"h1", "h3"}
    assert "did not answer" not in sentences(verdict)
    assert "CB-HANG" not in codes(uncertain(("h1", "h3"), ("h1", "h3")))  # the same pair again says no more


def test_two_tests_that_stood_still_convict_the_host_that_they_have_in_common() -> None:
    verdict = uncertain(("h1", "h3"), ("h1", "h4"))
    (reason,) = [one for one in verdict.reasons if one.fault == "hang"]
    assert (verdict.word, reason.code, reason.component.id, reason.ties) == ("FAIL", "CB-HANG", "h1", ())
    assert "h1 is what all tests that stood still have in common" in reason.sentence


def test_a_launch_that_never_began_is_no_evidence() -> None:
    nobody = HEALTHY.but(run=msgspec.structs.replace(HEALTHY.run, machine=machine(0)), rows=[])
    verdict = nobody.told(
        ended="open", stages={}, losses=(Loss(fault="launch", hosts=(), sentence="no mpirun"),)
    ).verdict
    assert verdict.word == "INCONCLUSIVE"
    assert "no mpirun" in sentences(verdict)


def test_two_hosts_cannot_be_told_apart_and_that_is_said() -> None:
    verdict = made(hosts=2, seconds=slow_host(0, 0.5)).verdict
    assert verdict.word != "PASS"
    assert "h1" not in {one.component.id for one in verdict.reasons if one.decides == "FAIL"}
    assert "a third host" in sentences(verdict)


# ---- criteria ---------------------------------------------------------------------------------------------


def test_nodes_fine_and_fabric_not_is_a_result_of_its_own() -> None:
    def crowded(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        return 2.0 if case.groups == "world" else 1.0

    verdict = made(fabric=star(8), seconds=crowded).verdict
    (reason,) = verdict.reasons
    assert (verdict.word, reason.code, reason.component.kind) == ("FAIL", "CB-SLOW-FABRIC", "fabric")
    assert reason.expected == 0.8
    assert verdict.suspects == ()
    assert "of what the links allow" in reason.sentence


def test_a_collective_that_a_slow_host_slows_is_no_second_fault() -> None:
    def slow(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        return 2.0 if 2 in hosts and case.mode == "throughput" else 1.0

    verdict = made(fabric=star(8), seconds=slow).verdict
    assert codes(verdict) == {"CB-SLOW-HOST"}
    assert {one.criterion: one.word for one in verdict.criteria} == {
        "correctness": "PASS",
        "wire": "FAIL",
        "fleet": "FAIL",
    }


def threshold(**more: object) -> Criterion:
    usual: dict[str, object] = {"kind": "threshold", "name": "t", "op": "all_reduce", "nbytes": 2**24, "source": "x"}
    return msgspec.convert(usual | more, type=Criterion)


@pytest.mark.parametrize(
    ("one", "word"),
    [
        (threshold(busbw=0.9e9), "PASS"),
        (threshold(busbw=1.2e9), "FAIL"),
        (threshold(busbw=0.4e9), "INCONCLUSIVE"),
        (threshold(busbw=0.9e9, ranks=16), "INCONCLUSIVE"),
        (threshold(time=40e-3, ranks=8), "PASS"),
        (threshold(time=20e-3), "FAIL"),
        (threshold(time=1.0), "INCONCLUSIVE"),
        (threshold(op="send_recv", nbytes=8, time=25e-6), "PASS"),
        (threshold(op="send_recv", nbytes=2**20, busbw=0.9e9), "PASS"),
        (Criterion(kind="wire", name="w", least=0.8, source="x"), "INCONCLUSIVE"),  # the fabric is not known
        (Criterion(kind="fleet", name="f", slowdown=0.1, source="x"), "PASS"),
        (Criterion(kind="fleet", name="f", slowdown=0.001, source="x"), "INCONCLUSIVE"),
        (Criterion(kind="stability", name="s", p99=1.5, windows=0.0, source="x"), "PASS"),
        (Criterion(kind="stability", name="s", p99=1.001, source="x"), "FAIL"),
        (Criterion(kind="stability", name="s", p99=5.0, source="x"), "PASS"),
        (Criterion(kind="stability", name="s", p99=1000.0, source="x"), "INCONCLUSIVE"),
        (Criterion(kind="stability", name="s", windows=0.4, source="x"), "PASS"),
        (Criterion(kind="fleet", name="f", slowdown=0.6, source="x"), "INCONCLUSIVE"),
    ],
)
def test_a_criterion_passes_fails_or_cannot_be_told(one: Criterion, word: str) -> None:
    verdict = HEALTHY.asking(criteria=(one,)).verdict
    assert (verdict.word, verdict.criteria[-1].word) == (word, word), sentences(verdict)
    assert verdict.criteria[-1].source == "x"
    assert [judged.criterion for judged in verdict.criteria] == ["correctness", one.name]


@pytest.mark.parametrize(("rate", "word"), [(1.0, "PASS"), (1.2, "PASS"), (0.63, "PASS"), (0.55, "FAIL")])
def test_the_share_of_the_wire_that_shipped_specs_ask_for_can_fail(rate: float, word: str) -> None:
    """rate: of what the links allow, as labs reach it."""
    one = made(fabric=star(8, 1e9 / rate)).asking(criteria=(Criterion(kind="wire", name="w", least=0.6, source="x"),))
    assert one.verdict.criteria[-1].word == word, sentences(one.verdict)


@pytest.mark.parametrize("rate", [0.6, 0.95])
def test_a_share_of_the_wire_that_no_machine_misses_proves_nothing(rate: float) -> None:
    one = made(fabric=star(8, 1e9 / rate)).asking(criteria=(Criterion(kind="wire", name="w", least=0.01, source="x"),))
    (reason,) = one.verdict.reasons
    assert (one.verdict.word, reason.code) == ("INCONCLUSIVE", "CB-CRITERION")
    assert "a machine with half of this rate would pass" in reason.sentence


def test_a_run_that_measures_nothing_says_so() -> None:
    verdict = HEALTHY.but(rows=[]).asking(stages=("preflight",)).told(stages={}).verdict
    (reason,) = verdict.reasons
    assert (verdict.word, reason.code) == ("INCONCLUSIVE", "CB-COVERAGE")
    assert "no data were checked" in reason.sentence


def test_windows_that_were_slow_are_unstable() -> None:
    def flapping(case: Case, hosts: tuple[int, ...], round_: int) -> float:
        return 3.0 if case.groups == "world" and round_ % 4 == 0 else 1.0

    shaky = made(seconds=flapping, windows=12)
    verdict = shaky.asking(criteria=(Criterion(kind="stability", name="s", windows=0.05, source="x"),)).verdict
    (reason,) = verdict.reasons
    assert (verdict.word, reason.code, reason.fault, reason.stage) == ("FAIL", "CB-UNSTABLE", "unstable", "stability")


def test_the_first_criterion_that_fails_decides_and_all_are_shown() -> None:
    both = (Criterion(kind="stability", name="s", p99=1.001, source="x"), threshold(busbw=2e9))
    verdict = HEALTHY.asking(criteria=both).verdict
    assert [one.criterion for one in verdict.criteria] == ["correctness", "t", "s"]
    assert any(note.startswith("decided by t:") for note in verdict.notes)
    assert codes(verdict) == {"CB-THRESHOLD", "CB-UNSTABLE"}


def test_a_limit_without_a_source_is_noted() -> None:
    verdict = HEALTHY.asking(criteria=(threshold(busbw=0.9e9, source=""),)).verdict
    assert verdict.word == "PASS"
    assert any("does not say where its limit comes from" in note for note in verdict.notes)


# ---- the parts --------------------------------------------------------------------------------------------


def test_every_code_says_what_to_do_next() -> None:
    assert NEXT.keys() == CODES.keys()


@given(st.integers(3, 12), st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_one_host_that_spoils_its_tests_is_the_one(hosts: int, data: st.DataObject) -> None:
    one = data.draw(st.integers(0, hosts - 1))
    pair = st.tuples(st.integers(0, hosts - 1), st.integers(0, hosts - 1)).filter(lambda p: p[0] < p[1])
    pairs = data.draw(st.lists(pair, min_size=1))
    good = [pair for pair in pairs if one not in pair]
    partners = {other for pair in pairs if one in pair for other in pair} - {one}
    good += [(min(other, third), max(other, third)) for other in partners
             for third in [next(k for k in range(hosts) if k not in (one, other))]]  # fmt: skip
    bad = [pair for pair in pairs if one in pair]
    found = blame(bad, good)
    met = set(bad)
    assert set(found) == ({(one,)} if len(met) > 1 else met)  # one test alone does not tell it from its partner
    assert sorted(k for which in found.values() for k in which) == list(range(len(bad)))


@pytest.mark.parametrize(
    ("seen", "wanted", "expected"),
    [
        ("eth0 98 %, lo 2 %", "eth0", 0.98),
        ("eth0 98 %", "tcp", 0.98),
        ("mlx5_0 100 %", "ib", 1.0),
        ("ib0 100 %", "ib", 0.0),  # TCP over InfiniBand
        ("ib0 100 %", "tcp", 1.0),
        ("NET/IB 97 %, NET/Socket 3 %", "ib", 0.97),
        ("NET/Socket", "ib", 0.0),
        ("", "eth0", 0.0),
        ("tcp eth0 98 %, loopback lo 2 %", "tcp", 0.98),
        ("tcp eth0 60 %, tcp eth1 39 %, loopback lo 1 %", "tcp", 0.99),
        ("tcp eth0 60 %, tcp eth1 39 %", "eth1", 0.39),
        ("ib mlx5_0 100 %", "ib", 1.0),
        ("tcp ib0 100 %", "ib", 0.0),
    ],
)
def test_which_share_took_the_way_that_is_required(seen: str, wanted: str, expected: float) -> None:
    assert share(seen, wanted) == pytest.approx(expected)
