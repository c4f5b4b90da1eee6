"""NCCL Inspector: calls of a running job become samples; what damaged lines do."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import SAMPLES, read, read_text, survives

from commbench.readers.inspector import READER

INSPECTOR = SAMPLES / "inspector"


def test_a_job() -> None:
    (one,), problems = read(READER, INSPECTOR / "job.jsonl")
    assert not problems
    assert (one.tool, one.created) == ("NCCL Inspector v4.0", "2025-05-23T19:59:37+00:00")
    assert [host.name for host in one.machine.hosts] == ["node-a"]
    assert one.options["ranks seen"] == "0, 1"
    rows = {(m.case.op, m.ranks): m for m in one.measurements}
    reduce = rows["all_reduce", 8]
    assert reduce.seconds == pytest.approx((150e-6, 120e-6))  # rank 1 took longer in the first call
    assert (reduce.kind, reduce.case.mode, reduce.case.dtype) == ("samples", "throughput", "unknown")
    assert reduce.case.settings == (("source", "running job"), ("timing", "kernel_gpu"))
    assert rows["all_reduce", 4].group != reduce.group  # another communicator
    assert rows["reduce_scatter", 8].nbytes == 8 << 20  # one rank's block is told
    assert ("communicator", "EP Group 0") in rows["all_to_all", 8].case.settings
    assert (rows["inspector.send", 8].nbytes, rows["inspector.send", 8].seconds) == (4096, (12e-6,))


def test_a_marker_holds_for_the_lines_behind_it() -> None:
    (one,), problems = read(READER, INSPECTOR / "marker.jsonl")
    assert not problems
    (row,) = one.measurements
    assert (row.case.op, row.ranks, row.nbytes, row.seconds) == ("all_gather", 16, 16000, pytest.approx((50e-6, 70e-6)))
    assert dict(row.case.settings)["algorithm"] == "ring"
    assert one.options["calls lost"] == "5"


def test_what_is_no_record_is_told_with_its_line() -> None:
    (one,), problems = read(READER, INSPECTOR / "damaged.jsonl")
    assert [m.case.op for m in one.measurements] == ["inspector.barrier"]
    assert [problem.line for problem in problems] == list(range(1, 10))
    assert [problem.reason.split(":")[0] for problem in problems[:4]] == [
        "size 0", "a time of 0 us", "a time of -5 us", "no record of NCCL Inspector"
    ]  # fmt: skip
    assert "nested too deeply" in problems[5].reason


@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["AllReduce", "Broadcast"]), st.integers(1, 2**40), st.integers(1, 10**9)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, calls: list) -> None:
    text = ""
    for sequence, (op, nbytes, time_us) in enumerate(calls):
        perf = {"coll": op, "coll_sn": sequence, "coll_msg_size_bytes": nbytes, "coll_exec_time_us": time_us}
        text += json.dumps({"header": {"id": "0x1", "rank": 3, "n_ranks": 4}, "coll_perf": perf}) + "\n"
    (one,), problems = read_text(READER, text, tmp_path_factory.mktemp("inspector"))
    assert not problems
    names = {"all_reduce": "AllReduce", "broadcast": "Broadcast"}
    for row in one.measurements:
        wanted = [time_us for op, nbytes, time_us in calls if (op, nbytes) == (names[row.case.op], row.nbytes)]
        assert [second * 1e6 for second in row.seconds] == pytest.approx(wanted)
    assert sum(len(row.seconds) for row in one.measurements) == len(calls)


def test_damaged_copies(tmp_path: Path) -> None:
    survives(READER, INSPECTOR.iterdir(), tmp_path)
